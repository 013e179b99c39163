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
use super::allocators::{self, Holds, Owned, Space, first_outside};
use super::descriptors;
use super::glibc;
use super::handlers;
use super::memory::{Memory, Region, Standing};
use super::parts::{Part, Parts};
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
    /// It is the first one, whose stack the kernel has made.
    pub is_first: bool,
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
    /// Nothing changes while it is read: what an allocator's records call free was free in the same moment.
    pub is_at_rest: bool,
    /// Blocks may be in use that are not recorded yet: what lies between the blocks that are may be in one of those.
    pub hides_blocks: bool,
    /// Of a process that was attached to: where all blocks are known all the same ([`super::Unrecorded::known`]), by address.
    pub known: &'a [Range<u64>],
}

impl Circumstances<'_> {
    /// All blocks that are in use are known.
    fn knows_all(&self) -> bool {
        self.since_start && !self.hides_blocks
    }

    /// This range was gone through chunk by chunk.
    fn is_known(&self, range: &Range<u64>) -> bool {
        let known = allocators::holding(self.known, range.start);
        !self.hides_blocks && known.is_some_and(|known| range.end <= known.end)
    }
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
    let threads: Vec<Thread> = circumstances
        .threads
        .iter()
        .map(|thread| Thread { live_from: handlers::live_from(thread.live_from, survey, memory), ..*thread })
        .collect();
    let circumstances = Circumstances { threads: &threads, ..circumstances };
    let space = Space {
        threads: circumstances.threads.iter().map(|thread| thread.control_block).collect(),
        has_unrecorded: circumstances.is_at_rest && !circumstances.knows_all(),
        ..Space::of(survey, blocks, memory)
    };
    let glibcs = Glibcs::of(&space, circumstances.knows_all());
    let is_known = circumstances.since_start || circumstances.is_at_rest;
    let owned = if is_known { allocators::owned(&space, &glibcs.explained()).0 } else { Vec::new() };
    let mut parts = Vec::with_capacity(survey.regions.len() + owned.len());
    let (mut is_data, mut is_libcs) = (false, false);
    for (number, mapping) in survey.regions.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| &survey.regions[before]);
        let is_adjacent = before.is_some_and(|before| before.end == mapping.start);
        // Variables without initial values follow the others, in memory without a name.
        let goes_on = is_adjacent && mapping.kind == RegionKind::Anonymous;
        is_data = mapping.kind == RegionKind::Data || is_data && goes_on;
        is_libcs = is_libc(mapping) || is_libcs && goes_on;
        let is_guarded = is_adjacent && before.is_some_and(|before| before.kind == RegionKind::Inaccessible);
        let (glibcs, owned) = (&glibcs, &owned[..]);
        let judge = Judge { mapping, is_data, is_libcs, is_guarded, glibcs, owned, blocks, memory, circumstances };
        parts.append(&mut judge.parts().0);
    }
    there(&parts, survey)
}

/// What is glibc's of memory without a file.
pub(super) struct Glibcs {
    /// Outside of the heap, by address.
    managed: Vec<Range<u64>>,
    /// The heap, if it is glibc's.
    heap: Option<Range<u64>>,
}

/// How many blocks of the heap are looked at to find out whose they are.
const SAMPLE: usize = 32;

impl Glibcs {
    pub(super) fn of(space: &Space<'_>, knows_all: bool) -> Self {
        let Space { blocks, memory, heap, .. } = space;
        let elsewhere = space.unnamed.iter().filter(|range| heap.as_ref() != Some(range));
        let arenas = glibc::heaps_of_arenas(space);
        let managed = elsewhere.flat_map(|range| {
            let mut managed = glibc::managed(range, &arenas, blocks, *memory);
            // Where a thread has its own data, and the kernel has joined that with a block from before the trace, which must not
            // vouch as that does.
            if !knows_all && space.threads.iter().any(|thread| range.contains(thread)) {
                let mut unrecorded = glibc::mapped_with_others(range, *memory);
                unrecorded.retain(|chunk| {
                    let behind = managed.partition_point(|known| known.end <= chunk.start);
                    managed.get(behind).is_none_or(|known| chunk.end <= known.start)
                });
                managed.append(&mut unrecorded);
                managed.sort_unstable_by_key(|range| range.start);
            }
            managed
        });
        let managed = managed.collect();
        let is_glibcs = |heap: &Range<u64>| {
            let within = blocks.within(heap);
            let step = within.size_hint().0.div_ceil(SAMPLE).max(1);
            let mut sample = within.step_by(step).peekable();
            match sample.peek() {
                None => glibc::is_chunks(heap, *memory),
                Some(_) => {
                    sample.all(|block| glibc::has_chunk(blocks.start(block), blocks.size(block), heap.end, *memory))
                }
            }
        };
        Self { managed, heap: heap.clone().filter(is_glibcs) }
    }

