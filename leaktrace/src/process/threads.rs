//! The threads of a process: which there are, which are still alive, and whether one that is about to exit takes the process with it.
//!
//! In: `/proc/PID/task/*/{stat,status,comm}`. Out: ids, states and names, and a verdict.

use std::fs;
use std::thread;
use std::time::Duration;

use libc::{c_int, pid_t};
use procfs::FromRead;
use procfs::process::Stat;

/// `PF_EXITING`, `PF_DUMPCORE` and `PF_SIGNALED` of include/linux/sched.h: the thread is exiting, writes the process' core dump, or was
/// killed by a signal.
const ON_ITS_WAY_OUT: u32 = 0x0000_0004 | 0x0000_0200 | 0x0000_0400;
/// Between taking SIGKILL and setting `PF_SIGNALED` (`get_signal` of kernel/signal.c) a thread shows neither: so often and after so
/// long threads are looked at once more.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What field 52 of the stat file shows for a thread in its exit stop whose process is not ending: the stop itself. Where
/// the process is ending, newer kernels show its exit code there (fs/proc/array.c).
const EXIT_STOP: c_int = libc::SIGTRAP | libc::PTRACE_EVENT_EXIT << 8;

/// A thread as its stat file and status file show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    state: char,
    flags: u32,
    exit_code: c_int,
    /// SIGKILL is pending: that is how a process that ends takes its threads along.
    killed: bool,
}

impl Thread {
    fn read(pid: pid_t, tid: pid_t) -> Option<Self> {
        let file = |name| fs::read(format!("/proc/{pid}/task/{tid}/{name}")).ok();
        // In this order: a thread that takes SIGKILL in between has shown it as pending, and not yet its flags.
        let status = String::from_utf8_lossy(&file("status")?).into_owned();
        let stat = Stat::from_read(file("stat")?.as_slice()).ok()?;
        Some(Self {
            state: stat.state,
            flags: stat.flags,
            exit_code: stat.exit_code?,
            killed: pending(&status) & 1 << (libc::SIGKILL - 1) != 0,
        })
    }

    fn is_dying(self) -> bool {
        matches!(self.state, 'Z' | 'X') || self.flags & ON_ITS_WAY_OUT != 0 || self.killed
    }
}

/// The thread's own pending signals, bit n-1 for signal n.
fn pending(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The ids of all threads of `pid` that the kernel still lists; none where the process is gone.
pub(super) fn ids(pid: pid_t) -> Vec<pid_t> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The kernel's short name of a thread; empty where it is gone.
pub(super) fn comm(pid: pid_t, tid: pid_t) -> String {
    let name = fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

/// The state of a thread as `proc_pid_stat(5)` lists the letters; `None` where it is gone.
pub(super) fn state(pid: pid_t, tid: pid_t) -> Option<char> {
    Stat::from_read(fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?.as_slice()).ok().map(|stat| stat.state)
}

/// Who traces a thread: the id of the tracer, as `TracerPid` in `proc_pid_status(5)`.
pub(super) fn tracer(pid: pid_t, tid: pid_t) -> Option<pid_t> {
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

/// The process that a thread belongs to; `None` where it is gone.
pub(super) fn process_of(tid: pid_t) -> Option<pid_t> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The threads of `pid` that are not on their way out.
pub(super) fn alive(pid: pid_t) -> Vec<pid_t> {
    let alive = |&tid: &pid_t| Thread::read(pid, tid).is_some_and(|thread| !thread.is_dying());
    ids(pid).into_iter().filter(alive).collect()
}

/// Whether no thread of `pid` but `tid` is left, other than as a number that its parent has yet to take.
pub(super) fn is_alone(pid: pid_t, tid: pid_t) -> bool {
    let others = ids(pid).into_iter().filter(|&other| other != tid);
    others.into_iter().all(|other| matches!(state(pid, other), None | Some('Z' | 'X')))
}

/// Whether the whole process ends, given that its thread `tid` is in its exit stop.
pub(super) fn process_ends_with(pid: pid_t, tid: pid_t) -> bool {
    let look = || {
        let others = ids(pid).into_iter().filter(|&other| other != tid).filter_map(|other| Thread::read(pid, other));
        ends(Thread::read(pid, tid), others)
    };
    look()
        || (0..LOOKS).any(|_| {
            thread::sleep(BETWEEN_LOOKS);
            look()
        })
}

fn ends(exiting: Option<Thread>, mut others: impl Iterator<Item = Thread>) -> bool {
    exiting.is_none_or(|thread| thread.exit_code != EXIT_STOP) || others.all(Thread::is_dying)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_EXIT_STOP: Thread = Thread { state: 't', flags: 0x4040_0000, exit_code: 0x605, killed: false };
    const SLEEPING: Thread = Thread { state: 'S', flags: 0x4040_0000, exit_code: 0, killed: false };

    fn process_ends(exiting: Thread, others: &[Thread]) -> bool {
        ends(Some(exiting), others.iter().copied())
    }

    #[test]
    fn the_last_thread_takes_the_process_along() {
        assert!(process_ends(IN_EXIT_STOP, &[]));
        assert!(!process_ends(IN_EXIT_STOP, &[SLEEPING]), "pthread_exit in main");
        let zombie = Thread { state: 'Z', ..SLEEPING };
        assert!(process_ends(IN_EXIT_STOP, &[zombie]));
        assert!(!process_ends(IN_EXIT_STOP, &[zombie, SLEEPING]));
    }

    #[test]
    fn exit_by_another_thread_ends_the_process() {
        assert!(process_ends(Thread { exit_code: 0, ..IN_EXIT_STOP }, &[SLEEPING]), "newer kernels say so");
        let others = [
            Thread { flags: SLEEPING.flags | 0x4, ..SLEEPING },
            Thread { killed: true, ..SLEEPING },
            Thread { flags: SLEEPING.flags | 0x400, state: 'R', ..SLEEPING },
            Thread { flags: SLEEPING.flags | 0x200, state: 'D', ..SLEEPING },
        ];
        assert!(process_ends(IN_EXIT_STOP, &others), "older kernels show it in the other threads");
    }

    #[test]
    fn pending_signals_are_the_threads_own() {
        assert_eq!(pending("Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000002\n"), 0x100);
        assert_eq!(pending("Name:\tx\n"), 0);
    }

    #[test]
    fn threads_of_this_process_are_alive() {
        let pid = std::process::id() as pid_t;
        // SAFETY: only reads a number.
        let tid = unsafe { libc::gettid() };
        assert!(alive(pid).contains(&tid));
    }
}
