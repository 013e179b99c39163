//! Which blocks are lost: programs that hide pointers, a block for each hiding place, and say what must be found.
//!
//! The programs stand in `tests/victims/reachability`, where `expect.h` explains what they print.

mod allocators;
mod compared;
pub mod live;
mod moving;
mod programs;
mod service;

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::snapshot::Tally;
use crate::harness::tracer::path_str;
use crate::harness::{Finished, Snapshot, Tracer, Victim, build};

/// The compiler's levels of optimisation.
const LEVELS: [u8; 3] = [0, 1, 2];

/// Blocks, by program and size, of which the last word is not spoken: where each stands, it says why.
type Exceptions = &'static [(&'static str, &'static [u64])];

/// The kernel does not tell what was in the vector registers of threads that are killed with their process. No function that is
/// called keeps anything there, so that such a register is the only place of a pointer in code that calls the kernel itself.
const KILLED_WITH_VECTORS: Exceptions = &[("registers.c", &[1011, 1013])];

/// Undecided where a process is attached to while it runs: memory that the program mapped before that, or lost.
const FROM_BEFORE: Exceptions = &[
    ("joined_stacks.c", &[1521, 1541]),
    ("held_by_libc.c", &[1013]),
    ("late.c", &[1011]),
    ("mappings.c", &[1001, 1021, 1029, 1033, 1043]),
    ("threads_exit.c", &[1043]),
];

fn is_in(exceptions: Exceptions, program: &str, size: u64) -> bool {
    exceptions.iter().any(|(name, sizes)| *name == program && sizes.contains(&size))
}

/// A line that a program printed: a block's size, and the kinds that are right.
struct Expected {
    size: u64,
    kinds: Vec<String>,
}

impl Expected {
    /// `None` for other lines. Valgrind's heuristics are those of leaktrace.
    fn parse(line: &str) -> Option<Self> {
        let told = line.split('#').next()?;
        let mut words = told.split_whitespace();
        let size = words.next()?.parse().ok()?;
        let kind = words.next().filter(|kind| kind.contains("_lost") || kind.contains("_reachable"))?;
        let with_heuristics = words.find_map(|word| word.strip_prefix("heuristics="));
        let kinds = with_heuristics.unwrap_or(kind).split('/').map(str::to_owned).collect();
        Some(Self { size, kinds })
    }
}

/// What was found of a process' blocks of each size.
fn found(snapshot: &Snapshot, pid: u32) -> BTreeMap<u64, Vec<&str>> {
    let mut found: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let sites = snapshot.sites.iter().filter(|site| site.pid == pid);
    for block in sites.flat_map(|site| site.blocks.iter().flatten()) {
        found.entry(block.size).or_default().push(block.verdict.as_deref().unwrap_or("none"));
    }
    found
}

/// Compares what a program said with what was found of it; gives the differences.
fn differences(
    output: &str,
    mut found: BTreeMap<u64, Vec<&str>>,
    is_excepted: impl Fn(u64, &str) -> bool,
) -> Vec<String> {
    let expected: Vec<Expected> = output.lines().filter_map(Expected::parse).collect();
    assert!(!expected.is_empty(), "the program says what must be found:\n{output}");
    let mut differences = Vec::new();
    for Expected { size, kinds } in expected {
        let of_size = found.entry(size).or_default();
        let is_right = |kind: &&str| kinds.iter().any(|right| right == kind) || is_excepted(size, kind);
        match of_size.iter().position(is_right) {
            Some(place) => drop(of_size.remove(place)),
            None => differences.push(format!("{size}: {kinds:?} expected, found {of_size:?}")),
        }
    }
    differences
}

/// Checks that so many processes were judged, and each of their blocks once.
fn check(finished: &Finished, processes: usize) -> Snapshot {
    finished.assert_success();
    let snapshot = finished.snapshot();
    let judged: Vec<_> = snapshot.processes.iter().filter_map(|process| process.leak_check.as_ref()).collect();
    assert_eq!(judged.len(), processes, "{:?}\n{}", snapshot.warnings, finished.stderr);
    for check in judged {
        assert_eq!((check.mode.as_str(), check.passes), ("exact", 1));
        assert!(check.scanned_bytes > 0);
    }
    for site in snapshot.sites.iter().filter(|site| site.outstanding_count > 0) {
        let kinds = site.verdict.as_ref().unwrap_or_else(|| panic!("no verdict on {}", site.path()));
        let sum = |of: fn(&Tally) -> u64| kinds.values().map(of).sum::<u64>();
        let sums = (sum(|tally| tally.bytes), sum(|tally| tally.count));
        assert_eq!(sums, (site.outstanding_bytes, site.outstanding_count), "{}", site.path());
    }
    snapshot
}

