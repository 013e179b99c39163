//! A trace without a target: every process of the machine that maps what was mapped when it began.

use crate::harness::{Tracer, Victim, locks};

/// Room for what the rest of the machine does meanwhile, and of its stacks no more than the victims' own take: a compiler's
/// would be many, deep, and long to name.
pub const ROOM: [&str; 6] = ["--max-allocs", "8000000", "--max-stacks", "200000", "--max-depth", "24"];

#[test]
fn every_running_process_is_traced_exactly() {
    let _machine = locks::whole_machine();
    let mut victims =
        [Victim::start("family.c", &[]), Victim::start("reallocs.c", &[]), Victim::start("rust_leaks.rs", &[])];
    let tracer = Tracer::start(&ROOM);
    let accounts: Vec<_> = victims.iter_mut().map(Victim::work).collect();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_eq!(snapshot.target.mode, "system");
    // Of the machine's other processes stacks of any depth and kind may come; blocks must not be lost.
    assert_eq!(snapshot.loss("allocs_dropped"), 0);
    for accounts in &accounts {
        snapshot.assert_equals(accounts);
    }
    victims.into_iter().for_each(Victim::finish);
}

/// A size that nobody else on the machine asks for, so that the report is about our processes alone.
const OURS: &str = "1000003";

#[test]
fn a_process_that_starts_during_the_trace_is_in_the_report() {
    let _machine = locks::whole_machine();
    // Its libraries are mapped by this test's own process already.
    let tracer = Tracer::start(&["-z", OURS, "-Z", OURS]);
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    puppet.tell(&format!("a a {OURS} 7"));
    puppet.tell("f a 2");
    let accounts = puppet.report();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    snapshot.assert_equals(&accounts);
}

#[test]
fn a_process_that_starts_and_ends_during_the_trace_is_in_the_report() {
    let _machine = locks::whole_machine();
    let tracer = Tracer::start(&["-z", OURS, "-Z", OURS]);
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    puppet.tell(&format!("a b {OURS} 5"));
    let accounts = puppet.report();
    puppet.tell_last("q 0");
    let (status, _) = puppet.wait();
    assert!(status.success());
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    assert!(snapshot.process(accounts.sites[0].pid).exited);
    snapshot.assert_equals(&accounts);
}

#[test]
fn leaktrace_does_not_trace_itself() {
    let _machine = locks::whole_machine();
    // Few stacks: what matters is whose they are.
    let tracer = Tracer::start(&["--max-stacks", "1000"]);
    let own = tracer.pid();
    let snapshot = tracer.stop().snapshot();
    assert!(snapshot.processes.iter().all(|process| process.pid != own));
    assert!(snapshot.sites.iter().all(|site| site.pid != own));
}
