//! When blocks are judged: at each interval, on a signal, while a command runs on, and never for longer than allowed.

use nix::sys::signal::Signal;

use crate::harness::snapshot::Site;
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build};

/// However slow the machine is.
const PATIENT: [&str; 2] = ["--max-pause", "1h"];

/// How many blocks of a site are of a kind.
fn blocks(site: &Site, kind: &str) -> u64 {
    site.verdict.as_ref().map_or(0, |verdict| verdict.get(kind).map_or(0, |tally| tally.count))
}

#[test]
fn each_report_at_an_interval_says_what_is_lost_by_then() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &[&["--leak-check=summary", "-i", "200ms"], &PATIENT[..]].concat());
    puppet.tell("a a 1000 5");
    tracer.wait_for_output("that nothing is lost", |line| {
        line.contains("leak check: nothing definitely lost") && line.contains("4.9 KiB still reachable in 5")
    });
    puppet.tell("l a 2");
    tracer.wait_for_output("two lost blocks", |line| {
        line.contains("leak check: 2.0 KiB definitely lost in 2 allocations") && line.contains("stopped for")
    });
    puppet.tell("l a 1");
    tracer.wait_for_output("three", |line| line.contains("2.9 KiB definitely lost in 3 allocations"));
    let snapshot = tracer.stop().exact();
    let site = snapshot.sites_through(puppet.pid(), "leak_a")[0];
    assert_eq!((blocks(site, "definitely_lost"), blocks(site, "still_reachable")), (3, 2));
}

#[test]
fn a_signal_asks_for_a_report_with_a_leak_check() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &PATIENT);
    puppet.tell("a b 100 3");
    puppet.tell("l b 1");
    for lost in ["100 B definitely lost in 1 allocation", "200 B definitely lost in 2 allocations"] {
        tracer.signal(Signal::SIGUSR1);
        tracer.wait_for_output(lost, |line| line.contains(lost));
        puppet.tell("l b 1");
    }
    let snapshot = tracer.stop().exact();
    assert_eq!(snapshot.sequence, 3, "two that were asked for, and the last");
    assert_eq!(blocks(snapshot.sites_through(puppet.pid(), "leak_b")[0], "definitely_lost"), 3);
}

#[test]
fn a_verdict_that_turns_out_wrong_is_taken_back_and_its_site_is_doubted() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &PATIENT);
    let report = |expected: &str| {
        tracer.signal(Signal::SIGUSR1);
        tracer.wait_for_output(expected, |line| line.contains(expected))
    };
    puppet.tell("a b 100 3");
    // The program has a secret.
    puppet.tell("h b 2");
    report("200 B definitely lost in 2 allocations");
    puppet.tell("f b 2");
    report("taken back: 200 B in 2 allocations that a leak check had called lost, since freed or found again");
    // In truth, this time.
    puppet.tell("l b 1");
    puppet.tell("a c 100 1");
    puppet.tell("l c 1");
    let snapshot = tracer.stop().exact();
    let taken_back = snapshot.process(puppet.pid()).lost_taken_back.as_ref().unwrap();
    assert_eq!((taken_back.bytes, taken_back.count), (200, 2));
    let doubted = snapshot.sites_through(puppet.pid(), "leak_b")[0];
    assert_eq!((blocks(doubted, "possibly_lost"), blocks(doubted, "definitely_lost")), (1, 0));
    assert_eq!(blocks(snapshot.sites_through(puppet.pid(), "leak_c")[0], "definitely_lost"), 1, "another site is not");
}

#[test]
fn without_leak_checks_a_signal_asks_for_a_report_all_the_same() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["--leak-check=no"]);
    puppet.tell("a b 100 3");
    tracer.signal(Signal::SIGUSR1);
    tracer.wait_for_output("a report", |line| line.contains("300 B outstanding"));
    let finished = tracer.stop();
    assert!(!finished.stdout.contains("leak check"), "it was told so:\n{}", finished.stdout);
}

#[test]
fn a_signal_that_leads_to_no_leak_check_is_told_why() {
    let mut puppet = Victim::puppet();
    let (pid, why) = (puppet.pid().to_string(), "warning: no leak check was made: ");
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    for (options, words) in
        [(["--comm", comm.trim()], "only with --leak-check"), (["-p", &pid], "which --sample-bytes leaves out")]
    {
        let sample: &[&str] = if options[0] == "-p" { &["--sample-bytes", "1"] } else { &[] };
        let tracer = Tracer::start(&[&options[..], sample].concat());
        puppet.tell("a b 100 3");
        tracer.signal(Signal::SIGUSR1);
        tracer.wait_for_output("a report", |line| line.contains("report 1, tracing goes on"));
        tracer.wait_for_output(words, |line| line.starts_with(why) && line.contains(words));
        // It is that report's.
        let finished = tracer.stop();
        finished.assert_success();
        assert_eq!(finished.stdout.matches(why).count(), 1, "{}", finished.stdout);
    }
}

