//! Probes that are in place only while a window is open (`--burst`): between windows they are known, and nothing is in any process.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::{Place, Prober};
use crate::host::file_id::{Content, FileId};
use crate::kernel::Kernel;
use crate::kernel::attach::{Attachments, Scope};
use crate::kernel::attacher::{About, Order};
use crate::kernel::probe::Probe;
use crate::kernel::programs::Programs;

/// Of what is probed in windows nothing is late: what comes too late for one is seen in the next.
pub(super) const IN_WINDOWS: Place = Place::Since(0);

/// What is to be probed in each window.
#[derive(Default)]
pub struct Parked {
    files: Vec<ParkedFile>,
    is_open: bool,
}

/// A file with its probes.
pub(super) struct ParkedFile {
    pub file: File,
    pub content: Arc<Content>,
    pub probes: Vec<Probe>,
    pub scope: Scope,
    pub about: About,
}

impl Parked {
    /// Whether a window is open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Has a file probed in each window.
    pub(super) fn add(&mut self, file: ParkedFile) {
        let key = |of: &ParkedFile| (of.about.file, of.scope);
        self.remove(|other| key(other) == key(&file));
        self.files.push(file);
    }

    fn remove(&mut self, is_gone: impl Fn(&ParkedFile) -> bool) {
        self.files.retain(|file| !is_gone(file));
    }

    /// A file has changed, and its probes are not what they were.
    pub(super) fn forget_file(&mut self, file: FileId) {
        self.remove(|parked| parked.about.file == file);
    }

    /// Nothing is probed for this scope any more.
    pub(super) fn forget_scope(&mut self, scope: Scope) {
        self.remove(|parked| parked.scope == scope);
    }
}

impl Prober {
    /// Has probes set only while a window is open; none is.
    #[must_use]
    pub fn in_windows(mut self) -> Self {
        self.parked = Some(Parked::default());
        self
    }

    /// Has all probes set; they are in place when [`Prober::is_idle`].
    ///
    /// # Errors
    /// The kernel has no links for probes.
    pub fn open_window(&mut self, kernel: &Kernel) -> Result<()> {
        let Some(parked) = &mut self.parked else { return Ok(()) };
        let Programs::ByHand(programs) = &kernel.programs else {
            bail!("windows need a kernel that sets many probes at once (Linux 6.10); trace without --burst");
        };
        parked.is_open = true;
        for ParkedFile { file, content, probes, scope, about } in &parked.files {
            self.last_order += 1;
            let about = About { order: self.last_order, mapped_ns: 0, ..about.clone() };
            let (inode, scope) = (about.file, *scope);
            let order = Order {
                holder: Arc::clone(&kernel.holder),
                programs: Arc::clone(programs),
                file: file.try_clone().context("cannot open a window")?,
                content: Arc::clone(content),
                probes: probes.clone(),
                scope,
                about,
            };
            self.files.insert((inode, scope), Place::OnTheWay(self.last_order));
            self.attaching += usize::from(self.attacher.send(order).is_ok());
        }
        Ok(())
    }

    /// Takes all probes out; they are removed when what this returns is dropped, which takes the kernel some tens of milliseconds.
    pub fn close_window(&mut self) -> Attachments {
        if let Some(parked) = &mut self.parked {
            parked.is_open = false;
            for ParkedFile { scope, about, .. } in &parked.files {
                // What is still being set is not wanted any more.
                if let Some(place @ Place::OnTheWay(_)) = self.files.get_mut(&(about.file, *scope)) {
                    *place = IN_WINDOWS;
                }
            }
        }
        self.attachments.take_all()
    }

    /// Whether all allocators that are probed are glibc's, which keeps the size of each block in front of it.
    pub fn are_all_glibc(&self) -> bool {
        self.are_all_glibc
    }
}
