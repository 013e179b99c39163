//! Set-up that meets trouble: it says so, goes on or ends, and is never waited for in vain.
//!
//! Debug builds, of which these tests are, can be told to panic or to hang at a file that they read.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, leaktrace};
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
    eventually("the command is gone", || {
        !std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == touch))
    });
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
