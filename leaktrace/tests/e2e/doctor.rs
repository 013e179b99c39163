//! `leaktrace doctor` names each need, whether it is met, and what to do where it is not.

use crate::harness::confined::{as_nobody, with_hidden};
use crate::harness::{Finished, leaktrace, require_privileges};

#[test]
fn every_need_is_named_and_met_here() {
    require_privileges();
    let finished = Finished::of(&mut leaktrace(["doctor"]));
    finished.assert_success();
    let text = finished.stdout.to_lowercase();
    for need in ["kernel", "btf", "cap", "perf_event_paranoid", "lockdown", "uprobe", "memory", "mem_soft_dirty"] {
        assert!(text.contains(need), "{need} is not named:\n{}", finished.stdout);
    }
    for way in ["every call", "--sample-bytes 512k", "sampler --print-path"] {
        assert!(text.contains(way), "{way} is not named: {text}");
    }
    assert!(text.ends_with("\nleaktrace can trace here\n"), "{text}");
}

#[test]
fn what_is_missing_is_said_with_the_next_step() {
    require_privileges();
    let (mut command, _directory) = as_nobody(&["doctor"]);
    let finished = Finished::of(&mut command);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stdout);
    assert!(finished.stdout.contains("sudo") || finished.stdout.contains("root"), "{}", finished.stdout);
    assert!(finished.stdout.contains("\nleaktrace cannot trace here: "), "{}", finished.stdout);

    let mut command = leaktrace(["doctor"]);
    with_hidden(&mut command, "/sys/bus/event_source/devices");
    let finished = Finished::of(&mut command);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stdout);
    assert!(finished.stdout.to_lowercase().contains("uprobe"), "{}", finished.stdout);
}
