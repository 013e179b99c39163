//! Why a process could not be stopped, and how that is found out.
//!
//! In: what the kernel answered, and `/proc`. Out: one line that names the cause and the next step.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libc::pid_t;

use super::STOPPING_THREAD;
use crate::model::Pid;
use crate::process::launch::COMMAND_THREAD;
use crate::process::{facts, standing, threads};

/// Why a process could not be stopped. Whatever of it had been stopped already runs again.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// There is nothing left to stop.
    #[error("process {0} has ended, or is about to: its memory is no longer there")]
    Ended(Pid),
    /// That would be us.
    #[error("{0} is leaktrace itself, which cannot look at itself while it is stopped")]
    Ourselves(Pid),
    /// The kernel permits one tracer.
    #[error("process {pid} is already traced by `{name}` (process {tracer}); detach that first, then try again")]
    Traced {
        /// The process.
        pid: Pid,
        /// Its tracer.
        tracer: Pid,
        /// The tracer's short name.
        name: String,
    },
    /// The tracer is another leaktrace.
    #[error(
        "process {pid} is {} another leaktrace (process {tracer}); {}",
        if *.is_command { "the COMMAND of" } else { "being checked at this moment by" },
        if *.is_command { "that one can judge its blocks" } else { "try again later" }
    )]
    Checked {
        /// The process.
        pid: Pid,
        /// The other leaktrace.
        tracer: Pid,
        /// It traces what it has started, for as long as both run.
        is_command: bool,
    },
    /// The kernel refuses.
    #[error(
        "no permission to stop process {pid} ({error}); run leaktrace as root, or, if that is root, check what denies ptrace: \
         kernel.yama.ptrace_scope, the seccomp profile of a container, a security module"
    )]
    Permission {
        /// The process.
        pid: Pid,
        /// What the kernel said.
        error: io::Error,
    },
    /// Its control group is frozen in a way that ptrace cannot end.
    #[error("process {pid} is frozen by its control group {}; thaw that first, then try again", .group.display())]
    Frozen {
        /// The process.
        pid: Pid,
        /// The directory of the group.
        group: PathBuf,
    },
    /// A thread is in the kernel and cannot be interrupted there.
    #[error(
        "thread {tid} (`{comm}`) of process {pid} did not stop within {} ms: {}; the process runs on, try again later",
        .within.as_millis(), waiting(*.state)
    )]
    Late {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: Pid,
        /// The thread's short name.
        comm: String,
        /// Its state as `proc_pid_stat(5)` lists the letters, if it is still there.
        state: Option<char>,
        /// How long it had.
        within: Duration,
    },
    /// The kernel lets nobody trace a process that executes a program, and this takes long.
    #[error("process {0} was not stopped: it is executing another program; try again later")]
    Executing(Pid),
    /// What was stopped is no longer the program that was asked for.
    #[error("process {0} executed another program while it was being stopped, and runs on; try again")]
    Replaced(Pid),
    /// Its registers are not read.
    #[error("process {0} runs 32-bit code, which leaktrace does not trace; look at a 64-bit process")]
    WordSize(Pid),
    /// Something that should not fail did.
    #[error("cannot stop process {pid}: {doing} failed ({error}); it runs on")]
    Kernel {
        /// The process.
        pid: Pid,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// Not even begun.
    #[error("cannot start a thread to stop the process with: {0}; close other programs, then try again")]
    Thread(#[source] io::Error),
}

/// What a thread's state says about why it does not stop.
fn waiting(state: Option<char>) -> &'static str {
    match state {
        Some('D') => {
            "it is in an uninterruptible wait (state D), for a disk, a file system or a child that shares its memory"
        }
        Some('R') => "it has had no processor time, or is busy in the kernel (state R)",
        None | Some('Z' | 'X') => "it is ending",
        _ => "new threads were created faster than they could be stopped",
    }
}

