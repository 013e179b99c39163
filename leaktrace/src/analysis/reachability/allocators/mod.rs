//! Memory of allocators other than glibc's, by what they write themselves.
//!
//! In: the words of a process, where its blocks are. Out: which ranges an allocator manages, and what it keeps there.
//!
//! What memory an allocator has taken is told by its own records, in which it looks up a block that is freed. A mapping does not
//! tell it: the kernel joins mappings of the program and of the allocator. The way in is a block, which its allocator must know:
//! so records are found without symbols, and chance does not meet what they say. Nothing of them is believed beyond that: all
//! reading is bounded by what is mapped.

mod jemalloc;
mod mimalloc;
mod musl;
mod tcmalloc;

use std::cell::Cell;
use std::ops::Range;

use super::blocks::Blocks;
use super::memory::Memory;
use crate::process::memory::{RegionKind, Survey};
use crate::ranges::{joined, less};

const WORD: u64 = 8;
const PAGE: u64 = 4096;
/// Words of a page.
const WORDS: usize = (PAGE / WORD) as usize;
/// How many bytes of variables are searched for allocators' records, at most: for all blocks that are asked for and by all ways to
/// find them together, since a process waits.
const MOST_VARIABLES: u64 = 1 << 30;
/// How many words are followed from there, at most, in all as well: each takes a system call.
const MOST_FOLLOWED: usize = 200_000;
/// How many pages are looked up in an allocator's table, at most: 256 GiB of 4 KiB.
const MOST_LOOKED_UP: u64 = 1 << 26;
/// After so many blocks that no allocator knows, nothing more is tried.
const MOST_UNKNOWN: usize = 4;
/// How many blocks are asked for, at most.
const MOST_FOUND: usize = 16;

/// What an allocator keeps in a range. Where ranges overlap the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Blocks, of which it is not known here whether they are in use, and what lies between them.
    Blocks,
    /// Nothing but recorded blocks: its own records, and free memory.
    Nothing,
    /// A block that is in use and was not recorded.
    Unrecorded,
}

/// A range that an allocator manages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) range: Range<u64>,
    pub(super) holds: Holds,
}

/// Where in a process allocators may have something.
pub(super) struct Space<'a> {
    pub(super) blocks: &'a Blocks,
    pub(super) memory: &'a dyn Memory,
    pub(super) survey: &'a Survey,
    /// Mappings without a file, the heap among them, which are not variables; by address.
    pub(super) unnamed: Vec<Range<u64>>,
    /// What lies below the break.
    pub(super) heap: Option<Range<u64>>,
    /// Variables of programs and libraries: those with initial values and those that follow without; by address.
    pub(super) variables: Vec<Range<u64>>,
    /// The control blocks of threads.
    pub(super) threads: Vec<u64>,
    /// There may be blocks that were not recorded, so that it matters what is free.
    pub(super) has_unrecorded: bool,
    /// How many bytes of variables may still be searched, and how many words be followed.
    pub(super) left: Cell<(u64, usize)>,
}

impl<'a> Space<'a> {
    pub(super) fn of(survey: &'a Survey, blocks: &'a Blocks, memory: &'a dyn Memory) -> Self {
        let (threads, has_unrecorded) = (Vec::new(), false);
        let mut space = Self {
            blocks,
            memory,
            survey,
            unnamed: Vec::new(),
            heap: None,
            variables: Vec::new(),
            threads,
            has_unrecorded,
            left: Cell::new((MOST_VARIABLES, MOST_FOLLOWED)),
        };
        for mapping in &survey.regions {
            let range = mapping.start.0..mapping.end.0;
            match mapping.kind {
                RegionKind::Data => match space.variables.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => space.variables.push(range),
                },
                RegionKind::Anonymous => match space.variables.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => space.unnamed.push(range),
                },
                RegionKind::Heap => {
                    space.heap = Some(range.clone());
                    space.unnamed.push(range);
                }
                _ => {}
            }
        }
        space
    }

    /// Whether an allocator may have something at this address, outside of variables.
    fn is_unnamed(&self, address: u64) -> bool {
        holding(&self.unnamed, address).is_some()
    }

    /// The pages of a range that are there.
    pub(super) fn there(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let Range { start, end } = *range;
        let first = self.survey.runs.partition_point(|run| run.end.0 <= start);
        let runs = self.survey.runs[first..].iter().take_while(move |run| run.start.0 < end);
        runs.map(move |run| run.start.0.max(start)..run.end.0.min(end))
    }

    /// The multiples of `unit` in mappings without a file whose pages are there.
    pub(super) fn multiples(&self, unit: u64) -> impl Iterator<Item = u64> + use<'_> {
        let runs = self.unnamed.iter().flat_map(|range| self.there(range));
        runs.flat_map(move |run| (run.start.next_multiple_of(unit)..run.end).step_by(unit as usize))
    }

    /// Where a table of so many bytes begins, all of it among the variables of one program or library, that has the word at `at` so
    /// many bytes behind its start.
    fn table(&self, at: u64, place: u64, bytes: u64) -> Option<u64> {
        let start = at.checked_sub(place)?;
        let variables = holding(&self.variables, at)?;
        (start >= variables.start && start.checked_add(bytes)? <= variables.end).then_some(start)
    }

    /// Of the variables that point to an allocator's memory, to a multiple of 64 bytes, the table in which the first one stands (as
    /// `table` has it by the variable's address) whose pointer `is_it` says yes of.
    fn table_with(&self, table: impl Fn(u64) -> Option<u64>, mut is_it: impl FnMut(u64) -> bool) -> Option<u64> {
        let (low, high) = (self.unnamed.first()?.start, self.unnamed.last()?.end);
        let mut words = [0; WORDS];
        for run in self.variables.iter().flat_map(|range| self.there(range)) {
            for page in (run.start..run.end).step_by(PAGE as usize) {
                let (bytes, followed) = self.left.get();
                self.left.set((bytes.checked_sub(PAGE)?, followed));
                self.memory.read(page, &mut words);
                for (place, word) in words.iter().enumerate() {
                    if !word.is_multiple_of(64) || *word < low || *word >= high || !self.is_unnamed(*word) {
                        continue;
                    }
                    let Some(start) = table(page + place as u64 * WORD) else { continue };
                    let (bytes, followed) = self.left.get();
                    self.left.set((bytes, followed.checked_sub(1)?));
                    if is_it(*word) {
                        return Some(start);
                    }
                }
            }
        }
        None
    }
}

