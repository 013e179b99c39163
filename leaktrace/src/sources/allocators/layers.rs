//! Layered file systems show one file under several identities: overlayfs has device and inode numbers of its own for what
//! lies in its layers, and a probe on either is a probe on the file beneath. Two of them would count every call twice.
//!
//! In: files that are about to be probed. Out: whether the file beneath is probed already, as its breakpoints show.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use memmap2::MmapOptions;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC};

use crate::host::file_id::FileId;
use crate::host::patience::{self, About};

/// What the kernel puts where a probe is: `int3`.
const BREAKPOINT: u8 = 0xcc;
/// Of a file's inode number: with `xino` overlayfs writes the layer into the upper bits, and leaves the rest as it is.
const INODE_BITS: u64 = (1 << 32) - 1;

/// Files that were probed in all processes, each with its device and inode.
#[derive(Debug, Default)]
pub struct Probed(Vec<(FileId, Identity)>);

/// What two identities of one file have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    layered: bool,
}

impl Identity {
    /// Asks its file system, which is of this kind.
    ///
    /// # Errors
    /// The file system's.
    pub fn of(file: &File, kind: FsType) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            inode: metadata.ino() & INODE_BITS,
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            layered: kind == OVERLAYFS_SUPER_MAGIC,
        })
    }

    /// Whether its file system shows what lies in layers.
    pub fn is_layered(&self) -> bool {
        self.layered
    }

    /// Whether both may stand for one file.
    pub fn may_be(&self, other: &Self) -> bool {
        (self.layered || other.layered) && Self { layered: other.layered, ..*self } == *other
    }
}

/// Whether a file that is about to be probed is probed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is probed by way of another identity.
    Probed,
    /// It looks like a file that is probed or will be.
    Maybe,
    /// It is not.
    New,
}

impl Probed {
    /// Whether a file of this identity, to be probed at these offsets in bytes, is probed already. `file` may be only named;
    /// `inode` is its device and inode number.
    ///
    /// # Errors
    /// It may be, and its file system does not answer.
    pub fn look_up(
        &self,
        identity: Option<&Identity>,
        file: &File,
        inode: FileId,
        offsets: impl Iterator<Item = u64>,
    ) -> io::Result<Standing> {
        if !identity.is_some_and(|identity| self.may_have(inode, identity)) {
            return Ok(Standing::New);
        }
        let (file, offsets) = (file.try_clone()?, offsets.collect::<Vec<_>>());
        patience::answer(About::file_system(inode.0, inode.1), move || {
            let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            let probed = offsets.iter().all(|offset| has_breakpoint(&file, *offset).unwrap_or(false));
            Ok(if probed { Standing::Probed } else { Standing::Maybe })
        })
    }

    fn may_have(&self, inode: FileId, identity: &Identity) -> bool {
        self.0.iter().any(|(file, other)| *file == inode || identity.may_be(other))
    }

    /// Takes note of a file that is going to be probed.
    pub fn add(&mut self, file: FileId, identity: Option<Identity>) {
        // Its time of last writing may be another one than at first.
        let new = identity.map(|identity| (file, identity)).filter(|new| !self.0.contains(new));
        self.0.extend(new);
    }

    /// Takes note that a file has lost its probes: breakpoints that are found there later are somebody else's. What
    /// others were recognized by.
    pub fn remove(&mut self, file: FileId) -> Vec<Identity> {
        self.0.extract_if(.., |(other, _)| *other == file).map(|(_, identity)| identity).collect()
    }
}

/// Whether a breakpoint is at this offset of the file where it is mapped privately, as code is, but not in the file itself.
fn has_breakpoint(file: &File, offset: u64) -> io::Result<bool> {
    // The mapping is never touched, but read as another process' memory would be: where the file has been shortened
    // meanwhile that is an error, and not our end.
    // SAFETY: no reference into the mapping is ever used.
    let mapping = unsafe { MmapOptions::new().offset(offset).len(1).map_copy_read_only(file) }?;
    let (mut mapped, mut stored) = ([0], [0]);
    File::open("/proc/self/mem")?.read_exact_at(&mut mapped, mapping.as_ptr() as u64)?;
    file.read_exact_at(&mut stored, offset)?;
    Ok(mapped[0] == BREAKPOINT && stored[0] != BREAKPOINT)
}
