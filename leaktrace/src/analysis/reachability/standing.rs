//! What words outside of blocks say of the blocks that they point to, by where in a process they are.
//!
//! In: the process' memory that is there, where its blocks and its stacks are. Out: [`Region`]s to be scanned.
//!
//! What a program mapped itself, its variables and its stacks vouch. An allocator's own memory does not: it holds pointers that
//! the program has dropped, in blocks that were freed, and its own lists. Whether there are also blocks from before the trace
//! in it is known only of processes that were traced from their start.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use super::Blocks;
use super::glibc;
use super::scanning::{Memory, Region, Standing};
use crate::process::maps::MappingName;
use crate::process::memory::{self, RegionKind, Survey};

const WORD: u64 = 8;
const PAGE: u64 = 4096;

/// Where a thread is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// From where on its stack is in use.
    pub live_from: u64,
    /// Its control block. The C libraries place it at the other end of the stack, but for the first thread.
    pub control_block: u64,
}

/// What is known of a process beside its memory.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Its threads.
    pub threads: &'a [Thread],
    /// Where the first thread has ended: where on its stack the kernel has put the program's arguments, below which nothing is
    /// in use any more.
    pub arguments: Option<u64>,
    /// Every block that it has was recorded.
    pub since_start: bool,
}

/// A part of a mapping.
struct Part {
    range: Range<u64>,
    outside: Standing,
    holds_chunks: bool,
}

/// The regions of a process, by address.
#[must_use]
pub fn regions(survey: &Survey, blocks: &Blocks, memory: &dyn Memory, circumstances: Circumstances<'_>) -> Vec<Region> {
    let mut parts = Vec::with_capacity(survey.regions.len());
    let (mut is_data, mut is_libcs) = (false, false);
    for (number, mapping) in survey.regions.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| &survey.regions[before]);
        let is_adjacent = before.is_some_and(|before| before.end == mapping.start);
        // Variables without initial values follow the others, in memory without a name.
        let goes_on = is_adjacent && mapping.kind == RegionKind::Anonymous;
        is_data = mapping.kind == RegionKind::Data || is_data && goes_on;
        is_libcs = is_libc(mapping) || is_libcs && goes_on;
        let is_guarded = is_adjacent && before.is_some_and(|before| before.kind == RegionKind::Inaccessible);
        Judge { mapping, is_data, is_libcs, is_guarded, blocks, memory, circumstances }.parts(&mut parts);
    }
    there(&parts, survey)
}

/// What is there of these parts.
fn there(parts: &[Part], survey: &Survey) -> Vec<Region> {
    let mut regions = Vec::with_capacity(survey.runs.len());
    let mut first = 0;
    for run in &survey.runs {
        let (start, end) = (run.start.0, run.end.0);
        while parts.get(first).is_some_and(|part| part.range.end <= start) {
            first += 1;
        }
        for part in parts[first..].iter().take_while(|part| part.range.start < end) {
            let range = start.max(part.range.start)..end.min(part.range.end);
            regions.push(Region { range, outside: part.outside, holds_chunks: part.holds_chunks });
        }
    }
    regions
}

/// One mapping, and what bears on it.
struct Judge<'a> {
    mapping: &'a memory::Region,
    /// It has variables of a program or library.
    is_data: bool,
    /// They are glibc's.
    is_libcs: bool,
    /// Memory that may not be used lies right before it, as before stacks.
    is_guarded: bool,
    blocks: &'a Blocks,
    memory: &'a dyn Memory,
    circumstances: Circumstances<'a>,
}

