//! Who else takes the marks of a process' pages away.
//!
//! In: the id of a process. Out: whether somebody has written to its `clear_refs` but us: CRIU, a debugger, another leaktrace. Then
//! pages that were written have no mark, and nothing can be said of what has changed.
//!
//! The kernel tells of writing to files of /proc as of others (`vfs_write` of `fs/read_write.c`), by inode; a file that is open keeps
//! its inode. Not told is who writes by another mount of proc, or to the file of another thread than the first, and too late who had
//! opened it before and writes at the very moment of asking: the kernel tells when it has written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::model::Pid;

/// What `/proc/PID/clear_refs` takes the marks away for (Documentation/admin-guide/mm/soft-dirty.rst).
const MARKS: &[u8] = b"4";

/// How often what has happened is read at once.
const MOST_READS: usize = 64;

/// A watch over those who take marks away.
#[derive(Debug)]
pub(super) struct Watch {
    told: Inotify,
    /// By which we take them away. It stays open, so that nobody but others opens it.
    own: File,
    /// The first thread's, which does the same.
    _other: File,
}

impl Watch {
    /// Over those of `pid`.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        let told = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watched = |path: String| {
            let file = OpenOptions::new().write(true).open(path)?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            told.add_watch(path.as_str(), AddWatchFlags::IN_OPEN | AddWatchFlags::IN_MODIFY)?;
            Ok::<_, io::Error>(file)
        };
        let (own, other) =
            (watched(format!("/proc/{pid}/clear_refs"))?, watched(format!("/proc/{pid}/task/{pid}/clear_refs"))?);
        Ok(Self { told, own, _other: other })
    }

    /// Takes all marks away; whether nobody else did at the same time.
    pub(super) fn clear(&mut self) -> io::Result<bool> {
        // What was before does not matter any more.
        self.told()?;
        self.own.write_all(MARKS)?;
        Ok(!self.told()?.intersects(AddWatchFlags::IN_OPEN | AddWatchFlags::IN_Q_OVERFLOW))
    }

    /// Whether nobody has taken marks away since we did.
    pub(super) fn is_alone(&self) -> io::Result<bool> {
        Ok(self.told()?.is_empty())
    }

    /// What has happened since this was asked last.
    fn told(&self) -> io::Result<AddWatchFlags> {
        let mut told = AddWatchFlags::empty();
        for _ in 0..MOST_READS {
            match self.told.read_events() {
                Ok(events) => told = events.iter().fold(told, |told, event| told | event.mask),
                Err(Errno::EAGAIN) => return Ok(told),
                Err(error) => return Err(error.into()),
            }
        }
        // Somebody opens the files faster than this reads of it.
        Ok(told | AddWatchFlags::IN_Q_OVERFLOW)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn others_who_take_marks_away_are_told_from_us() {
        let pid = Pid(std::process::id());
        let mut watch = Watch::of(pid).unwrap();
        assert!(watch.clear().unwrap() && watch.is_alone().unwrap());
        for path in [format!("/proc/{pid}/clear_refs"), format!("/proc/{pid}/task/{pid}/clear_refs")] {
            fs::write(path, MARKS).unwrap();
            assert!(!watch.is_alone().unwrap());
            assert!(watch.clear().unwrap() && watch.is_alone().unwrap());
        }
        let mut other = Watch::of(pid).unwrap();
        assert!(!watch.is_alone().unwrap() && other.is_alone().unwrap());
        assert!(other.clear().unwrap() && !watch.is_alone().unwrap());
    }
}
