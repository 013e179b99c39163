//! A process' memory as the search for pointers sees it: words by address, and what those outside of blocks are worth.

use std::ops::Range;

/// The memory of a process.
pub trait Memory: Sync {
    /// Copies memory from `address` on, a multiple of 8 bytes. What cannot be read is zero in the copy; returns how many bytes
    /// these are.
    fn read(&self, address: u64, words: &mut [u64]) -> u64;
}

/// What words outside of blocks say of the blocks that they point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They can be reached: variables, stacks, memory that the program mapped itself.
    Vouches,
    /// They may be reached: memory that the program cannot read at the moment.
    Doubts,
    /// Nothing certain: memory of the allocator in which there may be blocks from before the trace.
    Undecided,
    /// Nothing: memory of the allocator in which all blocks are known.
    Ignored,
}

/// Readable memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its addresses, multiples of 8 bytes.
    pub range: Range<u64>,
    /// What words outside of blocks say.
    pub outside: Standing,
    /// The C library's allocator keeps pointers here to free memory behind blocks, which by its layout begin in the last 8 bytes
    /// of a block (glibc's `main_arena`): such a pointer says nothing of the block.
    pub holds_chunks: bool,
}
