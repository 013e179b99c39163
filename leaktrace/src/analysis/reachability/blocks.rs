//! The outstanding blocks in the order of their addresses, and which of them a word points into.
//!
//! A word's block is found by three tables (for GiB, 2 MiB and 256 bytes of addresses), each of which says how many blocks start
//! below its unit, and by comparing the few that start within. A unit in which no block starts needs no further table, so
//! memory is proportional to the number of blocks, however far apart they are and however large.

use std::ops::Range;

/// Bytes that an entry of each table covers, as shifts.
const LARGE: u32 = 30;
const PAGE: u32 = 21;
const GRANULE: u32 = 8;
const PAGES: usize = 1 << (LARGE - PAGE);
const GRANULES: usize = 1 << (PAGE - GRANULE);
/// The most GiB between the first block and the last: all addresses of a process with page tables of four levels.
const MAX_LARGE: u64 = 1 << (47 - LARGE);
/// The most blocks: two bits of an edge say what kind of pointer it is.
pub(super) const MAX_BLOCKS: usize = 1 << 30;
/// In an entry: no block starts in its unit, and the rest is the number of blocks that start below.
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

/// The blocks of a process, known by their positions in ascending order of address.
#[derive(Debug)]
pub struct Blocks {
    starts: Vec<u64>,
    sizes: Vec<u32>,
    /// Sizes of 4 GiB and more, by position.
    huge: Vec<(u32, u64)>,
    /// Addresses that may lie in a block.
    bounds: Range<u64>,
    larges: Vec<u32>,
    pages: Vec<u32>,
    granules: Vec<u32>,
}

impl Blocks {
    /// Indexes blocks, given as address and size in bytes, in ascending order of address.
    ///
    /// # Errors
    /// They lie too far apart, or there are too many.
    pub fn new(blocks: impl IntoIterator<Item = (u64, u64)>) -> Result<Self, TooFar> {
        let blocks = blocks.into_iter();
        let (mut starts, mut sizes) =
            (Vec::with_capacity(blocks.size_hint().0), Vec::with_capacity(blocks.size_hint().0));
        let (mut huge, mut end) = (Vec::new(), 0);
        for (start, size) in blocks {
            debug_assert!(starts.last().is_none_or(|last| *last < start), "not in order");
            if starts.len() == MAX_BLOCKS {
                return Err(TooFar::Many(MAX_BLOCKS + 1));
            }
            sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
            if size >= u64::from(u32::MAX) {
                huge.push((starts.len() as u32, size));
            }
            // A block of no bytes has an address of its own.
            end = end.max(start.saturating_add(size.max(1)));
            starts.push(start);
        }
        let first = starts.first().copied().unwrap_or(0);
        let mut blocks = Self {
            starts,
            sizes,
            huge,
            bounds: first..end,
            larges: Vec::new(),
            pages: Vec::new(),
            granules: Vec::new(),
        };
        blocks.index()?;
        Ok(blocks)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Where a block starts.
    #[must_use]
    pub fn start(&self, block: u32) -> u64 {
        self.starts[block as usize]
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self, block: u32) -> u64 {
        match self.sizes[block as usize] {
            u32::MAX => self.huge.binary_search_by_key(&block, |huge| huge.0).map_or(0, |at| self.huge[at].1),
            size => u64::from(size),
        }
    }

    /// One past its last address.
    #[must_use]
    pub fn end(&self, block: u32) -> u64 {
        self.start(block).saturating_add(self.size(block))
    }

    /// The addresses from the first block to the end of the last: no other word points into a block.
    #[must_use]
    pub fn bounds(&self) -> Range<u64> {
        self.bounds.clone()
    }

    /// The block that an address lies in, and how far behind its start. A block of no bytes counts as one of one byte.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(u32, u64)> {
        let block = (self.starting_by(address)?.checked_sub(1)?) as u32;
        let offset = address - self.start(block);
        (offset < self.size(block).max(1)).then_some((block, offset))
    }

    /// The first block that ends behind an address.
    #[must_use]
    pub fn first_behind(&self, address: u64) -> usize {
        let behind = self.starts.partition_point(|start| *start <= address);
        match behind.checked_sub(1) {
            Some(last) if self.end(last as u32) > address => last,
            _ => behind,
        }
    }

    /// The blocks that start in a range.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = u32> + use<> {
        let place = |address: u64| self.starts.partition_point(|start| *start < address) as u32;
        place(range.start)..place(range.end)
    }

    /// How many blocks start at this address or below; `None` below the first and where none of the tables reaches.
    #[inline]
    fn starting_by(&self, address: u64) -> Option<usize> {
        let large = (address >> LARGE).checked_sub(self.bounds.start >> LARGE)?;
        let table = *self.larges.get(large as usize)?;
        if table & PLAIN != 0 {
            return Some((table & !PLAIN) as usize);
        }
        let page = (address >> PAGE) as usize % PAGES;
        let table = self.pages[table as usize * PAGES + page];
        if table & PLAIN != 0 {
            return Some((table & !PLAIN) as usize);
        }
        let granule = (address >> GRANULE) as usize % GRANULES;
        let mut count = self.granules[table as usize * GRANULES + granule] as usize;
        while self.starts.get(count).is_some_and(|start| *start <= address) {
            count += 1;
        }
        Some(count)
    }

    /// Fills the tables.
    fn index(&mut self) -> Result<(), TooFar> {
        if self.starts.is_empty() {
            return Ok(());
        }
        let (first, last) = (self.bounds.start >> LARGE, (self.bounds.end - 1) >> LARGE);
        let larges = last - first + 1;
        if larges > MAX_LARGE {
            return Err(TooFar::Apart(larges));
        }
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
            let entry = if within == 0 { PLAIN | below as u32 } else { (self.granules.len() / GRANULES) as u32 };
            self.pages.push(entry);
            if within > 0 {
                self.index_granules(page, below);
                below += within;
            }
        }
    }

    fn index_granules(&mut self, page: u64, mut below: usize) {
        let first = page << (PAGE - GRANULE);
        for granule in first..first + GRANULES as u64 {
            self.granules.push(below as u32);
            while self.starts.get(below).is_some_and(|start| *start >> GRANULE == granule) {
                below += 1;
            }
        }
    }

    /// How many blocks start in a unit of a table, if the blocks before `from` start below it.
    fn starting_in(&self, from: usize, unit: u64, shift: u32) -> usize {
        self.starts[from..].partition_point(|start| *start >> shift <= unit)
    }
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
        ) {
            let (mut blocks, mut at) = (Vec::new(), 0x5555_0000_0000);
            for (gap, size, near) in gaps {
                at += if near { gap % 700 + 1 } else { gap };
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
