//! The same programs with other allocators than glibc's: what lies between their blocks hides no lost block, and what the program
//! has mapped itself beside them holds what it holds.

use std::path::PathBuf;
use std::process::Command;

use super::{Exceptions, FROM_BEFORE, check, differences, found, is_in};
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build};

/// The programs but those that are about the end of threads and about registers.
const PROGRAMS: [&str; 13] = [
    "coroutines.c",
    "cxx.cc",
    "data.c",
    "encodings.c",
    "graph.c",
    "heap.c",
    "held_by_libc.c",
    "heuristics.cc",
    "kernel.c",
    "late.c",
    "mappings.c",
    "on_stacks.c",
    "tls.c",
];
/// Those that are launched, each alone, which takes its time.
const LAUNCHED: [&str; 9] =
    ["coroutines.c", "cxx.cc", "graph.c", "heap.c", "held_by_libc.c", "late.c", "mappings.c", "on_stacks.c", "tls.c"];

/// Another allocator.
struct Allocator {
    compiler: &'static str,
    /// Linked with programs in C, and in C++.
    libraries: &'static [&'static str],
    /// Where the verdict on a block is another one: program, size, verdict. Beside it, why.
    exceptions: &'static [(&'static str, u64, &'static str)],
    /// The same, only where a process is attached to.
    from_before: &'static [(&'static str, u64, &'static str)],
    /// Which of its blocks from before the trace are in use is known.
    tells_what_is_in_use: bool,
}

const JEMALLOC: Allocator = Allocator {
    compiler: "cc",
    libraries: &["-ljemalloc"],
    exceptions: &[],
    from_before: &[ON_A_STACK, BEHIND_THE_END],
    tells_what_is_in_use: true,
};

const TCMALLOC: Allocator = Allocator {
    compiler: "cc",
    libraries: &["-ltcmalloc_minimal"],
    // Below the stack pointer, where functions may keep something, is what the allocator has left.
    exceptions: &[IN_A_REUSED_BLOCK, ("on_stacks.c", 1021, "still_reachable")],
    from_before: &[FREED_BEFORE, ON_A_STACK, BEHIND_THE_END],
    tells_what_is_in_use: false,
};

const MIMALLOC: Allocator = Allocator {
    compiler: "cc",
    libraries: &["-lmimalloc"],
    exceptions: &[IN_A_REUSED_BLOCK],
    from_before: &[FREED_BEFORE, ON_A_STACK, BEHIND_THE_END],
    tells_what_is_in_use: false,
};

/// The first word of a block that the program has not written: that of the allocator's list of free blocks.
const IN_A_REUSED_BLOCK: (&str, u64, &str) = ("heap.c", 1041, "still_reachable");

/// In a block from before the trace, which was freed meanwhile.
const FREED_BEFORE: (&str, u64, &str) = ("late.c", 1013, "undecided");

/// Behind what was asked for, in a slot that has more room.
const BEHIND_THE_END: (&str, u64, &str) = ("heap.c", 1053, "undecided");

/// What is held by blocks from before the trace that may be in use, and by memory that is free.
const NOT_TOLD: Exceptions = &[
    ("cxx.cc", &[3901]),
    ("heap.c", &[1001, 1011, 1021, 1031, 1041]),
    ("late.c", &[1001, 1003, 1005, 1007, 1009]),
    ("on_stacks.c", &[1053]),
];

/// On a coroutine's stack in memory that the program has mapped: with an allocator that is not in the same mapping, as any other
/// such memory in `FROM_BEFORE`.
const ON_A_STACK: (&str, u64, &str) = ("coroutines.c", 1005, "undecided");

/// What is on the stacks of this program may lie in one mapping with the allocator's memory, from one run to the next: which the kernel
/// puts side by side it joins. Where such a stack begins and ends is not always known.
const JOINED_WITH_STACKS: &str = "on_stacks.c";

const MUSL: Allocator = Allocator {
    compiler: "musl-gcc",
    libraries: &[],
    // A stream has only a pointer behind the beginning of its buffer.
    exceptions: &[("held_by_libc.c", 1031, "possibly_lost"), ("held_by_libc.c", 1033, "possibly_lost")],
    from_before: &[],
    tells_what_is_in_use: true,
};

impl Allocator {
    /// There is no C++ with musl here.
    fn has(&self, source: &str) -> bool {
        self.compiler == "cc" || !["cxx.cc", "heuristics.cc"].contains(&source)
    }

    fn built(&self, source: &str) -> PathBuf {
        build::reachability_victim_with_allocator(source, 1, self.compiler, self.libraries)
    }

    fn is_excepted(&self, source: &str, size: u64, kind: &str) -> bool {
        self.exceptions.contains(&(source, size, kind))
    }

    fn launched(&self) {
        let mut wrong = Vec::new();
        for source in LAUNCHED.into_iter().filter(|source| self.has(source)) {
            let program = self.built(source);
            let finished = Tracer::start(&["--show-allocs", "--", path_str(&program), "run"]).wait();
            let snapshot = check(&finished, 1);
            let excepted = |size, kind: &str| self.is_excepted(source, size, kind);
            let found = differences(&finished.stdout, found(&snapshot, snapshot.target.pids[0]), excepted);
            wrong.extend(found.into_iter().map(|found| format!("{source}: {found}")));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Attaches to all programs at once.
    fn attached(&self) {
        let sources: Vec<&str> = PROGRAMS.into_iter().filter(|source| self.has(source)).collect();
        let start = |source: &&str| {
            let victim = Victim::spawn(source, Command::new(self.built(source)).arg("wait"));
            victim.wait_until_ready();
            victim
        };
        let mut victims: Vec<Victim> = sources.iter().map(start).collect();
        let pids = victims.iter().map(|victim| victim.pid().to_string()).collect::<Vec<_>>().join(",");
        // However slow the machine is.
        let tracer = Tracer::start(&["-p", &pids, "--show-allocs", "--max-pause", "1h"]);
        let outputs: Vec<String> = victims
            .iter_mut()
            .map(|victim| {
                victim.go();
                victim.collect_until_done()
            })
            .collect();
        let snapshot = check(&tracer.stop(), victims.len());
        let mut wrong = Vec::new();
        for ((source, victim), output) in sources.into_iter().zip(victims).zip(outputs) {
            let excepted = |size, kind: &str| {
                kind == "undecided" && (is_in(FROM_BEFORE, source, size) || source == JOINED_WITH_STACKS)
                    || kind == "undecided" && !self.tells_what_is_in_use && is_in(NOT_TOLD, source, size)
                    || self.is_excepted(source, size, kind)
                    || self.from_before.contains(&(source, size, kind))
            };
            let found = differences(&output, found(&snapshot, victim.pid()), excepted);
            wrong.extend(found.into_iter().map(|found| format!("{source}: {found}")));
            victim.finish();
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn with_jemalloc_at_the_end() {
    JEMALLOC.launched();
}

#[test]
fn with_jemalloc_while_it_waits() {
    JEMALLOC.attached();
}

#[test]
fn with_mimalloc_at_the_end() {
    MIMALLOC.launched();
}

#[test]
fn with_mimalloc_while_it_waits() {
    MIMALLOC.attached();
}

#[test]
fn with_musl_at_the_end() {
    MUSL.launched();
}

#[test]
fn with_musl_while_it_waits() {
    MUSL.attached();
}

#[test]
fn with_tcmalloc_at_the_end() {
    TCMALLOC.launched();
}

#[test]
fn with_tcmalloc_while_it_waits() {
    TCMALLOC.attached();
}
