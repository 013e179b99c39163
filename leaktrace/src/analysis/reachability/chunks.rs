//! The chunks of a heap of glibc's, one behind the other (malloc/malloc.c, "Chunks").
//!
//! In: where a heap begins and ends, and the recorded blocks. Out: the chunks that are in use by what stands behind them and are no
//! recorded block; `None` where the chunks do not lead to the heap's end.

use std::ops::Range;

use super::blocks::Blocks;
use super::memory::Memory;

const PAGE: u64 = 4096;
const WORD: u64 = 8;
/// What is read of a heap at once, bytes.
const WINDOW: u64 = 128 << 10;
/// A chunk's header before its block.
pub(super) const HEADER: u64 = 16;
/// The flags of a size: the chunk before is in use, the chunk has a mapping of its own, it is of another arena than the first.
const FLAGS: u64 = 7;
const BEFORE_IS_USED: u64 = 1;
const IS_MMAPPED: u64 = 2;
/// What chunks are multiples of, and the smallest that holds a block.
const UNIT: u64 = 16;
const SMALLEST: u64 = 32;

/// A chunk that is in use, or seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) size: u64,
    /// The first word of its block, and the second.
    pub(super) word: u64,
    pub(super) key: u64,
}

impl Chunk {
    /// The block in it.
    pub(super) fn block(self) -> u64 {
        self.start + HEADER
    }

    /// What the program may use of that, bytes: the first word of the next chunk as well.
    pub(super) fn usable(self) -> u64 {
        self.size - WORD
    }
}

/// A heap that was gone through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Chunks in use that are no recorded block, by address. What threads and fastbins keep for the next request is among them.
    pub(super) unrecorded: Vec<Chunk>,
    /// There are recorded blocks at other places than chunks': parts of a chunk that the program deals out itself.
    pub(super) has_others: bool,
    /// The last chunk, which is the free rest of the heap (`top`) unless the arena goes on elsewhere.
    pub(super) last: u64,
}

/// The size of the chunk that glibc makes for so many bytes; where only a little more would be left over it is larger.
fn chunk_for(size: u64) -> u64 {
    size.saturating_add(WORD).checked_next_multiple_of(UNIT).unwrap_or(u64::MAX).max(SMALLEST)
}

/// Goes through a heap. Where recorded blocks lie one behind the other it need not be read.
pub(super) fn walk(heap: &Range<u64>, blocks: &Blocks, memory: &dyn Memory) -> Option<Walked> {
    let mut window = Window { memory, start: 0, words: vec![0; (WINDOW / WORD) as usize] };
    let mut recorded = blocks.within(heap).map(|block| (blocks.start(block), blocks.size(block))).peekable();
    let (mut unrecorded, mut has_others) = (Vec::new(), false);
    let mut start = heap.start;
    let mut field = window.word(start + WORD).filter(|field| field & BEFORE_IS_USED != 0)?;
    loop {
        while recorded.next_if(|(known, _)| *known < start + HEADER).is_some() {
            has_others = true;
        }
        let known = recorded.next_if(|(known, _)| *known == start + HEADER);
        if let Some((mut last, mut size)) = known {
            while let Some(next) = recorded.next_if(|(next, _)| *next == last.saturating_add(chunk_for(size))) {
                (last, size) = next;
            }
            if last - HEADER != start {
                start = last - HEADER;
                field = window.word(start + WORD)?;
            }
        }
        let mut chunk = Chunk { start, size: field & !FLAGS, word: 0, key: 0 };
        if field & IS_MMAPPED != 0 || !chunk.size.is_multiple_of(UNIT) {
            return None;
        }
        // Two chunks close a heap that its arena has left (`sysmalloc`). Below the break others may follow, behind what the program has
        // taken itself.
        let closes = chunk.size < SMALLEST;
        if closes && start + chunk.size + HEADER != heap.end {
            return None;
        }
        let next = start.checked_add(chunk.size).filter(|next| *next <= heap.end)?;
        if next == heap.end || chunk.size == 0 {
            has_others |= recorded.next().is_some();
            return Some(Walked { unrecorded, has_others, last: start });
        }
        let is_after_used = field & BEFORE_IS_USED != 0;
        (chunk.word, chunk.key) = (window.word(start + HEADER)?, window.word(start + HEADER + WORD)?);
        field = window.word(next + WORD)?;
        let is_free = field & BEFORE_IS_USED == 0;
        // A free chunk ends with its size, and the one before it is not free: they would be one.
        if is_free && (!is_after_used || window.word(next)? != chunk.size) {
            return None;
        }
        if known.is_none() && !is_free && !closes {
            unrecorded.push(chunk);
        }
        start = next;
    }
}

/// A part of a heap.
struct Window<'a> {
    memory: &'a dyn Memory,
    start: u64,
    words: Vec<u64>,
}

