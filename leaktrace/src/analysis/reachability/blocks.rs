//! The outstanding blocks in the order of their addresses, and which of them a word points into.
//!
//! A word's block is found by tables for GiB, for 2 MiB and for 2 KiB of addresses, each of which says how many blocks start below
//! its unit. An entry for 2 KiB has a bit for each 16 bytes in which a block starts, and counting bits gives the position: a
//! pointer to the start of a block costs one access to memory that is not in a near cache, another pointer two. Where no block
//! starts in a unit no further table is needed, so memory is proportional to the number of blocks, however far apart they are and
//! however large: 16 MB for each GiB in which small blocks lie close together, and 16 bytes for each block.

use std::cmp::Ordering;
use std::ops::Range;

use super::moved::{Moved, NONE};
use crate::process::memory::back_by_large_pages;

/// Bytes that an entry of each table covers, as shifts.
const LARGE: u32 = 30;
const PAGE: u32 = 21;
const LEAF: u32 = 11;
const GRANULE: u32 = 4;
const PAGES: usize = 1 << (LARGE - PAGE);
const LEAVES: usize = 1 << (PAGE - LEAF);
/// The most GiB between the first block and the last: all addresses of a process with page tables of four levels.
const MAX_LARGE: u64 = 1 << (47 - LARGE);
/// The most blocks: two bits of an edge say what kind of pointer it is.
pub(super) const MAX_BLOCKS: usize = 1 << 30;
/// In an entry of the tables for GiB and 2 MiB: no block starts in its unit, and the rest is the number of blocks below.
const PLAIN: u32 = 1 << 31;

/// Blocks that the index has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooFar {
    /// They lie too far apart.
    #[error("blocks lie {0} GiB apart, more than 2^47 bytes")]
    Apart(u64),
    /// There are too many of them.
    #[error("{0} blocks are too many")]
    Many(usize),
}

/// A block.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    size: u64,
}

/// The blocks that start in 2 KiB of addresses. In one line of the processor's caches: it is fetched for almost every pointer.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Leaf {
    /// A bit for each 16 bytes in which a block starts.
    starts: [u64; 2],
    /// How many start below.
    below: u32,
    /// In some 16 bytes there are several starts, or one that is not their first byte: the bits say too little.
    is_uneven: bool,
}

impl Leaf {
    /// How many blocks start below an address of these 2 KiB or in its 16 bytes, and whether one does in these.
    #[inline]
    fn count(&self, address: u64) -> (usize, bool) {
        let granule = (address >> GRANULE) as u32 % 128;
        let bit = granule % 64;
        // All bits up to this one.
        let upto = u64::MAX >> (63 - bit);
        let (low, high) =
            if granule < 64 { (self.starts[0] & upto, 0) } else { (self.starts[0], self.starts[1] & upto) };
        let own = if granule < 64 { self.starts[0] } else { self.starts[1] };
        ((self.below + low.count_ones() + high.count_ones()) as usize, own >> bit & 1 != 0)
    }
}

/// The blocks of a process, known by their positions in ascending order of address.
#[derive(Debug)]
pub struct Blocks {
    spans: Vec<Span>,
    /// Addresses that may lie in a block.
    bounds: Range<u64>,
    larges: Vec<u32>,
    pages: Vec<u32>,
    leaves: Vec<Leaf>,
}

