//! What is not traced is said, with the reason: no process vanishes.

use std::path::Path;
use std::process::Command;

use crate::harness::build::Recipe;
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Tracer, Victim, build};

const I386: Recipe =
    Recipe::new("i386", "i386.c", &["-m32", "-nostdlib", "-static", "-ffreestanding", "-fno-pie", "-no-pie"]);
const STATIC: Recipe = Recipe::new("portable-static", "portable.c", &["-static"]);

/// The reason that the JSON gives for a process of this name.
fn reason(finished: &Finished, comm: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    let listed = json["untraced"].as_array().cloned().unwrap_or_default();
    let process = listed.iter().find(|process| process["comm"].as_str().is_some_and(|it| it.starts_with(comm)));
    process.unwrap_or_else(|| panic!("{comm} is not in {listed:?}"))["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_32_bit_program_is_refused_with_one_true_sentence() {
    let program = I386.built();
    let mut running = Victim::spawn("i386", Command::new(&program).arg("wait"));
    let pid = running.pid().to_string();
    for arguments in [&["-p", &pid][..], &["--", path_str(&program)]] {
        let finished = Tracer::start_unready(arguments).wait();
        finished.assert_refused(1, &["cannot be traced", "i386", "64-bit programs"]);
        assert!(!finished.stderr.contains("--object"), "{}", finished.stderr);
    }
    assert!(running.lives());
}

#[test]
fn children_that_cannot_be_traced_are_listed_beside_one_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let stripped = build::stripped(&STATIC.built(), directory.path());
    let victim = build::victim("family.c");
    let script =
        format!("{}; {} run >/dev/null; {} run", path_str(&I386.built()), path_str(&stripped), path_str(&victim));
    let finished = Tracer::start_unready(&["--show-allocs", "--", "/bin/sh", "-c", &script]).wait();
    let mut accounts = Accounts::parse(&finished.stdout);
    // What the dynamic linker and the shell ask for beside is no victim's.
    accounts.totals.clear();
    finished.exact().assert_equals(&accounts);
    assert!(reason(&finished, "i386").contains("i386"), "{}", finished.stdout);
    assert!(reason(&finished, "portable").contains("no symbols to find it by"), "{}", finished.stdout);
    for comm in ["i386", "portable"] {
        let told = |line: &str| line.starts_with("warning: not traced: ") && line.contains(comm);
        assert!(finished.stdout.lines().any(told), "{comm}:\n{}", finished.stdout);
    }
    // The shell itself, its copies between fork and exec included, is traced.
    assert!(!finished.stdout.contains("not traced: sh"), "{}", finished.stdout);
}

#[test]
fn descendants_that_run_already_are_traced_too() {
    let mut master = Victim::start("prefork.c", &["3"]);
    let tracer = Tracer::attach(&master, &[]);
    let accounts = master.work();
    let snapshot = tracer.stop().exact();
    assert_eq!(accounts.sites.len(), 3);
    snapshot.assert_equals(&accounts);
    master.finish();
}

#[test]
fn descendants_that_are_left_out_are_counted() {
    let mut master = Victim::start("prefork.c", &["2"]);
    let tracer = Tracer::attach(&master, &["--no-follow"]);
    master.go();
    master.wait_for_line("\"done\"", |line| line == "done");
    let text = tracer.stop().stdout;
    assert!(text.contains("2 running processes that descend from those named are left out"), "{text}");
    assert!(text.contains("descendants that run and are left out; trace without --no-follow"), "{text}");
    assert!(!text.contains("trace for longer"), "{text}");
    master.finish();
}

#[test]
fn memory_that_grows_without_malloc_is_said_with_where() {
    let mut victim = Victim::start("mapping.c", &["100"]);
    let tracer = Tracer::attach(&victim, &[]);
    victim.go();
    victim.wait_for_line("\"done\"", |line| line == "done");
    let finished = tracer.stop();
    finished.assert_success();
    let line = finished.stdout.lines().find(|line| line.contains("not one allocation was seen")).unwrap_or_default();
    assert!(line.contains("without malloc: 100.") && line.contains("anonymous mappings (mmap)"), "{}", finished.stdout);
    victim.finish();
}

#[test]
fn memory_that_grows_far_beyond_what_was_ever_outstanding_is_said_not_to_be_mallocs() {
    let finished = Tracer::start_unready(&["--", path_str(&build::victim("mapping.c")), "run", "60", "40"]).wait();
    finished.assert_success();
    let line = finished.stdout.lines().find(|line| line.contains("is not malloc's")).unwrap_or_default();
    assert!(line.contains("grew by 60.") && line.contains("anonymous mappings (mmap)"), "{}", finished.stdout);
}

#[test]
fn a_python_that_has_ended_is_known_to_have_shown_everything() {
    let python = "/usr/bin/python3";
    assert!(Path::new(python).exists(), "set-up installs it");
    let note = |variable: &str| {
        let finished = Tracer::start_unready(&["--", "/usr/bin/env", variable, python, "-c", "pass"]).wait();
        finished.assert_success();
        finished.stdout.lines().any(|line| line.starts_with("note:") && line.contains("PYTHONMALLOC=malloc"))
    };
    assert!(note("NOTHING=1"));
    assert!(!note("PYTHONMALLOC=malloc"));
}
