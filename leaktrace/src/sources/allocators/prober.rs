//! Which probes go into which files: objects that processes map are planned once each and attached once per scope.
//!
//! In: objects that processes map. Out: probes in place, and what reports and messages say of them.

mod lateness;
mod written;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layers::{Probed, Standing};
use super::planner::{self, PlanResult, Planned, Unplanned, Wanted};
use crate::host::clock::monotonic_ns;
use crate::host::file_id::{self, FileId};
use crate::kernel::Kernel;
use crate::kernel::attach::{Attachments, Scope};
use crate::kernel::attacher::{self, About, Attached, Order};
use crate::kernel::probe;
use crate::kernel::programs::Programs;
use crate::probes::functions::AllocSymbol;
use crate::probes::plan::{self, Allocator, Runtime, Why};
use crate::probes::site::Emulation;
use crate::process::maps::{AddressSpace, Object, ObjectId};
pub use lateness::Lateness;
use written::{Written, is_written_to};

/// Plans and attaches.
pub struct Prober {
    attachments: Attachments,
    attacher: Sender<Order>,
    /// Files that are being attached.
    attaching: usize,
    planner: Sender<Arc<Object>>,
    results: async_channel::Receiver<Progress>,
    wanted: Wanted,
    plans: HashMap<ObjectId, Planning>,
    /// How many are being planned.
    pending: usize,
    /// Objects whose probes were asked for; held, so that none is forgotten and attached again as another object.
    attached: HashMap<(ObjectId, Scope), Asked>,
    /// By device and inode: a file that is named as well as mapped must not be probed twice.
    files: HashMap<(FileId, Scope), Place>,
    /// To recognize files that are known by several devices and inodes, for the same reason.
    probed: Probed,
    /// Files that may be the same as one that is being attached; they wait until nothing is.
    waiting: Vec<Waiting>,
    /// Whether any of the files has an allocator in it.
    probes_allocators: bool,
    written: Written,
}

/// A file to be attached for all processes, or not.
struct Waiting {
    file: File,
    /// Its device and inode.
    inode: FileId,
    planned: Arc<Planned>,
    mapped_ns: u64,
}

/// An object whose probes were asked for.
struct Asked {
    object: Arc<Object>,
    /// Device and inode of its file; `None` where that could not be opened.
    file: Option<FileId>,
}

/// How far the probes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Being attached.
    OnTheWay,
    /// In place since then, by `CLOCK_MONOTONIC`; 0 where they were there before we asked.
    Since(u64),
    /// They could not be attached.
    Never,
}

/// How far the plan of an object is.
enum Planning {
    /// Being made; these requests wait for it.
    Pending(Vec<Request>),
    /// Made, or impossible.
    Done(Result<Arc<Planned>, Unplanned>),
}

/// An object to be probed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The object.
    pub object: Arc<Object>,
    /// The processes in which it is to be probed.
    pub scope: Scope,
    /// When it was mapped, by `CLOCK_MONOTONIC`; 0 if that is long ago.
    pub mapped_ns: u64,
}

/// Results of requests, for [`Prober::settle`].
pub enum Progress {
    /// A plan is made.
    Planned(PlanResult),
    /// A file has its probes.
    Attached(Attached),
    /// A file has lost them, since somebody is going to write to it.
    Lost(FileId),
    /// It may have been written by now.
    Again(FileId),
}

/// What there is to probe in a process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// Files with allocation functions.
    pub objects: Vec<PathBuf>,
    /// Allocators that are there but have no names to find them by.
    pub hidden: Vec<(PathBuf, Allocator)>,
    /// Runtimes that keep heaps of their own.
    pub runtimes: Vec<Runtime>,
    /// LeakSanitizer is in it.
    pub leak_sanitizer: bool,
    /// Its machine or word size, if that is not ours.
    pub foreign: Option<String>,
    /// Files that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Whether some of its files are still being read.
    pub is_pending: bool,
}

