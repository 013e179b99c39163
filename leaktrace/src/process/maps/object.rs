//! A file that is mapped as code, and how its content is reached.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::files::{Permit, Root, Stamp, name, open_named};
use super::layout::Layout;
use crate::elf::Segment;
use crate::host::file_id::FileId;
use crate::host::patience::{self, About};

/// Names an [`Object`] for as long as the program runs; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub(super) u64);

/// A file, or the kernel's `[vdso]`, that some process maps as code: one content of one inode.
#[derive(Debug)]
pub struct Object {
    pub(super) id: ObjectId,
    pub(super) path: Arc<Path>,
    pub(super) source: Source,
    pub(super) layout: Layout,
    pub(super) root: Option<Arc<Root>>,
    /// When it was last written to, as of the time at which it was found: see [`written_ns`](super::files::written_ns).
    pub(super) written_ns: Option<u64>,
}

/// Files' times are those of the last tick of the clock, which is 10 ms apart where the kernel was built with 100 Hz.
const TICK_NS: u64 = 12_000_000;

/// Where an object's content is.
#[derive(Debug)]
pub(super) enum Source {
    /// Named by a descriptor for as long as this lives.
    Held { file: File, stamp: Stamp, _permit: Permit },
    /// There were too many to hold: found by its path, if that still leads to the same inode.
    Named { stamp: Stamp },
    /// Not a file.
    Memory(Vec<u8>),
}

impl Object {
    /// Its name among all objects of this run.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The path under which it was first seen, in that process' view.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode (`st_dev`, `st_ino`): two objects that agree are two contents of one file, overwritten in place.
    /// `None` for the `[vdso]`.
    #[must_use]
    pub fn inode(&self) -> Option<FileId> {
        self.stamp().map(|stamp| (stamp.device, stamp.inode))
    }

    /// What the kernel's own structures say of it: device (major, minor), inode, and when it was last written to, in seconds.
    /// Only for a file that is held open, whose inode is therefore no other file's; `None` for others.
    #[must_use]
    pub fn kernel_identity(&self) -> Option<((u32, u32), u64, i64)> {
        match &self.source {
            Source::Held { stamp, .. } => {
                let device = (libc::major(stamp.device), libc::minor(stamp.device));
                Some((device, stamp.inode, stamp.modified.0))
            }
            Source::Named { .. } | Source::Memory(_) => None,
        }
    }

    /// The root directory of the process that showed it first, where its debug information may lie; `None` where that
    /// is this program's own root, or could not be opened.
    #[must_use]
    pub fn root(&self) -> Option<&Root> {
        self.root.as_deref()
    }

    /// Its loadable segments as the program header table gives them; empty where it is not an ELF file we can read.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.layout.segments
    }

    /// What a thread has of the object's thread-local variables at most, bytes.
    #[must_use]
    pub fn thread_local_bytes(&self) -> u64 {
        self.layout.thread_local_bytes
    }

    /// The GNU build id.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.layout.build_id.as_deref()
    }

    /// The address in the object's own numbering (ELF virtual address) of what lies at `offset`, in bytes, in the file.
    #[must_use]
    pub fn virtual_address(&self, offset: u64) -> Option<u64> {
        self.layout.virtual_address(offset)
    }

    /// Its content as a file of its own position, as long as that is what was mapped. Waits for its file system, for ever if that
    /// does not answer.
    ///
    /// Errors: the file cannot be found any more, or was written to in place since.
    pub fn open(&self) -> io::Result<File> {
        match &self.source {
            Source::Held { file, stamp, .. } => {
                let file = open_named(file)?;
                self.check(&file, stamp)?;
                Ok(file)
            }
            Source::Named { stamp } => {
                let file = match &self.root {
                    Some(root) => root.open(&self.path)?,
                    None => Root::own()?.open(&self.path)?,
                };
                self.check(&file, stamp)?;
                Ok(file)
            }
            Source::Memory(bytes) => {
                let name = c"leaktrace-vdso";
                let file = File::from(nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
                file.write_all_at(bytes, 0)?;
                Ok(file)
            }
        }
    }

    /// A descriptor that names the file to the kernel, and from which nothing can be read. Its file system is asked only where the
    /// file was written to or is not held, and not for long.
    ///
    /// Errors: as for [`open`](Self::open), and `TimedOut`.
    pub fn name(self: &Arc<Self>) -> io::Result<File> {
        if let Source::Held { file, stamp, .. } = &self.source
            && Stamp::of(file)? == *stamp
        {
            return file.try_clone();
        }
        let (device, inode) = self.inode().unwrap_or_default();
        let object = Arc::clone(self);
        patience::answer(About::file_system(device, inode), move || name(&object.open()?))
    }

    /// Waits until its file system answers, but not for long. Without a block device there may be one that never does.
    ///
    /// Errors: `TimedOut` only.
    pub fn await_file_system(self: &Arc<Self>) -> io::Result<()> {
        let Some((device, inode)) = self.inode().filter(|(device, _)| libc::major(*device) == 0) else { return Ok(()) };
        let object = Arc::clone(self);
        // Whoever reads it learns of other errors.
        patience::answer(About::file_system(device, inode), move || object.open().map(drop).or(Ok(())))
    }

    /// A new build written over the old one keeps the inode. A mere `touch` keeps the build id as well.
    pub(super) fn is_same_build(&self, now: &Stamp, build_id: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        self.stamp().is_some_and(|then| {
            now == then
                || now.is_same_file(then)
                    && now.size == then.size
                    && self.build_id().is_some()
                    && build_id() == self.layout.build_id
        })
    }

    fn check(&self, file: &File, then: &Stamp) -> io::Result<()> {
        let now = Stamp::of(file)?;
        if self.is_same_build(&now, || Layout::read(file).build_id) {
            Ok(())
        } else if now.is_same_file(then) {
            Err(io::Error::other("the file was overwritten after it was mapped"))
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another file took its place, and it was not kept open"))
        }
    }

    /// Whether a file that is found now under this object's identity still has this object's content.
    pub(super) fn is_current(&self) -> bool {
        match &self.source {
            Source::Held { file, stamp, .. } => Stamp::of(file).is_ok_and(|now| now == *stamp),
            Source::Named { .. } => false,
            Source::Memory(_) => true,
        }
    }

    /// Whether it was written to after this moment: what it held then is not known.
    pub(super) fn is_written_after(&self, time_ns: u64) -> bool {
        self.written_ns.is_some_and(|written| written > time_ns)
    }

    /// Whether it was written to so shortly before this moment that it may have been after it, as far as files' times tell.
    pub(super) fn is_just_written(&self, time_ns: u64) -> bool {
        self.written_ns.is_some_and(|written| written.saturating_add(TICK_NS) > time_ns)
    }

    fn stamp(&self) -> Option<&Stamp> {
        match &self.source {
            Source::Held { stamp, .. } | Source::Named { stamp } => Some(stamp),
            Source::Memory(_) => None,
        }
    }
}
