//! Addresses of 48 bits and more: with tags, of five-level page tables, of the kernel's half.

use std::collections::BTreeMap;

use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, build};

/// The victim's allocator.
const FUNCTIONS: &str =
    "wide_malloc=malloc,wide_free=free,wide_calloc=calloc,wide_realloc=realloc,wide_memalign=posix_memalign";
/// What `leak_wide_kept` asks for.
const KEPT_BYTES: u64 = 40;

/// Attaches to the victim with these options besides, lets it work and stops.
fn attached(options: &[&str], arguments: &[&str]) -> (Finished, Accounts, u32) {
    let options = [&["--alloc-symbols", FUNCTIONS], options].concat();
    crate::harness::tracer::attached(&options, "wide.c", arguments)
}

/// Outstanding blocks, sizes by address, as the victim says.
fn blocks_said(accounts: &Accounts) -> BTreeMap<u64, u64> {
    let address = |name: &str| u64::from_str_radix(name.strip_prefix("0x")?, 16).ok();
    accounts.facts.iter().filter_map(|(name, size)| Some((address(name)?, *size))).collect()
}

/// The same of a process, as the snapshot has them.
fn blocks_found(snapshot: &Snapshot, pid: u32) -> BTreeMap<u64, u64> {
    let sites = snapshot.sites.iter().filter(|site| site.pid == pid);
    let blocks = sites.flat_map(|site| site.blocks.as_ref().expect("--show-allocs was given"));
    blocks
        .inspect(|block| assert!(block.age_s <= snapshot.elapsed_s + 1.0))
        .map(|block| (block.address, block.size))
        .collect()
}

#[test]
fn blocks_at_wide_addresses_are_as_exact_as_others() {
    let (finished, accounts, pid) = attached(&[], &["8", "400000", "400"]);
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    snapshot.assert_consistent();
    assert_eq!(snapshot.process(pid).untracked_frees, 0);
    let said = blocks_said(&accounts);
    assert!(said.len() >= 400 && said.keys().filter(|address| **address >> 48 != 0).count() >= 300);
    // That all bits count: several differ in their tags alone.
    let low: std::collections::HashSet<_> = said.keys().map(|address| address & 0xffff_ffff_ffff).collect();
    assert!(low.len() < said.len());
    assert_eq!(blocks_found(&snapshot, pid), said);
}

#[test]
fn what_exceeds_the_room_for_wide_addresses_is_counted_by_a_name_of_its_own() {
    // Room for a sixteenth: 100 of 3,000. The other 1,000 are at ordinary addresses.
    let (finished, accounts, pid) = attached(&["--max-allocs", "1600"], &["0", "0", "4000"]);
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["wide_dropped", "wide_bytes_dropped"]);
    let (dropped, booked) = (snapshot.loss("wide_dropped"), snapshot.all(pid));
    assert!(dropped > 0, "3,000 blocks fitted into room for 100");
    assert!(booked.outstanding_count >= 1100, "only {} were booked", booked.outstanding_count);
    assert_eq!(booked.outstanding_count + dropped, accounts.site("leak_wide_kept").count);
    assert_eq!(snapshot.loss("wide_bytes_dropped"), dropped * KEPT_BYTES);
    let said = finished.stdout.replace(',', "");
    assert!(said.contains(&format!("{dropped} allocations at addresses of 48 bits and more not recorded")), "{said}");
    assert!(!said.contains("table for at least 1600 full"), "{said}");
}

#[test]
fn what_found_no_room_comes_back_as_untracked_frees() {
    let (finished, accounts, pid) = attached(&["--max-allocs", "1600"], &["0", "0", "4000", "free"]);
    let snapshot = finished.snapshot();
    assert_eq!(snapshot.all(pid).outstanding(), (0, 0));
    assert_eq!(accounts.outstanding(), (0, 0));
    assert_eq!(snapshot.process(pid).untracked_frees, snapshot.loss("wide_dropped"));
    assert!(snapshot.loss("wide_dropped") > 0);
}

#[test]
fn a_sample_of_wide_addresses_is_taken_off_again() {
    let (finished, _, pid) = attached(&["--sample-bytes", "100"], &["4", "20000", "2000", "free"]);
    finished.assert_success();
    let snapshot = finished.unchecked_snapshot();
    snapshot.assert_lossless();
    let kept = snapshot.through(pid, "leak_wide_kept");
    assert!(kept.alloc_count > 0, "{}", snapshot.digest());
    assert_eq!(kept.outstanding(), (0, 0), "{}", snapshot.digest());
}

#[test]
fn processes_that_have_ended_leave_no_wide_addresses_behind() {
    let victim = path_str(&build::victim("wide.c")).to_owned();
    // Four lives, one after another, in room for two of them.
    let script = format!("for life in 1 2 3 4; do {victim} run 2 4000 120; done");
    // Named, so that it is probed before the first of them begins.
    let options = ["--object", &victim, "--alloc-symbols", FUNCTIONS, "--show-allocs", "--max-allocs", "1600"];
    let finished = Tracer::start_unready(&[&options[..], &["--", "sh", "-c", &script]].concat()).wait();
    let accounts = Accounts::parse(&finished.stdout);
    let snapshot = finished.snapshot();
    snapshot.assert_consistent();
    let lives: Vec<_> = accounts.totals.keys().copied().collect();
    assert_eq!(lives.len(), 4);
    let found: u64 = lives.iter().map(|pid| snapshot.through(*pid, "leak_wide_kept").outstanding_count).sum();
    // What is not there was too early for the room of the dead, and is counted.
    assert!(found + snapshot.loss("wide_dropped") >= 480 && found <= 480, "{}", snapshot.digest());
}
