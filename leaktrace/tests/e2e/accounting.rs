//! Bytes and counts equal what the victim says, per function and in all, attached to and launched.

use crate::harness::{Accounts, Snapshot, Tracer, Victim, trace_command};

/// Attaches, lets the victim work, stops the trace at a quiet moment and compares everything.
fn attached(source: &str, arguments: &[&str]) -> (Snapshot, Accounts, u32) {
    let mut victim = Victim::start(source, arguments);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    let pid = victim.pid();
    victim.finish();
    (snapshot, accounts, pid)
}

/// Launches the victim under the tracer and compares everything at its end.
fn launched(source: &str, arguments: &[&str]) -> (Snapshot, Accounts) {
    let (finished, accounts) = trace_command(&[], source, arguments);
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    (snapshot, accounts)
}

#[test]
fn every_function_of_the_family_is_booked_exactly_when_attached() {
    let (snapshot, _, pid) = attached("family.c", &[]);
    assert_eq!(snapshot.process(pid).untracked_frees, 0, "NULL frees count as nothing");
}

#[test]
fn every_function_of_the_family_is_booked_exactly_when_launched() {
    launched("family.c", &[]);
}

#[test]
fn the_caller_of_the_allocation_function_is_frame_zero() {
    let (snapshot, accounts, pid) = attached("family.c", &[]);
    for account in &accounts.sites {
        for site in snapshot.sites_through(pid, &account.site) {
            assert!(site.stack[0].is(&account.site), "frame 0 of {}", site.path());
            assert!(site.stack.iter().any(|frame| frame.is("main")), "no main in {}", site.path());
        }
    }
}

#[test]
fn every_kind_of_realloc_moves_the_account_from_site_to_site() {
    let (snapshot, _, pid) = attached("reallocs.c", &[]);
    assert_eq!(snapshot.process(pid).untracked_frees, 0);
}

#[test]
fn every_kind_of_realloc_is_booked_exactly_when_launched() {
    launched("reallocs.c", &[]);
}

/// Attaches and compares the sum over all functions, for victims whose stacks pass through code of the distribution.
fn attached_in_all(source: &str) {
    let mut victim = Victim::start(source, &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    assert_eq!(snapshot.all(victim.pid()).outstanding(), accounts.outstanding(), "{}", snapshot.digest());
    assert_eq!(snapshot.process(victim.pid()).untracked_frees, 0);
    victim.finish();
}

#[test]
fn library_functions_that_allocate_are_booked_once() {
    attached_in_all("indirect.c");
}

#[test]
fn cxx_operators_and_containers_are_booked_once() {
    attached_in_all("cxx.cc");
}

#[test]
fn rust_boxes_vectors_and_strings_are_booked_exactly() {
    let (snapshot, ..) = attached("rust_leaks.rs", &[]);
    let demangled = snapshot.sites.iter().flat_map(|site| &site.stack).filter_map(|frame| frame.function.as_deref());
    let leak = demangled.filter(|function| function.contains("leak_box")).collect::<Vec<_>>();
    assert!(leak.iter().all(|name| name.starts_with("rust_leaks::leaks::leak_box")), "not demangled: {leak:?}");
    assert!(!leak.is_empty());
}

#[test]
fn a_rust_program_is_booked_exactly_when_launched() {
    launched("rust_leaks.rs", &[]);
}

#[test]
fn blocks_from_before_the_trace_are_counted_when_freed_and_booked_when_reallocated() {
    let (snapshot, accounts, pid) = attached("late.c", &[]);
    let untracked = snapshot.process(pid).untracked_frees;
    let frees = accounts.fact("early_frees");
    // A realloc of an unknown block gives that block up as well.
    assert_eq!(untracked, frees + accounts.fact("early_reallocs"), "of which {frees} by free");
}

/// Each of its calls of `free` jumps to the function's beginning once, where the probe is.
#[test]
fn a_free_that_begins_again_is_one() {
    let (snapshot, accounts, pid) = attached("restarting.c", &[]);
    assert_eq!(snapshot.process(pid).untracked_frees, accounts.fact("early_frees"));
}

#[test]
fn nothing_is_untracked_in_a_process_traced_from_its_start() {
    // The same victim: its early blocks are known here, and so its totals are not the whole.
    let (finished, accounts) = trace_command(&[], "late.c", &[]);
    let snapshot = finished.lossless();
    let late = accounts.site("leak_late");
    assert_eq!(snapshot.through(late.pid, "leak_late").outstanding(), (late.bytes, late.count));
    assert_eq!(snapshot.process(late.pid).untracked_frees, 0);
    // 40 early blocks of 100 to 139 bytes, all gone, and what the victim booked.
    let (bytes, count) = accounts.outstanding();
    let all = snapshot.all(late.pid);
    assert_eq!(all.outstanding(), (bytes, count));
    assert_eq!(all.alloc_count, accounts.totals[&late.pid].allocs + 40);
    assert_eq!(all.alloc_bytes, accounts.totals[&late.pid].alloc_bytes + (100..140).sum::<u64>());
}

#[test]
fn two_traces_of_one_process_do_not_disturb_each_other() {
    let mut victim = Victim::start("family.c", &[]);
    let tracers = [Tracer::attach(&victim, &[]), Tracer::attach(&victim, &[])];
    let accounts = victim.work();
    for tracer in tracers {
        tracer.stop().lossless().assert_equals(&accounts);
    }
    victim.finish();
}

#[test]
fn the_peak_is_the_highest_that_was_outstanding() {
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let tracer = Tracer::attach(&puppet, &[]);
    puppet.tell("a a 1000 50");
    puppet.tell("f a 40");
    puppet.tell("a b 100 20");
    let accounts = puppet.report();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    // 50,000 bytes were outstanding before the frees, never more after.
    assert_eq!(snapshot.process(puppet.pid()).peak_bytes, 50_000);
}
