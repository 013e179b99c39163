//! A trace without a target: every process of the machine that maps what was mapped when it began.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::lines::Lines;
use crate::harness::{Snapshot, Tracer, Victim, leaktrace, locks};

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

#[test]
fn a_report_that_nobody_reads_keeps_no_new_process_from_being_traced() {
    /// Rare, and small enough for many.
    const SIZE: &str = "4099";
    let _machine = locks::whole_machine();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut child = leaktrace(["-z", SIZE, "-Z", SIZE, "-vv", "-i", "200ms", "--show-allocs", "--top", "all"])
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = Lines::of("leaktrace's standard error", child.stderr.take().unwrap());
    stderr.wait_for("the line that tracing has begun", |line| line.starts_with("leaktrace: tracing"));
    let mut first = Victim::start("puppet.c", &[]);
    first.go();
    // A line for each: more than a pipe holds.
    first.tell(&format!("a a {SIZE} 20000"));
    let mut stdout = child.stdout.take().unwrap();
    let mut report = Vec::new();
    while report.windows(7).filter(|window| window == b" bytes,").count() < 100 {
        let mut piece = [0; 4096];
        let read = stdout.read(&mut piece).unwrap();
        assert!(read > 0, "it ended:\n{}", stderr.text());
        report.extend_from_slice(&piece[..read]);
    }
    // Its report stands still now. A C library that nobody has mapped yet is probed all the same.
    let mut second = Victim::start_with_own_libc("puppet.c", &[]);
    let own = second.own_libc().display().to_string();
    stderr.wait_for("the probes of the new C library", |line| line.contains(&own) && line.contains(": probed "));
    second.go();
    second.tell(&format!("a b {SIZE} 7"));
    let accounts = second.report();
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success(), "{}", stderr.text());
    reader.join().unwrap();
    let snapshot = Snapshot::parse(&std::fs::read(&json).unwrap());
    snapshot.assert_equals(&accounts);
}
