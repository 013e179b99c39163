//! How the resident pages of heaps are used: what is retained, what pins thinly occupied pages, and what the allocator keeps.

use std::process::Command;

use crate::harness::build::{self, Recipe};
use crate::harness::snapshot::{HeapPages, Process};
use crate::harness::tracer::{Finished, path_str};
use crate::harness::{Accounts, Snapshot, Tracer, Victim};

const MIB: u64 = 1 << 20;

/// What was found of the victim, and what it says itself.
struct Found {
    finished: Finished,
    snapshot: Snapshot,
    accounts: Accounts,
}

impl Found {
    /// Traces `fragmenting.c` as COMMAND from its first allocation to its end, with another allocator preloaded or linked if that
    /// is how it was built.
    fn of(program: &str, mode: &str, mebibytes: &str) -> Self {
        let finished = Tracer::start_unready(&["--", program, "run", mode, mebibytes]).wait();
        finished.assert_success();
        let (snapshot, accounts) = (finished.snapshot(), Accounts::parse(&finished.stdout));
        Self { finished, snapshot, accounts }
    }

    fn process(&self) -> &Process {
        self.snapshot.process(self.accounts.sites[0].pid)
    }

    fn heap(&self) -> &HeapPages {
        self.process().heap_pages.as_ref().expect("its heap was looked at")
    }

    /// Bytes of pages that the sites of this function pin.
    fn pinned_by(&self, function: &str) -> u64 {
        let sites = self.snapshot.sites_through(self.process().pid, function);
        sites.iter().map(|site| site.pinned_bytes.expect("pages were looked at")).sum()
    }

    fn assert_told(&self, words: &[&str]) {
        let told = |line: &&str| words.iter().all(|word| line.contains(word));
        let mut lines = self.finished.stdout.lines();
        assert!(lines.any(|line| told(&line)), "{words:?} in\n{}", self.finished.stdout);
    }

    /// What must hold whoever allocates.
    fn assert_adds_up(&self) {
        let heap = self.heap();
        assert_eq!(heap.held_bytes + heap.empty_bytes, heap.resident_bytes, "{heap:?}");
        assert!(heap.resident_bytes <= self.process().rss_bytes.expect("it was there"), "{heap:?}");
        assert!(heap.occupied_bytes <= heap.held_bytes && heap.held_bytes.is_multiple_of(4096), "{heap:?}");
        let pinned: u64 = self.snapshot.sites.iter().filter_map(|site| site.pinned_bytes).sum();
        assert!(pinned <= heap.held_bytes, "{pinned} of {heap:?}");
    }
}

/// Within 2 percent of what the victim says.
fn assert_close(what: &str, found: u64, said: u64) {
    assert!(found.abs_diff(said) * 50 <= said, "{what}: {found} was found, and {said} is right");
}

/// Against the victim's own counts: pages by the addresses of its blocks, resident ones by mincore.
fn assert_as_counted(found: &Found) {
    let (heap, accounts) = (found.heap(), &found.accounts);
    found.assert_adds_up();
    assert!(!heap.blocks_missing && heap.malloc_trim, "{heap:?}");
    assert_close("resident", heap.resident_bytes, accounts.fact("resident"));
    assert_close("held", heap.held_bytes, accounts.fact("held"));
    assert_close("occupied", heap.occupied_bytes, accounts.fact("occupied"));
    let empty = accounts.fact("resident") - accounts.fact("held");
    assert!(heap.empty_bytes.abs_diff(empty) <= accounts.fact("resident") / 50, "{heap:?} and {empty}");
}

#[test]
fn of_one_size_a_retained_a_pinned_and_a_freed_heap_are_told_apart() {
    let program = build::victim("fragmenting.c");
    let found = ["retained", "pinned", "freed"].map(|mode| Found::of(path_str(&program), mode, "16"));
    let [retained, pinned, freed] = &found;
    found.iter().for_each(assert_as_counted);
    // From outside they are the same.
    let rss: Vec<_> = found.iter().map(|found| found.process().rss_bytes.unwrap()).collect();
    assert!(rss.iter().all(|other| other.abs_diff(rss[0]) * 50 <= rss[0]), "{rss:?}");

    let told: Vec<_> = found.iter().map(|found| found.heap().finding.as_deref()).collect();
    assert_eq!(told, [Some("retained"), Some("fragmented"), Some("empty")]);
    retained.assert_told(&["heap pages: 16.0 MiB of 16.0 MiB", "at 94% occupancy", "the program has not freed"]);
    pinned
        .assert_told(&["fragmentation: 16.0 MiB of heap pages at 6% occupancy, pinned by staying_new (fragmenting.c:"]);
    freed.assert_told(&["heap pages: 16.0 MiB of 16.0 MiB are free", "malloc_trim would return them"]);

    assert_close("pinned", pinned.pinned_by("staying_new"), pinned.accounts.fact("held"));
    assert_eq!(pinned.pinned_by("passing_new"), 0);
    assert_eq!(freed.pinned_by("staying_new"), 4096);
}