impl Blocks {
    /// Indexes blocks, given as address and size in bytes, in ascending order of address.
    ///
    /// # Errors
    /// They lie too far apart, or there are too many.
    pub fn new(blocks: impl IntoIterator<Item = (u64, u64)>) -> Result<Self, TooFar> {
        let blocks = blocks.into_iter();
        let mut spans: Vec<Span> = Vec::with_capacity(blocks.size_hint().0);
        back_by_large_pages(&mut spans);
        let mut end = 0;
        for (start, size) in blocks {
            debug_assert!(spans.last().is_none_or(|last| last.start < start), "not in order");
            if spans.len() == MAX_BLOCKS {
                return Err(TooFar::Many(MAX_BLOCKS + 1));
            }
            // A block of no bytes has an address of its own.
            end = end.max(start.saturating_add(size.max(1)));
            spans.push(Span { start, size });
        }
        let first = spans.first().map_or(0, |first| first.start);
        let mut blocks = Self { spans, bounds: first..end, larges: Vec::new(), pages: Vec::new(), leaves: Vec::new() };
        blocks.index()?;
        Ok(blocks)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Where a block starts.
    #[must_use]
    pub fn start(&self, block: u32) -> u64 {
        self.spans[block as usize].start
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self, block: u32) -> u64 {
        self.spans[block as usize].size
    }

    /// One past its last address.
    #[must_use]
    pub fn end(&self, block: u32) -> u64 {
        let Span { start, size } = self.spans[block as usize];
        start.saturating_add(size)
    }

    /// Where these blocks are among those of a later time, by the addresses at which they start: one that was moved by `realloc`
    /// is another, and one that has grown in its place is not.
    pub(super) fn moved_to(&self, later: &Self) -> Moved {
        let mut moved = Moved { then: vec![NONE; later.len()], now: vec![NONE; self.len()] };
        let (mut then, mut now) = (0, 0);
        while let (Some(old), Some(new)) = (self.spans.get(then), later.spans.get(now)) {
            match old.start.cmp(&new.start) {
                Ordering::Less => then += 1,
                Ordering::Greater => now += 1,
                Ordering::Equal => {
                    (moved.then[now], moved.now[then]) = (then as u32, now as u32);
                    (then, now) = (then + 1, now + 1);
                }
            }
        }
        moved
    }

    /// The addresses from the first block to the end of the last: no other word points into a block.
    #[must_use]
    pub fn bounds(&self) -> Range<u64> {
        self.bounds.clone()
    }

    /// The block that an address lies in, and how far behind its start. A block of no bytes counts as one of one byte.
    #[inline]
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(u32, u64)> {
        let block = match self.starting_by(address)? {
            Count::AtStart(count) => return Some((count as u32 - 1, 0)),
            Count::Upto(count) => count.checked_sub(1)?,
        };
        let Span { start, size } = *self.spans.get(block)?;
        let offset = address - start;
        (offset < size.max(1)).then_some((block as u32, offset))
    }

    /// Has the processor fetch what [`Blocks::find`] will need of the largest table.
    #[inline]
    pub(super) fn prefetch(&self, address: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Some(Reached::Leaf(leaf)) = self.reach(address) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: fetches a part of the table into the caches and changes nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(leaf).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// The first block that ends behind an address.
    #[must_use]
    pub fn first_behind(&self, address: u64) -> usize {
        let behind = self.spans.partition_point(|span| span.start <= address);
        match behind.checked_sub(1) {
            Some(last) if self.end(last as u32) > address => last,
            _ => behind,
        }
    }

    /// The blocks that start in a range.
    pub fn within(&self, range: &Range<u64>) -> impl ExactSizeIterator<Item = u32> + use<> {
        let place = |address: u64| self.spans.partition_point(|span| span.start < address) as u32;
        place(range.start)..place(range.end)
    }

    /// What the tables for GiB and 2 MiB say of an address; `None` below the first block and where none of the tables reaches.
    #[inline]
    fn reach(&self, address: u64) -> Option<Reached<'_>> {
        let large = (address >> LARGE).checked_sub(self.bounds.start >> LARGE)?;
        let table = *self.larges.get(large as usize)?;
        if table & PLAIN != 0 {
            return Some(Reached::Count((table & !PLAIN) as usize));
        }
        let table = *self.pages.get(table as usize * PAGES + (address >> PAGE) as usize % PAGES)?;
        if table & PLAIN != 0 {
            return Some(Reached::Count((table & !PLAIN) as usize));
        }
        self.leaves.get(table as usize * LEAVES + (address >> LEAF) as usize % LEAVES).map(Reached::Leaf)
    }

    /// How many blocks start at this address or below; `None` below the first and where none of the tables reaches.
    #[inline]
    fn starting_by(&self, address: u64) -> Option<Count> {
        let leaf = match self.reach(address)? {
            Reached::Count(count) => return Some(Count::Upto(count)),
            Reached::Leaf(leaf) => leaf,
        };
        if leaf.is_uneven {
            let mut count = leaf.below as usize;
            while self.spans.get(count).is_some_and(|span| span.start <= address) {
                count += 1;
            }
            return Some(Count::Upto(count));
        }
        let (count, starts_here) = leaf.count(address);
        let is_first_byte = address.trailing_zeros() >= GRANULE;
        Some(if starts_here && is_first_byte { Count::AtStart(count) } else { Count::Upto(count) })
    }

    /// Fills the tables.
    fn index(&mut self) -> Result<(), TooFar> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let (first, last) = (self.bounds.start >> LARGE, (self.bounds.end - 1) >> LARGE);
        let larges = last - first + 1;
        if larges > MAX_LARGE {
            return Err(TooFar::Apart(larges));
        }
        let used = self.spans.chunk_by(|a, b| a.start >> PAGE == b.start >> PAGE).count();
        self.leaves.reserve_exact(used * LEAVES);
        back_by_large_pages(&mut self.leaves);
        let mut below = 0;
        for large in first..=last {
            let entry = match self.starting_in(below, large, LARGE) {
                0 => PLAIN | below as u32,
                within => {
                    let entry = (self.pages.len() / PAGES) as u32;
                    self.index_pages(large, below);
                    below += within;
                    entry
                }
            };
            self.larges.push(entry);
        }
        Ok(())
    }

    fn index_pages(&mut self, large: u64, mut below: usize) {
        let first = large << (LARGE - PAGE);
        for page in first..first + PAGES as u64 {
            let within = self.starting_in(below, page, PAGE);
            let entry = if within == 0 { PLAIN | below as u32 } else { (self.leaves.len() / LEAVES) as u32 };
            self.pages.push(entry);
            if within > 0 {
                self.index_leaves(page, below);
                below += within;
            }
        }
    }

