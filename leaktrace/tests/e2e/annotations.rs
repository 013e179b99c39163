//! What programs tell LeakSanitizer is no leak, by functions of its names that they define themselves: where that is handed on, where
//! it cannot be known, and where the functions are.
//!
//! Which blocks are meant is compared with LeakSanitizer in `reachability/compared.rs` (`annotated.c`).

use std::path::Path;
use std::process::Command;

use crate::harness::snapshot::Tally;
use crate::harness::tracer::path_str;
use crate::harness::{Snapshot, Tracer, Victim, build, leaktrace, locks, require_privileges, techniques};

/// Bytes and blocks that the program ignores, of all that a function has allocated.
fn ignored(snapshot: &Snapshot, function: &str) -> (u64, u64) {
    let is_its = |name: &Option<String>| name.as_deref() == Some(function);
    let sites = snapshot.sites.iter().filter(|site| site.stack.first().is_some_and(|frame| is_its(&frame.function)));
    let sum = |sum: (u64, u64), tally: &Tally| (sum.0 + tally.bytes, sum.1 + tally.count);
    let mut sites = sites.peekable();
    assert!(sites.peek().is_some(), "nothing was recorded of {function}: {}", snapshot.digest());
    sites.filter_map(|site| site.ignored.as_ref()).fold((0, 0), sum)
}

/// What is ignored of what the victim allocates after "ready"; `before` is while a thread has disabled leaks since before that.
fn check(snapshot: &Snapshot, before: (u64, u64)) {
    let functions = ["before", "after", "in_child", "in_enabled_child", "in_another_program"];
    let found = functions.map(|function| ignored(snapshot, function));
    assert_eq!(found, [before, (0, 0), (1011, 1), (0, 0), (0, 0)], "{functions:?}");
}

#[test]
fn a_forked_child_goes_on_with_what_its_parent_has_disabled_and_a_program_anew() {
    let victim = build::victim("annotating.c");
    let finished = Tracer::start(&["--show-allocs", "--", path_str(&victim), "run"]).wait();
    finished.assert_success();
    let snapshot = finished.lossless();
    check(&snapshot, (1001, 1));
    assert!(finished.stdout.contains("ignored by the program of "), "{}", finished.stdout);
    assert!(!finished.stdout.contains("before the trace began"), "{}", finished.stdout);
}

#[test]
fn what_was_disabled_before_the_trace_is_not_known_and_that_is_said() {
    let mut victim = Victim::start("annotating.c", &[]);
    let tracer = Tracer::start(&["-p", &victim.pid().to_string()]);
    victim.go();
    let said = victim.collect_until_done();
    let finished = tracer.stop();
    victim.finish();
    assert!(said.contains("executed"), "{said}");
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["marks_lost"]);
    assert_eq!(snapshot.loss("marks_lost"), 1, "the first __lsan_enable");
    check(&snapshot, (0, 0));
    for said in
        ["1 mark of the program's", "threads that had called __lsan_disable before the trace began are not known"]
    {
        assert!(finished.stdout.contains(said), "{}", finished.stdout);
    }
}

#[test]
fn every_way_of_attaching_sees_them() {
    let victim = build::victim("annotating.c");
    require_privileges();
    for technique in techniques() {
        let directory = tempfile::tempdir().unwrap();
        let json = directory.path().join("snapshot.json");
        let arguments = ["--json", path_str(&json), "--", path_str(&victim), "run"];
        let finished = Tracer::spawn(leaktrace(arguments).env("LEAKTRACE_ATTACH", technique), directory).wait();
        finished.assert_success();
        check(&finished.snapshot(), (1001, 1));
    }
}

#[test]
fn what_is_ignored_is_no_failure_where_nothing_is_judged() {
    let victim = build::reachability_victim("annotated.c", 1);
    let run = |options: &[&str]| {
        let arguments = [options, &["--", path_str(&victim), "run"]].concat();
        Tracer::start(&arguments).wait()
    };
    let outstanding = |snapshot: &Snapshot| -> u64 { snapshot.sites.iter().map(|site| site.outstanding_bytes).sum() };
    let finished = run(&["--leak-check", "no"]);
    let snapshot = finished.snapshot();
    let (all, ignored) = (
        outstanding(&snapshot),
        snapshot.sites.iter().filter_map(|site| site.ignored.as_ref()).map(|it| it.bytes).sum::<u64>(),
    );
    assert!(ignored > 0 && ignored < all);
    let far = snapshot.sites.iter().filter(|site| site.path().contains("ignore_far_inside"));
    let far: u64 = far.filter_map(|site| site.ignored.as_ref()).map(|it| it.bytes).sum();
    assert_eq!(far, 40961 + 40963, "also by addresses far inside of blocks");
    let known: u64 = snapshot.sites.iter().map(|site| site.suppressed_bytes).sum();
    let at_most = |bytes: u64| format!("--fail-on-leak={bytes}");
    let rest = all - ignored - known;
    assert_eq!(run(&["--leak-check", "no", &at_most(rest)]).status.code(), Some(23));
    assert_eq!(run(&["--leak-check", "no", &at_most(rest + 1)]).status.code(), Some(0));
}

/// Compiles, as `build` does, what cannot be built without a path that is known only now.
fn compile(before: &[&str], source: &str, after: &[&str], to: &Path) {
    let _machine = locks::no_foreign_system_wide_trace();
    let victims = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims");
    let flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"];
    let mut command = Command::new("cc");
    command.args(flags).args(before).arg("-o").args([to, &victims.join(source)]).args(after);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn they_may_be_a_librarys_that_allocates_nothing() {
    require_privileges();
    let directory = tempfile::tempdir().unwrap();
    let (library, program) = (directory.path().join("libannotations.so"), directory.path().join("annotating"));
    compile(&["-shared", "-fPIC", "-x", "c"], "annotations.h", &[], &library);
    compile(&["-DWITH_SANITIZER"], "annotating.c", &[path_str(&library)], &program);
    let finished = Tracer::start(&["--", path_str(&program), "run"]).wait();
    finished.assert_success();
    check(&finished.lossless(), (1001, 1));
}
