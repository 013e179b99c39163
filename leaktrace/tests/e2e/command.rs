//! COMMAND: traced from before its first allocation, and as if it ran alone.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Tracer, build, leaktrace, require_privileges, trace_command};

/// A program with LeakSanitizer in it.
pub const SANITIZED: build::Recipe = build::Recipe::new("sanitized", "sanitized.c", &["-fsanitize=address"]);

/// Runs a shell command line under the tracer; its standard output and error come mixed with the tracer's.
fn shell(options: &[&str], line: &str) -> Finished {
    Tracer::start_unready(&[options, &["--", "sh", "-c", line]].concat()).wait()
}

#[test]
fn the_commands_status_is_passed_through() {
    for status in [0, 1, 7, 42] {
        let (finished, _) = trace_command(&[], "ending.c", &["return", &status.to_string()]);
        assert_eq!(finished.status.code(), Some(status), "{}", finished.stderr);
    }
}

#[test]
fn a_command_killed_by_a_signal_is_reported_and_its_end_is_passed_on() {
    let (finished, accounts) = trace_command(&[], "ending.c", &["kill"]);
    let snapshot = finished.snapshot();
    snapshot.assert_lossless();
    snapshot.assert_equals(&accounts);
    // As a shell would say it: 128 and the signal's number.
    assert_eq!(finished.status.code(), Some(128 + 9), "{}", finished.stderr);
}

#[test]
fn every_way_to_end_is_accounted_for() {
    for how in ["return", "exit", "_exit", "abort", "segv", "term"] {
        let (finished, accounts) = trace_command(&[], "ending.c", &[how]);
        let snapshot = finished.snapshot();
        snapshot.assert_lossless();
        snapshot.assert_equals(&accounts);
        assert!(!snapshot.sites.is_empty(), "{how}");
    }
}

/// It stops the threads of its own process by ptrace, which only one tracer can do, and gives up where that fails.
#[test]
fn leak_sanitizer_comes_to_the_verdict_that_it_comes_to_alone() {
    let program = SANITIZED.built();
    let alone = Command::new(&program).output().unwrap();
    let verdict = "SUMMARY: AddressSanitizer: 123 byte(s) leaked in 1 allocation(s).";
    assert!(String::from_utf8_lossy(&alone.stderr).contains(verdict), "{alone:?}");
    let through_a_shell = format!("exec {}", path_str(&program));
    for command in [&[path_str(&program)][..], &["sh", "-c", &through_a_shell]] {
        let finished = Tracer::start_unready(&[&["--"], command].concat()).wait();
        let said = &finished.stderr;
        assert!(said.contains(verdict), "{said}");
        // Suppressions are matched against these.
        assert!(said.lines().any(|line| line.contains("#1 0x") && line.contains(" in lose ")), "{said}");
        assert_eq!(finished.status.code(), alone.status.code(), "{said}");
        let snapshot = finished.snapshot();
        // The runtime's unwind table is large, and a busy machine may not have it in the time that a command is held for it.
        snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
        let leaks: Vec<_> = snapshot.sites.iter().filter(|site| site.outstanding_bytes == 123).collect();
        assert_eq!(leaks.len(), 1, "{}", snapshot.digest());
        assert_eq!(leaks[0].outstanding_count, 1, "{}", snapshot.digest());
    }
}

#[test]
fn constructors_of_libraries_are_traced() {
    let (finished, accounts) = trace_command(&[], "cxx.cc", &[]);
    let snapshot = finished.lossless();
    let pid = accounts.sites[0].pid;
    // libstdc++ allocates its pool for exceptions before main, in a constructor: one block of some 70 KiB, as
    // Valgrind shows for every C++ program.
    let before_main = snapshot.sites.iter().find(|site| {
        site.pid == pid && site.outstanding_count == 1 && (70_000..80_000).contains(&site.outstanding_bytes)
    });
    assert!(before_main.is_some(), "the pool of libstdc++ is not there:\n{}", snapshot.digest());
}

#[test]
fn the_command_has_our_environment_directory_and_arguments() {
    let finished = shell(&[], "echo \"<$LEAKTRACE_TEST|$0|$PWD>\"");
    assert!(finished.stdout.contains(&format!("<|sh|{}>", std::env::current_dir().unwrap().display())));
    let mut command = leaktrace(["--", "sh", "-c", "echo \"<$LEAKTRACE_TEST|$1>\"", "name", "an argument"]);
    require_privileges();
    let finished = Finished::of(command.env("LEAKTRACE_TEST", "a value"));
    assert!(finished.stdout.contains("<a value|an argument>"), "{}", finished.stdout);
}

#[test]
fn the_command_reads_our_standard_input() {
    require_privileges();
    let mut child = leaktrace(["--", path_str(&build::victim("puppet.c")), "run"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a a 100 3\nf a 1\nr\nq 3\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let accounts = Accounts::parse(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(accounts.outstanding(), (200, 2));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_command_that_allocates_nothing_is_said_to_have() {
    let (finished, accounts) = trace_command(&[], "idle.c", &[]);
    finished.lossless().assert_equals(&accounts);
    // Zero events is a warning, never "no leaks".
    assert!(finished.stdout.contains("warning: not one allocation was seen"), "no warning:\n{}", finished.stdout);
}

#[test]
fn a_command_that_ignores_the_signal_is_said_to_go_on() {
    require_privileges();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // It ends when the test opens the pipe.
        let line = format!("trap '' INT TERM; echo ready; read _ < {}", path_str(&gate));
        let mut command = leaktrace(["--", "sh", "-c", &line]);
        command.process_group(0);
        let mut tracer = Tracer::spawn(&mut command, directory);
        tracer.wait_for_output("the command's word", |line| line == "ready");
        tracer.signal_group(signal);
        let said = format!("COMMAND has not ended 1 s after {signal}; it goes on without being traced");
        tracer.wait_for_message("that the command goes on", |line| line.ends_with(&said));
        assert_eq!(tracer.wait_status().code(), Some(0), "{signal}");
        std::fs::write(&gate, "\n").unwrap();
    }
}

#[test]
fn ctrl_c_at_the_terminal_ends_both_with_a_report() {
    require_privileges();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let victim = build::victim("outstanding.c");
    // A group of its own, as a shell gives a job: Ctrl-C reaches all of it.
    let mut command = leaktrace(["--all-sites", "--json", path_str(&json), "--", path_str(&victim), "wait", "100"]);
    command.process_group(0).stdin(Stdio::piped());
    let tracer = Tracer::spawn(&mut command, directory);
    tracer.wait_for_output("the victim's word", |line| line == "ready");
    let signalled = Instant::now();
    tracer.signal_group(Signal::SIGINT);
    let finished = tracer.wait();
    let snapshot = finished.snapshot();
    assert_eq!(snapshot.target.mode, "command");
    // leaktrace waits a second for it, and no longer.
    let waited = signalled.elapsed();
    let exited = snapshot.processes.iter().any(|process| process.exited);
    assert!(exited || waited >= Duration::from_secs(1), "the command did not end in {waited:?}");
}
