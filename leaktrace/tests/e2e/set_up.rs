//! Set-up that meets trouble: it says so, goes on or ends, and is never waited for in vain.
//!
//! Debug builds, of which these tests are, can be told to panic or to hang at a file that they read, or at a process.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::memory::breakpoints;
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, leaktrace, locks};
use crate::lifecycle::eventually;

/// A tracer that reads files as `variable` says where their path has `part` in it.
fn tracer(variable: &str, part: &str, arguments: &[&str]) -> Tracer {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut command: Command = leaktrace([OsStr::new("--all-sites"), OsStr::new("--json"), json.as_os_str()]);
    Tracer::spawn(command.env(variable, part).args(arguments), directory)
}

#[test]
fn a_file_at_which_planning_panics_is_named_and_all_others_are_traced() {
    let mut victim = Victim::start("family.c", &[]);
    let pid = victim.pid().to_string();
    // Its own file, which has no allocator.
    let tracer = tracer("LEAKTRACE_PLAN_PANICS", "/family-", &["-p", &pid, "--show-allocs"]);
    tracer.wait_until_tracing();
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&accounts);
    let told = |line: &str| line.contains("/family-") && line.contains("is not probed: reading it failed");
    assert!(finished.stderr.lines().any(told), "{}", finished.stderr);
    victim.finish();
}

#[test]
fn the_first_signal_ends_a_set_up_that_hangs() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut victim = Victim::start("idle.c", &[]);
        let pid = victim.pid().to_string();
        let tracer = tracer("LEAKTRACE_PLAN_HANGS", "/idle-", &["-p", &pid, "-vv"]);
        // The C library is read by another thread meanwhile.
        tracer.wait_for_message("the probes of the C library", |line| line.contains("libc.so.6: malloc"));
        tracer.signal(signal);
        let finished = tracer.wait();
        finished.assert_failed_with_line(1, &[signal.as_str(), "before tracing began", "nothing was recorded"]);
        assert!(victim.lives());
    }
}

/// A signal while set-up does something that does not come back by itself, after `line` was said, ends it.
fn ends_while_blocked(tracer: Tracer, reached: &str, is_reached: impl Fn(&str) -> bool) {
    tracer.wait_for_message(reached, is_reached);
    tracer.signal(Signal::SIGINT);
    tracer.wait().assert_failed_with_line(1, &["SIGINT", "before tracing began", "nothing was recorded"]);
}

#[test]
fn the_first_signal_ends_a_set_up_that_does_not_come_to_a_process() {
    let mut victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let tracer = tracer("LEAKTRACE_LOOK_HANGS", &pid, &["-p", &pid, "-v"]);
    ends_while_blocked(tracer, "that it hangs", |line| line.contains("is not looked at"));
    assert!(victim.lives());
}

#[test]
fn the_first_signal_ends_a_set_up_that_does_not_come_through_a_named_object() {
    let mut victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("named-object");
    build::copied(Path::new("/usr/bin/true"), &object);
    let arguments = ["-p", &pid, "-vv", "--object", path_str(&object)];
    let tracer = tracer("LEAKTRACE_PLAN_HANGS", "/named-object", &arguments);
    ends_while_blocked(tracer, "that it hangs", |line| line.contains("named-object is not read"));
    assert!(victim.lives());
}

#[test]
fn the_first_signal_ends_a_set_up_that_waits_for_the_programs() {
    let mut victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let directory = tempfile::tempdir().unwrap();
    // Nobody will ever write to it.
    let pipe = directory.path().join("object");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let tracer = tracer("LEAKTRACE_BPF_OBJECT", path_str(&pipe), &["-p", &pid, "-v"]);
    eventually("the pipe is open", || waits_for_a_writer(tracer.pid()));
    tracer.signal(Signal::SIGINT);
    tracer.wait().assert_failed_with_line(1, &["SIGINT", "before tracing began", "nothing was recorded"]);
    assert!(victim.lives());
}

/// SIGUSR1 ends a program that has no handler for it yet.
#[test]
fn a_report_that_is_asked_for_before_anything_is_set_up_is_made_once_tracing_has_begun() {
    let directory = tempfile::tempdir().unwrap();
    // leaktrace reads it as soon as it has read its command line, and goes on when somebody has written to it.
    let (pipe, end) = (directory.path().join("suppressions"), directory.path().join("end"));
    for path in [&pipe, &end] {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    // The command tells what of its signals is ignored and blocked, and waits.
    let script = format!("grep -E '^Sig(Blk|Ign):' /proc/self/status; read line < {}", path_str(&end));
    let tracer = Tracer::start_unready(&["--suppressions", path_str(&pipe), "--", "/bin/sh", "-c", &script]);
    eventually("the pipe is open", || waits_for_a_writer(tracer.pid()));
    tracer.signal(Signal::SIGUSR1);
    std::fs::write(&pipe, "").unwrap();
    for kind in ["SigBlk:", "SigIgn:"] {
        let line = tracer.wait_for_output(kind, |line| line.starts_with(kind));
        let mask = u64::from_str_radix(line[kind.len()..].trim(), 16).unwrap();
        assert_eq!(mask & (1 << (Signal::SIGUSR1 as i32 - 1)), 0, "{line}");
    }
    tracer.wait_for_output("a report", |line| line.contains("report 1, tracing goes on"));
    std::fs::write(&end, "").unwrap();
    let finished = tracer.wait();
    assert_eq!(finished.snapshot().sequence, 2, "{}", finished.stdout);
}

/// Whether a thread of the process waits until somebody opens the other end of a pipe.
fn waits_for_a_writer(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let wait = std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
        wait.contains("wait_for_partner") || wait.contains("fifo_open")
    })
}

