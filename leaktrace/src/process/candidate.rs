//! Whether the process that `-p` names can be traced, found out before anything is attached.
//!
//! In: an id as the caller sees it. Out: a descriptor that stays with that very process, or an error that says what the id
//! stands for and what to do.

use std::fs::File;
use std::io::{self, ErrorKind};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::{Process, Stat};

use super::pidfd::PidFd;
use crate::model::Pid;

/// Why a process cannot be traced. Each text is one line that names it and the next step.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// There is none.
    #[error("there is no process {0}; find the right one with pgrep or ps")]
    None(Pid),
    /// The id is a thread's.
    #[error("{0} is a thread of process {1}; trace that: -p {1}")]
    Thread(Pid, Pid),
    /// It has ended, but its parent has not asked for its status.
    #[error("process {0} has ended already and only waits for its parent to notice (a zombie)")]
    Zombie(Pid),
    /// Its first thread has ended; the others hold its memory.
    #[error("the first thread of process {0} has ended while others run: its mappings cannot be read")]
    WithoutFirstThread(Pid),
    /// It has no memory of its own.
    #[error("{0} is a kernel thread, which allocates nothing by malloc")]
    Kernel(Pid),
    /// That would be us.
    #[error("{0} is leaktrace itself, which would trace its own tracing")]
    Ourselves(Pid),
    /// Another user's, or protected.
    #[error(
        "no permission to look into process {0} of user {1}; run leaktrace as root, with sudo for example, or, if that is \
         root, with the rights that a container or a security module denies"
    )]
    Permission(Pid, u32),
    /// The kernel does not tell.
    #[error("cannot examine process {0}: {1}")]
    Unreadable(Pid, #[source] io::Error),
}

/// `PF_KTHREAD` (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Opens the process `pid`, if it can be traced.
///
/// # Errors
/// What stands in the way.
pub fn open(pid: Pid) -> Result<PidFd, CandidateError> {
    if pid.0 == std::process::id() {
        return Err(CandidateError::Ourselves(pid));
    }
    let pidfd = match PidFd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            return Err(match error.raw_os_error() {
                // What a thread's id is answered by differs between kernels.
                Some(libc::EINVAL | libc::ENOENT) => {
                    process_of(pid).map_or(CandidateError::None(pid), |process| CandidateError::Thread(pid, process))
                }
                Some(libc::ESRCH) => CandidateError::None(pid),
                _ => CandidateError::Unreadable(pid, error),
            });
        }
    };
    let verdict = examine(pid);
    // If it has ended meanwhile, another process with its pid may have been examined.
    if has_ended(&pidfd) && !matches!(verdict, Err(CandidateError::Zombie(_))) {
        return Err(CandidateError::None(pid));
    }
    verdict.map(|()| pidfd)
}

/// The process that a thread belongs to.
fn process_of(thread: Pid) -> Option<Pid> {
    let status = Process::new(i32::try_from(thread.0).ok()?).ok()?.status().ok()?;
    Some(Pid(status.tgid as u32)).filter(|process| *process != thread)
}

fn examine(pid: Pid) -> Result<(), CandidateError> {
    let unreadable = |error: procfs::ProcError| match error {
        procfs::ProcError::NotFound(_) => CandidateError::None(pid),
        error => CandidateError::Unreadable(pid, io::Error::other(error)),
    };
    let process = Process::new(pid.0 as i32).map_err(unreadable)?;
    let stat = process.stat().map_err(unreadable)?;
    judge(pid, &stat)?;
    // The kernel checks the same permission for everything else that is read of a process.
    match File::open(format!("/proc/{pid}/maps")) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(CandidateError::Permission(pid, process.uid().unwrap_or_default()))
        }
        Err(error) => Err(CandidateError::Unreadable(pid, error)),
    }
}

/// What a process' stat file alone tells.
fn judge(pid: Pid, stat: &Stat) -> Result<(), CandidateError> {
    match stat.state {
        'Z' if stat.num_threads > 1 => Err(CandidateError::WithoutFirstThread(pid)),
        'Z' | 'X' => Err(CandidateError::Zombie(pid)),
        _ if stat.flags & KERNEL_THREAD != 0 => Err(CandidateError::Kernel(pid)),
        _ => Ok(()),
    }
}

fn has_ended(pidfd: &PidFd) -> bool {
    use std::os::fd::AsFd;
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    fn refusal(pid: u32) -> String {
        open(Pid(pid)).unwrap_err().to_string()
    }

    #[test]
    fn a_running_process_is_opened_until_it_ends() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = open(Pid(cat.id())).unwrap();
        assert!(!has_ended(&pidfd));
        drop(cat.stdin.take());
        // Leaves the zombie in place.
        waitid(Id::Pid(nix::unistd::Pid::from_raw(cat.id() as i32)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            .unwrap();
        assert!(has_ended(&pidfd));
        assert!(refusal(cat.id()).contains("zombie"));
        cat.wait().unwrap();
        assert_eq!(refusal(cat.id()), format!("there is no process {}; find the right one with pgrep or ps", cat.id()));
    }

    #[test]
    fn a_thread_is_named_with_its_process() {
        // A program with a second thread, which says so and waits.
        let script = "import threading,os,sys\nthreading.Thread(target=lambda:(print(threading.get_native_id(),flush=True),\
                      sys.stdin.read())).start()";
        let mut python = Command::new("/usr/bin/python3");
        let mut python = python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        while said.last() != Some(&b'\n') {
            let mut byte = [0];
            python.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        let thread: u32 = String::from_utf8(said).unwrap().trim().parse().unwrap();
        let process = python.id();
        assert_eq!(refusal(thread), format!("{thread} is a thread of process {process}; trace that: -p {process}"));
        drop(python.stdin.take());
        assert!(python.wait().unwrap().success());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(refusal(2).contains("2 is a kernel thread"), "kthreadd");
        assert!(refusal(std::process::id()).contains("leaktrace itself"));
        // The kernel's limit is 4,194,304 (PID_MAX_LIMIT).
        assert!(refusal(4_194_305).contains("there is no process 4194305"));
        assert!(refusal(u32::MAX).contains("no process"));
    }

    #[test]
    fn a_process_without_its_first_thread_is_told_from_a_zombie() {
        let mut stat = Process::myself().unwrap().stat().unwrap();
        assert!(judge(Pid(1), &stat).is_ok());
        stat.state = 'Z';
        stat.num_threads = 2;
        assert!(matches!(judge(Pid(1), &stat), Err(CandidateError::WithoutFirstThread(_))));
        stat.num_threads = 1;
        assert!(matches!(judge(Pid(1), &stat), Err(CandidateError::Zombie(_))));
    }
}
