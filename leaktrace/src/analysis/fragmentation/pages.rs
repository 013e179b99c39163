//! The resident pages of a part, each with what blocks make of it.
//!
//! In: runs of resident pages, and blocks. Out: the pages. A page is found by its address in a few reads however many holes there are:
//! chunks of 512 pages have a bit for each page that is there.

use std::ops::Range;

use super::{Counts, Part};

/// Pages of a chunk.
const CHUNK: u64 = 512;
/// Bits of a word.
const WORD: usize = 64;

/// No block touches a page.
pub(super) const NOBODY: u32 = u32::MAX;
/// Blocks of several sites do.
pub(super) const SEVERAL: u32 = u32::MAX - 1;

/// A resident page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// Bytes that blocks lie on.
    pub(super) bytes: u32,
    /// Whose blocks these are, [`NOBODY`] or [`SEVERAL`].
    pub(super) site: u32,
}

/// How many steps were taken, and how many may be: of blocks that overlap there is no end.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) done: u64,
    pub(super) allowed: u64,
}

impl Work {
    /// One step more, if that is allowed.
    pub(super) fn step(&mut self) -> bool {
        self.done += 1;
        !self.is_over()
    }

    pub(super) fn is_over(&self) -> bool {
        self.done > self.allowed
    }
}

/// A part with what is known of its pages.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) range: Range<u64>,
    pub(super) counts: Counts,
    /// A block lies in it that makes its pages count.
    pub(super) is_holding: bool,
    /// How many are resident.
    pub(super) count: usize,
    /// Those that are, by address; none as long as no block lies here.
    pub(super) pages: Vec<Page>,
    page: u64,
    /// Chunks with resident pages: numbers of 512 pages each, from address 0.
    numbers: Vec<u64>,
    chunks: Vec<Chunk>,
    /// Where the last block was.
    last: usize,
}

/// Some of 512 pages.
#[derive(Debug)]
struct Chunk {
    /// Which of them are resident.
    bits: [u64; CHUNK as usize / WORD],
    /// Place of the first of these in [`Resident::pages`].
    first: usize,
}

impl Chunk {
    /// Place of the first resident page from this one on.
    fn place(&self, from: usize) -> usize {
        let before: u32 = self.bits[..from / WORD].iter().map(|word| word.count_ones()).sum();
        let within = self.bits[from / WORD] & ((1 << (from % WORD)) - 1);
        self.first + (before + within.count_ones()) as usize
    }
}

impl Resident {
    pub(super) fn of(Part { range, counts, resident }: Part, page: u64) -> Self {
        let (mut numbers, mut chunks): (Vec<u64>, Vec<Chunk>) = (Vec::new(), Vec::new());
        let (mut count, mut next) = (0, 0);
        for run in resident {
            for number in (run.start / page).max(next)..run.end / page {
                next = number + 1;
                let (chunk, bit) = (number / CHUNK, (number % CHUNK) as usize);
                if numbers.last() != Some(&chunk) {
                    numbers.push(chunk);
                    chunks.push(Chunk { bits: [0; CHUNK as usize / WORD], first: count });
                }
                if let Some(chunk) = chunks.last_mut() {
                    chunk.bits[bit / WORD] |= 1 << (bit % WORD);
                    count += 1;
                }
            }
        }
        Self { range, counts, is_holding: false, count, pages: Vec::new(), page, numbers, chunks, last: 0 }
    }

    /// Adds what of a block lies here, one of no bytes if it `is_empty`; whether it touches any page.
    pub(super) fn add(&mut self, block: &Range<u64>, is_empty: bool, site: u32, work: &mut Work) -> bool {
        let (start, end) = (block.start.max(self.range.start), block.end.min(self.range.end));
        if start >= end {
            return false;
        }
        if self.pages.is_empty() {
            self.pages = vec![Page { bytes: 0, site: NOBODY }; self.count];
        }
        let (first, last) = (start / self.page, (end - 1) / self.page);
        if self.numbers.get(self.last) != Some(&(first / CHUNK)) {
            self.last = self.numbers.partition_point(|number| *number < first / CHUNK);
        }
        let mut touches = false;
        for (number, chunk) in self.numbers[self.last..].iter().zip(&self.chunks[self.last..]) {
            let begin = number * CHUNK;
            if begin > last || !work.step() {
                break;
            }
            let (from, to) = (first.saturating_sub(begin) as usize, (last - begin).min(CHUNK - 1) as usize);
            let mut place = chunk.place(from);
            for word in from / WORD..=to / WORD {
                let mut bits = chunk.bits[word];
                if word == from / WORD {
                    bits &= u64::MAX << (from % WORD);
                }
                if word == to / WORD {
                    bits &= u64::MAX >> (WORD - 1 - to % WORD);
                }
                while bits != 0 {
                    let Some(it) = self.pages.get_mut(place).filter(|_| work.step()) else { return touches };
                    let at = (begin + (word * WORD) as u64 + u64::from(bits.trailing_zeros())) * self.page;
                    let bytes = if is_empty { 0 } else { end.min(at + self.page) - start.max(at) };
                    it.bytes = it.bytes.saturating_add(bytes as u32);
                    it.site = if it.site == NOBODY || it.site == site { site } else { SEVERAL };
                    touches = true;
                    place += 1;
                    bits &= bits - 1;
                }
            }
        }
        touches
    }
}
