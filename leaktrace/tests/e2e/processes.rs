//! Several processes at once, and processes that beget others.

use crate::harness::{Tracer, Victim, trace_command};

#[test]
fn two_processes_are_booked_apart() {
    let mut first = Victim::start("puppet.c", &[]);
    let mut second = Victim::start("puppet.c", &[]);
    first.go();
    second.go();
    let pids = format!("{},{}", first.pid(), second.pid());
    let tracer = Tracer::start(&["-p", &pids, "--show-allocs"]);
    first.tell("a a 100 10");
    second.tell("a a 100 10");
    second.tell("a b 7 3");
    first.tell("f a 4");
    let accounts = [first.report(), second.report()];
    let snapshot = tracer.stop().lossless();
    assert_eq!(snapshot.processes.len(), 2);
    for accounts in &accounts {
        snapshot.assert_equals(accounts);
    }
}

#[test]
fn only_the_process_named_is_traced() {
    let mut named = Victim::start("puppet.c", &[]);
    let mut other = Victim::start("puppet.c", &[]);
    named.go();
    other.go();
    let tracer = Tracer::attach(&named, &[]);
    named.tell("a a 100 10");
    other.tell("a a 100 10");
    let accounts = named.report();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.processes.len(), 1);
    assert_eq!(snapshot.all(other.pid()).alloc_count, 0);
}

#[test]
fn the_first_threads_end_does_not_end_the_process() {
    let mut victim = Victim::start("leader.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    tracer.stop().lossless().assert_equals(&accounts);
    victim.finish();
}

#[test]
fn the_first_threads_end_does_not_end_a_command() {
    let (finished, accounts) = trace_command(&[], "leader.c", &[]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn exec_begins_a_life_of_its_own() {
    let (finished, accounts) = trace_command(&[], "execing.c", &["main"]);
    let snapshot = finished.lossless();
    let second = accounts.site("leak_after_exec");
    assert_eq!(snapshot.through(second.pid, "leak_after_exec").outstanding(), (second.bytes, second.count));
    // What the first life had is reported as its own or gone with it, never mixed into the second.
    let first = accounts.site("leak_before_exec");
    let found = snapshot.through(first.pid, "leak_before_exec").outstanding();
    assert!(found == (first.bytes, first.count) || found == (0, 0), "{found:?}");
}

#[test]
fn a_process_that_calls_exec_is_followed_into_its_new_life_when_attached() {
    let mut victim = Victim::start("execing.c", &["main"]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    let second = accounts.site("leak_after_exec");
    assert_eq!(snapshot.through(second.pid, "leak_after_exec").outstanding(), (second.bytes, second.count));
    victim.finish();
}
