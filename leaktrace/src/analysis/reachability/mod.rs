//! Which blocks a program can still reach, in the sense of Valgrind's memcheck ("Memory leak detection" in its manual).
//!
//! In: the outstanding blocks of one process, its memory as regions of words, and words from outside of memory such as
//! registers. Out: for each block whether it is lost. In two steps, since a stopped process waits for the first alone: [`scan`]
//! reads every word once and keeps which block points to which; [`judge`] follows these pointers.
//!
//! A word of a block speaks for what it points to only if the block itself can be reached. A word outside of all blocks has
//! its region's [`Standing`]: variables and stacks vouch; memory between blocks, which the allocator owns, does not.

mod allocators;
mod blocks;
mod chunks;
mod descriptors;
mod dominators;
mod edges;
mod findings;
mod glibc;
mod graph;
mod handlers;
mod heuristics;
mod holders;
mod kept_chunks;
mod marking;
mod memory;
mod moved;
mod overlay;
mod parts;
mod pointers;
mod roots;
mod scanning;
mod sieve;
mod standing;
mod unrecorded;
pub mod vtables;

pub use blocks::{Blocks, TooFar};
pub use dominators::retained;
pub use edges::Edges;
pub use findings::{Scan, Vtable};
pub use glibc::{TABLE, table_block};
pub use graph::{Graph, NONE, Source, Sources};
pub use heuristics::Heuristics;
pub use holders::{Step, Trail, Trails};
pub use marking::{Judgement, judge};
pub use memory::{Memory, Region, Standing};
pub use overlay::Overlay;
pub use pointers::addresses;
pub use roots::{Place, Root};
pub use scanning::{Rules, scan};
pub use standing::{Circumstances, Thread, kept_tables, regions};
pub use unrecorded::{Unrecorded, unrecorded};

#[cfg(test)]
mod holders_tests;
#[cfg(test)]
mod tests;
