//! Blocks that are being moved by `realloc` at the moment of a leak check.

use std::ffi::OsStr;

use crate::harness::tracer::{leaktrace, path_str};
use crate::harness::{Tracer, build};

/// In one stop of ten the thread is in `realloc`, where only a block that nobody knows yet has the pointers to 64 others.
#[test]
fn what_a_block_holds_that_is_being_moved_is_not_lost() {
    let program = build::reachability_victim("moving.c", 1);
    let directory = tempfile::tempdir().unwrap();
    // Small tables are read fast, so that there are many stops.
    let mut command = leaktrace(["--leak-check=summary", "--leak-check-mode=exact", "--max-pause=1h", "-i", "50ms"]);
    command.args(["--max-allocs=2000", "--max-stacks=200", "--", path_str(&program), "run", "10000"].map(OsStr::new));
    // Without these, small blocks that are freed stay with their thread.
    command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    let finished = Tracer::spawn(&mut command, directory).wait();
    finished.assert_success();
    let verdicts: Vec<&str> = finished.stdout.lines().filter(|line| line.starts_with("leak check:")).collect();
    assert!(verdicts.len() > 5, "{}", finished.stdout);
    for verdict in verdicts {
        assert!(verdict.contains("nothing definitely lost"), "{verdict}");
    }
}
