//! leaktrace is killed at each of its steps of copying a process: before and after every request that changes something.
//!
//! Moments at random fall between two certain requests too seldom. So the one who copies is traced itself, and killed at the n-th of
//! its calls of ptrace(2), `process_vm_writev(2)` and kill(2), for each n.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::copying::{Program, masks};
use super::outliving::ROLE;
use super::survival::TARGET;

/// Calls that change something.
const STEPS: [i64; 3] = [libc::SYS_ptrace, libc::SYS_process_vm_writev, libc::SYS_kill];

/// From the first write until all threads are let go, entries and ends, and some more.
const STEPS_OF_A_COPY: u32 = 90;

/// Starts the role, lets it come to the entry or the end of its n-th step, the first of which is its first write to another process'
/// memory, and kills it there. Gives what the step was.
fn kill_at(target: &Program, step: u32) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", ROLE, "--nocapture", "--test-threads=1"]).env(TARGET, target.pid().to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the call is async-signal-safe and takes no memory.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut role = command.spawn().unwrap();
    let pid = Pid::from_raw(role.id() as i32);
    // Only the children and tracees of this very thread.
    let flags = Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD);
    assert!(matches!(waitpid(pid, flags).unwrap(), WaitStatus::Stopped(_, Signal::SIGTRAP)));
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE).unwrap();
    ptrace::syscall(pid, None).unwrap();
    let (mut done, mut what) = (None, String::new());
    loop {
        match waitpid(None, flags).unwrap() {
            WaitStatus::PtraceSyscall(tid) => {
                let registers = ptrace::getregs(tid).unwrap();
                let number = registers.orig_rax.cast_signed();
                if number == libc::SYS_process_vm_writev && done.is_none() {
                    done = Some(0);
                }
                if let Some(done) = done.as_mut().filter(|_| STEPS.contains(&number)) {
                    *done += 1;
                    if *done == step {
                        what =
                            format!("call {number} ({:x}) with result {}", registers.rdi, registers.rax.cast_signed());
                        kill(pid, Signal::SIGKILL).unwrap();
                        continue;
                    }
                }
                let _ = ptrace::syscall(tid, None);
            }
            WaitStatus::Signaled(ended, ..) | WaitStatus::Exited(ended, _) if ended == pid => break,
            WaitStatus::Signaled(..) | WaitStatus::Exited(..) => {}
            // New threads begin with SIGSTOP.
            WaitStatus::Stopped(tid, Signal::SIGSTOP) => drop(ptrace::syscall(tid, None)),
            WaitStatus::Stopped(tid, signal) => drop(ptrace::syscall(tid, signal)),
            status => drop(status.pid().map(|tid| ptrace::syscall(tid, None))),
        }
    }
    // Its end was taken above.
    let _ = role.wait();
    what
}

#[test]
fn a_process_outlives_us_at_each_step_of_a_copy() {
    // With the first thread, which reads, and with others that wait in other ways.
    let ways: [&[&str]; 6] = [
        &["calls"],
        &["hides", "sleeps"],
        &["hides", "polls"],
        &["hides", "events"],
        &["hides", "futex"],
        &["hides", "reads"],
    ];
    for threads in ways {
        let mut program = Program::start(threads);
        let before = masks(program.pid());
        for step in 1..=STEPS_OF_A_COPY {
            let what = kill_at(&program, step);
            assert_ne!(what, "", "step {step}");
            program.assert_alone();
            assert_eq!(program.victim.ask("ping"), "pong", "{threads:?}, step {step}: {what}");
            assert_eq!(masks(program.pid()), before, "{threads:?}, step {step}: {what}");
        }
    }
}
