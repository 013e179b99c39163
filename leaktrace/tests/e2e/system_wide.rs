//! A trace without a target: every process of the machine that maps what was mapped when it began.

use crate::harness::{Accounts, Tracer, Victim, build, locks};

/// Room for what the rest of the machine does meanwhile.
const ROOM: [&str; 4] = ["--max-allocs", "8000000", "--max-stacks", "200000"];

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
    assert_eq!(snapshot.loss("returns_missed"), 0);
    for accounts in &accounts {
        snapshot.assert_equals(accounts);
    }
    victims.into_iter().for_each(Victim::finish);
}

#[test]
fn a_process_that_starts_during_the_trace_is_in_the_report() {
    let _machine = locks::whole_machine();
    // Its libraries are mapped by this test's own process already.
    let tracer = Tracer::start(&ROOM);
    let mut victim = Victim::start("family.c", &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    finished.snapshot().assert_equals(&accounts);
    victim.finish();
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

#[test]
fn a_process_that_starts_and_ends_during_the_trace_is_in_the_report() {
    let _machine = locks::whole_machine();
    // Its libraries are mapped by this test's own process already.
    let victim = build::victim("family.c");
    let tracer = Tracer::start(&ROOM);
    let output = std::process::Command::new(victim).arg("run").output().unwrap();
    let accounts = Accounts::parse(&String::from_utf8_lossy(&output.stdout));
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert!(snapshot.process(accounts.sites[0].pid).exited);
    snapshot.assert_equals(&accounts);
}
