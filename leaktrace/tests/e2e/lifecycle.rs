//! How a trace ends, by whichever side, and that nothing of it stays.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::memory::{bpf_object_exists, bpf_objects, breakpoints, pinned, state, try_breakpoints};
use crate::harness::tracer::path_str;
use crate::harness::{DEADLINE, Tracer, Victim, build, leaktrace, locks, require_privileges};
use crate::holder::is_holder;

/// For what the kernel does in its own time after a process is gone, and does not announce.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ends_with_report(signal: Signal) {
    let mut victim = Victim::start("family.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    tracer.signal(signal);
    let finished = tracer.wait();
    finished.lossless().assert_equals(&accounts);
    assert!(finished.stdout.contains("leak_malloc"), "no text report:\n{}", finished.stdout);
    assert!(victim.lives());
    victim.finish();
}

#[test]
fn ctrl_c_ends_the_trace_with_the_final_report() {
    ends_with_report(Signal::SIGINT);
}

#[test]
fn sigterm_ends_the_trace_with_the_final_report() {
    ends_with_report(Signal::SIGTERM);
}

#[test]
fn a_second_signal_leaves_at_once() {
    require_privileges();
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    // Its report is longer than a pipe holds, and nobody reads it: it cannot end by finishing.
    let mut child = leaktrace(["-p", &puppet.pid().to_string(), "--show-allocs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = crate::harness::lines::Lines::of("leaktrace's standard error", child.stderr.take().unwrap());
    stderr.wait_for("the line that tracing has begun", |line| line.starts_with("leaktrace: tracing"));
    puppet.tell("a a 100 50000");
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGINT).unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut report_begins = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut report_begins, 60_000_u16).unwrap(), 1, "no report begins after the first signal");
    assert!(child.try_wait().unwrap().is_none(), "the report was to be too long for the pipe");
    kill(pid, Signal::SIGINT).unwrap();
    eventually("leaktrace is gone after the second signal", || matches!(state(child.id()), 'Z' | 'X'));
    let status = child.wait().unwrap();
    assert!(!status.success(), "leaving without the whole report is no success");
    puppet.tell("a b 10 1");
}

/// A target that ends by itself: the trace ends with an exact report, and says how the target ended.
fn target_ends(how: &str, arguments: &[&str]) -> serde_json::Value {
    let mut victim = Victim::start("ending.c", &[&[how], arguments].concat());
    let tracer = Tracer::attach(&victim, &[]);
    victim.go();
    let finished = tracer.wait();
    let (_, accounts) = victim.wait();
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    assert!(snapshot.process(victim.pid()).exited, "the report does not say that the process ended");
    let raw: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    raw["processes"][0].clone()
}

#[test]
fn a_target_that_returns_from_main_ends_the_trace_with_a_report() {
    target_ends("return", &["5"]);
}

#[test]
fn a_target_that_calls_exit_ends_the_trace_with_a_report() {
    target_ends("_exit", &["0"]);
}

#[test]
fn a_target_that_aborts_ends_the_trace_with_a_report() {
    target_ends("abort", &[]);
}

#[test]
fn a_target_that_crashes_ends_the_trace_with_a_report() {
    target_ends("segv", &[]);
}

#[test]
fn a_target_that_is_killed_ends_the_trace_with_a_report() {
    target_ends("kill", &[]);
}

#[test]
fn the_last_of_several_targets_ends_the_trace() {
    let mut first = Victim::start("ending.c", &["return"]);
    let mut second = Victim::start("ending.c", &["return"]);
    let pids = format!("{},{}", first.pid(), second.pid());
    let tracer = Tracer::start(&["-p", &pids]);
    first.go();
    let (_, accounts) = first.wait();
    second.go();
    let (_, more) = second.wait();
    let snapshot = tracer.wait().lossless();
    snapshot.assert_equals(&accounts);
    snapshot.assert_equals(&more);
}

#[test]
fn an_orderly_end_leaves_no_breakpoint() {
    let _machine = locks::no_system_wide_trace();
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    eventually("no other trace is under way", || breakpoints(victim.pid()).is_empty());
    let tracer = Tracer::attach(&victim, &[]);
    let set = breakpoints(victim.pid());
    assert!(set.len() >= 6, "malloc, calloc, realloc, free and more have probes: {set:?}");
    let objects = bpf_objects(tracer.pid());
    assert!(objects.iter().any(|object| object.starts_with("prog:")), "{objects:?}");
    tracer.stop().assert_success();
    eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
    eventually("the programs and maps are gone", || !objects.iter().any(|object| bpf_object_exists(object)));
    victim.work();
    victim.finish();
}

