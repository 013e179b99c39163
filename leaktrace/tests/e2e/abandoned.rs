//! Calls of the allocator that never return: the thread goes on being traced, and nothing is booked for them.

use crate::harness::{Accounts, Snapshot, Tracer, Victim, locks};

fn trace(how: &str) -> (Snapshot, Accounts) {
    let _machine = locks::no_system_wide_trace();
    let mut victim = Victim::start("abandoned.c", &[how]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    victim.finish();
    (finished.snapshot(), accounts)
}

#[test]
fn longjmp_out_of_the_allocator_does_not_wedge_the_thread() {
    let (snapshot, accounts) = trace("jump");
    snapshot.assert_equals(&accounts);
    // The calls that did not return may be counted, each once; nothing else was lost.
    snapshot.assert_lossless_but(&["returns_missed"]);
    assert!(snapshot.loss("returns_missed") <= accounts.fact("abandoned"));
}

#[test]
fn a_thread_that_dies_in_the_allocator_takes_nothing_with_it() {
    let (snapshot, accounts) = trace("die");
    snapshot.assert_equals(&accounts);
    snapshot.assert_lossless_but(&["returns_missed"]);
    assert!(snapshot.loss("returns_missed") <= accounts.fact("abandoned"));
}
