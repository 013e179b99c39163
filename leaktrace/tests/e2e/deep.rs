//! Stacks of hundreds of frames: whole up to `--max-depth`, each with its own frames and nobody else's, and where there is no
//! room for all of them cut and counted.

use crate::harness::snapshot::{Frame, Site};
use crate::harness::tracer::{attached, path_str};
use crate::harness::{Snapshot, Tracer, build};

/// The limit of `--max-depth`.
const DEEPEST: usize = 1024;

/// Frames that are not inlined calls.
fn physical(site: &Site) -> Vec<&Frame> {
    site.stack.iter().filter(|frame| !frame.inlined).collect()
}

/// The functions that stack number `n` of braid.c goes through, innermost first.
fn way(n: u64, depth: usize) -> Vec<&'static str> {
    let mut state = n;
    let choice = |()| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if state >> 63 == 1 { "left" } else { "right" }
    };
    let mut way: Vec<_> = std::iter::repeat_n((), depth).map(choice).collect();
    way.reverse();
    way
}

/// Fails unless every stack of braid.c is its own as far as it goes. How many frames each has of its way.
fn lengths(sites: &[&Site], depth: usize) -> Vec<usize> {
    let length = |site: &&Site| {
        let (n, frames) = (site.outstanding_bytes - 1000, physical(site));
        assert_eq!(site.outstanding_count, 1, "stacks were mixed: {}", site.path());
        assert!(frames[0].is("leak_braid"), "{}", site.path());
        let way = way(n, depth);
        let kept = way.len().min(frames.len() - 1);
        for (frame, function) in frames[1..].iter().zip(&way) {
            assert!(frame.is(function), "stack {n} does not go through {way:?}:\n{}", site.path());
        }
        kept
    };
    sites.iter().map(length).collect()
}

fn assert_cut(site: &Site, frames: usize) {
    assert_eq!(site.stack_state.as_deref(), Some("cut"), "{}", site.path());
    assert_eq!(physical(site).len(), frames, "{}", site.path());
}

#[test]
fn each_deep_stack_has_its_own_frames_and_all_of_them() {
    const STACKS: usize = 40;
    for unwind in ["auto", "fp"] {
        let options = ["--max-depth", "1024", "--unwind", unwind];
        let (finished, accounts, pid) = attached(&options, "braid.c", &["900", &STACKS.to_string()]);
        let snapshot = finished.lossless();
        snapshot.assert_equals(&accounts);
        let sites = snapshot.sites_through(pid, "leak_braid");
        assert_eq!(lengths(&sites, 900), [900; STACKS], "{unwind}");
        assert!(sites.iter().all(|site| site.passes("main")), "{unwind}");
    }
}

/// Stacks as deep as the neighbours of what is handled differently: chunks of 32 frames, stretches of 64.
#[test]
fn stacks_of_any_depth_are_whole() {
    for depth in [28, 29, 30, 31, 32, 59, 60, 61, 62, 63, 64, 123, 124, 125, 126, 127, 128, 190, 253] {
        let (finished, accounts, pid) = attached(&["--max-depth", "300"], "braid.c", &[&depth.to_string(), "3"]);
        let snapshot = finished.lossless();
        snapshot.assert_equals(&accounts);
        let sites = snapshot.sites_through(pid, "leak_braid");
        assert_eq!(lengths(&sites, depth), [depth; 3]);
        assert!(sites.iter().all(|site| site.passes("main")), "{depth}");
    }
}