    /// All of it, by address.
    pub(super) fn explained(&self) -> Vec<Range<u64>> {
        let mut all: Vec<_> = self.managed.iter().chain(&self.heap).cloned().collect();
        all.sort_unstable_by_key(|range| range.start);
        all
    }
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
    glibcs: &'a Glibcs,
    /// What other allocators manage, by address.
    owned: &'a [Owned],
    blocks: &'a Blocks,
    memory: &'a dyn Memory,
    circumstances: Circumstances<'a>,
}

impl Judge<'_> {
    fn parts(&self) -> Parts {
        let whole = |outside, holds_chunks| Parts(vec![Part { range: self.range(), outside, holds_chunks }]);
        match self.mapping.kind {
            RegionKind::Heap if self.glibcs.heap.is_some() => self.glibcs_heap(),
            _ if self.is_data => self.with_owned(whole(Standing::Vouches, self.is_libcs)),
            RegionKind::Data | RegionKind::ReadOnly => whole(Standing::Vouches, self.is_libcs),
            RegionKind::Shared => whole(Standing::Vouches, false),
            RegionKind::Inaccessible => whole(Standing::Doubts, false),
            RegionKind::Heap | RegionKind::Stack | RegionKind::Anonymous => self.unnamed(),
        }
    }

    /// What lies below the break, where glibc's allocator has its heap. Programs may take memory there themselves, before the
    /// allocator as well.
    fn glibcs_heap(&self) -> Parts {
        let Range { start, end } = self.range();
        if self.circumstances.is_known(&(start..end)) {
            return Parts(vec![self.glibcs(start..end)]);
        }
        let first = self.blocks.within(&(start..end)).next().map(|block| self.blocks.start(block));
        let chunks = match first {
            Some(first) if !glibc::begins_with_chunks(start, first, self.memory) => first.next_multiple_of(WORD),
            _ => start,
        };
        let mut parts = Parts(vec![Part { range: start..end, outside: self.between_blocks(), holds_chunks: true }]);
        parts.lay(Part { range: start..chunks, outside: self.own(), holds_chunks: true });
        let last = self.blocks.within(&(start..end)).last();
        let own = last.and_then(|last| glibc::behind_chunks(self.blocks.start(last), end, self.memory));
        if let Some(own) = own {
            parts.lay(Part { range: own..end, outside: self.own(), holds_chunks: true });
        }
        parts
    }

    /// Memory without a file: stacks, an allocator's memory, what the program mapped itself, and all of these in one.
    fn unnamed(&self) -> Parts {
        let whole = self.range();
        let stacks = self.stacks();
        let all = &self.glibcs.managed;
        let place = |address: u64| all.partition_point(|range| range.start < address);
        let managed = all[place(whole.start)..place(whole.end)].to_vec();
        let owned = self.owned().map(|owned| owned.range.clone());
        let mut explained: Vec<Range<u64>> = managed.iter().cloned().chain(owned).collect();
        explained.sort_unstable_by_key(|range| range.start);
        let rest = if first_outside(self.blocks, &whole, &explained).is_some() {
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
        let mut parts = Parts(vec![Part { range: whole, outside: rest, holds_chunks: false }]);
        for stack in stacks {
            parts.lay(stack);
        }
        for range in managed {
            parts.lay(self.glibcs(range));
        }
        self.with_owned(parts)
    }

    /// What other allocators manage of this mapping.
    fn owned(&self) -> impl Iterator<Item = Owned> + use<'_> {
        let Range { start, end } = self.range();
        let first = self.owned.partition_point(|owned| owned.range.end <= start);
        let owned = self.owned[first..].iter().take_while(move |owned| owned.range.start < end);
        owned.map(move |owned| Owned { range: owned.range.start.max(start)..owned.range.end.min(end), ..*owned })
    }

    /// These parts with what other allocators manage.
    fn with_owned(&self, mut parts: Parts) -> Parts {
        for Owned { range, holds } in self.owned() {
            let outside = match holds {
                Holds::Blocks => self.between_blocks(),
                // Nor is it now what it was when the allocator's records were read.
                Holds::Nothing if self.circumstances.hides_blocks && !self.circumstances.is_at_rest => {
                    Standing::Undecided
                }
                Holds::Nothing => Standing::Ignored,
                // A thread's storage, and its control block behind that.
                Holds::Unrecorded
                    if self.circumstances.threads.iter().any(|thread| range.contains(&thread.control_block)) =>
                {
                    Standing::Vouches
                }
                Holds::Unrecorded => self.own(),
            };
            parts.lay(Part { range, outside, holds_chunks: false });
        }
        parts
    }

    /// The stacks of threads in this mapping, with what is dead of them: below the stack pointer there are only words of calls that
    /// have returned. How far down that goes must be known, since the kernel joins a stack with whatever lies before it.
    fn stacks(&self) -> Vec<Part> {
        let whole = self.range();
        let dead = |range| Part { range, outside: Standing::Ignored, holds_chunks: false };
        let threads = self.circumstances.threads;
        let running: Vec<Thread> = threads.iter().filter(|thread| whole.contains(&thread.live_from)).copied().collect();
        if running.is_empty() {
            let has_control_block = threads.iter().any(|thread| whole.contains(&thread.control_block));
            let range = match self.mapping.kind {
                RegionKind::Stack => {
                    let arguments = self.circumstances.arguments.filter(|at| whole.contains(at));
                    arguments.map(|arguments| whole.start..arguments)
                }
                // Its thread runs on another stack now.
                _ if has_control_block || !self.is_guarded => None,
                _ => glibc::dead_stack(&whole, self.memory),
            };
            return range.map(dead).into_iter().collect();
        }
        let start = |thread: &Thread| thread.live_from.next_multiple_of(WORD);
        let mut stacks: Vec<Part> = if self.mapping.kind == RegionKind::Stack {
            // While the first thread runs on another stack, others may run on arrays in its frames.
            let lowest = running.iter().map(start).min().filter(|_| running.iter().any(|thread| thread.is_first));
            lowest.map(|lowest| dead(whole.start..lowest)).into_iter().collect()
        } else {
            let own = running.iter().filter_map(|thread| {
                let from = descriptors::stack_start(thread.control_block, self.memory)?;
                (from <= thread.live_from).then(|| dead(from.max(whole.start)..start(thread)))
            });
            own.collect()
        };
        stacks.extend(running.iter().map(|thread| {
            let is_at_end = (start(thread)..whole.end).contains(&thread.control_block);
            let end = if is_at_end { thread.control_block.next_multiple_of(PAGE).min(whole.end) } else { whole.end };
            Part { range: start(thread)..end, outside: Standing::Vouches, holds_chunks: false }
        }));
        stacks
    }

    /// What glibc's allocator has.
    fn glibcs(&self, range: Range<u64>) -> Part {
        // Where there is nothing but chunks, nothing looks like their end.
        let is_known = self.circumstances.is_known(&range);
        let outside = if is_known { Standing::Ignored } else { self.between_blocks() };
        Part { range, outside, holds_chunks: !is_known }
    }

    fn between_blocks(&self) -> Standing {
        if self.circumstances.knows_all() { Standing::Ignored } else { Standing::Undecided }
    }

    /// What nobody has recorded and is in use: where all of the program's blocks are known it is a library's, or memory that the
    /// program has taken from the kernel.
    fn own(&self) -> Standing {
        if self.circumstances.since_start { Standing::Vouches } else { Standing::Undecided }
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

    use Standing::{Ignored, Undecided, Vouches};

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
        standings_by(survey, blocks, &[], circumstances)
    }

    /// The same where there are words at this address, and zeroes elsewhere.
    fn standings_by(
        survey: &Survey,
        blocks: &[(u64, u64)],
        words: &[(u64, Vec<u64>)],
        circumstances: Circumstances<'_>,
    ) -> Vec<(u64, Standing)> {
        let blocks = Blocks::new(blocks.iter().copied()).unwrap();
        let regions = regions(survey, &blocks, &Words(words.to_vec()), circumstances);
        regions.into_iter().map(|region| (region.range.start, region.outside)).collect()
    }

    const LAUNCHED: Circumstances<'_> = Circumstances {
        threads: &[],
        arguments: None,
        since_start: true,
        is_at_rest: true,
        hides_blocks: false,
        known: &[],
    };
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
        let chunks = [(0x1000, vec![0, 0x21, 0, 0, 0, 0x1fe1])];
        let by_chunks = |circumstances| standings_by(&survey, &[(0x1010, 8)], &chunks, circumstances);
        assert_eq!(by_chunks(LAUNCHED), [(0x1000, Ignored)]);
        assert_eq!(by_chunks(ATTACHED), [(0x1000, Undecided)]);
        assert_eq!(by_chunks(Circumstances { hides_blocks: true, ..LAUNCHED }), [(0x1000, Undecided)]);
        // Nothing tells that the allocator owns what comes before its first chunk.
        let chunks = [(0x1000, vec![7, 7]), (0x1ff0, vec![0, 0x21, 0, 0, 0, 0xff1])];
        let expected = [(0x1000, Vouches), (0x2000, Ignored)];
        assert_eq!(standings_by(&survey, &[(0x2000, 8)], &chunks, LAUNCHED), expected);
    }

    #[test]
    fn a_heap_without_chunks_is_not_glibcs() {
        let survey = survey(vec![mapping(0x1000..0x3000, RegionKind::Heap, None)]);
        assert_eq!(standings(&survey, &[], LAUNCHED), [(0x1000, Vouches)], "the program has taken it");
        assert_eq!(standings(&survey, &[], ATTACHED), [(0x1000, Undecided)]);
        assert_eq!(standings(&survey, &[(0x1010, 8)], LAUNCHED), [(0x1000, Undecided)], "an unknown allocator");
        let all_free = [(0x1000, vec![0, 0x291]), (0x1290, vec![0, 0x1d71])];
        assert_eq!(standings_by(&survey, &[], &all_free, LAUNCHED), [(0x1000, Ignored)]);
    }

    #[test]
    fn of_a_stack_only_the_part_in_use_vouches() {
        let anonymous = |range| survey(vec![mapping(range, RegionKind::Anonymous, None)]);
        let threads = [Thread { live_from: 0x5000, control_block: 0x8000, is_first: false }];
        let circumstances = Circumstances { threads: &threads, ..LAUNCHED };
        let of = |survey: &Survey, start: u64, circumstances| {
            // As glibc's description says.
            let words = [(0x8690, vec![start, 0x9000 - start])];
            standings_by(survey, &[], &words, circumstances)
        };
        let stack = anonymous(0x2000..0x9000);
        let expected = [(0x2000, Ignored), (0x5000, Vouches), (0x8000, Vouches)];
        assert_eq!(of(&stack, 0x2000, circumstances), expected);
        assert_eq!(of(&stack, 0x1000, circumstances), expected, "its guard is another mapping");
        let expected = [(0x2000, Vouches), (0x3000, Ignored), (0x5000, Vouches), (0x8000, Vouches)];
        assert_eq!(of(&stack, 0x3000, circumstances), expected, "what is below is another thing");
        assert_eq!(standings(&stack, &[], circumstances)[0], (0x2000, Vouches), "nobody says where it begins");
        // The stack of a thread that runs on another one at the moment.
        let threads = [threads[0], Thread { live_from: 0x3010, control_block: 0xf000, is_first: false }];
        let circumstances = Circumstances { threads: &threads, ..LAUNCHED };
        let expected = [(0x2000, Ignored), (0x3010, Vouches)];
        assert_eq!(of(&stack, 0x2000, circumstances), expected, "on an array in a frame of the other");
    }

    #[test]
    fn of_the_first_threads_stack_what_is_below_is_dead_while_it_runs_there() {
        let stack = survey(vec![mapping(0x2000..0xa000, RegionKind::Stack, None)]);
        let of = |threads: &[Thread]| standings(&stack, &[], Circumstances { threads, ..LAUNCHED });
        let first = |live_from| Thread { live_from, control_block: 0x8000_0000, is_first: true };
        assert_eq!(of(&[first(0x5000)]), [(0x2000, Ignored), (0x5000, Vouches)]);
        let other = Thread { live_from: 0x7000, control_block: 0x9000_0000, is_first: false };
        assert_eq!(of(&[first(0x5000), other])[0], (0x2000, Ignored));
        assert_eq!(of(&[first(0x1_0000), other])[0], (0x2000, Vouches), "another runs on an array in its frame");
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
