//! Words outside of blocks that point to blocks: all of them, as long as they are not many more than the blocks.

use super::edges::Part;

/// How many roots are kept beside the first ones of each block, for each block and in any case.
const MORE_ROOTS: (usize, usize) = (2, 1 << 16);

/// How many roots are kept beside the first ones of so many blocks.
pub(super) fn room_for(blocks: usize) -> usize {
    MORE_ROOTS.1 + MORE_ROOTS.0 * blocks
}

/// A word outside of blocks that vouches for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The block's position.
    pub block: u32,
    /// What part of the block it points to.
    pub(super) part: Part,
    /// Where the word is.
    pub at: Place,
}

/// Where a word outside of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In memory at this address.
    Memory(u64),
    /// The word of this position among those from outside of memory.
    Given(usize),
}

/// Roots of a piece of memory.
#[derive(Default)]
pub(super) struct Roots {
    pub(super) list: Vec<Root>,
    /// How many more may be kept that are not the first of their block.
    pub(super) room: usize,
    pub(super) left_out: u64,
}

impl Roots {
    /// None, with room for so many that are not the first of their block.
    pub(super) fn with_room(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Adds one, if it is the first of its block or there is room.
    pub(super) fn add(&mut self, root: Root, is_first: bool) {
        if !is_first && self.room == 0 {
            self.left_out += 1;
            return;
        }
        self.room -= usize::from(!is_first);
        self.list.push(root);
    }

    pub(super) fn join(&mut self, other: &mut Self) {
        self.list.append(&mut other.list);
        self.left_out += other.left_out;
    }
}