/// Launches the program and traces it to its end: what it said, what was found, and what differs.
fn launch(source: &str, arguments: &[&str], level: u8) -> (Finished, Snapshot, Vec<String>) {
    let program = build::reachability_victim(source, level);
    let command = [&["--show-allocs", "--", path_str(&program), "run"], arguments].concat();
    let finished = Tracer::start(&command).wait();
    let snapshot = check(&finished, 1);
    let pid = snapshot.target.pids[0];
    let excepted = |size, kind: &str| kind == "definitely_lost" && is_in(KILLED_WITH_VECTORS, source, size);
    let wrong = differences(&finished.stdout, found(&snapshot, pid), excepted);
    let wrong = wrong.into_iter().map(|found| format!("-O{level}: {found}")).collect();
    (finished, snapshot, wrong)
}

/// Launches the program at each level, and compares at its end. Most programs are launched in [`compared`].
fn launched(source: &str, arguments: &[&str]) {
    let wrong: Vec<_> = LEVELS.iter().flat_map(|level| launch(source, arguments, *level).2).collect();
    assert!(wrong.is_empty(), "{source} {arguments:?}: {wrong:#?}");
}

/// Attaches to the programs of all levels at once, and compares while they are stopped, one after the other.
fn attached(source: &str, arguments: &[&str]) {
    let start = |level| {
        let program = build::reachability_victim(source, level);
        let victim = Victim::spawn(source, Command::new(program).arg("wait").args(arguments));
        victim.wait_until_ready();
        victim
    };
    let mut victims = LEVELS.map(start);
    let pids = victims.each_ref().map(|victim| victim.pid().to_string()).join(",");
    // However slow the machine is.
    let tracer = Tracer::start(&["-p", &pids, "--show-allocs", "--max-pause", "1h"]);
    let outputs = victims.each_mut().map(|victim| {
        victim.go();
        victim.collect_until_done()
    });
    let snapshot = check(&tracer.stop(), victims.len());
    let mut wrong = Vec::new();
    for ((level, victim), output) in LEVELS.iter().zip(victims).zip(outputs) {
        let pid = victim.pid();
        let pause = snapshot.process(pid).leak_check.as_ref().unwrap().pause_ms;
        assert!(pause > 0.0, "it was stopped");
        let excepted = |size, kind: &str| kind == "undecided" && is_in(FROM_BEFORE, source, size);
        let found = differences(&output, found(&snapshot, pid), excepted);
        wrong.extend(found.into_iter().map(|found| format!("-O{level}: {found}")));
        victim.finish();
    }
    assert!(wrong.is_empty(), "{source} {arguments:?}: {wrong:#?}");
}

#[test]
fn coroutines_while_it_waits() {
    attached("coroutines.c", &[]);
}

#[test]
fn objects_of_cxx_while_it_waits() {
    attached("cxx.cc", &[]);
}

#[test]
fn variables_while_it_waits() {
    attached("data.c", &[]);
}

#[test]
fn pointers_in_disguise_while_it_waits() {
    attached("encodings.c", &[]);
}

#[test]
fn graphs_of_blocks_while_it_waits() {
    attached("graph.c", &[]);
}

#[test]
fn the_allocators_own_memory_while_it_waits() {
    attached("heap.c", &[]);
}

#[test]
fn what_the_c_library_holds_at_the_end() {
    launched("held_by_libc.c", &[]);
}

#[test]
fn what_the_c_library_holds_while_it_waits() {
    attached("held_by_libc.c", &[]);
}

#[test]
fn pointers_into_blocks_that_are_as_good_as_to_their_start_while_it_waits() {
    attached("heuristics.cc", &[]);
}

#[test]
fn what_the_kernel_holds_while_it_waits() {
    attached("kernel.c", &[]);
}

#[test]
fn mapped_memory_while_it_waits() {
    attached("mappings.c", &[]);
}

#[test]
fn stacks_while_it_waits() {
    attached("on_stacks.c", &[]);
}

#[test]
fn what_lies_below_a_stack_pointer_and_is_in_use() {
    launched("joined_stacks.c", &[]);
    attached("joined_stacks.c", &[]);
}

#[test]
fn registers_at_the_end() {
    launched("registers.c", &[]);
}

#[test]
fn registers_while_it_waits() {
    attached("registers.c", &[]);
}

#[test]
fn thread_local_storage_while_it_waits() {
    attached("tls.c", &[]);
}

#[test]
fn what_the_program_calls_no_leak_while_it_waits() {
    attached("annotated.c", &[]);
}

#[test]
fn what_blocks_from_before_the_trace_hold_is_not_lost() {
    attached("late.c", &[]);
}

#[test]
fn what_objects_from_before_the_trace_hold_is_reachable() {
    attached("from_before.cc", &[]);
}

#[test]
fn the_end_of_threads() {
    for how in ["other", "first", "last"] {
        launched("threads_exit.c", &[how]);
        attached("threads_exit.c", &[how]);
    }
}

#[test]
fn what_a_program_had_below_the_frame_that_ends_it_is_lost() {
    for how in ["return", "exit", "quick_exit", "_exit"] {
        launched("stale.c", &[how]);
    }
}

#[test]
fn a_pointer_that_hops_about_is_found_wherever_it_is() {
    attached("hopping.c", &[]);
}