#[test]
fn recursion_is_kept_up_to_the_deepest_that_can_be_asked_for() {
    for (depth, is_whole) in [(600, true), (1000, true), (1100, false)] {
        let options = ["--max-depth", &DEEPEST.to_string()];
        let (finished, accounts, pid) = attached(&options, "deep.c", &[&depth.to_string(), "7"]);
        let snapshot = finished.snapshot();
        snapshot.assert_equals(&accounts);
        let sites = snapshot.sites_through(pid, "leak_deep");
        assert_eq!(sites.len(), 1, "{depth}");
        let descents = sites[0].stack.iter().filter(|frame| frame.is("descend")).count();
        if is_whole {
            snapshot.assert_lossless();
            assert_eq!(sites[0].stack_state.as_deref(), Some("whole"), "{depth}");
            assert_eq!(descents, depth + 1);
            assert!(sites[0].passes("main"), "{depth}");
        } else {
            snapshot.assert_lossless_but(&["stacks_truncated"]);
            assert_eq!(snapshot.loss("stacks_truncated"), 1);
            assert_cut(sites[0], DEEPEST);
            assert_eq!(descents, DEEPEST - 1);
            assert!(finished.stdout.contains("1 stack cut at 1,024 frames"), "{}", finished.stdout);
            assert!(!finished.stdout.contains("raise --max-depth"), "{}", finished.stdout);
        }
    }
}

#[test]
fn stacks_of_256_frames_are_kept_unless_more_are_asked_for() {
    let (finished, accounts, pid) = attached(&[], "deep.c", &["300", "7"]);
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    snapshot.assert_lossless_but(&["stacks_truncated"]);
    let sites = snapshot.sites_through(pid, "leak_deep");
    assert_eq!((sites.len(), snapshot.loss("stacks_truncated")), (1, 1));
    assert_cut(sites[0], 256);
    assert_eq!(snapshot.options["max_depth"], 256);
    assert!(finished.stdout.contains("raise --max-depth (at most 1,024)"), "{}", finished.stdout);
}

#[test]
fn frames_that_find_no_room_are_left_out_and_said() {
    const STACKS: usize = 40;
    let options = ["--max-stacks", "60", "--max-depth", "1024"];
    let (finished, accounts, pid) = attached(&options, "braid.c", &["900", &STACKS.to_string()]);
    let snapshot = finished.snapshot();
    // The accounts are exact all the same.
    snapshot.assert_equals(&accounts);
    snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
    let sites = snapshot.sites_through(pid, "leak_braid");
    let lengths = lengths(&sites, 900);
    assert_eq!(lengths.len(), STACKS);
    let whole = lengths.iter().filter(|length| **length == 900).count();
    assert!(whole > 4 && whole < STACKS, "{lengths:?}");
    assert_eq!(snapshot.loss("unwind_failed"), (STACKS - whole) as u64, "{}", snapshot.digest());
    for site in sites {
        let (is_whole, frames) = (site.passes("main"), physical(site).len());
        assert_eq!(site.stack_state.as_deref(), Some(if is_whole { "whole" } else { "cut" }));
        assert!(is_whole || frames.is_multiple_of(32), "{frames}");
    }
    let said = format!("no room for all frames, raise --max-stacks {}", STACKS - whole);
    assert!(finished.stdout.contains(&said), "{}", finished.stdout);
}

/// Sites through a function in whatever process.
fn all_through<'a>(snapshot: &'a Snapshot, function: &str) -> Vec<&'a Site> {
    snapshot.sites.iter().filter(|site| site.passes(function)).collect()
}

#[test]
fn the_room_of_dead_processes_deep_stacks_is_used_again() {
    // 30 times 5 stacks of 29 chunks, in room for some 370.
    let braid = build::victim("braid.c");
    let line = format!("for i in $(seq 30); do {} run 900 5 >&2; sleep 0.5; done", path_str(&braid));
    let options = ["--max-stacks", "60", "--max-depth", "1024", "--", "sh", "-c", &line];
    let finished = Tracer::start_unready(&options).wait();
    finished.assert_success();
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
    let sites = all_through(&snapshot, "leak_braid");
    let lengths = lengths(&sites, 900);
    assert_eq!(lengths.len(), 150);
    // A busy machine may be late with tables, or with the room of the dead: which is counted. All of the room at once holds 13.
    let whole = lengths.iter().filter(|length| **length == 900).count() as u64;
    assert!(whole > 30, "{whole} are whole\n{}", snapshot.digest());
    assert!(whole + snapshot.loss("unwind_failed") >= 150, "{whole} are whole\n{}", snapshot.digest());
}
