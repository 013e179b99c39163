//! What is kept of a leak check to say who holds the blocks that can still be reached, and of what class the objects in blocks are.
//!
//! In: what a search of a process' memory found, and what was copied while the process was stopped. Out, on the thread that names
//! reports: for each site its holders and its class, for the process the variables that hold most. Nothing here lengthens a stop
//! but copying the top of each stack, which is bounded.

mod describe;
mod files;
mod given;
mod own_frame;
mod roots;
mod stacks;
mod types;

pub use describe::describe;
pub use files::FileWords;
pub use given::Given;
pub use own_frame::block_of;
pub use stacks::{StackCopy, copy_stacks};

use crate::analysis::reachability::vtables::Tables;
use crate::analysis::reachability::{Blocks, Judgement, NONE, Scan};
use crate::process::memory::Region;

/// What is kept of one process' leak check.
#[derive(Debug)]
pub struct Holding {
    /// Its blocks.
    pub blocks: Blocks,
    /// What was found in its memory.
    pub scan: Scan,
    /// What follows from that.
    pub judgement: Judgement,
    /// The vtables at which its objects begin.
    pub tables: Tables,
    /// What the words from outside of memory are.
    pub given: Given,
    /// Its mappings, by address.
    pub mappings: Vec<Region>,
    /// Its threads.
    pub threads: Vec<StackCopy>,
    /// What of the kernel could not be asked, in which there may be pointers.
    pub missing: Vec<&'static str>,
    /// Bytes of shared memory that were not searched, in which there may be pointers: what nothing else points to is undecided.
    pub unsearched: u64,
    /// For each block the place of its site among a capture's, [`NONE`] where that is not known.
    pub sites: Vec<u32>,
    /// The index of the process in the capture.
    pub process: usize,
}

impl Holding {
    /// Without what belongs to a capture yet.
    #[must_use]
    pub fn new(blocks: Blocks, mut scan: Scan, judgement: Judgement, tables: Tables) -> Self {
        scan.forget_marks();
        Self {
            blocks,
            scan,
            judgement,
            tables,
            given: Given::default(),
            mappings: Vec::new(),
            threads: Vec::new(),
            missing: Vec::new(),
            unsearched: 0,
            sites: Vec::new(),
            process: NONE as usize,
        }
    }
}
