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
use super::memory::{Memory, Region, Standing};
use crate::process::maps::MappingName;
use crate::process::memory::{self as mapped, RegionKind, Survey};

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

/// The blocks of the tables of thread-local storage that the C library keeps with the stacks of ended threads, for the next ones.
#[must_use]
pub fn kept_tables(survey: &Survey, memory: &dyn Memory) -> Vec<u64> {
    let stacks = survey.regions.iter().filter(|mapping| mapping.kind == RegionKind::Anonymous);
    stacks.filter_map(|mapping| glibc::kept_table(&(mapping.start.0..mapping.end.0), memory)).collect()
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
    mapping: &'a mapped::Region,
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
fn is_libc(mapping: &mapped::Region) -> bool {
    let MappingName::File { path, .. } = &mapping.name else { return false };
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    name == b"libc.so.6" || name.starts_with(b"libc-2.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;
    use crate::model::Address;
    use crate::process::maps::Permissions;
    use crate::process::memory::Run;

    use Standing::{Doubts, Ignored, Undecided, Vouches};

    const RIGHTS: Permissions = Permissions { read: true, write: true, execute: false, shared: false };

    fn mapping(range: Range<u64>, kind: RegionKind, path: Option<&'static str>) -> mapped::Region {
        let name = path.map_or(MappingName::Anonymous, |path| MappingName::File {
            path: std::path::Path::new(path).into(),
            deleted: false,
        });
        mapped::Region { start: Address(range.start), end: Address(range.end), kind, permissions: RIGHTS, name }
    }

    /// All pages of these mappings are there.
    fn survey(mappings: Vec<mapped::Region>) -> Survey {
        let run = |mapping: &mapped::Region| Run {
            start: mapping.start,
            end: mapping.end,
            swapped: false,
            forced: mapping.kind == RegionKind::Inaccessible,
        };
        let runs = mappings.iter().map(run).collect();
        Survey { regions: mappings, runs, code: Vec::new(), unknown_bytes: 0 }
    }

    fn standings(survey: &Survey, blocks: &[(u64, u64)], circumstances: Circumstances<'_>) -> Vec<(u64, Standing)> {
        let blocks = Blocks::new(blocks.iter().copied()).unwrap();
        let regions = regions(survey, &blocks, &Words(Vec::new()), circumstances);
        regions.into_iter().map(|region| (region.range.start, region.outside)).collect()
    }

    const LAUNCHED: Circumstances<'_> = Circumstances { threads: &[], arguments: None, since_start: true };
    const ATTACHED: Circumstances<'_> = Circumstances { since_start: false, ..LAUNCHED };

    #[test]
    fn variables_vouch_with_those_that_have_no_initial_value() {
        use RegionKind::{Anonymous, Data, ReadOnly};
        let survey = survey(vec![
            mapping(0x1000..0x2000, Data, Some("/a.out")),
            mapping(0x2000..0x3000, Anonymous, None),
            mapping(0x8000..0x9000, Anonymous, None),
            mapping(0xa000..0xb000, ReadOnly, Some("/lib/libc.so.6")),
        ]);
        let expected = [(0x1000, Vouches), (0x2000, Vouches), (0x8000, Undecided), (0xa000, Vouches)];
        assert_eq!(standings(&survey, &[], ATTACHED), expected);
        let known = standings(&survey, &[], LAUNCHED);
        assert_eq!(known[2], (0x8000, Vouches), "the program has mapped it");
        assert_eq!(standings(&survey, &[(0x8010, 8)], LAUNCHED)[2], (0x8000, Undecided), "an allocator has mapped it");
    }

    #[test]
    fn between_blocks_the_allocator_owns_the_heap() {
        let survey = survey(vec![mapping(0x1000..0x3000, RegionKind::Heap, None)]);
        assert_eq!(standings(&survey, &[(0x1010, 8)], LAUNCHED), [(0x1000, Ignored)]);
        assert_eq!(standings(&survey, &[(0x1010, 8)], ATTACHED), [(0x1000, Undecided)]);
        // Nothing tells that the allocator owns what comes before the first block.
        let expected = [(0x1000, Vouches), (0x2000, Ignored)];
        assert_eq!(standings(&survey, &[(0x2000, 8)], LAUNCHED), expected);
    }

    #[test]
    fn of_a_stack_that_has_a_guard_only_the_part_in_use_vouches() {
        let guarded = survey(vec![
            mapping(0x1000..0x2000, RegionKind::Inaccessible, None),
            mapping(0x2000..0xa000, RegionKind::Anonymous, None),
        ]);
        let threads = [Thread { live_from: 0x5000, control_block: 0x8000 }];
        let circumstances = Circumstances { threads: &threads, ..LAUNCHED };
        let expected = [(0x1000, Doubts), (0x2000, Ignored), (0x5000, Vouches), (0x8000, Vouches)];
        assert_eq!(standings(&guarded, &[], circumstances), expected);
        let alone = survey(vec![mapping(0x2000..0xa000, RegionKind::Anonymous, None)]);
        assert_eq!(standings(&alone, &[], circumstances)[0], (0x2000, Vouches), "what is below may be another thing");
        let stack = survey(vec![mapping(0x2000..0xa000, RegionKind::Stack, None)]);
        assert_eq!(standings(&stack, &[], circumstances)[0], (0x2000, Ignored));
    }

    #[test]
    fn of_the_first_threads_stack_the_arguments_are_left_when_it_has_ended() {
        let stack = survey(vec![mapping(0x2000..0xa000, RegionKind::Stack, None)]);
        let ended = Circumstances { arguments: Some(0x9000), ..ATTACHED };
        assert_eq!(standings(&stack, &[], ended), [(0x2000, Ignored), (0x9000, Vouches)]);
        assert_eq!(standings(&stack, &[], ATTACHED), [(0x2000, Vouches)], "it runs on another stack");
    }

    #[test]
    fn only_pages_that_are_there_are_searched() {
        let mut survey = survey(vec![mapping(0x1000..0x5000, RegionKind::Shared, None)]);
        let run = survey.runs[0];
        survey.runs =
            vec![Run { end: Address(0x2000), ..run }, Run { start: Address(0x3000), end: Address(0x4000), ..run }];
        assert_eq!(standings(&survey, &[], LAUNCHED), [(0x1000, Vouches), (0x3000, Vouches)]);
    }
}
