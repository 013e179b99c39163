//! Which probes go into which files: objects that processes map are planned once each and attached once per scope.
//!
//! In: objects that processes map. Out: probes in place, and what reports and messages say of them.

mod attaching;
mod found;
mod lateness;
mod layered;
mod parked;
mod written;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};

use super::layers::Probed;
use super::planner::{self, PlanResult, Planned, Unplanned, Wanted};
use crate::host::clock::monotonic_ns;
use crate::host::file_id::{FileId, Version};
use crate::kernel::Kernel;
use crate::kernel::attach::{Attachments, Scope, is_written_to};
use crate::kernel::attacher::{self, Attached, Order};
use crate::probes::functions::AllocSymbol;
use crate::probes::plan::Seen;
use crate::probes::site::Emulation;
use crate::process::maps::{AddressSpace, Object, ObjectId};
use attaching::Waiting;
pub use found::Found;
pub use lateness::Lateness;
use layered::Layered;
use parked::{IN_WINDOWS, Parked};
use written::Written;

/// Plans and attaches.
pub struct Prober {
    attachments: Attachments,
    attacher: Sender<Order>,
    /// Files that are being attached.
    attaching: usize,
    /// The number of the last order to attach a file.
    last_order: u64,
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
    /// Files that the user named, whether they are mapped or not.
    named: Vec<Named>,
    layered: Layered,
    /// Files that may be the same as one that is being attached; they wait until nothing is.
    waiting: Vec<Waiting>,
    /// Whether any of the files has an allocator in it.
    probes_allocators: bool,
    /// Whether those allocators are all glibc's.
    are_all_glibc: bool,
    written: Written,
    /// Where probes are set in windows only.
    parked: Option<Parked>,
}

/// An object whose probes were asked for.
struct Asked {
    object: Arc<Object>,
    /// Device and inode of its file; `None` where that could not be opened.
    file: Option<FileId>,
    /// As which it was probed, or was found to be probed.
    version: Version,
}

/// A file that the user named.
struct Named {
    path: PathBuf,
    file: FileId,
    scope: Scope,
}

/// How far the probes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Being attached, by the order of this number; 0 where that is still to be given.
    OnTheWay(u64),
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

impl Prober {
    /// `prefixes` are those of `--symbols-prefix`, `symbols` those of `--alloc-symbols`; they have no meaning for samples.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn new(prefixes: &[String], symbols: &[AllocSymbol], seen: Seen, kernel_version: (u32, u32)) -> Result<Self> {
        let emulation = Emulation::for_kernel(kernel_version.0, kernel_version.1);
        // `LEAKTRACE_TRAPS=two` leaves all calls to probes at entries and returns, so that tests can compare.
        let at_once = std::env::var("LEAKTRACE_TRAPS").as_deref() != Ok("two");
        let wanted = Wanted { prefixes: prefixes.to_vec(), symbols: symbols.to_vec(), emulation, seen, at_once };
        let (sender, results) = async_channel::unbounded();
        Ok(Self {
            attachments: Attachments::default(),
            attacher: attacher::start(&sender).context("cannot start the threads that attach probes")?,
            planner: planner::start(&wanted, &sender).context("cannot start the threads that read programs")?,
            results,
            attaching: 0,
            last_order: 0,
            wanted,
            plans: HashMap::new(),
            pending: 0,
            attached: HashMap::new(),
            files: HashMap::new(),
            probed: Probed::default(),
            named: Vec::new(),
            layered: Layered::default(),
            waiting: Vec::new(),
            probes_allocators: false,
            are_all_glibc: true,
            written: Written::new(sender),
            parked: None,
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
        each(objects(space), |object| self.request(kernel, Request { object: Arc::clone(object), scope, mapped_ns: 0 }))
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
                let is_wanted = self.files.get(&(about.file, scope)) == Some(&Place::OnTheWay(about.order));
                if is_wanted {
                    let place = match (&links, &self.parked) {
                        (Err(_), _) => Place::Never,
                        (Ok(_), Some(_)) => IN_WINDOWS,
                        (Ok(_), None) => Place::Since(placed_ns),
                    };
                    self.files.insert((about.file, scope), place);
                }
                let result = match links {
                    // Removed since for a writer, of which we were told first, or no longer asked for: this drops what is left.
                    _ if !is_wanted => Ok(()),
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
        each(&requests, |request| self.attach_once(kernel, request, &planned))
    }

    /// Removes the probes that are for this scope alone; what is requested for it from now on is attached anew.
    pub fn forget(&mut self, scope: Scope) {
        self.attached.retain(|(_, of), _| *of != scope);
        self.files.retain(|(_, of), _| *of != scope);
        self.named.retain(|named| named.scope != scope);
        self.written.forget(scope);
        if let Some(parked) = &mut self.parked {
            parked.forget_scope(scope);
        }
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

/// Does this with each, whatever came of it with those before. Returns the first error, and warns of the others.
fn each<T>(all: impl IntoIterator<Item = T>, mut with: impl FnMut(T) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    for one in all {
        match with(one) {
            Err(error) if result.is_err() => log::warn!("{error:#}"),
            Err(error) => result = Err(error),
            Ok(()) => {}
        }
    }
    result
}

/// Each object of a process once.
fn objects(space: &AddressSpace) -> Vec<&Arc<Object>> {
    let mut objects: Vec<&Arc<Object>> = space.mappings().filter_map(|location| location.object).collect();
    objects.sort_by_key(|object| object.id());
    objects.dedup_by_key(|object| object.id());
    objects
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn an_error_with_one_keeps_nothing_from_the_others() {
        let mut seen = Vec::new();
        let result = each([1, 2, 3], |number| {
            seen.push(number);
            if number == 1 { Ok(()) } else { Err(anyhow::anyhow!("{number}")) }
        });
        assert_eq!((seen, result.unwrap_err().to_string()), (vec![1, 2, 3], "2".to_owned()));
    }
}
