//! Blocks that are in use and that nobody has recorded: those from before the trace.
//!
//! In: a process of which nothing runs, its recorded blocks. Out: [`Unrecorded`].
//!
//! They are links: what a program holds through an object that it made before the trace is as reachable as all else. They hold
//! nothing by themselves. glibc's heaps are gone through chunk by chunk, and everything must belong together: the chunks lead to the end
//! of each heap, there the free rest begins that the arena knows, and all lists of free chunks are understood. Else nothing is said of
//! heaps. Blocks of glibc's with mappings of their own tell that themselves; other allocators' are told by their records (`allocators`).

use std::collections::BTreeSet;
use std::ops::Range;

use super::Blocks;
use super::allocators::{self, Space};
use super::chunks::{Chunk, HEADER, Walked, walk};
use super::glibc::{self, ArenaHeap};
use super::kept_chunks::{Kept, State};
use super::memory::Memory;
use super::standing::Glibcs;
use crate::process::memory::Survey;
use crate::ranges::{joined, less};

const PAGE: u64 = 4096;
const WORD: u64 = 8;
/// How many bytes of variables are searched for the first arena at most, since a process waits.
const MOST_VARIABLES: u64 = 64 << 20;
/// How many pages are looked at in vain for blocks that have mappings of their own.
const MOST_MISSES: usize = 8192;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unrecorded {
    /// Address and size of each block, by address. The size is what the program may use, which may be more than it has asked for.
    pub blocks: Vec<(u64, u64)>,
    /// Memory in which nothing is in use but these and the recorded ones, by address.
    pub known: Vec<Range<u64>>,
}

/// Finds them. Threads are given by their control blocks.
#[must_use]
pub fn unrecorded(survey: &Survey, blocks: &Blocks, memory: &dyn Memory, threads: &[u64]) -> Unrecorded {
    let space = Space { threads: threads.to_vec(), has_unrecorded: true, ..Space::of(survey, blocks, memory) };
    let elsewhere = || space.unnamed.iter().filter(|range| space.heap.as_ref() != Some(range));
    let heaps = glibc::heaps_of_arenas(&space);
    let mut found = in_heaps(&space, &heaps, threads).unwrap_or_else(|why| {
        log::debug!("blocks from before the trace are not known: {why}");
        Unrecorded::default()
    });

    let heaps: Vec<Range<u64>> = heaps.into_iter().map(|heap| heap.range).collect();
    let (mut alone, mut misses_left) = (Vec::new(), MOST_MISSES);
    for part in elsewhere().flat_map(|range| less(std::slice::from_ref(range), &heaps)) {
        let behind = threads.iter().filter(|thread| part.contains(thread)).map(|thread| glibc::behind_thread(*thread));
        for start in behind.chain([part.start]) {
            alone.append(&mut glibc::mapped_in_a_row(start..part.end, memory, &mut misses_left));
        }
    }
    alone.sort_unstable_by_key(|range| range.start);
    alone.dedup();
    for range in &alone {
        // The program may deal out parts of a block itself, and have these recorded.
        let mut recorded = blocks.within(range).map(|block| blocks.start(block));
        match (recorded.next(), recorded.next()) {
            (None, _) => {
                let block = glibc::block_alone(range, memory);
                found.blocks.push((block, range.end - block));
            }
            (Some(only), None) if only == range.start + HEADER || only == glibc::block_alone(range, memory) => {}
            _ => continue,
        }
        found.known.push(range.clone());
    }
    let explained = Glibcs::of(&space, false).explained().into_iter().chain(alone.iter().cloned());
    let (_, others) = allocators::owned(&space, &joined(explained));
    // That of a thread's own data is none that the program has asked for.
    let is_asked_for = |block: &&Range<u64>| !threads.iter().any(|thread| block.contains(thread));
    found.blocks.extend(others.iter().filter(is_asked_for).map(|block| (block.start, block.end - block.start)));
    found.blocks.sort_unstable();
    found.blocks.dedup_by_key(|block| block.0);
    found.known.sort_unstable_by_key(|range| range.start);
    found
}

/// An arena, and the chunks of all its heaps.
struct Arena {
    state: State,
    heaps: Vec<Range<u64>>,
    walked: Vec<Walked>,
}

impl Arena {
    /// With these heaps, if the free rest that it knows is the last chunk of one of them.
    fn with(state: State, heaps: Vec<Range<u64>>, walked: Vec<Walked>) -> Result<Self, &'static str> {
        let has_top = walked.iter().any(|walked| walked.last == state.top);
        has_top.then_some(Self { state, heaps, walked }).ok_or("an arena does not end with its free rest")
    }

    /// That of the heap below the break, whose record is a variable of the C library's.
    fn first(space: &Space<'_>) -> Result<Self, &'static str> {
        let heap = space.heap.clone().ok_or("there is no heap")?;
        let walked = walk(&heap, space.blocks, space.memory).ok_or("the heap is not all chunks")?;
        let state = state_with_top(walked.last, space).ok_or("the heap's arena is not found")?;
        Self::with(state, vec![heap], vec![walked])
    }

    /// That whose record is at this address.
    fn at(address: u64, heaps: &[ArenaHeap], space: &Space<'_>) -> Result<Self, &'static str> {
        let heaps: Vec<&ArenaHeap> = heaps.iter().filter(|heap| heap.arena == address).collect();
        let walked: Option<Vec<Walked>> =
            heaps.iter().map(|heap| walk(&heap.chunks(), space.blocks, space.memory)).collect();
        let ranges = heaps.iter().map(|heap| heap.range.clone()).collect();
        let state = State::read(address, space.memory).ok_or("an arena's record is not understood")?;
        Self::with(state, ranges, walked.ok_or("an arena's heap is not all chunks")?)
    }
}

/// Those in heaps, or what does not belong together.
fn in_heaps(space: &Space<'_>, heaps: &[ArenaHeap], threads: &[u64]) -> Result<Unrecorded, &'static str> {
    let addresses: BTreeSet<u64> = heaps.iter().map(|heap| heap.arena).collect();
    let mut arenas = vec![Arena::first(space)?];
    for address in addresses {
        arenas.push(Arena::at(address, heaps, space)?);
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    for walked in arenas.iter_mut().flat_map(|arena| &mut arena.walked) {
        chunks.append(&mut walked.unrecorded);
    }
    chunks.sort_unstable_by_key(|chunk| chunk.start);
    let kept = Kept::find(&chunks, arenas.iter().map(|arena| &arena.state), threads, space.memory)?;
    let blocks = kept.used().map(|chunk| (chunk.block(), chunk.usable())).collect();
    let is_known = |arena: &Arena| !arena.state.is_locked && !arena.walked.iter().any(|walked| walked.has_others);
    Ok(Unrecorded { blocks, known: arenas.into_iter().filter(is_known).flat_map(|arena| arena.heaps).collect() })
}

/// The record of the arena that has its free rest here.
fn state_with_top(top: u64, space: &Space<'_>) -> Option<State> {
    let mut left = MOST_VARIABLES;
    let mut words = vec![0; (PAGE / WORD) as usize];
    for run in space.variables.iter().flat_map(|range| space.there(range)) {
        for page in (run.start..run.end).step_by(PAGE as usize) {
            left = left.checked_sub(PAGE)?;
            space.memory.read(page, &mut words);
            let places = (page..).step_by(WORD as usize).zip(&words).filter(|(_, word)| **word == top);
            for (place, _) in places {
                let state = State::read(State::with_top_at(place), space.memory);
                if state.is_some() {
                    return state;
                }
            }
        }
    }
    None
}