impl Found {
    /// Why nothing of the process can be traced, as half a sentence; `None` where something can, or where that is not known yet.
    #[must_use]
    pub fn untraceable(&self) -> Option<String> {
        if !self.objects.is_empty() || self.is_pending {
            return None;
        }
        if let Some(machine) = &self.foreign {
            return Some(format!(
                "it is a program of {machine}, and leaktrace traces 64-bit programs of this machine only"
            ));
        }
        if let Some((path, allocator)) = self.hidden.first() {
            return Some(format!("{allocator} in {} has no symbols to find it by", path.display()));
        }
        if let Some(runtime) = self.runtimes.first() {
            return Some(format!("it is run by {runtime}, which has a heap of its own"));
        }
        if let Some((path, error)) = self.unreadable.first() {
            return Some(format!("{} cannot be read ({error})", path.display()));
        }
        Some("no allocator that we know was found in it".to_owned())
    }
}

impl Prober {
    /// `prefixes` are those of `--symbols-prefix`, `symbols` those of `--alloc-symbols`.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn new(prefixes: &[String], symbols: &[AllocSymbol], kernel_version: (u32, u32)) -> Result<Self> {
        let emulation = Emulation::for_kernel(kernel_version.0, kernel_version.1);
        let wanted = Wanted { prefixes: prefixes.to_vec(), symbols: symbols.to_vec(), emulation };
        let (sender, results) = async_channel::unbounded();
        Ok(Self {
            attachments: Attachments::default(),
            attacher: attacher::start(&sender).context("cannot start the threads that attach probes")?,
            planner: planner::start(&wanted, &sender).context("cannot start the threads that read programs")?,
            results,
            attaching: 0,
            wanted,
            plans: HashMap::new(),
            pending: 0,
            attached: HashMap::new(),
            files: HashMap::new(),
            probed: Probed::default(),
            waiting: Vec::new(),
            probes_allocators: false,
            written: Written::new(sender),
        })
    }

    /// Has an object probed as soon as its plan is there, if there is an allocator in it and it was not probed before.
    ///
    /// # Errors
    /// A probe that the kernel refuses.
    pub fn request(&mut self, kernel: &mut Kernel, request: Request) -> Result<()> {
        match self.plans.get_mut(&request.object.id()) {
            Some(Planning::Pending(requests)) => requests.push(request),
            Some(Planning::Done(planned)) => {
                if let Ok(planned) = planned.clone() {
                    self.attach_once(kernel, &request, &planned)?;
                }
            }
            None => {
                // The threads are there as long as we are.
                self.pending += usize::from(self.planner.send(Arc::clone(&request.object)).is_ok());
                self.plans.insert(request.object.id(), Planning::Pending(vec![request]));
            }
        }
        Ok(())
    }

    /// Requests every object that is mapped in `space`.
    ///
    /// # Errors
    /// A probe that the kernel refuses.
    pub fn request_all(&mut self, kernel: &mut Kernel, space: &AddressSpace, scope: Scope) -> Result<()> {
        objects(space)
            .into_iter()
            .try_for_each(|object| self.request(kernel, Request { object: Arc::clone(object), scope, mapped_ns: 0 }))
    }

    /// Whether everything requested is in place.
    pub fn is_idle(&self) -> bool {
        self.pending == 0 && self.attaching == 0 && self.waiting.is_empty()
    }

    /// Files that are still being read for their probes.
    pub fn being_planned(&self) -> impl Iterator<Item = &Path> {
        self.plans.values().filter_map(|planning| match planning {
            Planning::Pending(requests) => requests.first().map(|request| request.object.path()),
            Planning::Done(_) => None,
        })
    }

    /// Waits for the next result of a request. May be cancelled.
    pub async fn progress(&mut self) -> Progress {
        match self.results.recv().await {
            Ok(progress) => progress,
            Err(_) => std::future::pending().await,
        }
    }

    /// The next result, if there is one already.
    pub fn progress_by_now(&self) -> Option<Progress> {
        self.results.try_recv().ok()
    }

    /// Attaches what waited for a plan, keeps what is attached.
    ///
    /// # Errors
    /// A probe that the kernel refuses.
    pub fn settle(&mut self, kernel: &mut Kernel, progress: Progress) -> Result<()> {
        let (id, planned) = match progress {
            Progress::Planned(outcome) => outcome,
            Progress::Attached(Attached { about, scope, took, placed_ns, links }) => {
                let place = if links.is_ok() { Place::Since(placed_ns) } else { Place::Never };
                self.files.insert((about.file, scope), place);
                let result = match links {
                    Ok(links) => {
                        self.attachments.hold(links, scope, about.file);
                        self.written.probed(about.file, &about.path);
                        about.tell(took)
                    }
                    Err(error) if is_written_to(&error) => {
                        self.lose(about.file);
                        Ok(())
                    }
                    Err(error) => Err(error.context(format!("cannot probe {}", about.path.display()))),
                };
                self.attaching = self.attaching.saturating_sub(1);
                if self.attaching == 0 {
                    let placed_ns = monotonic_ns()?;
                    for waiting in std::mem::take(&mut self.waiting) {
                        // A file that cannot be attached must not keep the others from it.
                        if let Err(error) = self.attach_layered(kernel, waiting, placed_ns) {
                            log::warn!("{error:#}");
                        }
                    }
                }
                return result;
            }
            Progress::Lost(file) => {
                self.lose(file);
                return Ok(());
            }
            Progress::Again(file) => return self.attach_again(kernel, file),
        };
        self.pending = self.pending.saturating_sub(1);
        let Some(Planning::Pending(requests)) = self.plans.insert(id, Planning::Done(planned.clone())) else {
            return Ok(());
        };
        let Ok(planned) = planned else { return Ok(()) };
        requests.iter().try_for_each(|request| self.attach_once(kernel, request, &planned))
    }

    /// What there is to probe in a process, as far as it is planned.
    pub fn found(&self, space: &AddressSpace) -> Found {
        let mut found = Found::default();
        let planned: Vec<&Planned> = objects(space)
            .into_iter()
            .filter_map(|object| match self.plans.get(&object.id())? {
                Planning::Done(planned) => planned.as_deref().ok(),
                Planning::Pending(_) => None,
            })
            .collect();
        for object in objects(space) {
            match self.plans.get(&object.id()) {
                Some(Planning::Done(Err(Unplanned::Foreign(machine)))) => found.foreign = Some(machine.clone()),
                Some(Planning::Done(Err(Unplanned::Unreadable(error)))) => {
                    found.unreadable.push((object.path().to_path_buf(), error.clone()));
                }
                Some(Planning::Done(Ok(_))) => {}
                Some(Planning::Pending(_)) | None => found.is_pending = true,
            }
        }
        for planned in &planned {
            if let Some(allocator) = planned.plan.hidden {
                found.hidden.push((planned.path.clone(), allocator));
            }
            found.runtimes.extend(planned.plan.runtime);
            found.leak_sanitizer |= planned.plan.leak_sanitizer;
        }
        found.objects = plan::choose(planned.iter().map(|planned| (planned.path.clone(), &planned.plan)))
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        found
    }

    fn attach_once(&mut self, kernel: &mut Kernel, request: &Request, planned: &Arc<Planned>) -> Result<()> {
        let Request { object, scope, mapped_ns } = request;
        if planned.is_nothing() || self.attached.contains_key(&(object.id(), *scope)) {
            return Ok(());
        }
        let key = (object.id(), *scope);
        let named = object.name();
        let inode = object.inode().unwrap_or_default();
        if named.is_ok() {
            self.replace(inode, object.id());
        }
        let asked = Asked { object: Arc::clone(object), file: named.is_ok().then_some(inode) };
        self.attached.insert(key, asked);
        match named {
            Ok(file) => self.attach(kernel, (file, inode), planned, *scope, *mapped_ns),
            // The file's owner can cause this, so it must not end the trace of other files.
            Err(error) => {
                log::warn!("{} is not probed: {error}", planned.path.display());
                Ok(())
            }
        }
    }

    /// Probes a file that the user named.
    ///
    /// # Errors
    /// The file cannot be read, has no allocation functions, or the kernel refuses a probe.
    pub fn probe_file(&mut self, kernel: &mut Kernel, path: &Path, scope: Scope) -> Result<()> {
        // Never waits for a pipe's writer.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .with_context(|| format!("cannot open --object {}; name a program or library", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("cannot look at --object {}", path.display()))?;
        let inode = file_id::of(&metadata);
        // Each program that a command executes names it again.
        if self.files.contains_key(&(inode, scope)) {
            return Ok(());
        }
        let planned =
            self.wanted.plan(&file, path).with_context(|| format!("cannot use --object {}", path.display()))?;
        if planned.plan.probes.is_empty() {
            let (path, prefixes) = (path.display(), self.wanted.prefixes.join(", "));
            if prefixes.is_empty() {
                bail!("--object {path} has no allocation function that we know; name its prefix with --symbols-prefix");
            }
            bail!("--object {path} has no allocation function that we know, nor one with the prefix {prefixes}");
        }
        self.attach(kernel, (file, inode), &Arc::new(planned), scope, 0)
    }

    /// `file` may be only named; with it its device and inode.
    fn attach(
        &mut self,
        kernel: &mut Kernel,
        (file, inode): (File, FileId),
        planned: &Arc<Planned>,
        scope: Scope,
        mapped_ns: u64,
    ) -> Result<()> {
        let key = (inode, scope);
        if self.files.contains_key(&key) {
            return Ok(());
        }
        self.files.insert(key, Place::OnTheWay);
        if scope == Scope::AllProcesses {
            return self.attach_layered(kernel, Waiting { file, inode, planned: Arc::clone(planned), mapped_ns }, 0);
        }
        self.attach_new(kernel, (file, inode), planned, scope, mapped_ns)
    }

    /// Attaches a file for all processes, unless it is one that is attached already under another identity: since `placed_ns` at
    /// the latest.
    fn attach_layered(&mut self, kernel: &mut Kernel, waiting: Waiting, placed_ns: u64) -> Result<()> {
        let Waiting { file, inode, planned, mapped_ns } = waiting;
        let key = (inode, Scope::AllProcesses);
        let standing = match self.probed.look_up(planned.identity.as_ref(), &file, inode, planned.offsets()) {
            Ok(standing) => standing,
            // As in `attach_once`.
            Err(error) => {
                log::warn!("{} is not probed: {error}", planned.path.display());
                self.files.insert(key, Place::Never);
                return Ok(());
            }
        };
        match standing {
            Standing::Probed => {
                log::info!("{}: probed already, as a file of another layer", planned.path.display());
                self.files.insert(key, Place::Since(placed_ns));
                Ok(())
            }
            // A file that is being attached may be this one.
            Standing::Maybe if self.attaching > 0 => {
                self.waiting.push(Waiting { file, inode, planned, mapped_ns });
                Ok(())
            }
            Standing::Maybe | Standing::New => {
                self.probed.add(planned.identity);
                self.attach_new(kernel, (file, inode), &planned, Scope::AllProcesses, mapped_ns)
            }
        }
    }

    fn attach_new(
        &mut self,
        kernel: &mut Kernel,
        (file, inode): (File, FileId),
        planned: &Planned,
        scope: Scope,
        mapped_ns: u64,
    ) -> Result<()> {
        let plan = &planned.plan;
        self.probes_allocators |= !plan.probes.is_empty();
        for probe in &plan.probes {
            let fallback = probe.fallback().map_or(String::new(), |why| format!(", single-stepped because {why}"));
            log::info!("{}: {} at +{}{fallback}", planned.path.display(), probe.names.join(" = "), probe.site.offset);
        }
        for skipped in &plan.skipped {
            // What is allocated there goes unseen.
            let level = if matches!(skipped.why, Why::Throws | Why::Go) { log::Level::Warn } else { log::Level::Debug };
            log::log!(
                level,
                "{}: {} is not probed: {}",
                planned.path.display(),
                skipped.names.join(" = "),
                skipped.why
            );
        }
        let probes = probe::of(plan);
        let about = About { path: planned.path.clone(), file: inode, mapped_ns };
        if let Programs::ByHand(programs) = &kernel.programs {
            let (holder, programs) = (Arc::clone(&kernel.holder), Arc::clone(programs));
            if self.attacher.send(Order { holder, programs, file, probes, scope, about }).is_ok() {
                self.attaching += 1;
            } else {
                self.files.insert((inode, scope), Place::Never);
            }
            return Ok(());
        }
        let began = Instant::now();
        let opened = self.attachments.open(kernel, (file.as_fd(), inode), &probes, scope);
        let place = if opened.is_ok() { Place::Since(monotonic_ns().unwrap_or(u64::MAX)) } else { Place::Never };
        self.files.insert((inode, scope), place);
        if opened.as_ref().is_err_and(is_written_to) {
            self.lose(inode);
            return Ok(());
        }
        opened.with_context(|| format!("cannot probe {}", about.path.display()))?;
        self.written.probed(inode, &about.path);
        about.tell(began.elapsed())
    }

    /// Removes the probes that are for this scope alone; what is requested for it from now on is attached anew.
    pub fn forget(&mut self, scope: Scope) {
        self.attached.retain(|(_, of), _| *of != scope);
        self.files.retain(|(_, of), _| *of != scope);
        self.written.forget(scope);
        drop(self.attachments.take(scope));
    }

    /// Lists what is probed and in how many of these processes, for `-v`.
    pub fn tell<'a>(&self, spaces: impl Iterator<Item = &'a AddressSpace>) {
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let mut mapped: HashMap<ObjectId, usize> = HashMap::new();
        for space in spaces {
            for object in objects(space) {
                *mapped.entry(object.id()).or_default() += 1;
            }
        }
        for ((id, _), Asked { object, .. }) in &self.attached {
            let processes = mapped.get(id).copied().unwrap_or(0);
            let plural = if processes == 1 { "" } else { "es" };
            log::info!("{}: probed in {processes} process{plural} that map it", object.path().display());
        }
    }

    /// Whether no allocator is probed at all.
    pub fn is_empty(&self) -> bool {
        !self.probes_allocators
    }

    /// Removes all probes; what was found is still known.
    pub fn detach(&mut self) {
        self.attachments = Attachments::default();
    }
}

impl From<planner::PlanResult> for Progress {
    fn from(result: planner::PlanResult) -> Self {
        Self::Planned(result)
    }
}

impl From<Attached> for Progress {
    fn from(attached: Attached) -> Self {
        Self::Attached(attached)
    }
}

impl About {
    fn tell(&self, took: Duration) -> Result<()> {
        if self.mapped_ns != 0 {
            let late = Duration::from_nanos(monotonic_ns()?.saturating_sub(self.mapped_ns));
            log::debug!("{}: probed {late:.1?} after it was mapped, for {took:.1?} by the kernel", self.path.display());
        }
        Ok(())
    }
}

/// Each object of a process once.
fn objects(space: &AddressSpace) -> Vec<&Arc<Object>> {
    let mut objects: Vec<&Arc<Object>> = space.mappings().filter_map(|location| location.object).collect();
    objects.sort_by_key(|object| object.id());
    objects.dedup_by_key(|object| object.id());
    objects
}