/// How long the end of a thread of ours may take, and after how long it is looked for again.
const GONE_WITHIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Makes sure that `pid` can be traced, before anything of it is stopped.
pub(super) fn check(pid: pid_t) -> Result<(), StopError> {
    let of = Pid(pid as u32);
    if of.0 == std::process::id() {
        return Err(StopError::Ourselves(of));
    }
    if matches!(threads::state(pid, pid), None | Some('X')) {
        return Err(StopError::Ended(of));
    }
    let begun = Instant::now();
    let ours = std::process::id() as pid_t;
    // The thread that stopped it last is about to end, and then lets go of what was killed in the stop.
    while begun.elapsed() < GONE_WITHIN
        && threads::tracer(pid, pid).is_some_and(|thread| threads::comm(ours, thread) == STOPPING_THREAD)
    {
        thread::sleep(LOOK_AGAIN);
    }
    already_traced(pid, pid).map_or(Ok(()), Err)
}

/// The error for a thread that is traced.
fn already_traced(pid: pid_t, tid: pid_t) -> Option<StopError> {
    let thread = threads::tracer(pid, tid)?;
    // SAFETY: only reads a number.
    if thread == unsafe { libc::gettid() } {
        // One that we have seized by another number executes a program, and has got that of the first thread, which had ended.
        return Some(StopError::Replaced(Pid(pid as u32)));
    }
    // Threads have names that say nothing to whoever looks for a process.
    let process = threads::process_of(thread).unwrap_or(thread);
    let (pid, tracer) = (Pid(pid as u32), Pid(process as u32));
    if process != std::process::id() as pid_t && facts::is_leaktrace(tracer) {
        return Some(StopError::Checked { pid, tracer, is_command: threads::comm(process, thread) == COMMAND_THREAD });
    }
    Some(StopError::Traced { pid, tracer, name: threads::comm(process, process) })
}

/// What the kernel's refusal of thread `tid` means; `None` where the thread has ended.
pub(super) fn refusal(pid: pid_t, tid: pid_t, error: io::Error) -> Option<StopError> {
    let of = Pid(pid as u32);
    if matches!(threads::state(pid, tid), None | Some('Z' | 'X')) {
        return None;
    }
    Some(already_traced(pid, tid).unwrap_or(StopError::Permission { pid: of, error }))
}

/// What it means that thread `tid` has not stopped in time.
pub(super) fn lateness(pid: pid_t, tid: pid_t, within: Duration) -> StopError {
    let of = Pid(pid as u32);
    match standing::frozen_1(pid) {
        Some(group) => StopError::Frozen { pid: of, group },
        None => StopError::Late {
            pid: of,
            tid: Pid(tid as u32),
            comm: threads::comm(pid, tid),
            state: threads::state(pid, tid),
            within,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_thread_is_named_with_what_it_waits_for() {
        let late = |state| {
            let within = Duration::from_millis(500);
            StopError::Late { pid: Pid(7), tid: Pid(8), comm: "io".to_owned(), state, within }.to_string()
        };
        assert!(
            late(Some('D')).starts_with("thread 8 (`io`) of process 7 did not stop within 500 ms: it is in an uninter")
        );
        assert!(late(Some('R')).contains("no processor time"));
        assert!(late(None).contains("it is ending"));
    }

    #[test]
    fn another_leaktrace_is_told_from_a_debugger() {
        let words = |is_command| StopError::Checked { pid: Pid(7), tracer: Pid(9), is_command }.to_string();
        assert_eq!(
            words(false),
            "process 7 is being checked at this moment by another leaktrace (process 9); try again later"
        );
        assert_eq!(
            words(true),
            "process 7 is the COMMAND of another leaktrace (process 9); that one can judge its blocks"
        );
    }

    #[test]
    fn this_process_and_those_that_are_gone_are_refused() {
        assert!(matches!(check(std::process::id() as pid_t), Err(StopError::Ourselves(_))));
        // The kernel's limit is 4,194,304 (PID_MAX_LIMIT).
        assert!(matches!(check(4_194_305), Err(StopError::Ended(_))));
    }
}