impl Judge<'_> {
    fn parts(&self, parts: &mut Vec<Part>) {
        let range = self.range();
        let mut whole = |outside, holds_chunks| parts.push(Part { range: range.clone(), outside, holds_chunks });
        match self.mapping.kind {
            RegionKind::Heap => self.heap(parts),
            RegionKind::Anonymous if self.is_data => whole(Standing::Vouches, self.is_libcs),
            RegionKind::Data | RegionKind::ReadOnly => whole(Standing::Vouches, self.is_libcs),
            RegionKind::Shared => whole(Standing::Vouches, false),
            RegionKind::Inaccessible => whole(Standing::Doubts, false),
            RegionKind::Stack | RegionKind::Anonymous => self.unnamed(parts),
        }
    }

    /// What lies below the break. Programs may take memory there themselves, before the allocator as well.
    fn heap(&self, parts: &mut Vec<Part>) {
        let Range { start, end } = self.range();
        let first = self.blocks.within(&(start..end)).next().map(|block| self.blocks.start(block));
        let chunks = match first {
            Some(first) if !glibc::begins_with_chunks(start, first, self.memory) => first.next_multiple_of(WORD),
            _ => start,
        };
        let own = if self.circumstances.since_start { Standing::Vouches } else { Standing::Undecided };
        parts.push(Part { range: start..chunks, outside: own, holds_chunks: true });
        parts.push(Part { range: chunks..end, outside: self.between_blocks(), holds_chunks: true });
    }

    /// Memory without a file: stacks, an allocator's memory, what the program mapped itself, and all of these in one.
    fn unnamed(&self, parts: &mut Vec<Part>) {
        let whole = self.range();
        let managed = glibc::managed(&whole, self.blocks, self.memory);
        let stacks = self.stacks();
        let is_explained = |start: u64| managed.iter().any(|range| range.contains(&start));
        let rest = if !self.blocks.within(&whole).all(|block| is_explained(self.blocks.start(block))) {
            // Another allocator's, which may share the mapping with the program's own.
            Standing::Undecided
        } else if self.circumstances.since_start
            || self.mapping.kind == RegionKind::Stack
            || self.circumstances.threads.iter().any(|thread| whole.contains(&thread.control_block))
            || stacks.iter().any(|stack| stack.outside == Standing::Vouches)
        {
            Standing::Vouches
        } else {
            Standing::Undecided
        };
        let between = self.between_blocks();
        let managed = managed.into_iter().map(|range| Part { range, outside: between, holds_chunks: true });
        let mut special: Vec<Part> = managed.chain(stacks).collect();
        special.sort_by_key(|part| part.range.start);
        let mut at = whole.start;
        for mut part in special {
            part.range.start = part.range.start.max(at);
            if part.range.start >= part.range.end {
                continue;
            }
            if at < part.range.start {
                parts.push(Part { range: at..part.range.start, outside: rest, holds_chunks: false });
            }
            at = part.range.end;
            parts.push(part);
        }
        if at < whole.end {
            parts.push(Part { range: at..whole.end, outside: rest, holds_chunks: false });
        }
    }

    /// The stacks of threads in this mapping: below the stack pointer there are only words of calls that have returned.
    fn stacks(&self) -> Vec<Part> {
        let whole = self.range();
        let threads = self.circumstances.threads.iter().filter(|thread| whole.contains(&thread.live_from));
        let mut stacks: Vec<Part> = threads
            .map(|thread| {
                let start = thread.live_from.next_multiple_of(WORD);
                let is_at_end = (start..whole.end).contains(&thread.control_block);
                let end =
                    if is_at_end { thread.control_block.next_multiple_of(PAGE).min(whole.end) } else { whole.end };
                Part { range: start..end, outside: Standing::Vouches, holds_chunks: false }
            })
            .collect();
        // A stack that the program placed itself may have other things below it, unless a guard is there.
        if stacks.is_empty() && self.mapping.kind == RegionKind::Stack {
            let arguments = self.circumstances.arguments.filter(|at| whole.contains(at));
            let dead = arguments.map(|arguments| whole.start..arguments);
            stacks.extend(dead.map(|range| Part { range, outside: Standing::Ignored, holds_chunks: false }));
            return stacks;
        }
        if stacks.is_empty() && self.is_guarded {
            let dead = glibc::dead_stack(&whole, self.memory);
            stacks.extend(dead.map(|range| Part { range, outside: Standing::Ignored, holds_chunks: false }));
            return stacks;
        }
        let lowest = stacks.iter().map(|stack| stack.range.start).min();
        if let Some(lowest) = lowest.filter(|_| self.is_guarded || self.mapping.kind == RegionKind::Stack) {
            stacks.push(Part { range: whole.start..lowest, outside: Standing::Ignored, holds_chunks: false });
        }
        stacks
    }

    fn between_blocks(&self) -> Standing {
        if self.circumstances.since_start { Standing::Ignored } else { Standing::Undecided }
    }

    fn range(&self) -> Range<u64> {
        self.mapping.start.0..self.mapping.end.0
    }
}

/// Whether a mapping is of glibc's own file.
fn is_libc(mapping: &memory::Region) -> bool {
    let MappingName::File { path, .. } = &mapping.name else { return false };
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    name == b"libc.so.6" || name.starts_with(b"libc-2.")
}
