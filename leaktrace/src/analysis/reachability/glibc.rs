//! Memory of glibc's own, by what its allocator and its threads write into it.
//!
//! In: the words of a process. Out: which ranges the allocator manages, and whether a stack is only kept for a thread to come.
//! Every rule asks for several words that belong together, so that chance does not meet it.

use std::ops::Range;

use super::allocators::Space;
use super::blocks::Blocks;
use super::descriptors;
use super::memory::Memory;

const PAGE: u64 = 4096;
const WORD: u64 = 8;
/// The address space of one heap of an arena, and what it begins at multiples of (`HEAP_MAX_SIZE` of malloc/arena.c).
const HEAP: u64 = 64 << 20;
/// The arena itself follows the header of its first heap, which has had 32 to 64 bytes.
const HEADER: u64 = 64;
/// The bytes of that record, from 2.27 on.
const RECORD: u64 = 0x898;
/// A chunk's header before its block: the size of the chunk before, the chunk's own with flags (malloc/malloc.c).
const CHUNK: u64 = 16;
const FLAGS: u64 = 7;
const IS_MMAPPED: u64 = 2;
/// Smaller blocks that a page does not begin with are not looked at: the smallest that are mapped alone by default are twice as
/// large.
const LARGE: u64 = 64 << 10;

/// What the allocator manages of a mapping without a name, around these blocks: heaps of arenas, and blocks that have a mapping
/// of their own. In ascending order.
pub(super) fn managed(
    mapping: &Range<u64>,
    arenas: &[ArenaHeap],
    blocks: &Blocks,
    memory: &dyn Memory,
) -> Vec<Range<u64>> {
    let within = arenas.iter().filter(|heap| mapping.contains(&heap.range.start));
    let mut managed: Vec<Range<u64>> = within.map(|heap| heap.range.clone()).collect();
    let arenas = managed.len();
    for block in blocks.within(mapping) {
        let start = blocks.start(block);
        let may_be_alone = start % PAGE == CHUNK || blocks.size(block) >= LARGE;
        if may_be_alone && !managed[..arenas].iter().any(|heap| heap.contains(&start)) {
            managed.extend(mapped_alone(start, blocks.end(block), memory));
        }
    }
    managed.sort_unstable_by_key(|range| range.start);
    for range in &mut managed {
        range.end = range.end.min(mapping.end);
        range.start = range.start.max(mapping.start);
    }
    managed
}

/// How many pages of a mapping are looked at for blocks that nobody has recorded.
const PAGES: usize = 4096;

/// Blocks that have a mapping of their own, recorded or not, in a mapping that the kernel has joined with others: as far as a page
/// begins with their chunk. By address.
pub(super) fn mapped_with_others(mapping: &Range<u64>, memory: &dyn Memory) -> Vec<Range<u64>> {
    let (mut found, mut at) = (Vec::new(), mapping.start.next_multiple_of(PAGE));
    for _ in 0..PAGES {
        if at >= mapping.end {
            break;
        }
        let chunk = mapped_alone(at + CHUNK, at + CHUNK, memory);
        match chunk.filter(|chunk| chunk.start == at && chunk.end <= mapping.end && chunk.end > at) {
            Some(chunk) => {
                at = chunk.end;
                found.push(chunk);
            }
            None => at += PAGE,
        }
    }
    found
}

/// How many pages are looked at where no chunk begins.
const MISSES: usize = 16;

/// Blocks that have a mapping of their own, recorded or not, as they lie one behind the other where the kernel has joined their
/// mappings. By address. `left` says how many pages may still be looked at in vain.
pub(super) fn mapped_in_a_row(
    Range { start, end }: Range<u64>,
    memory: &dyn Memory,
    left: &mut usize,
) -> Vec<Range<u64>> {
    let (mut found, mut at, mut misses) = (Vec::new(), start, 0);
    while at < end && misses < MISSES && *left > 0 {
        let chunk = mapped_alone(at + CHUNK, at + CHUNK, memory);
        if let Some(chunk) = chunk.filter(|chunk| chunk.start == at && chunk.end <= end && chunk.end > at) {
            (at, misses) = (chunk.end, 0);
            found.push(chunk);
        } else {
            (at, misses, *left) = (at + PAGE, misses + 1, *left - 1);
        }
    }
    found
}