/// With an allocator that keeps its own heap, pages cannot be counted by the break, but sums hold and the site is named.
fn assert_pinned_with(name: &'static str, libraries: &'static [&'static str]) {
    let recipe = Recipe { libraries, ..Recipe::new(name, "fragmenting.c", &[]) };
    let program = recipe.built();
    let pinned = Found::of(path_str(&program), "pinned", "8");
    pinned.assert_adds_up();
    let heap = pinned.heap();
    assert!(!heap.malloc_trim && !heap.blocks_missing && heap.finding.as_deref() == Some("fragmented"), "{heap:?}");
    assert_close("held", heap.held_bytes, pinned.accounts.fact("held"));
    assert_close("pinned", pinned.pinned_by("staying_new"), pinned.accounts.fact("held"));
    pinned.assert_told(&["fragmentation", "% occupancy", "pinned by staying_new (fragmenting.c:"]);
    let retained = Found::of(path_str(&program), "retained", "8");
    retained.assert_adds_up();
    assert_close("held", retained.heap().held_bytes, retained.accounts.fact("held"));
    assert_eq!(retained.heap().finding.as_deref(), Some("retained"), "{:?}", retained.heap());
}

#[test]
fn jemalloc() {
    assert_pinned_with("fragmenting-jemalloc", &["-ljemalloc"]);
}

#[test]
fn tcmalloc() {
    assert_pinned_with("fragmenting-tcmalloc", &["-ltcmalloc_minimal"]);
}

#[test]
fn mimalloc() {
    assert_pinned_with("fragmenting-mimalloc", &["-lmimalloc"]);
}

#[test]
fn what_was_allocated_before_the_trace_is_not_called_free() {
    let program = build::victim("fragmenting.c");
    // Half of it is there already, retained: pages that look empty are full.
    let mut command = Command::new(&program);
    let mut victim = Victim::spawn("fragmenting.c", command.args(["wait", "retained", "16", "early"]));
    victim.wait_until_ready();
    let pid = victim.pid().to_string();
    let tracer = Tracer::start(&["-p", &pid]);
    let accounts = victim.work();
    let finished = tracer.stop();
    let snapshot = finished.snapshot();
    let heap = snapshot.process(victim.pid()).heap_pages.as_ref().unwrap();
    assert!(heap.blocks_missing && heap.finding.as_deref() == Some("undecided"), "{heap:?}");
    assert_close("resident", heap.resident_bytes, accounts.fact("resident"));
    assert_close("held", heap.held_bytes, accounts.fact("held") / 2);
    assert_eq!(heap.held_bytes + heap.empty_bytes, heap.resident_bytes);
    let line = finished.stdout.lines().find(|line| line.starts_with("heap pages: ")).expect("a line");
    assert!(line.contains("are not known") && line.ends_with("so at most 8.0 MiB are free"), "{line}");
    assert!(!finished.stdout.contains("malloc_trim"), "{}", finished.stdout);
    victim.finish();
}

#[test]
fn memory_that_is_not_mallocs_is_no_heap() {
    // 64 MiB by mmap, and one block of malloc that is freed each time.
    let program = build::victim("mapping_only.c");
    let finished = Tracer::start_unready(&["--", path_str(&program), "run", "64"]).wait();
    finished.assert_success();
    let snapshot = finished.snapshot();
    let process = &snapshot.processes[0];
    let heap = process.heap_pages.as_ref().expect("it was looked at");
    assert!(
        process.rss_bytes.unwrap() >= 64 * MIB && heap.resident_bytes < MIB && heap.finding.is_none(),
        "{process:?}"
    );
    let said = |warning: &String| {
        warning.contains("the rest is not malloc's") && warning.contains("anonymous mappings (mmap)")
    };
    assert!(snapshot.warnings.iter().any(said), "{:?}", snapshot.warnings);
    assert!(
        !finished.stdout.contains("heap pages") && !finished.stdout.contains("fragmentation"),
        "{}",
        finished.stdout
    );
}

#[test]
fn of_a_sample_nothing_is_said_of_pages() {
    let program = build::victim("fragmenting.c");
    let finished =
        Tracer::start_unready(&["--sample-bytes", "64k", "--", path_str(&program), "run", "pinned", "8"]).wait();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert!(snapshot.processes.iter().all(|process| process.heap_pages.is_none()), "{:?}", snapshot.processes);
    assert!(snapshot.sites.iter().all(|site| site.pinned_bytes.is_none()));
}
