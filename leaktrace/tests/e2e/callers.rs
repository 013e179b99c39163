//! Allocations by way of the distribution's libraries, which keep no frame pointers: booked to the program's function.

use crate::harness::{Accounts, Snapshot, Tracer, Victim, trace_command};

/// Attaches, lets the victim work, stops the trace at a quiet moment and compares everything.
fn attached(source: &str) -> (Snapshot, Accounts) {
    let mut victim = Victim::start(source, &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    victim.finish();
    (snapshot, accounts)
}

/// Launches the victim under the tracer and compares everything at its end.
fn launched(source: &str) {
    let (finished, accounts) = trace_command(&[], source, &[]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn library_functions_that_allocate_are_booked_once_and_to_their_caller() {
    attached("indirect.c");
}

#[test]
fn library_functions_are_booked_to_their_caller_when_launched() {
    launched("indirect.c");
}

#[test]
fn cxx_operators_and_containers_are_booked_once_and_to_their_caller() {
    attached("cxx.cc");
}

#[test]
fn cxx_operators_and_containers_are_booked_exactly_when_launched() {
    launched("cxx.cc");
}

#[test]
fn an_operator_new_that_throws_does_not_wedge_its_thread() {
    let (snapshot, accounts) = attached("cxx.cc");
    let thrown = accounts.site("leak_around_throw");
    // The block that the same frame allocates after the throw.
    assert_eq!(snapshot.through(thrown.pid, "leak_around_throw").outstanding(), (thrown.bytes, thrown.count));
}