/// The range that holds an address, of ranges by address.
pub(super) fn holding(ranges: &[Range<u64>], address: u64) -> Option<&Range<u64>> {
    let behind = ranges.partition_point(|range| range.start <= address);
    ranges[..behind].last().filter(|range| address < range.end)
}

/// The first block of a range that lies in none of `ranges`, which are by address.
pub(super) fn first_outside(blocks: &Blocks, range: &Range<u64>, ranges: &[Range<u64>]) -> Option<u64> {
    let mut at = range.start;
    loop {
        let start = blocks.start(blocks.within(&(at..range.end)).next()?);
        match holding(ranges, start) {
            Some(known) => at = known.end,
            None => return Some(start),
        }
    }
}

/// Memory that is read a page at a time: what is looked up one after the other lies close together.
struct Pages<'a> {
    memory: &'a dyn Memory,
    page: u64,
    words: Box<[u64; WORDS]>,
    /// All of the page was read.
    is_whole: bool,
}

impl<'a> Pages<'a> {
    fn of(memory: &'a dyn Memory) -> Self {
        Self { memory, page: u64::MAX, words: Box::new([0; WORDS]), is_whole: false }
    }

    /// These words, all of which can be read.
    fn words<const N: usize>(&mut self, address: u64) -> Option<[u64; N]> {
        if !address.is_multiple_of(WORD) {
            return None;
        }
        let page = address / PAGE * PAGE;
        let place = (address % PAGE / WORD) as usize;
        if place + N > WORDS {
            let mut words = [0; N];
            return (self.memory.read(address, &mut words) == 0).then_some(words);
        }
        if self.page != page {
            self.is_whole = self.memory.read(page, self.words.as_mut_slice()) == 0;
            self.page = page;
        }
        let words = self.words[place..].first_chunk().copied();
        words.filter(|_| self.is_whole)
    }
}

/// What an allocator has.
#[derive(Default)]
struct Found {
    /// Ranges that are found by address, of which neighbours become one.
    ranges: Vec<Owned>,
    /// Blocks that are in use and were not recorded, as far as the allocator's records tell that for certain. Where there may be some
    /// these are asked for at rest.
    used: Vec<Range<u64>>,
}

impl Found {
    fn add(&mut self, range: Range<u64>, holds: Holds) {
        match self.ranges.last_mut() {
            Some(last) if last.holds == holds && last.range.end == range.start => last.range.end = range.end,
            _ => self.ranges.push(Owned { range, holds }),
        }
    }
}

/// Finds all that the allocator has of which this is a block; `None` if it is not that allocator's.
type Finder = fn(&Space<'_>, u64) -> Option<Found>;

/// Those that look in a place that follows from the block's come first.
const FINDERS: [Finder; 4] = [mimalloc::owned, musl::owned, jemalloc::owned, tcmalloc::owned];

/// What allocators manage that own blocks which lie in none of `known`, by address; none of it overlaps. And their unrecorded blocks.
pub(super) fn owned(space: &Space<'_>, known: &[Range<u64>]) -> (Vec<Owned>, Vec<Range<u64>>) {
    let (mut owned, mut used): (Vec<Owned>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
    let mut asked: Vec<u64> = Vec::new();
    let mut unknown = 0;
    while asked.len() < MOST_FOUND && unknown < MOST_UNKNOWN {
        let own = owned.iter().map(|owned| owned.range.clone());
        // What was asked for is not asked for again, also where nobody knows it.
        let explained = joined(known.iter().cloned().chain(own).chain(asked.iter().map(|block| *block..block + 1)));
        let mut mappings = space.unnamed.iter().chain(&space.variables);
        let Some(block) = mappings.find_map(|range| first_outside(space.blocks, range, &explained)) else { break };
        asked.push(block);
        match FINDERS.iter().find_map(|find| find(space, block)) {
            Some(mut found) => {
                owned.append(&mut found.ranges);
                owned = apart(&owned);
                used.append(&mut found.used);
            }
            None => unknown += 1,
        }
    }
    (owned, used)
}

/// The same ranges by address, none of which overlaps.
fn apart(owned: &[Owned]) -> Vec<Owned> {
    let mut apart: Vec<Owned> = Vec::new();
    for holds in [Holds::Unrecorded, Holds::Nothing, Holds::Blocks] {
        let ranges = joined(owned.iter().filter(|owned| owned.holds == holds).map(|owned| owned.range.clone()));
        let taken: Vec<_> = apart.iter().map(|owned| owned.range.clone()).collect();
        apart.extend(less(&ranges, &taken).into_iter().map(|range| Owned { range, holds }));
        apart.sort_unstable_by_key(|owned| owned.range.start);
    }
    apart
}

#[cfg(test)]
mod tests;
