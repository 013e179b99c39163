//! At and beyond the limits: what fits is exact, what does not is counted exactly.

use std::collections::HashSet;

use crate::harness::confined::with_file_over;
use crate::harness::tracer::attached;
use crate::harness::{Finished, Tracer, Victim, leaktrace, locks, trace_command};

/// Every output says what was lost: here the text report and the warning to its reader.
fn assert_said(finished: &Finished, number: u64) {
    let digits = |text: &str| text.replace([',', '_', '\''], "");
    assert!(
        digits(&finished.stdout).contains(&number.to_string()),
        "the text report does not say that {number} were lost:\n{}",
        finished.stdout
    );
}

#[test]
fn three_million_blocks_are_outstanding_with_room_for_them() {
    let _machine = locks::no_system_wide_trace();
    // Of the text that --show-allocs would make of them nobody could read a thing.
    let options = ["--max-allocs", "4000000", "--top", "0"];
    let (finished, accounts, _) = attached(&options, "outstanding.c", &["3000000"]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn room_for_twenty_million_blocks_is_as_good_as_any() {
    let (finished, accounts, _) = attached(&["--max-allocs", "20000000"], "outstanding.c", &["50000"]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn tables_beyond_all_memory_are_refused_before_they_are_asked_for() {
    // However much memory this machine has: a million stacks take 1.7 GB, and leaktrace is told of one.
    let victim = Victim::start("idle.c", &[]);
    let directory = tempfile::tempdir().unwrap();
    let meminfo = directory.path().join("meminfo");
    std::fs::write(&meminfo, "MemTotal:        4000000 kB\nMemAvailable:    1000000 kB\n").unwrap();
    let mut command = leaktrace(["-p", &victim.pid().to_string(), "--max-stacks", "1000000"]);
    with_file_over(&mut command, &meminfo, "/proc/meminfo");
    let finished = Finished::of(&mut command);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("lower --max-stacks"), "{}", finished.stderr);
}

#[test]
fn the_default_number_of_blocks_is_documented_and_what_exceeds_it_is_counted_exactly() {
    let _machine = locks::no_system_wide_trace();
    let mut victim = Victim::start("outstanding.c", &["3000000"]);
    let pid = victim.pid().to_string();
    let tracer = Tracer::start(&["-p", &pid]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    let dropped = snapshot.loss("allocs_dropped");
    let booked = snapshot.all(victim.pid());
    assert_eq!(booked.outstanding_count + dropped, accounts.site("leak_block").count);
    let limit = snapshot.options["max_allocs"].as_u64().expect("the options say max_allocs");
    if limit >= 3_000_000 {
        assert_eq!(dropped, 0);
    } else {
        // All of the room is used before anything is dropped.
        assert!(booked.outstanding_count >= limit, "{} of {limit} booked", booked.outstanding_count);
        assert_said(&finished, dropped);
    }
    snapshot.assert_lossless_but(&["allocs_dropped", "bytes_dropped"]);
    victim.finish();
}

#[test]
fn blocks_beyond_max_allocs_are_counted_exactly_in_every_output() {
    let (finished, accounts, pid) = attached(&["--max-allocs", "10000"], "outstanding.c", &["50000"]);
    let snapshot = finished.snapshot();
    let dropped = snapshot.loss("allocs_dropped");
    assert!(dropped > 0, "50,000 blocks fitted into room for 10,000");
    let booked = snapshot.all(pid);
    assert_eq!(booked.outstanding_count + dropped, accounts.site("leak_block").count);
    assert!(booked.outstanding_count >= 10_000, "only {} of 10,000 were booked", booked.outstanding_count);
    snapshot.assert_lossless_but(&["allocs_dropped", "bytes_dropped"]);
    assert_said(&finished, dropped);
}

#[test]
fn dropped_blocks_come_back_as_untracked_frees_and_leave_no_remainder() {
    let (finished, _, pid) = attached(&["--max-allocs", "10000"], "outstanding.c", &["50000", "free"]);
    let snapshot = finished.snapshot();
    assert_eq!(snapshot.all(pid).outstanding(), (0, 0));
    assert_eq!(snapshot.process(pid).untracked_frees, snapshot.loss("allocs_dropped"));
}

#[test]
fn room_that_was_freed_is_used_again() {
    // 40 times the room passes through, never more than half of it at once.
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let tracer = Tracer::attach(&puppet, &["--max-allocs", "4096"]);
    for _ in 0..40 {
        puppet.tell("a a 100 2000");
        puppet.tell("f a 2000");
    }
    puppet.tell("a b 10 10");
    let accounts = puppet.report();
    tracer.stop().lossless().assert_equals(&accounts);
}

#[test]
fn each_distinct_stack_is_a_site_of_its_own() {
    let (finished, accounts, pid) = attached(&[], "stacks.c", &["12"]);
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    let sites = snapshot.sites_through(pid, "leak_path");
    assert_eq!(sites.len() as u64, accounts.fact("stacks"));
    assert!(sites.iter().all(|site| site.outstanding_count == 1), "stacks were mixed");
    let paths: HashSet<_> = sites.iter().map(|site| site.path()).collect();
    assert_eq!(paths.len(), sites.len(), "two sites have one stack");
}

#[test]
fn stacks_beyond_max_stacks_are_counted_and_their_bytes_are_not_lost() {
    let (finished, accounts, pid) = attached(&["--max-stacks", "256"], "stacks.c", &["12"]);
    let snapshot = finished.snapshot();
    let dropped = snapshot.loss("stacks_dropped");
    assert!(dropped > 0, "4,096 stacks fitted into room for 256");
    snapshot.assert_lossless_but(&["stacks_dropped"]);
    // Every block is still booked, the surplus ones under no stack.
    assert_eq!(snapshot.all(pid).outstanding(), accounts.outstanding());
    let (named, nameless): (Vec<_>, Vec<_>) =
        snapshot.sites.iter().filter(|site| site.pid == pid).partition(|site| !site.stack.is_empty());
    assert_eq!(named.len() as u64 + dropped, accounts.fact("stacks"));
    assert_eq!(nameless.iter().map(|site| site.outstanding_count).sum::<u64>(), dropped);
    assert_said(&finished, dropped);
}

#[test]
fn a_stack_deeper_than_max_depth_is_cut_there_and_marked() {
    let (finished, accounts, pid) = attached(&["--max-depth", "16"], "deep.c", &["100", "7"]);
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    snapshot.assert_lossless_but(&["stacks_truncated"]);
    assert!(snapshot.loss("stacks_truncated") > 0);
    let sites = snapshot.sites_through(pid, "leak_deep");
    assert_eq!(sites.len(), 1);
    assert_eq!(sites[0].stack_state.as_deref(), Some("cut"));
    // Said by bytes: one stack may hold most of them.
    assert!(finished.stdout.contains("outstanding stand under stacks like these"), "{}", finished.stdout);
    let physical = sites[0].stack.iter().filter(|frame| !frame.inlined).count();
    assert_eq!(physical, 16, "{}", sites[0].path());
    // The innermost are kept: the leaking function and fifteen of the recursion.
    assert!(sites[0].stack[0].is("leak_deep"));
    assert_eq!(sites[0].stack.iter().filter(|frame| frame.is("descend")).count(), 15);
}

#[test]
fn a_deep_stack_is_whole_with_the_default_depth() {
    let (finished, accounts, pid) = attached(&[], "deep.c", &["50"]);
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    let site = snapshot.sites_through(pid, "leak_deep")[0];
    assert_eq!(site.stack.iter().filter(|frame| frame.is("descend")).count(), 51, "{}", site.path());
    assert!(site.stack.iter().any(|frame| frame.is("main")), "{}", site.path());
}

#[test]
fn limits_hold_for_a_launched_command_as_well() {
    let (finished, accounts) = trace_command(&["--max-allocs", "5000"], "outstanding.c", &["20000"]);
    finished.assert_success();
    let snapshot = finished.snapshot();
    let block = accounts.site("leak_block");
    assert_eq!(snapshot.all(block.pid).outstanding_count + snapshot.loss("allocs_dropped"), block.count);
}
