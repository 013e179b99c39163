//! A process as a descriptor: it never comes to mean another process, whatever becomes of the pid.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::model::Pid;

/// An open `pidfd` (`pidfd_open(2)`, Linux 5.3). It becomes readable when the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this id now.
    ///
    /// # Errors
    /// `ESRCH` where there is none; `EINVAL` or `ENOENT` where the id is that of a thread but not of a process.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: takes two numbers and returns a descriptor or -1. It is close-on-exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0_u32) };
        let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor is new, and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends `signal` to the process.
    ///
    /// # Errors
    /// `ESRCH` where it has ended, `EPERM` where we may not.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo structure the call takes numbers only.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, info, 0_u32) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