impl Window<'_> {
    /// The word at this address, zero if it is not there.
    fn word(&mut self, at: u64) -> Option<u64> {
        if !(self.start..self.start.saturating_add(WINDOW)).contains(&at) {
            self.start = at / PAGE * PAGE;
            // What is not there is zero, which is no size within a heap.
            self.memory.read(self.start, &mut self.words);
        }
        self.words.get(((at - self.start) / WORD) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    const HEAP: u64 = 0x5555_0000_0000;

    /// Chunks by place, with what they say of the size of the one before and of their own.
    fn walked(heads: &[(u64, u64, u64)], end: u64, recorded: &[u64]) -> Option<Walked> {
        let words = heads.iter().map(|(at, before, head)| (HEAP + at, vec![*before, *head])).collect();
        let blocks = Blocks::new(recorded.iter().map(|at| (HEAP + at, 8))).unwrap();
        walk(&(HEAP..HEAP + end), &blocks, &Words(words))
    }

    fn chunks(walked: Option<Walked>) -> Vec<(u64, u64)> {
        walked.unwrap().unrecorded.iter().map(|chunk| (chunk.start - HEAP, chunk.size)).collect()
    }

    #[test]
    fn a_chunk_is_in_use_if_the_next_one_says_so() {
        let heads = [
            (0, 0, 0x291),
            (0x290, 7, 0x31),
            (0x2c0, 7, 0x21),
            (0x2e0, 0x20, 0x40),
            (0x320, 7, 0x4_0001),
            (0x4_0320, 7, 0xce1),
        ];
        let found = walked(&heads, 0x4_1000, &[0x2a0]);
        assert_eq!(found.as_ref().map(|found| (found.last, found.has_others)), Some((HEAP + 0x4_0320, false)));
        assert_eq!(chunks(found), [(0, 0x290), (0x2e0, 0x40), (0x320, 0x4_0000)], "one is recorded, one is free");
        let found = walked(&heads, 0x4_1000, &[0x2a0, 0x1000]).unwrap();
        assert!(found.has_others, "a part of a chunk is recorded");
        assert_eq!(walked(&heads, 0x4_1000, &[0x2a0, 0x4_0400]).map(|found| found.has_others), Some(true));
    }

    #[test]
    fn a_free_chunk_ends_with_its_size_and_follows_one_that_is_not() {
        let of = |before: u64, own: u64| {
            let heads = [(0, 0, 0x21), (0x20, 7, 0x30 | own), (0x50, before, 0x40), (0x90, 7, 0xf71)];
            walked(&heads, 0x1000, &[]).map(|walked| walked.unrecorded.len())
        };
        assert_eq!(of(0x30, 1), Some(2));
        assert_eq!(of(0x50, 1), None, "no size at its end");
        assert_eq!(of(0x30, 0), None, "both are free");
        // What a program takes from the break, with a pointer and a size in front.
        let regions = [(0, HEAP + 0x1000, 0x1000), (0x1000, 0, 0x1000)];
        assert_eq!(walked(&regions, 0x2000, &[]), None);
    }

    #[test]
    fn recorded_blocks_one_behind_the_other_are_not_read() {
        // The chunks of three blocks of 24, 25 and 8 bytes; only the last one's size is there, and it is larger than needed.
        let heads = [(0, 0, 0x21), (0x50, 7, 0x31), (0x80, 7, 0x41), (0xc0, 7, 0xf41)];
        let words = heads.iter().map(|(at, before, field)| (HEAP + at, vec![*before, *field])).collect();
        let blocks = Blocks::new([(HEAP + 0x10, 24), (HEAP + 0x30, 25), (HEAP + 0x60, 8)]).unwrap();
        let found = walk(&(HEAP..HEAP + 0x1000), &blocks, &Words(words));
        assert_eq!(chunks(found), [(0x80, 0x40)]);
        assert_eq!([0, 24, 25, 40, 41].map(chunk_for), [32, 32, 48, 48, 64]);
    }

    #[test]
    fn what_an_arena_has_left_ends_with_two_small_chunks() {
        let heads = [(0, 0, 0x25), (0x20, 7, 0xfc1), (0xfe0, 0xfc0, 0x10), (0xff0, 0, 1)];
        assert_eq!(chunks(walked(&heads, 0x1000, &[])), [(0, 0x20)]);
        assert_eq!(walked(&heads, 0x2000, &[]), None, "it is not the end");
        let before = [(0, 0, 0x21), (0x20, 0, 0x11), (0x30, 0, 0x11), (0x40, 0, 0xfc1)];
        assert_eq!(walked(&before, 0x1000, &[]), None, "more follows behind what closed the heap");
    }

    #[test]
    fn chunks_must_lead_to_the_end() {
        for heads in [
            [(0, 0, 0x31), (0x30, 7, 0xfe1)],
            [(0, 0, 0x33), (0x30, 7, 0xfd1)],
            [(0, 0, 0x39), (0x38, 7, 0xfc9)],
            [(0, 0, 0x31), (0x40, 7, 0xfc1)],
            [(0, 0, 0x30), (0x30, 7, 0xfd1)],
        ] {
            assert_eq!(walked(&heads, 0x1000, &[]), None, "{heads:x?}");
        }
        assert_eq!(walked(&[], 0x1000, &[]), None, "nothing is there");
    }
}