    fn index_leaves(&mut self, page: u64, mut below: usize) {
        let first = page << (PAGE - LEAF);
        for unit in first..first + LEAVES as u64 {
            let mut leaf = Leaf { below: below as u32, ..Leaf::default() };
            while let Some(span) = self.spans.get(below).filter(|span| span.start >> LEAF == unit) {
                let granule = (span.start >> GRANULE) as usize % 128;
                let (word, bit) = (granule / 64, 1 << (granule % 64));
                leaf.is_uneven |= leaf.starts[word] & bit != 0 || span.start.trailing_zeros() < GRANULE;
                leaf.starts[word] |= bit;
                below += 1;
            }
            self.leaves.push(leaf);
        }
    }

    /// How many blocks start in a unit of a table, if the blocks before `from` start below it.
    fn starting_in(&self, from: usize, unit: u64, shift: u32) -> usize {
        self.spans[from..].partition_point(|span| span.start >> shift <= unit)
    }
}

/// What the smaller tables say.
enum Reached<'a> {
    /// So many blocks start at the address or below.
    Count(usize),
    /// What to ask for that.
    Leaf(&'a Leaf),
}

/// How many blocks start at an address or below.
enum Count {
    /// The last of them at the very address.
    AtStart(usize),
    /// Where the last of them starts is not known.
    Upto(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plainly(blocks: &[(u64, u64)], address: u64) -> Option<(u32, u64)> {
        let at = blocks.iter().rposition(|(start, _)| *start <= address)?;
        let (start, size) = blocks[at];
        (address - start < size.max(1)).then_some((at as u32, address - start))
    }

    #[test]
    fn an_address_is_in_a_block_from_its_first_byte_to_its_last() {
        let blocks = Blocks::new([(0x1000, 24), (0x1020, 0), (0x1030, 8)]).unwrap();
        assert_eq!(blocks.find(0x0fff), None);
        assert_eq!(blocks.find(0x1000), Some((0, 0)));
        assert_eq!(blocks.find(0x1017), Some((0, 23)));
        assert_eq!(blocks.find(0x1018), None, "one past its end");
        assert_eq!(blocks.find(0x1020), Some((1, 0)), "a block of no bytes");
        assert_eq!(blocks.find(0x1021), None);
        assert_eq!(blocks.find(0x1038), None);
        assert_eq!((blocks.first_behind(0x1018), blocks.first_behind(0x1017), blocks.first_behind(0x1038)), (1, 0, 3));
        assert!(Blocks::new([]).unwrap().find(0x1000).is_none());
    }

    #[test]
    fn a_block_may_be_larger_than_every_table_covers() {
        let blocks = [(0x7000, 16), (0x10_0000_0000, 5 << 40), (0x7fff_0000_0000, 1 << 20), (0x7fff_0020_0000, 64)];
        let index = Blocks::new(blocks).unwrap();
        assert_eq!(index.find(0x10_0000_0000 + (5 << 40) - 1), Some((1, (5 << 40) - 1)));
        assert_eq!(index.find(0x10_0000_0000 + (5 << 40)), None);
        assert_eq!(index.find(0x7fff_000f_ffff), Some((2, 0xf_ffff)));
        assert_eq!(index.find(u64::MAX), None);
        // One table for each GiB in which a block starts, and not for those that one lies in.
        assert_eq!(index.pages.len(), 3 * PAGES);
        assert_eq!(index.leaves.len(), 4 * LEAVES, "and for each 2 MiB");
    }

    #[test]
    fn blocks_too_far_apart_are_refused() {
        assert_eq!(Blocks::new([(0x1000, 8), (1 << 56, 8)]).unwrap_err(), TooFar::Apart((1 << 26) + 1));
    }

    proptest::proptest! {
        #[test]
        fn every_address_is_found_as_by_a_plain_search(
            gaps in proptest::collection::vec((1u64..1 << 24, 0u64..600, proptest::bool::ANY), 1..200),
            probes in proptest::collection::vec(0u64..1 << 32, 50),
            alignment in proptest::sample::select(vec![1u64, 8, 16, 32]),
        ) {
            let (mut blocks, mut at) = (Vec::new(), 0x5555_0000_0000);
            for (gap, size, near) in gaps {
                at = (at + if near { gap % 700 + 1 } else { gap }).next_multiple_of(alignment);
                blocks.push((at, size));
                at += size;
            }
            let index = Blocks::new(blocks.iter().copied()).unwrap();
            let around = blocks.iter().flat_map(|(start, size)| [*start - 1, *start, start + size / 2, start + size]);
            for address in around.chain(probes.into_iter().map(|offset| 0x5555_0000_0000 + offset)) {
                proptest::prop_assert_eq!(index.find(address), plainly(&blocks, address), "{:#x}", address);
                let behind = blocks.iter().position(|(start, size)| start + size > address).unwrap_or(blocks.len());
                proptest::prop_assert_eq!(index.first_behind(address), behind);
            }
        }
    }
}
