//! Allocations that fail leave no trace, and leave what was there.

use crate::harness::tracer::{binary, path_str};
use crate::harness::{Tracer, Victim, build, trace_command};

#[test]
fn failed_allocations_leave_no_trace_when_attached() {
    let mut victim = Victim::start("failing.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    for never in ["fail_absurdly", "fail_invalidly", "fail_by_limit"] {
        assert_eq!(snapshot.through(victim.pid(), never).alloc_count, 0, "{never}");
    }
    assert_eq!(snapshot.process(victim.pid()).untracked_frees, 0);
    victim.finish();
}

#[test]
fn failed_allocations_leave_no_trace_when_launched() {
    let (finished, accounts) = trace_command(&[], "failing.c", &[]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn too_few_open_files_are_said_with_the_limit_to_raise() {
    let program = binary();
    // Fewer than there are tables. With a few more, a trace by perf events warns of files that it cannot probe.
    for limit in [6, 24] {
        let script = format!("ulimit -n {limit} && exec {} -d 1", path_str(&program));
        let mut command = std::process::Command::new("/bin/sh");
        let finished = Tracer::spawn(command.args(["-c", &script]), tempfile::tempdir().unwrap()).wait();
        finished.assert_failed_with_line(1, &["os error 24", "ulimit -n", "LimitNOFILE="]);
    }
}

/// Copies of files for readers of symbols count against it.
#[test]
fn a_limit_on_the_size_of_files_ends_no_trace() {
    let program = binary();
    let victim = build::victim("outstanding.c");
    let script = format!("ulimit -f 8 && exec {} -- {} run", path_str(&program), path_str(&victim));
    let mut command = std::process::Command::new("/bin/sh");
    let finished = Tracer::spawn(command.args(["-c", &script]), tempfile::tempdir().unwrap()).wait();
    finished.assert_success();
    assert!(finished.stdout.contains(" outstanding in "), "{}", finished.stdout);
}
