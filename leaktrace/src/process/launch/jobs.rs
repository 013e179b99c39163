//! Job control: Ctrl-Z, `fg` and `bg` reach leaktrace and its command as one job.
//!
//! In: the command's group stops. Out: our own.
//!
//! A shell sees leaktrace where it would see the command, and both are in the job's process group. If Ctrl-Z stopped us at
//! once, the command's main thread would wait for us to pass the signal on while its other threads ran. So we ignore the
//! terminal's stop signals and follow the command: when it stops, so do we, after letting go of it.

use std::fs;

use libc::{c_int, pid_t, sighandler_t};
use procfs::FromRead;

/// What a terminal stops its jobs with.
const STOPS: [c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// The terminal's stop signals are ignored as long as this lives.
pub(super) struct JobControl {
    before: [sighandler_t; STOPS.len()],
}

impl JobControl {
    /// Starts ignoring them. For the whole process; one at a time.
    pub(super) fn take() -> Self {
        // SAFETY: ignoring a signal runs no code of ours.
        Self { before: STOPS.map(|signal| unsafe { libc::signal(signal, libc::SIG_IGN) }) }
    }

    /// Whether a group stop of `pid` by `signal` is one of our job: a stop by the terminal, of a process in our group.
    ///
    /// SIGSTOP is left alone: whoever stops the command by its pid will continue it by its pid, and we must be there to
    /// see it go on.
    #[expect(clippy::unused_self, reason = "asking presupposes that the signals do not stop us first")]
    pub(super) fn concerns(&self, pid: pid_t, signal: c_int) -> bool {
        // SAFETY: both only read numbers.
        STOPS.contains(&signal) && unsafe { libc::getpgid(pid) == libc::getpgrp() }
    }

    /// Stops leaktrace until it is continued. The command, which must not be traced now, is then continued too: usually
    /// whoever continued us sent the signal to both.
    #[expect(clippy::unused_self, reason = "see `concerns`")]
    pub(super) fn stop_ourselves(&self, pid: pid_t) {
        // SAFETY: `raise` sends to this very thread, so the stop takes effect before it returns; the number in `kill`
        // belongs to our child, which is not reaped yet.
        unsafe {
            libc::raise(libc::SIGSTOP);
            if is_stopped(pid) {
                libc::kill(pid, libc::SIGCONT);
            }
        }
    }
}

impl Drop for JobControl {
    fn drop(&mut self) {
        for (signal, before) in STOPS.into_iter().zip(self.before) {
            // SAFETY: gives back what was there, a disposition of this process.
            unsafe { libc::signal(signal, before) };
        }
    }
}

fn is_stopped(pid: pid_t) -> bool {
    let stat = fs::File::open(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| procfs::process::Stat::from_read(stat).is_ok_and(|stat| stat.state == 'T'))
}