/// A heap of an arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArenaHeap {
    pub(super) range: Range<u64>,
    /// Where the arena's own record is (`malloc_state`).
    pub(super) arena: u64,
}

impl ArenaHeap {
    /// Where its chunks are: behind the heap's header and, in the arena's first heap, its record.
    pub(super) fn chunks(&self) -> Range<u64> {
        let header = self.arena % HEAP;
        let first = if self.range.contains(&self.arena) { header + RECORD } else { header };
        self.range.start + first.next_multiple_of(CHUNK)..self.range.end
    }
}

/// The heaps of arenas, by address.
pub(super) fn heaps_of_arenas(space: &Space<'_>) -> Vec<ArenaHeap> {
    space.multiples(HEAP).filter_map(|heap| arena_heap(heap, space.memory)).collect()
}

/// Where the block begins that has this mapping for itself: an aligned one has a header of its own (`_int_memalign`).
pub(super) fn block_alone(mapping: &Range<u64>, memory: &dyn Memory) -> u64 {
    let first = mapping.start + CHUNK;
    let aligned = (5..usize::BITS - 16).map(|shift| first.next_multiple_of(1 << shift));
    let aligned = aligned.filter(|block| *block > first && *block < mapping.end);
    let has_header = |block: &u64| mapped_alone(*block, mapping.end, memory).as_ref() == Some(mapping);
    aligned.into_iter().find(has_header).unwrap_or(first)
}

/// The heap of an arena that begins here (`heap_info`: its arena, the heap before, its size, how much of it was ever writable).
fn arena_heap(start: u64, memory: &dyn Memory) -> Option<ArenaHeap> {
    let [arena, before, size, writable] = words(start, memory)?;
    let is_size = size > 0 && size.is_multiple_of(PAGE) && size <= writable && writable <= HEAP;
    let is_of_arena = match before {
        0 => (start + 4 * WORD..=start + HEADER).contains(&arena),
        _ if before.is_multiple_of(HEAP) => {
            let [of_first, none, ..] = words::<2>(arena / HEAP * HEAP, memory)?;
            of_first == arena && none == 0
        }
        _ => false,
    };
    (is_size && is_of_arena).then_some(ArenaHeap { range: start..start + size, arena })
}

/// The mapping of a chunk that has one of its own.
fn mapped_alone(start: u64, end: u64, memory: &dyn Memory) -> Option<Range<u64>> {
    let chunk = start.checked_sub(CHUNK)?;
    // Aligned blocks have room before their chunk.
    let [room, size] = words(chunk, memory)?;
    let range = chunk.checked_sub(room)?..chunk.checked_add(size & !FLAGS)?;
    let is_mapped = size & FLAGS == IS_MMAPPED && range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
    (is_mapped && range.end >= end).then_some(range)
}

/// A chunk that only closes what was the last of the heap until the program extended the heap itself: two of them end at the
/// break of that time (`sysmalloc`, "fenceposts").
const FENCE: u64 = 0x11;
const FENCES: usize = 4;

/// Where in words between blocks, of which the first is at `start`, memory begins that the program took from the break itself:
/// behind the two chunks that the allocator closes its heap with.
pub(super) fn own_of_program(start: u64, words: &[u64]) -> Option<usize> {
    let to_page = ((start.next_multiple_of(PAGE) - start) / WORD) as usize;
    let pages = (to_page..=words.len()).step_by((PAGE / WORD) as usize).filter(|at| *at >= FENCES);
    // The chunk before the first one may be free, which that one says.
    pages.into_iter().find(|at| matches!(words[at - FENCES..*at], [_, first, _, FENCE] if first | 1 == FENCE))
}

