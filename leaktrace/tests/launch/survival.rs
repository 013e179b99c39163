//! leaktrace is killed at the worst of moments: the command goes on as if nothing had been.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::support::{Fifo, PATIENCE, Programs, reached, readable, role};

const ROLE: &str = "likeness::a_role_sees_its_command_through";

/// Kills a role that has got to `phase` with `command`, and gives the pid of the command, whose parent we are then.
fn bereave(phase: &str, command: &[&str], output: &Path) -> Pid {
    set_child_subreaper(true).unwrap();
    let mut role = role(ROLE, phase, command, output).spawn().unwrap();
    let command = reached(&mut role);
    role.kill().unwrap();
    role.wait().unwrap();
    Pid::from_raw(command as i32)
}

/// How an orphan ends, which it must.
fn end_of(orphan: Pid) -> WaitStatus {
    // SAFETY: returns a new descriptor or -1.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, orphan.as_raw(), 0) };
    assert!(pidfd >= 0, "the command is gone");
    // SAFETY: see above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as i32) };
    assert!(readable(&pidfd, PATIENCE), "the command is stuck: {}", super::support::state(orphan.as_raw() as u32));
    waitpid(orphan, None).unwrap()
}

#[test]
fn a_command_outlives_us_wherever_it_is_held() {
    let programs = Programs::new();
    let notes = programs.notes();
    let dynamic = programs.build("cc", "ending.c", "dynamic", &["-pthread"]);
    let fixed = programs.build("cc", "ending.c", "static", &["-pthread", "-static"]);
    let musl = programs.build("musl-gcc", "ending.c", "musl", &["-pthread"]);
    for program in [&dynamic, &fixed, &musl] {
        for phase in ["exec", "mapped", "exit"] {
            let orphan = bereave(phase, &[program.to_str().unwrap(), "return"], &notes);
            assert_eq!(end_of(orphan), WaitStatus::Exited(orphan, 3), "{phase} of {}", program.display());
        }
    }
}

#[test]
fn a_command_outlives_us_while_its_linker_works() {
    let programs = Programs::new();
    let notes = programs.notes();
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    // The moment of death differs each time.
    for _ in 0..20 {
        let orphan = bereave("linking", &[program.to_str().unwrap(), "return"], &notes);
        // If it was all over before, the role has taken its status.
        if let Ok(status) = waitpid(orphan, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
            let status = if status == WaitStatus::StillAlive { end_of(orphan) } else { status };
            assert_eq!(status, WaitStatus::Exited(orphan, 3));
        }
    }
}

#[test]
fn a_running_command_outlives_us_and_handles_its_signals() {
    let programs = Programs::new();
    let mut output = Fifo::new(programs.path("output"));
    let program = programs.build("cc", "signals.c", "signals", &[]);
    let orphan = bereave("released", &[program.to_str().unwrap()], &output.path);
    assert_eq!(output.line(), "ready");
    kill(orphan, Signal::SIGUSR1).unwrap();
    assert_eq!(output.line(), "10 0 0");
    kill(orphan, Signal::SIGTERM).unwrap();
    assert_eq!(end_of(orphan), WaitStatus::Exited(orphan, 0));
}

#[test]
fn a_stopped_command_stays_stopped_without_us_until_continued() {
    let programs = Programs::new();
    let mut output = Fifo::new(programs.path("output"));
    let program = programs.build("cc", "signals.c", "signals", &[]);
    set_child_subreaper(true).unwrap();
    let mut role = role(ROLE, "released", &[program.to_str().unwrap()], &output.path).spawn().unwrap();
    let command = reached(&mut role);
    let orphan = Pid::from_raw(command as i32);
    assert_eq!(output.line(), "ready");
    kill(orphan, Signal::SIGSTOP).unwrap();
    super::support::await_state(command, "tT");
    role.kill().unwrap();
    role.wait().unwrap();
    super::support::await_state(command, "T");
    kill(orphan, Signal::SIGCONT).unwrap();
    assert_eq!(output.line(), "18 0 0");
    kill(orphan, Signal::SIGTERM).unwrap();
    assert_eq!(end_of(orphan), WaitStatus::Exited(orphan, 0));
}
