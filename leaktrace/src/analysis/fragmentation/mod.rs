//! Which resident pages of a heap hold outstanding blocks, how full these are, and whose blocks keep them.
//!
//! In: the parts of an address space in which blocks may lie, with their resident pages, and the outstanding blocks in any order, each
//! with its site. Out: [`HeapUse`], and by [`judge`] what that amounts to. Plain numbers: no process is asked for anything.
//!
//! - A *heap page* is a resident page of a part that counts (see [`Counts`]). A page that is swapped out is not resident.
//! - It is *held* if an outstanding block touches it, be it by one byte; a block of no bytes touches the page that it lies on.
//!   Else it is *empty*.
//! - *Occupied* are the bytes of held pages that blocks lie on, as many as were asked for: what an allocator adds is not among them.
//! - A site *pins* a page if all blocks on it are of that site: without them the page would be empty.
//!
//! Memory: 8 bytes for each resident page of a part with blocks and 80 for each 2 MiB with resident pages, however many blocks there are.

mod judging;
mod pages;

use std::ops::Range;

pub use judging::judge;
use pages::{NOBODY, Page, Resident, SEVERAL, Work};

/// When the pages of a part are heap pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Always: it is known to be an allocator's.
    Always,
    /// If a block lies in it that is smaller than this, bytes: a larger one may have a mapping of its own that the kernel has joined
    /// with others.
    IfHolding {
        /// One more than the largest.
        below: u64,
    },
    /// Only those that blocks touch: what lies beside them is not the allocator's.
    Touched,
}

/// A part of an address space in which blocks may lie.
#[derive(Debug, Clone)]
pub struct Part {
    /// Where it is.
    pub range: Range<u64>,
    /// Which of its pages are heap pages.
    pub counts: Counts,
    /// Its resident pages: whole pages, by address, none twice.
    pub resident: Vec<Range<u64>>,
}

/// The pages of one process' heap, while blocks are added.
#[derive(Debug)]
pub struct Heap {
    page: u64,
    parts: Vec<Resident>,
    /// The part of the block before.
    last: usize,
    blocks: u64,
    work: Work,
}

/// What blocks make of a heap's pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeapUse {
    /// Bytes of heap pages.
    pub resident: u64,
    /// Bytes of those that blocks touch.
    pub held: u64,
    /// Bytes of these that blocks lie on.
    pub occupied: u64,
    /// Blocks that touch a heap page.
    pub blocks: u64,
    /// Bytes of the pages that each site pins, of sites that pin any; by site.
    pub pinned: Vec<(u32, u64)>,
}

impl HeapUse {
    /// Bytes of heap pages that no block touches.
    #[must_use]
    pub fn empty(&self) -> u64 {
        self.resident - self.held
    }
}

impl Heap {
    /// One without blocks. Parts are by address, and none overlaps another; `page` is the size of a page.
    #[must_use]
    pub fn new(page: u64, parts: impl IntoIterator<Item = Part>) -> Self {
        let parts: Vec<_> = parts.into_iter().map(|part| Resident::of(part, page)).collect();
        let pages: u64 = parts.iter().map(|part| part.count as u64).sum();
        // Blocks that do not overlap touch each page once, except for those that two or more share.
        let allowed = 4 * (pages + parts.len() as u64);
        Self { page, parts, last: 0, blocks: 0, work: Work { done: 0, allowed } }
    }

    /// Adds a block. Sites are numbers below 2^32 - 2.
    pub fn add(&mut self, address: u64, bytes: u64, site: u32) {
        let Some(end) = address.checked_add(bytes.max(1)) else { return };
        self.work.allowed += 8;
        let mut part = self.part_at(address);
        let mut touches = false;
        if let Some(part) = self.parts.get_mut(part).filter(|part| part.range.contains(&address)) {
            part.is_holding |= matches!(part.counts, Counts::IfHolding { below } if bytes < below);
        }
        while let Some(pages) = self.parts.get_mut(part).filter(|pages| pages.range.start < end) {
            if !self.work.step() {
                return;
            }
            touches |= pages.add(&(address..end), bytes == 0, site, &mut self.work);
            part += 1;
        }
        self.blocks += u64::from(touches);
    }

    /// The first part that ends behind an address.
    fn part_at(&mut self, address: u64) -> usize {
        let is_it = |part: &Resident| part.range.contains(&address);
        if !self.parts.get(self.last).is_some_and(is_it) {
            self.last = self.parts.partition_point(|part| part.range.end <= address);
        }
        self.last
    }

    /// The sums; `None` where blocks overlap so much that they cannot all be there.
    #[must_use]
    pub fn finish(self) -> Option<HeapUse> {
        if self.work.is_over() {
            return None;
        }
        let (page, mut sums) = (self.page, HeapUse { blocks: self.blocks, ..HeapUse::default() });
        let mut pinned: Vec<u64> = Vec::new();
        for part in &self.parts {
            let counts_all = match part.counts {
                Counts::Always => true,
                Counts::IfHolding { .. } => part.is_holding,
                Counts::Touched => false,
            };
            if counts_all {
                sums.resident += part.count as u64 * page;
            }
            for Page { bytes, site } in part.pages.iter().filter(|page| page.site != NOBODY) {
                sums.resident += if counts_all { 0 } else { page };
                sums.held += page;
                sums.occupied += u64::from(*bytes).min(page);
                if *site != SEVERAL {
                    let site = *site as usize;
                    if pinned.len() <= site {
                        pinned.resize(site + 1, 0);
                    }
                    pinned[site] += page;
                }
            }
        }
        let pins = pinned.into_iter().enumerate().filter(|(_, bytes)| *bytes > 0);
        sums.pinned = pins.map(|(site, bytes)| (site as u32, bytes)).collect();
        Some(sums)
    }
}

#[cfg(test)]
mod tests;
