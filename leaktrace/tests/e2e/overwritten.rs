//! Files that are written to after they were probed. A probe stays with its inode: in what is written there it would be
//! somewhere inside other code.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::build::{self, Recipe};
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, leaktrace, locks, memory};
use crate::places::{Tree, chroot};

const STATIC: Recipe = Recipe::new("overwritten-static", "portable.c", &["-static"]);
const ALLOCATOR: Recipe = Recipe::new("rewriting-allocator", "rewriting.c", &["-shared", "-fPIC", "-DALLOCATOR"]);
const OTHER: Recipe = Recipe::new("rewriting-other", "rewriting.c", &["-shared", "-fPIC", "-DOTHER"]);
/// Writers wait until the probes are out: as long as the kernel takes, and far less than the 45 s after which it would go on.
const WAITS: Duration = Duration::from_secs(10);

/// Has a shell do this, not us: what another thread starts meanwhile inherits our descriptors, and a file that somebody may
/// write to cannot be executed.
fn shell(line: &str, file: &Path) -> Duration {
    let began = Instant::now();
    let status = Command::new("sh").args(["-c", line, "sh"]).arg(file).status().unwrap();
    assert!(status.success(), "{line}");
    began.elapsed()
}

#[test]
fn a_program_that_is_written_over_runs_as_if_nobody_had_traced_the_old_one() {
    let _machine = locks::whole_machine();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    build::copied(&STATIC.built(), &program);
    let other = build::victim("sled.c");

    let tracer = Tracer::start(&["-vv", "--comm", "program"]);
    let run = || Command::new(&program).arg("wait").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = run();
    tracer.wait_for_message("probes in the program", |line| {
        line.contains(path_str(&program)) && line.contains("probed ")
    });
    first.kill().unwrap();
    first.wait().unwrap();

    let waited = shell(&format!("cat {} > $1", other.display()), &program);
    assert!(waited < WAITS, "{waited:?}");
    // At once, and when the new content has probes of its own.
    for _ in 0..2 {
        let output = run().wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        assert_eq!(output.stdout, b"through\n");
    }
    let finished = tracer.stop();
    finished.assert_success();
    assert_gap_is_said(&finished.stdout, &program);
}

/// A mapping's writer changes the file's times at its first writing to a page, and not when it writes other code there later.
#[test]
fn a_library_that_is_written_over_through_a_mapping_runs_as_if_nobody_had_traced_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("library.so");
    let other = OTHER.built();
    build::copied(&ALLOCATOR.built(), &library);
    // A mapping cannot make the file longer.
    shell(&format!("truncate -s {} $1", other.metadata().unwrap().len()), &library);
    let mut program = Command::new(build::victim("rewriting.c"));
    let program = program.arg(&library).arg(&other).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.spawn().unwrap();
    let (mut asks, mut answers) =
        (program.stdin.take().unwrap(), BufReader::new(program.stdout.take().unwrap()).lines());
    assert_eq!(answers.next().unwrap().unwrap(), "ready");
    let mut ask = |what: &str| {
        asks.write_all(what.as_bytes()).unwrap();
        answers.next().unwrap().unwrap()
    };

    let tracer = Tracer::spawn(&mut leaktrace(["-vv", "-p", &program.id().to_string()]), tempfile::tempdir().unwrap());
    tracer.wait_until_tracing();
    assert_eq!(ask("load\n"), "0");
    tracer.wait_for_message("no probes as long as somebody may write", |line| {
        line.contains("library.so is opened for writing and has no probes")
    });
    assert_eq!(ask("rewrite\n"), "done");
    // It is looked at again a second later.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(ask("load\n"), "0", "how a child ended that ran the new content");
    }
    drop(asks);
    assert!(program.wait().unwrap().success());
    tracer.stop().assert_success();
}

#[test]
fn a_library_that_was_opened_for_writing_is_probed_again_and_the_gap_is_said() {
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let library = victim.own_libc().join("libc.so.6");
    let tracer = Tracer::attach(&victim, &["-vv"]);
    let waited = shell(": >> $1", &library);
    assert!(waited < WAITS, "{waited:?}");
    // Said when they are there.
    let probed = |line: &str| line.contains("libc.so.6: probed again");
    tracer.wait_for_message("probes again", probed);
    let accounts = victim.work();
    let finished = tracer.stop();
    assert_gap_is_said(&finished.stdout, &library);
    finished.exact().assert_equals(&accounts);
    victim.finish();
}

/// A byte more at its end makes it another file, which nobody maps yet: the process goes on without probes.
#[test]
fn a_process_whose_library_is_another_now_is_listed() {
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let library = victim.own_libc().join("libc.so.6");
    let tracer = Tracer::attach(&victim, &["-v"]);
    shell("echo >> $1", &library);
    tracer.wait_for_message("its probes are gone", |line| line.contains("libc.so.6 is opened for writing"));
    // It is looked at again after a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let untraced = finished.unchecked_snapshot().untraced;
    assert!(untraced.iter().any(|it| it.pid == victim.pid()), "{untraced:?}\n{}", finished.stdout);
    victim.finish();
}

/// The report says that this file had no probes for a while.
fn assert_gap_is_said(report: &str, file: &Path) {
    let line = report.lines().find(|line| line.contains("while somebody had them open for writing"));
    assert!(line.is_some_and(|line| line.contains(path_str(file))), "{report}");
}

#[test]
fn a_dynamic_linker_that_is_open_for_writing_at_first_is_probed_afterwards() {
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&build::victim("family.c"));
    let mut victim = Victim::spawn("chroot", chroot(tree.root()).arg("wait"));
    victim.wait_until_ready();
    let linker = tree.path("lib64/ld-linux-x86-64.so.2");
    let writer = File::options().append(true).open(&linker).unwrap();
    let tracer = Tracer::attach(&victim, &["-vv"]);
    drop(writer);
    tracer.wait_for_message("its probes", |line| line.contains("ld-linux-x86-64.so.2: probed again"));
    assert!(memory::is_probed(victim.pid(), &linker));
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.exact().assert_equals(&accounts);
    assert_gap_is_said(&finished.stdout, Path::new("/lib64/ld-linux-x86-64.so.2"));
    victim.finish();
}

#[test]
fn a_named_file_that_is_open_for_writing_at_first_is_probed_afterwards_and_the_gap_is_said() {
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let object = victim.own_libc().join("object.so");
    build::copied(&victim.own_libc().join("libc.so.6"), &object);
    let writer = File::options().append(true).open(&object).unwrap();
    let tracer = Tracer::attach(&victim, &["-vv", "--object", path_str(&object)]);
    drop(writer);
    tracer.wait_for_message("its probes", |line| line.contains("object.so: probed again"));
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.exact().assert_equals(&accounts);
    assert_gap_is_said(&finished.stdout, &object);
    victim.finish();
}
