//! Calls seen by one trap and by two: the same program gives the same sites, bytes, counts and stacks.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::build::{self, Recipe};
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Snapshot, Tracer, leaktrace, locks, require_privileges, techniques};

/// By code that has frame pointers, and by code in which the register is any other.
const VICTIM: &str = "traps.c";
const WITHOUT_FRAME_POINTERS: Recipe = Recipe::new("traps_without", VICTIM, &["-fomit-frame-pointer"]);

/// A library that takes over malloc and passes calls on.
const WRAPPER: Recipe =
    Recipe { libraries: &["-ldl"], ..Recipe::new("libwrapper.so", "wrapper.c", &["-shared", "-fPIC"]) };

/// What is recorded of a site: how often its stack was seen for what, and what became of that.
type Account = [u64; 6];

struct Run {
    snapshot: Snapshot,
    accounts: Accounts,
    log: String,
}

impl Run {
    /// Traces a command with `options` and environment of leaktrace.
    fn of(command: &[&str], options: &[&str], environment: &[(&str, &str)]) -> Self {
        require_privileges();
        let directory = tempfile::tempdir().unwrap();
        let json = directory.path().join("snapshot.json");
        let fixed = ["-vv", "--leak-check", "no", "--json", path_str(&json)];
        let arguments = [&fixed[..], options, &["--"], command].concat();
        let finished = Tracer::spawn(leaktrace(arguments).envs(environment.iter().copied()), directory).wait();
        finished.assert_success();
        let accounts = Accounts::parse(&finished.stdout);
        Self { snapshot: finished.lossless(), accounts, log: finished.stderr }
    }

    /// All sites, those of a parent and a child apart, and without those of calls that failed.
    fn sites(&self) -> BTreeMap<(usize, String, String), Account> {
        let mut sites = BTreeMap::new();
        for site in self.snapshot.sites.iter().filter(|site| site.alloc_count > 0) {
            // A child that has just been forked may have stacks that end early on a busy machine: of those the innermost frame counts.
            let innermost = || site.stack.first().and_then(|frame| frame.function.clone()).unwrap_or_default();
            let key = match site.process {
                0 => (0, site.id.clone(), site.path()),
                child => (child, String::new(), innermost()),
            };
            let account: &mut Account = sites.entry(key).or_default();
            let numbers = [
                site.alloc_count,
                site.alloc_bytes,
                site.free_count,
                site.free_bytes,
                site.outstanding_bytes,
                site.temporary_count,
            ];
            for (sum, number) in account.iter_mut().zip(numbers) {
                *sum += number;
            }
        }
        sites
    }

    /// Whether libc's malloc is probed in its middle.
    fn has_one_trap(&self) -> bool {
        self.log.lines().any(|line| line.contains("/libc.so.6: malloc") && line.contains("in its middle"))
    }

    fn assert_equals(&self, other: &Self) {
        let (ours, theirs) = (self.sites(), other.sites());
        for (site, account) in &ours {
            assert_eq!(Some(account), theirs.get(site), "{site:?}");
        }
        assert_eq!(ours.len(), theirs.len(), "sites");
        let processes = |run: &Self| -> Vec<[u64; 4]> {
            let each = |process: &crate::harness::snapshot::Process| {
                [process.alloc_bytes, process.free_bytes, process.untracked_frees, process.abandoned_calls]
            };
            run.snapshot.processes.iter().map(each).collect()
        };
        assert_eq!(processes(self), processes(other));
    }
}

/// Compares both ways of probing the victim that was built there.
fn compare(victim: &Path, operations: &str, options: &[&str], environment: &[(&str, &str)]) -> Run {
    compare_commands(&[path_str(victim), "run", operations], options, environment)
}

fn compare_commands(command: &[&str], options: &[&str], environment: &[(&str, &str)]) -> Run {
    let with = |traps: &'static str| {
        let environment = [environment, &[("LEAKTRACE_TRAPS", traps)]].concat();
        Run::of(command, options, &environment)
    };
    let one = with("one");
    let two = {
        // Its return probes are in every process that has the file, and hide from probes in the middle of a function where that returns to.
        let _alone = locks::flood();
        with("two")
    };
    assert!(!two.has_one_trap());
    one.assert_equals(&two);
    one
}

#[test]
fn a_million_calls_are_booked_the_same_by_one_trap_and_by_two() {
    let run = compare(&build::victim(VICTIM), "1000000", &[], &[]);
    // Otherwise the comparison is of nothing. Which libc this is proven of is known to `tests/sites/once.rs`.
    assert!(run.has_one_trap(), "{}", run.log);
    let pid = run.snapshot.processes[0].pid;
    let seen = run.snapshot.through(pid, "traps_malloc");
    let told = run.accounts.site("traps_malloc").calls.unwrap();
    assert_eq!((seen.alloc_count, seen.alloc_bytes), (told.allocs, told.alloc_bytes));
    assert_eq!((seen.free_count, seen.free_bytes), (told.frees, told.free_bytes));
    assert_eq!(run.snapshot.process(pid).abandoned_calls, 0, "calls that failed have returned");
}

#[test]
fn code_without_frame_pointers_has_the_same_stacks() {
    compare(&WITHOUT_FRAME_POINTERS.built(), "50000", &[], &[]);
    compare(&build::victim(VICTIM), "50000", &["--unwind", "fp"], &[]);
}

#[test]
fn blocks_left_out_by_their_size_are_the_same() {
    compare(&build::victim(VICTIM), "50000", &["--min-size", "64", "--max-size", "40000"], &[]);
}

#[test]
fn every_way_of_attaching_sees_one_trap() {
    for technique in techniques() {
        let run = compare(&build::victim(VICTIM), "20000", &[], &[("LEAKTRACE_ATTACH", technique)]);
        assert!(run.has_one_trap(), "{technique}");
    }
}

#[test]
fn a_library_that_wraps_malloc_hides_the_calls_inside_of_it() {
    let preload = format!("LD_PRELOAD={}", path_str(&WRAPPER.built()));
    let victim = build::victim(VICTIM);
    compare_commands(&["env", &preload, path_str(&victim), "run", "20000"], &[], &[]);
}
