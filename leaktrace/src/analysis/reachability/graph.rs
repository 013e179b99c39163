//! What holds what: reachable blocks, and the words outside of blocks from which they are reached.
//!
//! Words that last are told from those that pass: a global variable says why a block is there, while a stack or a register has
//! pointers to whatever is in use just then. So what lasting words reach is held by these alone.

use std::ops::Range;

use super::blocks::Blocks;
use super::findings::Scan;
use super::marking::{Judgement, bit_of};
pub use super::moved::NONE;
use super::roots::Root;

/// A word outside of blocks that points to a block, under the numbers that its caller has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The variable, stack or other thing that it is a part of, from 0.
    pub variable: u32,
    /// What is told of it, from 0: several words of a variable may have one number.
    pub word: u32,
    /// The block.
    pub block: u32,
}

/// All words from which blocks are reached.
#[derive(Debug, Default)]
pub struct Sources {
    /// Those that last, then those that pass; what comes first is preferred.
    list: Vec<Source>,
    /// How many last.
    lasting: usize,
    /// How many variables there are.
    variables: usize,
}

impl Sources {
    /// Puts words into order. Of each, whether it lasts: of one variable all do or none.
    #[must_use]
    pub fn new(mut lasting: Vec<Source>, mut passing: Vec<Source>) -> Self {
        for list in [&mut lasting, &mut passing] {
            list.sort_unstable();
            list.dedup();
        }
        let count = lasting.len();
        lasting.append(&mut passing);
        let variables = lasting.iter().map(|source| source.variable as usize + 1).max().unwrap_or(0);
        Self { list: lasting, lasting: count, variables }
    }

    /// Those that last, and those that pass.
    pub(super) fn stages(&self) -> [&[Source]; 2] {
        let (lasting, passing) = self.list.split_at(self.lasting);
        [lasting, passing]
    }

    /// How many variables there are.
    pub(super) fn variables(&self) -> usize {
        self.variables
    }

    /// The places of a variable's words among these.
    pub(super) fn of(stage: &[Source], variable: u32) -> Range<usize> {
        let place = |number: u32| stage.partition_point(|source| source.variable < number);
        place(variable)..place(variable.saturating_add(1))
    }
}

/// Which blocks point to which, as far as that keeps them reachable.
#[derive(Debug, Clone, Copy)]
pub struct Graph<'a> {
    blocks: &'a Blocks,
    scan: &'a Scan,
    accepts: &'a [u8],
}

impl<'a> Graph<'a> {
    /// As it was found and judged.
    #[must_use]
    pub fn new(blocks: &'a Blocks, scan: &'a Scan, judgement: &'a Judgement) -> Self {
        Self { blocks, scan, accepts: &judgement.accepts }
    }

    /// How many blocks there are, reachable or not.
    pub(super) fn len(self) -> usize {
        self.blocks.len()
    }

    /// A block's size in bytes.
    pub(super) fn size(self, block: u32) -> u64 {
        self.blocks.size(block)
    }

    /// The blocks that a block keeps reachable if it is.
    pub(super) fn next(self, block: u32) -> impl Iterator<Item = u32> + 'a {
        let is_good = move |to: u32, bit: u8| self.accepts[to as usize] & bit != 0;
        self.scan.edges.of(block).filter(move |(to, part)| is_good(*to, bit_of(*part))).map(|(to, _)| to)
    }

    /// The roots that keep their block reachable.
    pub fn roots(self) -> impl Iterator<Item = &'a Root> {
        self.scan.roots.iter().filter(move |root| self.accepts[root.block as usize] & bit_of(root.part) != 0)
    }
}