/// How many chunks are followed at most.
const CHUNKS: usize = 1000;

/// Whether chunks lie one behind the other from `start`, where the heap begins, to the chunk of the block at `block`.
pub(super) fn begins_with_chunks(start: u64, block: u64, memory: &dyn Memory) -> bool {
    let mut chunk = start;
    for _ in 0..CHUNKS {
        if chunk + CHUNK >= block {
            break;
        }
        let Some([_, size]) = words(chunk, memory) else { return false };
        chunk = chunk.saturating_add((size & !FLAGS).max(CHUNK));
    }
    chunk + CHUNK == block
}

/// Whether all that lies from `start` to `end` is chunks, as far as they are followed.
pub(super) fn is_chunks(Range { start, end }: &Range<u64>, memory: &dyn Memory) -> bool {
    let mut chunk = *start;
    for _ in 0..CHUNKS {
        let Some([_, size]) = words(chunk, memory) else { return false };
        let is_size = is_of_heap(size) && size & !FLAGS >= CHUNK;
        let Some(next) = chunk.checked_add(size & !FLAGS).filter(|next| is_size && next <= end) else { return false };
        if next == *end {
            break;
        }
        chunk = next;
    }
    true
}

/// Where memory begins that the program took from the break behind the heap, if it did: chunks follow each other from that of the
/// last block to the end of the one that is free (`top`), at a page's end, and there is none behind.
pub(super) fn behind_chunks(last_block: u64, end: u64, memory: &dyn Memory) -> Option<u64> {
    let mut chunk = last_block.checked_sub(CHUNK)?;
    for _ in 0..CHUNKS {
        let size = words(chunk, memory).map_or(0, |[_, size]| size);
        let next = chunk.checked_add(size & !FLAGS)?;
        if !is_of_heap(size) || size & !FLAGS < CHUNK || next > end {
            return (chunk.is_multiple_of(PAGE) && chunk > last_block).then_some(chunk);
        }
        if next == end {
            break;
        }
        chunk = next;
    }
    None
}

/// Whether a chunk's size and flags may be those of one below the break.
fn is_of_heap(size: u64) -> bool {
    size & FLAGS & !1 == 0 && (size & !FLAGS).is_multiple_of(CHUNK)
}

/// Whether a block is one of the heap below the break, which ends at `end`: its chunk has room for it, and another follows.
pub(super) fn has_chunk(start: u64, size: u64, end: u64, memory: &dyn Memory) -> bool {
    let has_chunk = || {
        let chunk = start.checked_sub(CHUNK)?;
        let [_, own] = words(chunk, memory)?;
        let next = chunk.checked_add(own & !FLAGS)?;
        // The next chunk's first word is the block's.
        let is_own = is_of_heap(own) && next.checked_add(WORD)? >= start.checked_add(size)?;
        let [_, behind] = words(next, memory).filter(|_| is_own)?;
        let is_next = behind & 1 == 1
            && is_of_heap(behind)
            && behind & !FLAGS >= CHUNK
            && next.checked_add(behind & !FLAGS)? <= end;
        Some(start.is_multiple_of(CHUNK) && is_next)
    };
    has_chunk().unwrap_or(false)
}

/// How far from the end of a stack's mapping the thread's control block may be: behind it come at most thread-local variables of
/// libraries.
const NEAR_END: u64 = 64 << 10;
/// Where `struct pthread` (nptl/descr.h) has what is needed here, in bytes: the table of thread-local storage (`dtv`) and so on.
pub const TABLE: u64 = 8;
const SELF: u64 = 16;
const TID: u64 = 0x2d0;
const CANCELHANDLING: u64 = 0x308;
/// `EXITING_BITMASK`: the thread has left its function.
const EXITING: u64 = 0x10;
/// Its size: 2,304 bytes, and more from 2.42 on.
const DESCRIPTOR: u64 = 0x900;
/// The number of a thread that has ended and was joined.
const JOINED: u64 = 0xffff_ffff;

