//! Which file an open file is, whatever its names, and which content it has.

use std::ffi::CStr;
use std::fs::Metadata;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// The device and the inode of a file, as `stat` has them.
pub type FileId = (u64, u64);

/// Of this file.
pub fn of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Stands for a file's content: each writing changes it. Kernels before 6.13 count the time in ticks: there two writings in one
/// tick that keep the size are one.
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