#[test]
fn a_killed_tracer_leaves_nothing_behind() {
    let _machine = locks::no_system_wide_trace();
    let before = pinned();
    let mut victim = Victim::start_with_own_libc("threads.c", &["4", "400000"]);
    let tracer = Tracer::attach(&victim, &[]);
    // In the middle of the work, with calls under way.
    victim.go();
    let objects = bpf_objects(tracer.pid());
    assert!(objects.iter().any(|object| object.starts_with("prog:")), "{objects:?}");
    tracer.signal(Signal::SIGKILL);
    assert_eq!(tracer.wait().status.signal(), Some(9));
    victim.done();
    eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
    eventually("the programs and maps are gone", || !objects.iter().any(|object| bpf_object_exists(object)));
    assert_eq!(pinned(), before, "something stays pinned");
    assert!(!matches!(state(victim.pid()), 'T' | 't'), "the target is stopped");
    victim.finish();
}

#[test]
fn attaching_and_detaching_again_and_again_leaves_the_target_healthy() {
    let _machine = locks::no_system_wide_trace();
    let mut victim = Victim::start_with_own_libc("threads.c", &["4", "3000000"]);
    victim.go();
    for _ in 0..5 {
        Tracer::attach(&victim, &[]).stop().assert_success();
    }
    victim.done();
    eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
    victim.finish();
}

/// The children of all threads of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>()).collect()
}

/// What a tracer has launched.
fn launched(tracer: u32) -> impl Iterator<Item = u32> {
    children(tracer).into_iter().filter(|child| !is_holder(*child))
}

/// How often a launch is tried until a moment of it is met.
const LAUNCHES: usize = 20;

/// Kills the tracer of a launched victim once `moment` holds for what it launched; the victim must go on or be gone.
fn killed_while_launching(moment: impl Fn(u32) -> bool) {
    let victim = build::victim("family.c");
    for _ in 0..LAUNCHES {
        let mut tracer = Tracer::start_unready(&["--", path_str(&victim), "run"]);
        let end = Instant::now() + DEADLINE;
        // A launch passes through moments that nothing announces: look again and again.
        let launched = loop {
            let found = launched(tracer.pid()).find(|child| moment(*child));
            if found.is_some() || tracer.has_ended() {
                break found;
            }
            assert!(Instant::now() < end, "the victim was never launched");
            std::thread::yield_now();
        };
        let Some(launched) = launched else {
            // The moment passed unseen.
            assert!(tracer.wait_status().success(), "the launch failed");
            continue;
        };
        tracer.signal(Signal::SIGKILL);
        assert_eq!(tracer.wait_status().signal(), Some(9));
        eventually("the launched process goes on and ends, or is gone", || matches!(state(launched), 'X' | 'Z'));
        return;
    }
    panic!("none of {LAUNCHES} launches was met at that moment");
}

fn runs_victim(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == build::victim("family.c"))
}

#[test]
fn a_command_is_not_left_stopped_when_the_tracer_is_killed_as_it_forks() {
    killed_while_launching(|_| true);
}

#[test]
fn a_command_is_not_left_stopped_when_the_tracer_is_killed_while_it_is_held() {
    killed_while_launching(runs_victim);
}

#[test]
fn a_command_is_not_left_stopped_when_the_tracer_is_killed_while_probes_go_in() {
    killed_while_launching(|child| runs_victim(child) && try_breakpoints(child).is_ok_and(|set| !set.is_empty()));
}

#[test]
fn a_command_goes_on_when_the_tracer_is_killed_while_it_runs() {
    let victim = build::victim("puppet.c");
    let mut command = leaktrace(["--", path_str(&victim), "run"]);
    require_privileges();
    let mut puppet = Victim::spawn("leaktrace with a puppet", command.stderr(Stdio::piped()));
    puppet.tell("a a 100 10");
    let launched = launched(puppet.pid()).next().expect("the puppet is leaktrace's child");
    kill(Pid::from_raw(puppet.pid() as i32), Signal::SIGKILL).unwrap();
    // It still answers, by way of the standard input and output it shares with the dead.
    puppet.tell("a b 100 10");
    assert!(!matches!(state(launched), 'T' | 't' | 'X'));
    kill(Pid::from_raw(launched as i32), Signal::SIGKILL).unwrap();
}