/// What is dead of the stack of a thread that has ended and whose memory is kept for the next one; `None` where that is not so.
///
/// A thread's number is zero as soon as the kernel has ended it, also where it is killed with its process; one that left its
/// function by itself is marked as well. Until it is joined its control block has its result.
pub(super) fn dead_stack(mapping: &Range<u64>, memory: &dyn Memory) -> Option<Range<u64>> {
    dead(mapping, memory)?.stack
}

/// The table of thread-local storage that the C library keeps with such a stack, by the address of its block.
pub(super) fn kept_table(mapping: &Range<u64>, memory: &dyn Memory) -> Option<u64> {
    Some(dead(mapping, memory)?.table)
}

/// What is left of a thread that has ended.
struct Dead {
    /// If it is known where that begins.
    stack: Option<Range<u64>>,
    table: u64,
}

fn dead(mapping: &Range<u64>, memory: &dyn Memory) -> Option<Dead> {
    let start = mapping.start.max(mapping.end.saturating_sub(NEAR_END));
    let mut tail = vec![0; ((mapping.end - start) / WORD) as usize];
    memory.read(start, &mut tail);
    let address = |at: usize| start + at as u64 * WORD;
    let is_block =
        |at: &usize| tail[*at] == address(*at) && tail.get(at + (SELF / WORD) as usize) == Some(&address(*at));
    let at = (0..tail.len()).rev().find(is_block)?;
    let word = |offset: u64| tail.get(at + (offset / WORD) as usize).copied();
    // What the kernel has joined with the stack, before or behind it, is something else.
    let end = match (word(TID)? & 0xffff_ffff, word(CANCELHANDLING)? & EXITING) {
        (JOINED, EXITING) => (address(at) + DESCRIPTOR).next_multiple_of(PAGE).min(mapping.end),
        (0, EXITING) => address(at),
        _ => return None,
    };
    let stack = descriptors::stack_start(address(at), memory).map(|start| start.max(mapping.start)..end);
    Some(Dead { stack, table: table_block(word(TABLE)?) })
}

