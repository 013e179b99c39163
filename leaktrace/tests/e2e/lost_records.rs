//! Records of the kernel's that find no room, since whoever reads them does not run.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::harness::{Finished, Tracer, Victim, build, locks};
use crate::threads::pin;

/// More threads than a ring has room for, at two records of 40 bytes each; a ring has at most 4 MiB.
const THREADS: usize = (4 << 20) / 80 + 5000;

/// Fills the ring of one CPU over and over while leaktrace stands still; `meanwhile` comes first.
fn overflow(tracer: &Tracer, meanwhile: impl FnOnce()) {
    tracer.signal(Signal::SIGSTOP);
    let stopped = waitpid(Pid::from_raw(tracer.pid() as i32), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    meanwhile();
    // Of a thread of its own and those it makes.
    let storm = || {
        pin(Pid::from_raw(0));
        (0..THREADS).for_each(|_| std::thread::spawn(|| ()).join().unwrap());
    };
    std::thread::spawn(storm).join().unwrap();
    tracer.signal(Signal::SIGCONT);
}

fn assert_noticed(finished: &Finished) {
    assert!(finished.stderr.contains("records of mappings were lost"), "{}", finished.stderr);
}

#[test]
fn where_those_that_are_traced_live_on_nothing_is_missing() {
    build::victim("puppet.c");
    let _flood = locks::flood();
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let tracer = Tracer::attach(&puppet, &[]);
    puppet.tell("a a 100 10");
    overflow(&tracer, || drop(puppet.tell("a b 200 10")));
    puppet.tell("a a 300 10");
    let accounts = puppet.report();
    let finished = tracer.stop();
    assert_noticed(&finished);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn where_a_child_came_and_went_meanwhile_the_loss_is_said() {
    build::victim("forking.c");
    let _flood = locks::flood();
    let mut victim = Victim::start("forking.c", &["3"]);
    let tracer = Tracer::attach(&victim, &[]);
    let mut accounts = None;
    overflow(&tracer, || accounts = Some(victim.work()));
    let finished = tracer.stop();
    assert_noticed(&finished);
    let snapshot = finished.snapshot();
    assert!(snapshot.loss("events_lost") > 0);
    // The programs themselves saw it all.
    let accounts = accounts.unwrap();
    assert_eq!(accounts.sites.len(), 4);
    snapshot.assert_equals(&accounts);
    victim.finish();
}
