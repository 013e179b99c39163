//! Processes that job control stops or continues: they are afterwards as they would be, and their parents see the same.

use leaktrace::model::Pid;
use leaktrace::process::stop::Stopped;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::support::{PATIENT, Victim, await_state, kill, state, threads};

/// The next change of job control that the parent is told of, if there is one.
fn told(victim: &Victim) -> Option<WaitStatus> {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
    Some(waitid(Id::Pid(victim.nix_pid()), flags).unwrap()).filter(|status| *status != WaitStatus::StillAlive)
}

fn await_change(victim: &Victim) -> WaitStatus {
    waitid(Id::Pid(victim.nix_pid()), WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED).unwrap()
}

fn assert_stopped(victim: &Victim) {
    for tid in threads(victim.pid()) {
        while state(victim.pid(), tid) != 'T' {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_stopped_process_is_read_and_stays_stopped() {
    let (mut victim, tids) = Victim::puppet(9);
    victim.signal(Signal::SIGSTOP);
    assert_eq!(await_change(&victim), WaitStatus::Stopped(victim.nix_pid(), Signal::SIGSTOP));
    for _ in 0..20 {
        let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
        assert_eq!(stopped.threads().len(), tids.len());
        drop(stopped);
        assert_stopped(&victim);
        assert_eq!(told(&victim), None, "the parent is not told again");
    }
    victim.signal(Signal::SIGCONT);
    assert_eq!(await_change(&victim), WaitStatus::Continued(victim.nix_pid()));
    victim.assert_alive();
}

#[test]
fn what_the_parent_has_not_asked_for_yet_is_kept_for_it() {
    let (mut victim, _) = Victim::puppet(9);
    victim.signal(Signal::SIGTSTP);
    await_state(victim.pid(), "T");
    drop(Stopped::stop(victim.pid(), PATIENT).unwrap());
    assert_eq!(await_change(&victim), WaitStatus::Stopped(victim.nix_pid(), Signal::SIGTSTP));
    assert_eq!(told(&victim), None);
    victim.signal(Signal::SIGCONT);
    victim.assert_alive();
}

#[test]
fn a_process_that_is_stopped_or_continued_meanwhile_is_so_afterwards() {
    let (mut victim, _) = Victim::puppet(9);
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    victim.signal(Signal::SIGSTOP);
    drop(stopped);
    assert_eq!(await_change(&victim), WaitStatus::Stopped(victim.nix_pid(), Signal::SIGSTOP));
    assert_stopped(&victim);
    assert_eq!(told(&victim), None);

    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    victim.signal(Signal::SIGCONT);
    drop(stopped);
    assert_eq!(await_change(&victim), WaitStatus::Continued(victim.nix_pid()));
    victim.assert_alive();
    assert_eq!(told(&victim), None);
}

#[test]
fn a_parent_sees_what_it_would_have_seen_without_us() {
    // The parent is not the tracer's process here, as it is in the other tests. It prints each change of its child.
    let (mut parent, line) = Victim::start("parent.c", &[]);
    let child = Pid(line.strip_prefix("ready ").unwrap().parse().unwrap());
    let stop = || Stopped::stop(child, PATIENT).unwrap();
    for _ in 0..20 {
        drop(stop());
    }
    kill(child, Signal::SIGSTOP);
    assert_eq!(parent.line(), "stopped 19");
    for _ in 0..20 {
        drop(stop());
    }
    kill(child, Signal::SIGCONT);
    assert_eq!(parent.line(), "continued");

    let stopped = stop();
    kill(child, Signal::SIGTSTP);
    drop(stopped);
    assert_eq!(parent.line(), "stopped 20");
    let stopped = stop();
    kill(child, Signal::SIGCONT);
    drop(stopped);
    assert_eq!(parent.line(), "continued");

    let stopped = stop();
    kill(child, Signal::SIGTERM);
    drop(stopped);
    assert_eq!(parent.line(), "killed 15");
}
