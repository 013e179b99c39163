//! Pointers that a program has given to the kernel, which hands them back later: they keep blocks reachable.
//!
//! In: what `/proc/PID` says of epoll descriptors and POSIX timers. Out: the values as words, which need not be pointers. What
//! `sigaltstack(2)`, robust lists and restartable sequences refer to lies in the process' own memory as well. What cannot be seen
//! here: signals that are pending with a value, and requests of `io_uring` and of `io_submit(2)` that were taken from their rings.
//!
//! Reading waits for nothing but locks of the kernel, which no thread holds while ptrace(2) has it stopped.

use std::ffi::OsStr;
use std::fs;
use std::io;

use crate::model::Pid;

/// A descriptor that an epoll instance watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpollEntry {
    /// The descriptor's number when it was added.
    pub watched: i32,
    /// What the program gave with it (`epoll_data`): often a pointer, or a number.
    pub data: u64,
}

/// A timer of `timer_create(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer {
    /// Its number.
    pub id: i32,
    /// The signal that it sends; 0 where it sends none.
    pub signal: i32,
    /// What the program gave with it (`sigev_value`). The C library gives a block of its own for `SIGEV_THREAD`, in which the
    /// program's value is.
    pub value: u64,
}

/// What the kernel holds for a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelRoots {
    /// Of all epoll instances among its descriptors.
    pub epoll: Vec<EpollEntry>,
    /// All its timers.
    pub timers: Vec<Timer>,
    /// What could not be read: other rights are needed, or the kernel does not have it (`/proc/PID/timers` needs
    /// `CONFIG_CHECKPOINT_RESTORE`).
    pub missing: Vec<&'static str>,
}

impl KernelRoots {
    /// Those of `pid`. Takes a few microseconds for each of its descriptors.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        let mut roots = Self::default();
        match epoll_descriptors(pid) {
            // One that was closed meanwhile watches nothing.
            Ok(numbers) => {
                let infos = numbers.iter().filter_map(|number| fs::read(format!("/proc/{pid}/fdinfo/{number}")).ok());
                roots.epoll = infos.flat_map(|info| epoll_entries(&info)).collect();
            }
            Err(error) => roots.miss(pid, "fd", &error),
        }
        match fs::read(format!("/proc/{pid}/timers")) {
            Ok(text) => roots.timers = timers(&text),
            Err(error) => roots.miss(pid, "timers", &error),
        }
        roots
    }

    /// All values, each a possible pointer.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.epoll.iter().map(|entry| entry.data).chain(self.timers.iter().map(|timer| timer.value))
    }

    fn miss(&mut self, pid: Pid, what: &'static str, error: &io::Error) {
        log::debug!("{what} of process {pid} cannot be read: {error}");
        self.missing.push(what);
    }
}

/// The numbers of a process' descriptors that are epoll instances.
fn epoll_descriptors(pid: Pid) -> io::Result<Vec<i32>> {
    let is_epoll = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == OsStr::new("anon_inode:[eventpoll]"))
    };
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter(is_epoll);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The entries in the `fdinfo` of an epoll instance, as `ep_show_fdinfo` (fs/eventpoll.c) writes them:
/// `tfd: NUMBER events: MASK data: HEX pos:…`, with padding.
fn epoll_entries(text: &[u8]) -> Vec<EpollEntry> {
    let entry = |line: &str| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let watched = words.next()?.parse().ok()?;
        let data = words.skip_while(|word| *word != "data:").nth(1)?;
        Some(EpollEntry { watched, data: u64::from_str_radix(data, 16).ok()? })
    };
    String::from_utf8_lossy(text).lines().filter_map(entry).collect()
}

/// The timers in `/proc/PID/timers`, as `show_timer` (fs/proc/base.c) writes them: `ID: NUMBER`, then `signal: NUMBER/HEX`.
fn timers(text: &[u8]) -> Vec<Timer> {
    let text = String::from_utf8_lossy(text);
    let (mut found, mut id) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("ID:") {
            id = number.trim().parse().ok();
        } else if let (Some(id), Some((signal, value))) =
            (id, line.strip_prefix("signal:").and_then(|signal| signal.trim().split_once('/')))
        {
            let value = u64::from_str_radix(value.trim_start_matches("0x"), 16);
            if let (Ok(signal), Ok(value)) = (signal.parse(), value) {
                found.push(Timer { id, signal, value });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_epoll_are_read_with_and_without_what_follows_them() {
        // From Linux 6.18, and the form of 4.12 and before.
        let text = b"pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n\
            tfd:        0 events:       1f data:                0  pos:0 ino:3a82ca sdev:f\n\
            tfd:        4 events: 80000019 data:     7fcd00000004  pos:0 ino:3a8321 sdev:f\n\
            tfd:       12 events:       1d data: ffffffffffffffff\n\
            tfd: x events: 1 data: 1\ntfd: 1 events: 1\n";
        let entries = epoll_entries(text);
        let shown: Vec<_> = entries.iter().map(|entry| (entry.watched, entry.data)).collect();
        assert_eq!(shown, [(0, 0), (4, 0x7fcd_0000_0004), (12, u64::MAX)]);
        assert!(epoll_entries(b"").is_empty());
    }

    #[test]
    fn timers_are_read_as_the_kernel_documents_them() {
        // The example of Documentation/filesystems/proc.rst, and one that sends no signal.
        let text = b"ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
            ID: 0\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 1\n\
            ID: 7\nsignal: 0/0000000000000007\nnotify: none/pid.2634\nClockID: 1\n\
            ID: 8\nsignal: nonsense\n";
        let shown: Vec<_> = timers(text).iter().map(|timer| (timer.id, timer.signal, timer.value)).collect();
        assert_eq!(shown, [(1, 60, 0x7fff_86e4_52a8), (0, 60, 0x7fff_86e4_52a8), (7, 0, 7)]);
        assert!(timers(b"").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            epoll_entries(&bytes);
            timers(&bytes);
        }
    }
}
