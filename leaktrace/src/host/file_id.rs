//! Which file an open file is, whatever its names, and which content it has.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use serde::{Deserialize, Serialize};

/// The device and the inode of a file, as `stat` has them.
pub type FileId = (u64, u64);

/// Of this file.
pub fn of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Stands for a file's content. Two contents may have one version: before Linux 6.13, and on some file systems since, times are
/// counted in ticks or seconds, and a shared mapping changes them only when it first writes to a page. [`Content`] tells these
/// apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, u32),
    /// The same of the last change of whatever kind, which nobody can set.
    changed: (i64, u32),
}

impl Version {
    /// As the kernel knows it: no file system is asked.
    ///
    /// # Errors
    /// What `statx` reports.
    pub fn of(file: &impl AsFd) -> io::Result<Self> {
        let status = status(file.as_fd(), c"", libc::AT_EMPTY_PATH)?;
        let time = |time: libc::statx_timestamp| (time.tv_sec, time.tv_nsec);
        Ok(Self { size: status.stx_size, modified: time(status.stx_mtime), changed: time(status.stx_ctime) })
    }
}

/// Bytes of a file, by which its content is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// Where they are, bytes from the file's start.
    pub start: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Excerpt {
    /// Whether a file has these bytes there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_in(&self, file: &File) -> io::Result<bool> {
        let mut found = vec![0; self.bytes.len()];
        match file.read_exact_at(&mut found, self.start) {
            Ok(()) => Ok(found == self.bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The content of a file in which places were chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Stands for all of it.
    pub version: Version,
    /// What is at and around each place, by the place's offset in the file.
    pub excerpts: BTreeMap<u64, Excerpt>,
    /// Its file system asks somebody who may not answer: another process, or a server.
    pub is_served: bool,
}

/// What the kernel knows of a file, which for the kernel's own file systems is all. A file system that is served by somebody is
/// not asked (`AT_STATX_DONT_SYNC`): the processes of this machine that open a file have it asked.
///
/// # Errors
/// What `statx` reports.
pub fn status(at: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> io::Result<libc::statx> {
    // SAFETY: plain numbers, for which zeros are valid.
    let mut status: libc::statx = unsafe { mem::zeroed() };
    let flags = flags | libc::AT_STATX_DONT_SYNC;
    // SAFETY: an open descriptor, a string that ends, and room for the answer.
    let result = unsafe { libc::statx(at.as_raw_fd(), path.as_ptr(), flags, libc::STATX_BASIC_STATS, &raw mut status) };
    if result == 0 { Ok(status) } else { Err(io::Error::last_os_error()) }
}
