//! Copies that something comes between: signals, job control, the end of the process, the longest time of a stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use leaktrace::process::snapshot::{Fork, Plan, Refused};
use leaktrace::process::stop::{Limits, Stopped};
use nix::sys::signal::Signal;

use super::copying::{Program, masks};
use super::support::{PATIENT, Victim, kill};

#[test]
fn a_fork_that_takes_longer_than_a_stop_may_is_given_up() {
    let mut program = Program::start(&["calls", "256"]);
    let before = masks(program.pid());
    let plan = Plan::of(program.pid()).unwrap();
    let (mut late, mut made) = (0, 0);
    // From too short for anything to long enough.
    for round in 0..120_u32 {
        let limits = Limits { hold_at_most: Duration::from_micros(250) * round, ..PATIENT };
        let stopped = Stopped::stop(program.pid(), limits).unwrap();
        match stopped.copy(&plan) {
            Ok(copy) => {
                made += 1;
                drop(stopped);
                drop(copy);
            }
            Err(Refused::Late(_)) => late += 1,
            Err(Refused::Released(_)) => {}
            Err(refused) => panic!("{refused}"),
        }
        assert_eq!(program.victim.ask("ping"), "pong", "round {round}");
    }
    println!("{late} were late, {made} were made");
    program.assert_alone();
    assert_eq!(masks(program.pid()), before);
    assert!(late > 0);
}

#[test]
fn signals_are_handled_once_however_copies_fall_among_them() {
    let (mut victim, tids) = Victim::puppet(3);
    let (pid, process) = (victim.nix_pid().as_raw(), victim.pid());
    let sender = thread::spawn(move || {
        for round in 0..2000 {
            let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
            // SAFETY: sends numbers to a child of this process and to a thread of it.
            unsafe {
                libc::sigqueue(pid, libc::SIGRTMIN() + 1, value);
                libc::syscall(libc::SYS_tgkill, pid, tids[round % tids.len()], libc::SIGRTMIN() + 2);
            }
        }
    });
    let (mut made, plan) = (0, Plan::of(process).unwrap());
    while !sender.is_finished() || made < 50 {
        match Stopped::stop(process, PATIENT).unwrap().copy(&plan) {
            Ok(copy) => {
                made += 1;
                drop(copy);
            }
            Err(Refused::Busy(_) | Refused::Stack(_)) => {}
            Err(refused) => panic!("{refused}"),
        }
    }
    sender.join().unwrap();
    while !victim.ask("count").ends_with(" 2000 2000") {
        thread::yield_now();
    }
    victim.assert_alive();
    assert_eq!(victim.ask("count"), "0 2000 2000");
    println!("{made} copies");
}

#[test]
fn job_control_and_copies_do_not_disturb_one_another() {
    let mut program = Program::start(&["calls", "threads", "spins"]);
    let process = program.pid();
    let plan = Plan::of(process).unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&ends);
    let sender = thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            for (signal, pause) in [(Signal::SIGSTOP, 50), (Signal::SIGCONT, 3000)] {
                kill(process, signal);
                thread::sleep(Duration::from_micros(pause));
            }
        }
    });
    let (mut made, mut refused) = (0, 0);
    let mut others = Vec::new();
    for _ in 0..200 {
        match Stopped::stop(process, PATIENT).unwrap().copy(&plan) {
            Ok(copy) => {
                made += 1;
                drop(copy);
            }
            Err(Refused::JobControl(_) | Refused::Busy(_) | Refused::Stack(_) | Refused::Disturbed(_)) => refused += 1,
            Err(refused) => others.push(refused),
        }
    }
    ends.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    assert!(others.is_empty(), "{others:?}");
    println!("{made} made, {refused} refused");
    assert!(made > 0);
    assert_eq!(program.victim.ask("ping"), "pong");
    program.assert_alone();
}

#[test]
fn a_process_that_is_killed_meanwhile_leaves_nothing() {
    for round in 0..60_u32 {
        let program = Program::start(&["calls", "16"]);
        let process = program.pid();
        let plan = Plan::of(process).unwrap();
        let stopped = Stopped::stop(process, PATIENT).unwrap();
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(40) * round);
            kill(process, Signal::SIGKILL);
        });
        let copy = stopped.copy(&plan);
        killer.join().unwrap();
        drop(stopped);
        let made = copy.as_ref().map(Fork::pid).ok();
        drop(copy);
        drop(program);
        if let Some(pid) = made {
            assert!(std::fs::read_link(format!("/proc/{pid}/exe")).is_err());
        }
    }
}
