//! What leak checks found.
//!
//! In: the blocks of a process with what was found of each, or why nothing was. Out: what a report says of them.

use std::fmt::Display;

use super::holding::Holding;
use super::life::Life;
use crate::analysis::reachability::NONE;
use crate::kernel::drain::TabledBlock;
use crate::model::{LeakCheck, Pid, RawBlock, Reachability};

/// What was found of blocks.
pub struct Pass {
    /// How they were judged.
    pub check: LeakCheck,
    /// What was found.
    pub holding: Holding,
    /// The blocks by address, unrecorded ones among them.
    pub blocks: Vec<TabledBlock>,
}

/// What was found of the blocks of one life.
#[derive(Debug)]
pub struct Judged {
    /// Which one, since its slot may be another's by the time of the report.
    pub life: Life,
    /// How they were judged.
    pub check: LeakCheck,
    /// By address, unrecorded ones among them.
    pub blocks: Vec<TabledBlock>,
    /// What was found of them, and of who holds them.
    pub holding: Holding,
}

impl Judged {
    /// Replaces the index of each block's site in the programs' table by its place among a capture's sites.
    pub fn place(&mut self, place: impl Fn(u32) -> Option<usize>) {
        // What has no place is in no report.
        let recorded = self.blocks.iter_mut().filter(|block| !block.is_unrecorded());
        recorded.for_each(|block| block.site = place(block.site).map_or(NONE, |place| place as u32));
    }

    /// Who holds the blocks, to be told of the process at this index of a capture.
    #[must_use]
    pub fn into_holding(self, process: usize) -> Holding {
        // In the order of addresses, as the search has them.
        Holding { sites: self.blocks.iter().map(|block| block.site).collect(), process, ..self.holding }
    }

    /// What was found of a block of a capture, and whether the program wants no leak reported of it.
    #[must_use]
    pub fn found(&self, block: &RawBlock) -> Option<(Reachability, bool)> {
        let place = self.holding.blocks.find(block.address.0).filter(|(_, offset)| *offset == 0)?.0 as usize;
        let known = self.blocks[place];
        let is_same = known.site as usize == block.site && known.size == block.size && known.is_of(block.time);
        is_same.then(|| (self.holding.judgement.kinds[place], known.is_ignored()))
    }
}

/// What leak checks found, and why some of them found nothing, a sentence each.
#[derive(Debug, Default)]
pub struct Findings {
    /// By life.
    pub judged: Vec<Judged>,
    /// What the report must say.
    pub warnings: Vec<String>,
}

impl Findings {
    /// Adds what was found of a process, and what that lacks.
    pub fn add(&mut self, pid: Pid, judged: Judged) {
        if !judged.holding.missing.is_empty() {
            let missing = judged.holding.missing.join(" and ");
            self.warnings.push(format!(
                "blocks of process {pid} that only {missing} point to are called lost: the kernel did not tell these"
            ));
        }
        if judged.holding.unsearched > 0 {
            let mib = judged.holding.unsearched.div_ceil(1 << 20);
            self.warnings.push(format!(
                "what nothing is found to point to in process {pid} is undecided: {mib} MiB of the memory that it shares with others, \
                 which it has not used itself, were not searched"
            ));
        }
        self.judged.push(judged);
    }

    /// Leaves out what was found of lives that are none of these, given by slot and by when they were first seen: the records of what
    /// they held are no longer in the tables.
    pub fn retain(&mut self, lives: &[(u32, u64)]) {
        let (kept, gone): (Vec<_>, _) = std::mem::take(&mut self.judged)
            .into_iter()
            .partition(|judged| lives.contains(&(judged.life.slot, judged.life.first_seen)));
        self.judged = kept;
        for judged in gone {
            self.add_none(judged.life.pid, &"it ended before the report");
        }
    }

    /// Adds that there is no verdict on a process, for a reason.
    pub fn add_none(&mut self, pid: Pid, why_not: &dyn Display) {
        self.warnings.push(no_verdict(pid, why_not));
    }
}

fn no_verdict(pid: Pid, why: &dyn Display) -> String {
    format!("no verdict on the blocks of process {pid}: {why}")
}