/// Where something else than a thread may begin behind its control block.
pub(super) fn behind_thread(control_block: u64) -> u64 {
    control_block.saturating_add(DESCRIPTOR).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

/// Where the block of a table of thread-local storage starts, by what the control block says of it: two words behind.
#[must_use]
pub fn table_block(table: u64) -> u64 {
    table.wrapping_sub(2 * WORD)
}

/// These words, all of which can be read.
fn words<const N: usize>(address: u64, memory: &dyn Memory) -> Option<[u64; N]> {
    let mut words = [0; N];
    (address.is_multiple_of(WORD) && memory.read(address, &mut words) == 0).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    fn only(range: Range<u64>) -> Vec<Range<u64>> {
        vec![range]
    }

    /// With all arenas' heaps in the mapping.
    fn managed_in(mapping: &Range<u64>, blocks: &Blocks, memory: &Words) -> Vec<Range<u64>> {
        let heaps = (mapping.start.next_multiple_of(HEAP)..mapping.end).step_by(HEAP as usize);
        managed(mapping, &heaps.filter_map(|heap| arena_heap(heap, memory)).collect::<Vec<_>>(), blocks, memory)
    }

    #[test]
    fn a_heap_of_an_arena_is_known_by_its_header() {
        let heap = |at: u64, words: [u64; 4]| Words(vec![(at, words.to_vec()), (0x7f00_0000_0000, vec![0; 16])]);
        let first = 0x7f00_0400_0000;
        let memory = heap(first, [first + 48, 0, 0x21000, 0x21000]);
        let none = Blocks::new([]).unwrap();
        assert_eq!(managed_in(&(first..first + 0x21000), &none, &memory), only(first..first + 0x21000));
        // A mapping that begins before the heap, and goes on behind it.
        assert_eq!(managed_in(&(first - 0x1000..first + 0x40000), &none, &memory), only(first..first + 0x21000));
        for other in [
            [first + 8, 0, 0x21000, 0x21000],
            [first + 48, 0, 0x21001, 0x22000],
            [first + 48, 0, 0x22000, 0x21000],
            [first + 48, 8, 0x21000, 0x21000],
            [0; 4],
        ] {
            assert!(managed_in(&(first..first + 0x21000), &none, &heap(first, other)).is_empty(), "{other:x?}");
        }
        let second = first + 2 * HEAP;
        let both = Words(vec![
            (first, vec![first + 48, 0, 0x21000, 0x21000]),
            (second, vec![first + 48, first, 0x4000, 0x4000]),
        ]);
        assert_eq!(managed_in(&(second..second + 0x4000), &none, &both), only(second..second + 0x4000));
    }

    #[test]
    fn a_block_with_a_mapping_of_its_own_is_known_by_its_chunk() {
        let page = 0x7f00_0001_0000;
        let memory = Words(vec![(page, vec![0, 0x22002, 0, 0])]);
        let blocks = |size| Blocks::new([(page + 16, size)]).unwrap();
        let mapping = page - 0x4000..page + 0x30000;
        assert_eq!(managed_in(&mapping, &blocks(0x21000), &memory), only(page..page + 0x22000));
        assert!(managed_in(&mapping, &blocks(0x22000), &memory).is_empty(), "larger than its chunk");
        let memory = Words(vec![(page, vec![0, 0x22001, 0, 0])]);
        assert!(managed_in(&mapping, &blocks(0x21000), &memory).is_empty(), "of a heap");
        // posix_memalign to 0x1000.
        let memory = Words(vec![(page + 0xff0, vec![0xff0, 0x22012 & !FLAGS | 2, 0, 0])]);
        let aligned = Blocks::new([(page + 0x1000, 0x20000)]).unwrap();
        assert_eq!(managed_in(&mapping, &aligned, &memory), only(page..page + 0x23000));
    }

    #[test]
    fn mappings_of_single_blocks_are_found_among_others() {
        let page = 0x7f00_0001_0000;
        let words = vec![
            (page + 0x2000, vec![0, 0x22002]),
            (page + 0x24000, vec![0, 0x1000]),
            (page + 0x25000, vec![0, 0x21002]),
        ];
        let found = |end| mapped_with_others(&(page..end), &Words(words.clone()));
        let first = page + 0x2000..page + 0x24000;
        assert_eq!(found(page + 0x46000), [first.clone(), page + 0x25000..page + 0x46000]);
        assert_eq!(found(page + 0x45000), [first], "the second does not end within");
        assert!(found(page + 0x2000).is_empty());
    }

    #[test]
    fn an_aligned_block_with_a_mapping_of_its_own_has_a_header_of_its_own() {
        let page = 0x7f00_0001_0000;
        let whole = page..page + 0x22000;
        let plain = (page, vec![0, 0x22002]);
        assert_eq!(block_alone(&whole, &Words(vec![plain.clone()])), page + 16);
        let aligned = |room: u64| (page + room, vec![room, (0x22000 - room) | 2]);
        assert_eq!(block_alone(&whole, &Words(vec![plain.clone(), aligned(0xff0)])), page + 0x1000);
        assert_eq!(block_alone(&whole, &Words(vec![plain, aligned(0x30)])), page + 0x40);
    }

    #[test]
    fn blocks_that_follow_each_other_are_found_with_gaps_between_them() {
        let page = 0x7f00_0001_0000;
        let words =
            vec![(page, vec![0, 0x22002]), (page + 0x24000, vec![0, 0x1002]), (page + 0x40000, vec![0, 0x1002])];
        let found = |mut left| mapped_in_a_row(page..page + 0x50000, &Words(words.clone()), &mut left);
        let [first, second] = [page..page + 0x22000, page + 0x24000..page + 0x25000];
        assert_eq!(found(100), [first.clone(), second], "the last is too far behind");
        assert_eq!(found(2), [first], "no page is looked at any more");
    }

    #[test]
    fn what_a_program_takes_from_the_break_begins_behind_two_fences() {
        let page = 0x5555_0000_1000;
        let mut words = vec![0; 1024];
        assert_eq!(own_of_program(page + 64, &words), None);
        (words[501], words[503]) = (FENCE - 1, FENCE);
        assert_eq!(own_of_program(page + 64, &words), Some(504));
        assert_eq!(own_of_program(page + 56, &words), None, "not at the end of a page");
        assert_eq!(own_of_program(page + 64, &words[..504]), Some(504), "nothing behind them yet");
        words[503] = 0x21;
        assert_eq!(own_of_program(page + 64, &words), None);
        assert_eq!(own_of_program(page + 0xff0, &[0, FENCE]), None, "one fence");
    }

    #[test]
    fn what_a_program_takes_from_the_break_at_last_begins_behind_the_free_chunk() {
        let heap = 0x5555_0000_0000;
        let behind = |own: [u64; 2], end| {
            let words = vec![(heap, vec![0, 0x31, 0, 0, 0, 0, 0, 0xfd1, 0, 0]), (heap + 0x1000, own.to_vec())];
            behind_chunks(heap + 0x10, heap + end, &Words(words))
        };
        assert_eq!(behind([7, 7], 0x3000), Some(heap + 0x1000));
        assert_eq!(behind([0, 0x2001], 0x3000), None, "one more chunk");
        assert_eq!(behind([0, 0x3001], 0x3000), Some(heap + 0x1000), "which would end behind");
        assert_eq!(behind([7, 7], 0x1000), None, "nothing is behind");
    }

    #[test]
    fn the_heap_begins_with_chunks_unless_the_program_took_memory_first() {
        let heap = 0x5555_0000_0000;
        let memory = Words(vec![(heap, [0, 0x31, 0, 0, 0, 0, 0, 0x20, 7, 7, 0, 0x41].to_vec())]);
        assert!(begins_with_chunks(heap, heap + 0x60, &memory));
        assert!(begins_with_chunks(heap, heap + 0x10, &memory), "the first chunk");
        assert!(!begins_with_chunks(heap, heap + 0x70, &memory));
        assert!(!begins_with_chunks(heap + 0x40, heap + 0x100, &memory));
        assert!(!begins_with_chunks(heap, heap + 0x1000, &memory), "not readable");
    }

    #[test]
    fn a_stack_is_dead_once_its_thread_has_left_its_function() {
        let mapping = 0x7f00_0000_0000..0x7f00_0080_0000;
        let block = mapping.end - 0x900;
        let dead = |tid: u64, handling: u64| {
            let mut words = vec![0; 0x900 / 8];
            (words[0], words[2], words[(TID / 8) as usize]) = (block, block, tid | 7 << 32);
            words[(CANCELHANDLING / 8) as usize] = handling;
            // `stackblock` and `stackblock_size`.
            (words[0x690 / 8], words[0x698 / 8]) = (mapping.start - 0x1000, 0x80_1000);
            dead_stack(&mapping, &Words(vec![(block, words)]))
        };
        assert_eq!(dead(JOINED, 0x10), Some(mapping.clone()));
        assert_eq!(dead(0, 0x10), Some(mapping.start..block), "its result is not");
        let mut words = vec![0; 0x400 / 8];
        (words[0], words[1], words[2], words[(TID / 8) as usize]) = (block, 0x7010, block, JOINED);
        words[(CANCELHANDLING / 8) as usize] = EXITING;
        assert_eq!(kept_table(&mapping, &Words(vec![(block, words)])), Some(0x7000));
        assert_eq!(dead(4711, 0), None);
        assert_eq!(dead(0, 2), None, "killed with its process");
        assert_eq!(dead(4711, 0x10), None, "ending, but still there");
        assert_eq!(dead_stack(&mapping, &Words(vec![])), None);
        assert_eq!(kept_table(&mapping, &Words(vec![])), None);
    }
}
