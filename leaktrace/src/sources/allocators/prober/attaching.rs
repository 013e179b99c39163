//! How planned probes get into files: once for each file and scope, whatever its names and layers.
//!
//! In: requests whose plans are made, files that the user named. Out: orders to the threads that attach, or attached probes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::super::layers::Standing;
use super::parked::{IN_WINDOWS, ParkedFile};
use super::{Asked, Named, Place, Planned, Planning, Prober, Request};
use crate::host::clock::monotonic_ns;
use crate::host::file_id::{self, FileId, Version};
use crate::kernel::Kernel;
use crate::kernel::attach::{Scope, is_written_to};
use crate::kernel::attacher::{About, Order};
use crate::kernel::probe;
use crate::kernel::programs::Programs;
use crate::probes::plan::{Allocator, Why};

/// A file to be attached for all processes, or not.
pub(super) struct Waiting {
    file: File,
    /// Its device and inode.
    inode: FileId,
    planned: Arc<Planned>,
    mapped_ns: u64,
}

impl Prober {
    pub(super) fn attach_once(&mut self, kernel: &mut Kernel, request: &Request, planned: &Arc<Planned>) -> Result<()> {
        let Request { object, scope, mapped_ns } = request;
        if planned.is_nothing() {
            return Ok(());
        }
        if self.attached.contains_key(&(object.id(), *scope)) {
            return self.look_again(kernel, request, planned);
        }
        let key = (object.id(), *scope);
        let named = object.name();
        let inode = object.inode().unwrap_or_default();
        if named.is_ok() {
            self.replace(inode, object.id());
        }
        let file = named.is_ok().then_some(inode);
        let asked = Asked { object: Arc::clone(object), file, version: planned.content.version };
        self.attached.insert(key, asked);
        match named {
            // Written to, or only touched, since it was planned.
            Ok(file) if Version::of(&file).is_ok_and(|found| found != planned.content.version) => {
                // Another of the requests that waited for this plan has ordered the next one.
                if matches!(self.plans.get(&object.id()), Some(Planning::Pending(_))) {
                    self.attached.remove(&key);
                    return self.request(kernel, request.clone());
                }
                self.plans.remove(&object.id());
                if !self.written.may_be_planned_anew(object.id()) {
                    self.lose(inode);
                    return Ok(());
                }
                self.attached.remove(&key);
                self.request(kernel, request.clone())
            }
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
        if !self.named.iter().any(|named| (named.file, named.scope) == (inode, scope)) {
            self.named.push(Named { path: path.to_path_buf(), file: inode, scope });
        }
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
        let is_layered = planned.identity.is_some_and(|identity| identity.is_layered());
        match self.files.get(&key) {
            // It may have been copied up since: whether the file beneath is another one is looked up.
            Some(Place::Since(_) | Place::OnTheWay(_)) if is_layered && scope == Scope::AllProcesses => {}
            Some(_) => return Ok(()),
            None => {
                self.files.insert(key, Place::OnTheWay(0));
            }
        }
        if scope == Scope::AllProcesses {
            return self.attach_layered(kernel, Waiting { file, inode, planned: Arc::clone(planned), mapped_ns }, 0);
        }
        self.attach_new(kernel, (file, inode), planned, scope, mapped_ns)
    }

    /// Attaches a file for all processes, unless it is one that is attached already under another identity: since `placed_ns` at
    /// the latest.
    pub(super) fn attach_layered(&mut self, kernel: &mut Kernel, waiting: Waiting, placed_ns: u64) -> Result<()> {
        let Waiting { file, inode, planned, mapped_ns } = waiting;
        let key = (inode, Scope::AllProcesses);
        let standing = match self.probed.look_up(planned.identity.as_ref(), &file, inode, planned.offsets()) {
            Ok(standing) => standing,
            // As in `attach_once`.
            Err(error) => {
                log::warn!("{} is not probed: {error}", planned.path.display());
                self.keep_earlier(inode, &file);
                self.files.insert(key, Place::Never);
                return Ok(());
            }
        };
        let own = self.files.get(&key).copied();
        match standing {
            // These are its own probes.
            Standing::Probed if matches!(own, Some(Place::Since(_))) => Ok(()),
            // These may be: they are being set.
            Standing::Probed if matches!(own, Some(Place::OnTheWay(order)) if order > 0) && self.attaching > 0 => {
                self.waiting.push(Waiting { file, inode, planned, mapped_ns });
                Ok(())
            }
            Standing::Probed => {
                log::info!("{}: probed already, as a file of another layer", planned.path.display());
                // Where it lost its probes, it has not had them all the time.
                let placed_ns = if self.written.is_asked(inode) { monotonic_ns()? } else { placed_ns };
                self.files.insert(key, Place::Since(placed_ns));
                self.layered.borrow(inode, planned.identity);
                self.written.probed(inode, &planned.path);
                Ok(())
            }
            // A file that is being attached may be this one.
            Standing::Maybe if self.attaching > 0 => {
                self.waiting.push(Waiting { file, inode, planned, mapped_ns });
                Ok(())
            }
            Standing::Maybe | Standing::New => {
                self.keep_earlier(inode, &file);
                self.probed.add(inode, planned.identity);
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
        self.probes_allocators |= plan.tells_allocations();
        if plan.tells_allocations() {
            self.are_all_glibc &= plan.role.allocator().is_none_or(|allocator| allocator == Allocator::Glibc);
        }
        for probe in &plan.probes {
            let fallback = probe.fallback().map_or(String::new(), |why| format!(", single-stepped because {why}"));
            let (path, names) = (planned.path.display(), probe.names.join(" = "));
            match probe::at_once(plan, probe) {
                Ok(points) => {
                    let offsets: Vec<String> = points.iter().map(|it| it.point.to_string()).collect();
                    log::info!("{path}: {names} at {}, in its middle", offsets.join(", "));
                }
                Err(why) => {
                    log::info!("{path}: {names} at +{}{fallback}", probe.site.offset);
                    if probe.kind.allocates() {
                        log::debug!("{path}: {names} takes two traps a call: {why}");
                    }
                }
            }
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
        let mut probes = probe::of(plan);
        kernel.number_samples(&mut probes)?;
        self.last_order += 1;
        let order = self.last_order;
        self.files.insert((inode, scope), Place::OnTheWay(order));
        let content = Arc::clone(&planned.content);
        let about = About { path: planned.path.clone(), file: inode, mapped_ns, order };
        if let Some(parked) = &mut self.parked {
            let file = file.try_clone().with_context(|| format!("cannot keep {} open", about.path.display()))?;
            let (content, about) = (Arc::clone(&content), about.clone());
            parked.add(ParkedFile { file, content, probes: probes.clone(), scope, about });
            if !parked.is_open() {
                self.files.insert((inode, scope), IN_WINDOWS);
                return Ok(());
            }
        }
        if let Programs::ByHand(programs) = &kernel.programs {
            let (holder, programs) = (Arc::clone(&kernel.holder), Arc::clone(programs));
            if self.attacher.send(Order { holder, programs, file, content, probes, scope, about }).is_ok() {
                self.attaching += 1;
            } else {
                self.files.insert((inode, scope), Place::Never);
            }
            return Ok(());
        }
        let began = Instant::now();
        let opened = self.attachments.open(kernel, ((file.as_fd(), &*content), inode), &probes, scope);
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
}

impl About {
    pub(super) fn tell(&self, took: Duration) -> Result<()> {
        if self.mapped_ns != 0 {
            let late = Duration::from_nanos(monotonic_ns()?.saturating_sub(self.mapped_ns));
            log::debug!("{}: probed {late:.1?} after it was mapped, for {took:.1?} by the kernel", self.path.display());
        }
        Ok(())
    }
}