/// A command is traced by a thread of leaktrace, which must stop it on behalf of another.
#[test]
fn a_command_that_runs_is_judged_at_intervals_and_at_the_end_of_the_duration() {
    let losing = build::victim("losing.c");
    let options = ["--leak-check=summary", "-i", "300ms", "-d", "2s", "--max-pause", "1h", "--"];
    let tracer = Tracer::start(&[&options[..], &[path_str(&losing), "run", "500"]].concat());
    tracer
        .wait_for_output("a first verdict", |line| line.contains("definitely lost in") && line.contains("stopped for"));
    // leaktrace ends before the command, which shares its standard output.
    let finished = tracer.wait();
    let snapshot = finished.exact();
    assert!(snapshot.sequence >= 2, "{}", finished.stdout);
    let check = snapshot.processes[0].leak_check.as_ref().unwrap();
    assert!(check.pause_ms > 0.0 && check.mode == "exact", "{check:?}");
    let pid = snapshot.processes[0].pid;
    let (lost, kept) = (snapshot.sites_through(pid, "leak_lost"), snapshot.sites_through(pid, "leak_kept"));
    let (lost, kept) = (lost[0], kept[0]);
    // Those made last may still be in a register.
    assert!(blocks(lost, "definitely_lost") + 1 >= lost.outstanding_count && lost.outstanding_count >= 3, "{lost:?}");
    let (reachable, mistaken) = (blocks(kept, "still_reachable"), blocks(kept, "definitely_lost"));
    assert_eq!((reachable, mistaken), (kept.outstanding_count, 0), "{kept:?}");
    assert!(
        finished.stdout.contains("500 rounds, 0 interrupted"),
        "the command went on to its end:\n{}",
        finished.stdout
    );
}

#[test]
fn a_stop_that_would_take_too_long_is_left_out_and_said() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["--max-pause", "1ms"]);
    puppet.tell("a a 1000 5");
    puppet.tell("l a 5");
    let finished = tracer.stop();
    let snapshot = finished.exact();
    assert!(snapshot.processes[0].leak_check.is_none());
    assert!(snapshot.sites_through(puppet.pid(), "leak_a")[0].verdict.is_none());
    assert!(
        finished.stdout.contains("no verdict on the blocks of process") && finished.stdout.contains("--max-pause 1 ms"),
        "{}",
        finished.stdout
    );
}

/// What a process shares with others and has not used itself is searched while it is stopped, and is no part of its size.
#[test]
fn a_stop_that_took_longer_than_allowed_is_said() {
    for options in [&[][..], &["--leak-check-mode", "exact"]] {
        let mut victim = Victim::start("untouched.c", &[]);
        let tracer = Tracer::attach(&victim, &[&["--max-pause", "20ms"], options].concat());
        victim.work();
        let finished = tracer.stop();
        let check = finished.exact().process(victim.pid()).leak_check.clone().expect("it was judged");
        assert!(check.pause_ms > 20.0, "64 MiB were searched in a moment: {check:?}");
        let said = format!(
            "process {} was stopped for {:.1} ms for its leak check, longer than --max-pause 20.0 ms",
            victim.pid(),
            check.pause_ms
        );
        assert!(finished.stdout.contains(&said), "{}", finished.stdout);
        victim.finish();
    }
}

/// While nobody looks: the program runs and frees what it was told to be able to reach.
#[test]
fn blocks_that_are_freed_after_the_stop_are_in_no_verdict() {
    let losing = build::victim("losing.c");
    let mut victim = Victim::spawn("losing.c", std::process::Command::new(&losing).args(["wait", "100000", "churn"]));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &[&["--leak-check=summary", "-i", "50ms"], &PATIENT[..]].concat());
    victim.go();
    for _ in 0..3 {
        tracer.wait_for_output("a verdict", |line| line.contains("leak check:"));
    }
    let finished = tracer.stop();
    let snapshot = finished.exact();
    for site in snapshot.sites_through(victim.pid(), "leak_churn") {
        let lost = blocks(site, "definitely_lost") + blocks(site, "indirectly_lost");
        assert_eq!(lost, 0, "{}", finished.stdout);
    }
    let verdicts: Vec<_> = finished.stdout.lines().filter(|line| line.contains("leak check:")).collect();
    assert!(verdicts.len() >= 3, "{}", finished.stdout);
    for line in verdicts {
        assert!(line.contains("nothing definitely lost"), "{line}");
    }
}
