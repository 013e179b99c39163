//! leaktrace's sampler in programs: with an interval of one byte it tells of every block, so that all numbers equal the victims' books.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use crate::harness::tracer::{binary, path_str};
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, build, leaktrace, locks};

/// The library, built once for all tests, beside the program.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        let built = cargo.args(["build", "--quiet", "--package", "leaktrace-sampler"]).status();
        let library = binary().with_file_name("libleaktrace_sampler.so");
        // Root may have no cargo; `cargo xtask test` has built it then.
        let is_built = built.is_ok_and(|status| status.success()) || library.exists();
        assert!(is_built, "the sampler is built");
        library
    })
}

/// Launches a victim with the sampler, which draws every block.
fn launched(source: &str, arguments: &[&str]) -> (Finished, Accounts) {
    library();
    let victim = build::victim(source);
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut command = leaktrace(["--sampler", "--all-sites", "--show-allocs", "--json", path_str(&json), "--"]);
    command.arg(victim).arg("run").args(arguments).env("LEAKTRACE_SAMPLER_INTERVAL", "1");
    let finished = Tracer::spawn(&mut command, directory).wait();
    let accounts = Accounts::parse(&finished.stdout);
    (finished, accounts)
}

/// Launches it and compares everything, by function.
fn books(source: &str) -> (Snapshot, Accounts) {
    let (finished, accounts) = launched(source, &[]);
    let snapshot = finished.lossless();
    assert!(snapshot.sampled);
    snapshot.assert_equals(&accounts);
    (snapshot, accounts)
}

/// A victim that was started with the sampler, before its work.
fn preloaded(source: &str, interval: &str, arguments: &[&str]) -> Victim {
    let mut command = Command::new(build::victim(source));
    command.arg("wait").args(arguments).env("LD_PRELOAD", library());
    let victim = Victim::spawn(source, command.env("LEAKTRACE_SAMPLER_INTERVAL", interval));
    victim.wait_until_ready();
    victim
}

#[test]
fn every_function_of_the_family_is_told_exactly() {
    let (snapshot, accounts) = books("family.c");
    for account in &accounts.sites {
        for site in snapshot.sites_through(account.pid, &account.site) {
            assert!(site.stack[0].is(&account.site), "frame 0 of {}", site.path());
            assert!(site.stack.iter().any(|frame| frame.is("main")), "no main in {}", site.path());
        }
    }
}

#[test]
fn every_kind_of_realloc_moves_what_is_told_from_site_to_site() {
    books("reallocs.c");
}

#[test]
fn rust_boxes_vectors_and_strings_are_told_exactly() {
    books("rust_leaks.rs");
}

#[test]
fn forked_children_are_told_exactly() {
    books("forking.c");
}

#[test]
fn threads_are_told_exactly() {
    for source in ["threads.c", "churn.c"] {
        let mut victim = preloaded(source, "1", &[]);
        let tracer = Tracer::attach(&victim, &[]);
        let accounts = victim.work();
        tracer.stop().lossless().assert_equals(&accounts);
        victim.finish();
    }
}

#[test]
fn cxx_operators_and_library_functions_are_told_once() {
    for source in ["cxx.cc", "indirect.c"] {
        let mut victim = preloaded(source, "1", &[]);
        let tracer = Tracer::attach(&victim, &[]);
        let accounts = victim.work();
        let snapshot = tracer.stop().lossless();
        let outstanding = snapshot.all(victim.pid()).outstanding();
        assert_eq!(outstanding, accounts.outstanding(), "{source}: {}", snapshot.digest());
        victim.finish();
    }
}

#[test]
fn a_process_that_was_started_with_it_is_seen_by_it() {
    let mut victim = preloaded("puppet.c", "1", &[]);
    victim.go();
    victim.tell("a a 100 10");
    let mut tracer = Tracer::attach(&victim, &[]);
    victim.tell("a a 64 1000");
    victim.tell("a b 5000 3");
    // Ten that it has drawn while nobody listened, and ten.
    victim.tell("f a 20");
    let report = tracer.path("snapshot.json");
    tracer.signal(Signal::SIGINT);
    assert!(tracer.wait_status().success());
    let snapshot = Snapshot::parse(&std::fs::read(report).unwrap());
    let pid = victim.pid();
    assert_eq!(snapshot.through(pid, "leak_a").outstanding(), (64 * 990, 990));
    assert_eq!(snapshot.through(pid, "leak_b").outstanding(), (15_000, 3));
    assert_eq!(snapshot.process(pid).untracked_frees, 10);
}

#[test]
fn of_a_sample_it_is_told_what_leaks() {
    let _flood = locks::flood();
    let start = |shape| preloaded("growth.c", "1k", &[shape, "4", "15000", "60"]);
    let (mut leaking, mut full) = (start("even"), start("fifo_full"));
    let tracer = Tracer::start(&["-p", &format!("{},{}", leaking.pid(), full.pid())]);
    [&mut leaking, &mut full].into_iter().for_each(Victim::go);
    let bytes = leaking.done().site("left").bytes;
    full.done();
    let snapshot = tracer.stop().unchecked_snapshot();
    let growth = |victim: &Victim, function| snapshot.sites_through(victim.pid(), function)[0].growth.as_ref().unwrap();
    let (leak, fine) = (growth(&leaking, "leak_even"), growth(&full, "fine_fifo_full"));
    assert_eq!(leak.verdict, "leak", "{leak:?}");
    assert_ne!(fine.verdict, "leak", "{fine:?}");
    // Its whole time, of which the warm-up is a part.
    let truth = bytes as f64 / 15.0;
    let [low, high] = leak.ci95;
    assert!(low < truth * 1.3 && high > truth * 0.7, "{truth} B/s, {leak:?}");
    [leaking, full].into_iter().for_each(Victim::finish);
}

#[test]
fn a_static_program_is_refused_with_the_reason() {
    library();
    let program = STATIC.built();
    let finished = Finished::of(&mut leaktrace(["--sampler", "--", path_str(&program), "run"]));
    finished.assert_failed_with_line(1, &["has not loaded the sampler", "static", "without --sampler"]);
}

const STATIC: build::Recipe = build::Recipe::new("puppet-static", "puppet.c", &["-static"]);

#[test]
fn it_is_no_option_for_what_needs_every_call() {
    for (options, names) in [
        (&["--sampler", "-p", "1"][..], ["--sampler", "COMMAND"]),
        (&["--sampler", "--leak-check=full", "--", "true"], ["--sampler", "--leak-check"]),
        (&["--sampler", "--sample-bytes", "4k", "--", "true"], ["--sampler", "--sample-bytes"]),
        (&["--sampler", "--fail-on-growth", "--", "true"], ["--sampler", "--fail-on-growth"]),
        (&["--sampler", "--fail-on-leak", "--", "true"], ["--sampler", "--fail-on-leak"]),
    ] {
        Finished::of(&mut leaktrace(options)).assert_refused(2, &names);
    }
}
