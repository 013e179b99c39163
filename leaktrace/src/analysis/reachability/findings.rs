//! What a pass over a process' memory found, and how that is joined with what an earlier one did.
//!
//! In: the marks, edges and roots that the words of memory gave. Out: all that a judgement needs.

use std::collections::HashSet;
use std::ops::Range;

use super::blocks::Blocks;
use super::edges::Edges;
use super::roots::{Place, Root};

/// Pointers point to several places in a block.
pub(super) const SEVERAL: u32 = u32::MAX;

/// What was found of a block in the pass, a bit each.
pub(super) mod found {
    /// A word that vouches points to its start.
    pub const START: u8 = 1;
    /// 8 bytes behind.
    pub const AT_8: u8 = 1 << 1;
    /// 24 bytes behind.
    pub const AT_24: u8 = 1 << 2;
    /// To another byte, or doubtfully.
    pub const INSIDE: u8 = 1 << 3;
    /// A word that says nothing certain points to it.
    pub const UNDECIDED: u8 = 1 << 4;
    /// By its own words, a pointer 8 bytes behind its start is as good as one to it.
    pub const IS_8: u8 = 1 << 5;
    /// The same for 24 bytes.
    pub const IS_24: u8 = 1 << 6;
}

/// A word of a block that is, or may be, the address of a vtable. The first word of the block is one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtable {
    /// The block's position.
    pub block: u32,
    /// Where in the block, bytes.
    pub offset: u32,
    /// The word.
    pub address: u64,
}

/// What a pass over memory found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Which blocks point to which.
    pub edges: Edges,
    /// The words outside of blocks that vouch: for each block at least the first that was met of each part.
    pub roots: Vec<Root>,
    /// How many of them are left out, since there are so many.
    pub roots_left_out: u64,
    /// Bytes that were read.
    pub scanned: u64,
    /// Bytes that could not be read.
    pub unread: u64,
    /// Blocks that begin with the address of a vtable, in ascending order.
    pub vtables: Vec<Vtable>,
    /// What was found of each block.
    pub(super) found: Vec<u8>,
    /// For each block the one place, in bytes from its start, that all pointers to its inside point to; 0 if there is no such
    /// pointer, [`SEVERAL`]. Empty if this is not needed.
    pub(super) inner: Vec<u32>,
}

impl Scan {
    /// Adds what an earlier pass over the same process has found, of the blocks that it had then. Its words from outside of memory,
    /// and those in `replaced`, ranges in ascending order, do not count as roots any more.
    pub fn add_earlier(&mut self, blocks: &Blocks, earlier: Self, earlier_blocks: &Blocks, replaced: &[Range<u64>]) {
        let moved = earlier_blocks.moved_to(blocks);
        for (then, bits) in earlier.found.iter().enumerate() {
            if let Some(now) = moved.now(then as u32) {
                self.found[now as usize] |= bits;
            }
        }
        for (then, offset) in earlier.inner.iter().enumerate().filter(|(_, offset)| **offset != 0) {
            let now = moved.now(then as u32).and_then(|now| self.inner.get_mut(now as usize));
            if let Some(known) = now {
                *known = if *known == 0 || known == offset { *offset } else { SEVERAL };
            }
        }
        let is_replaced = |address: u64| {
            let behind = replaced.partition_point(|range| range.end <= address);
            replaced.get(behind).is_some_and(|range| range.start <= address)
        };
        self.roots.extend(earlier.roots.iter().filter_map(|root| match root.at {
            Place::Memory(address) if !is_replaced(address) => Some(Root { block: moved.now(root.block)?, ..*root }),
            Place::Memory(_) | Place::Given(_) => None,
        }));
        self.roots_left_out += earlier.roots_left_out;
        let known: HashSet<u32> = self.vtables.iter().map(|vtable| vtable.block).collect();
        let before =
            earlier.vtables.iter().filter_map(|vtable| Some(Vtable { block: moved.now(vtable.block)?, ..*vtable }));
        self.vtables.extend(before.filter(|vtable| !known.contains(&vtable.block)));
        self.vtables.sort_by_key(|vtable| vtable.block);
        self.scanned += earlier.scanned;
        self.unread += earlier.unread;
        self.edges.add_earlier(earlier.edges, &moved);
    }

    /// Says of blocks, unless they are reached, that it is not known whether they are held, and so what they point to.
    pub fn leave_open(&mut self, blocks: impl IntoIterator<Item = u32>) {
        for block in blocks {
            if let Some(found) = self.found.get_mut(block as usize) {
                *found |= found::UNDECIDED;
            }
        }
    }

    /// Drops what only a judgement needs.
    pub fn forget_marks(&mut self) {
        (self.found, self.inner) = (Vec::new(), Vec::new());
    }
}
