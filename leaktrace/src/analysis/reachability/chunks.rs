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
    /// The first word of its block.
    pub(super) word: u64,
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
    let mut unrecorded = Vec::new();
    let mut start = heap.start;
    let mut field = window.word(start + WORD)?;
    loop {
        while recorded.next_if(|(known, _)| *known < start + HEADER).is_some() {}
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
        let mut chunk = Chunk { start, size: field & !FLAGS, word: 0 };
        if field & IS_MMAPPED != 0 || !chunk.size.is_multiple_of(UNIT) {
            return None;
        }
        // What closes a heap that its arena has left (`sysmalloc`).
        if chunk.size == 0 {
            return (start + HEADER == heap.end).then_some(Walked { unrecorded, last: start });
        }
        let next = start.checked_add(chunk.size).filter(|next| *next <= heap.end)?;
        if next == heap.end {
            return Some(Walked { unrecorded, last: start });
        }
        chunk.word = window.word(start + HEADER)?;
        field = window.word(next + WORD)?;
        if known.is_none() && field & BEFORE_IS_USED != 0 && chunk.size >= SMALLEST {
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

    fn walked(heads: &[(u64, u64)], end: u64, recorded: &[u64]) -> Option<Walked> {
        let words = heads.iter().map(|(at, head)| (HEAP + at, vec![0, *head])).collect();
        let blocks = Blocks::new(recorded.iter().map(|at| (HEAP + at, 8))).unwrap();
        walk(&(HEAP..HEAP + end), &blocks, &Words(words))
    }

    fn chunks(walked: Option<Walked>) -> Vec<(u64, u64)> {
        walked.unwrap().unrecorded.iter().map(|chunk| (chunk.start - HEAP, chunk.size)).collect()
    }

    #[test]
    fn a_chunk_is_in_use_if_the_next_one_says_so() {
        let heads = [(0, 0x291), (0x290, 0x31), (0x2c0, 0x21), (0x2e0, 0x40), (0x320, 0x4_0001), (0x4_0320, 0xce1)];
        let found = walked(&heads, 0x4_1000, &[0x2a0]);
        assert_eq!(found.as_ref().unwrap().last, HEAP + 0x4_0320);
        assert_eq!(chunks(found), [(0, 0x290), (0x2e0, 0x40), (0x320, 0x4_0000)], "one is recorded, one is free");
    }

    #[test]
    fn recorded_blocks_one_behind_the_other_are_not_read() {
        // The chunks of three blocks of 24, 25 and 8 bytes; only the last one's size is there, and it is larger than needed.
        let heads = [(0, 0x21), (0x50, 0x31), (0x80, 0x41), (0xc0, 0xf41)];
        let words = heads.iter().map(|(at, field)| (HEAP + at, vec![0, *field])).collect();
        let blocks = Blocks::new([(HEAP + 0x10, 24), (HEAP + 0x30, 25), (HEAP + 0x60, 8)]).unwrap();
        let found = walk(&(HEAP..HEAP + 0x1000), &blocks, &Words(words));
        assert_eq!(chunks(found), [(0x80, 0x40)]);
        assert_eq!([0, 24, 25, 40, 41].map(chunk_for), [32, 32, 48, 48, 64]);
    }

    #[test]
    fn what_an_arena_has_left_ends_with_a_chunk_of_no_size() {
        let heads = [(0, 0x25), (0x20, 0xfc1), (0xfe0, 0x10), (0xff0, 1)];
        assert_eq!(chunks(walked(&heads, 0x1000, &[])), [(0, 0x20)]);
        assert_eq!(walked(&heads, 0x2000, &[]), None, "it is not the end");
    }

    #[test]
    fn chunks_must_lead_to_the_end() {
        for heads in [
            [(0, 0x31), (0x30, 0xfe1)],
            [(0, 0x33), (0x30, 0xfd1)],
            [(0, 0x39), (0x38, 0xfc9)],
            [(0, 0x31), (0x40, 0xfc1)],
        ] {
            assert_eq!(walked(&heads, 0x1000, &[]), None, "{heads:x?}");
        }
        assert_eq!(walked(&[], 0x1000, &[]), None, "nothing is there");
    }
}