#[test]
fn a_set_up_that_panics_is_an_error_in_one_line() {
    let mut victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("named-object");
    build::copied(Path::new("/usr/bin/true"), &object);
    let finished =
        tracer("LEAKTRACE_PLAN_PANICS", "/named-object", &["-p", &pid, "--object", path_str(&object)]).wait();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    let told = |line: &str| line.contains("setting up the trace failed") && line.contains("a test wants it");
    assert!(finished.stderr.lines().any(told), "{}", finished.stderr);
    assert!(victim.lives());
}

#[test]
fn a_signal_at_any_moment_of_set_up_ends_it_and_leaves_nothing() {
    let _machine = locks::no_system_wide_trace();
    let directory = tempfile::tempdir().unwrap();
    let sleep = directory.path().join("awkward-sleep");
    build::copied(Path::new("/usr/bin/sleep"), &sleep);
    for (round, delay_ms) in (0..600).step_by(40).enumerate() {
        let mut victim = Victim::start_with_own_libc("family.c", &[]);
        let pid = victim.pid().to_string();
        let arguments: &[&str] =
            if round.is_multiple_of(2) { &["-p", &pid] } else { &["--", path_str(&sleep), "1000"] };
        let scratch = tempfile::tempdir().unwrap();
        // A group of its own, to which a terminal sends what is typed.
        let tracer = Tracer::spawn(leaktrace(arguments).process_group(0), scratch);
        // Not before: until then the signal's default ends it, as any program.
        eventually("it listens for signals", || ASKING.iter().all(|signal| catches(tracer.pid(), *signal)));
        std::thread::sleep(Duration::from_millis(delay_ms));
        tracer.signal_group(Signal::SIGINT);
        let finished = tracer.wait();
        if finished.stderr.contains("leaktrace: tracing") {
            // It had begun: then it ends with a report, and the command by the signal that was sent to it, too.
            let status = if round.is_multiple_of(2) { 0 } else { 130 };
            assert_eq!(finished.status.code(), Some(status), "{}", finished.stderr);
        } else {
            // By the signal, or by its end of the command, whichever was heard of first.
            finished.assert_failed_with_line(1, &["ended", "before", "SIGINT"]);
        }
        eventually("the command is gone", || !runs(&sleep));
        eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
        // The target works as ever.
        victim.work();
        victim.finish();
    }
}

/// The signals that ask for an end.
const ASKING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Whether there is a process that runs this program.
fn runs(program: &Path) -> bool {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program))
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

#[test]
fn a_report_at_which_making_panics_is_missing_and_the_trace_goes_on() {
    let mut victim = Victim::start("family.c", &[]);
    let pid = victim.pid().to_string();
    let arguments = ["-p", &pid, "--interval", "200ms", "--show-allocs", "-v"];
    let tracer = tracer("LEAKTRACE_REPORT_PANICS", "2", &arguments);
    tracer.wait_for_message("the report after it", |line| line.contains("report 3: all took"));
    let accounts = victim.work();
    let finished = tracer.stop();
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    let missing = "report 2 could not be made (a test wants it)";
    assert!(finished.stderr.contains(missing), "{}", finished.stderr);
    assert!(!finished.stderr.contains("report 2: all took"), "{}", finished.stderr);
    let raw: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    assert!(raw["warnings"].to_string().contains(missing), "{}", raw["warnings"]);
    victim.finish();
}

#[test]
fn a_last_report_that_cannot_be_made_is_a_failure() {
    let mut victim = Victim::start("family.c", &[]);
    let pid = victim.pid().to_string();
    let tracer = tracer("LEAKTRACE_REPORT_PANICS", "1", &["-p", &pid]);
    tracer.wait_until_tracing();
    victim.work();
    tracer.signal(Signal::SIGINT);
    let finished = tracer.wait();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("the report could not be made (a test wants it)"), "{}", finished.stderr);
    victim.finish();
}

#[test]
fn a_command_that_is_held_by_a_set_up_that_is_ended_never_runs() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let touch = directory.path().join("held-touch");
    build::copied(Path::new("/usr/bin/touch"), &touch);
    let tracer = tracer("LEAKTRACE_PLAN_HANGS", "/held-touch", &["-vv", "--", path_str(&touch), path_str(&made)]);
    tracer.wait_for_message("the probes of the C library", |line| line.contains("libc.so.6: malloc"));
    tracer.signal(Signal::SIGINT);
    let finished = tracer.wait();
    finished.assert_failed_with_line(1, &["SIGINT", "before tracing began"]);
    eventually("the command is gone", || !runs(&touch));
    assert!(!made.exists(), "the command ran");
}

#[test]
fn a_file_that_is_never_read_is_named_and_all_others_are_traced() {
    let mut victim = Victim::start("family.c", &[]);
    let pid = victim.pid().to_string();
    // Its own file, which has no allocator. Set-up waits for it for half a minute.
    let tracer = tracer("LEAKTRACE_PLAN_HANGS", "/family-", &["-p", &pid, "--show-allocs"]);
    tracer.wait_until_tracing();
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&accounts);
    let told =
        |line: &str| line.contains("/family-") && line.contains("is still being read after 30 s without progress");
    assert!(finished.stdout.lines().any(told), "{}", finished.stdout);
    victim.finish();
}
