//! Signals that come while a process is stopped: none is lost, none comes twice, and its parent sees what it would have seen.

use std::os::unix::process::ExitStatusExt;

use leaktrace::process::stop::Stopped;
use nix::sys::signal::Signal;

use super::support::{PATIENT, Victim, state};

fn queue(pid: libc::pid_t, signal: i32) {
    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
    // SAFETY: sends a number to a child of this process.
    assert_eq!(unsafe { libc::sigqueue(pid, signal, value) }, 0);
}

/// To a certain thread.
fn queue_to(pid: libc::pid_t, tid: u32, signal: i32) {
    // SAFETY: sends a number to a thread of a child of this process.
    assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }, 0);
}

fn handled(victim: &mut Victim) -> [u64; 3] {
    let line = victim.ask("count");
    let counts: Vec<u64> = line.split(' ').map(|count| count.parse().unwrap()).collect();
    counts.try_into().unwrap()
}

/// Asks until all of `expected` have been handled, and then whether there is none more.
fn assert_handled(victim: &mut Victim, expected: [u64; 3]) {
    while handled(victim)[1..] != expected[1..] {
        std::thread::yield_now();
    }
    victim.assert_alive();
    assert_eq!(handled(victim), expected);
}

#[test]
fn signals_that_come_during_a_stop_are_handled_after_it() {
    let (mut victim, tids) = Victim::puppet(9);
    let pid = victim.nix_pid().as_raw();
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    for _ in 0..100 {
        queue(pid, libc::SIGRTMIN() + 1);
        queue_to(pid, tids[4], libc::SIGRTMIN() + 2);
        // Not queued: one of them stands for all that are pending.
        victim.signal(Signal::SIGUSR1);
    }
    drop(stopped);
    assert_handled(&mut victim, [1, 100, 100]);
}

#[test]
fn signals_are_handled_once_however_stops_fall_among_them() {
    let (mut victim, tids) = Victim::puppet(9);
    let (pid, stopped) = (victim.nix_pid().as_raw(), victim.pid());
    let target = tids.clone();
    let sender = std::thread::spawn(move || {
        for round in 0..3000 {
            queue(pid, libc::SIGRTMIN() + 1);
            queue_to(pid, target[round % target.len()], libc::SIGRTMIN() + 2);
        }
    });
    let mut stops = 0;
    while !sender.is_finished() || stops < 50 {
        drop(Stopped::stop(stopped, PATIENT).unwrap());
        stops += 1;
    }
    sender.join().unwrap();
    assert_handled(&mut victim, [0, 3000, 3000]);
    println!("{stops} stops");
}

#[test]
fn the_end_of_a_process_reaches_its_parent_as_ever() {
    let (mut victim, _) = Victim::puppet(9);
    drop(Stopped::stop(victim.pid(), PATIENT).unwrap());
    victim.tell("exit");
    assert_eq!(victim.child().wait().unwrap().code(), Some(3));

    let (mut victim, _) = Victim::puppet(9);
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    victim.signal(Signal::SIGKILL);
    drop(stopped);
    assert_eq!(victim.child().wait().unwrap().signal(), Some(libc::SIGKILL), "killed during the stop");

    let (mut victim, tids) = Victim::puppet(9);
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    victim.signal(Signal::SIGTERM);
    assert_eq!(state(victim.pid(), tids[8]), 't', "a stopped process does not end by SIGTERM");
    drop(stopped);
    assert_eq!(victim.child().wait().unwrap().signal(), Some(libc::SIGTERM));
}
