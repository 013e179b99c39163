//! The stacks of a stopped process, as far as they are copied: to tell later in whose frame an address lies.

use std::ops::Range;

use crate::analysis::reachability::{Memory, Thread};
use crate::lives::frames::{Contents, FrameAt, RED_ZONE, Registers, frames};
use crate::model::Pid;
use crate::process::maps::AddressSpace;
use crate::process::memory::{RegionKind, Survey};
use crate::process::registers::StoppedThread;

/// What is copied of one stack, from its top on, and of all stacks, bytes.
const COPIED: u64 = 64 << 10;
const COPIED_IN_ALL: u64 = 4 << 20;
const WORD: u64 = 8;

/// A thread, and a copy of the top of its stack.
#[derive(Debug)]
pub struct StackCopy {
    /// Its id.
    pub tid: Pid,
    /// The kernel's short name of it.
    pub comm: String,
    /// Where its stack certainly is, as far as it is in use.
    pub range: Range<u64>,
    /// Its control block.
    pub control_block: u64,
    /// Its registers by their numbers in DWARF.
    registers: Option<Registers>,
    /// Where the copy begins.
    start: u64,
    words: Vec<u64>,
}

/// Copies the stacks of threads, given with what of them is in use.
pub fn copy_stacks<'a>(
    threads: impl Iterator<Item = (&'a StoppedThread, Thread)>,
    survey: &Survey,
    memory: &dyn Memory,
) -> Vec<StackCopy> {
    let mut left = COPIED_IN_ALL;
    let copy = |(stopped, thread): (&StoppedThread, Thread)| {
        let start = stopped.registers.stack_pointer().0.next_multiple_of(WORD);
        let behind = survey.regions.partition_point(|region| region.start.0 <= start);
        let mapping = behind.checked_sub(1).map(|at| &survey.regions[at]).filter(|mapping| start < mapping.end.0);
        let is_stack = |kind| matches!(kind, RegionKind::Stack | RegionKind::Anonymous);
        let mapping = mapping.filter(|mapping| is_stack(mapping.kind));
        let end = mapping.map_or(start, |mapping| mapping.end.0);
        let length = (end - start).min(COPIED).min(left) / WORD;
        left -= length * WORD;
        let mut words = vec![0; length as usize];
        memory.read(start, &mut words);
        let (has_control_block, control_block) = ((start..end).contains(&thread.control_block), thread.control_block);
        let is_known = has_control_block || mapping.is_some_and(|mapping| mapping.kind == RegionKind::Stack);
        let end = if has_control_block { control_block } else { end };
        let range = if is_known { thread.live_from.min(end)..end } else { 0..0 };
        let registers = stopped.registers.by_dwarf_number();
        StackCopy { tid: stopped.tid, comm: stopped.comm.clone(), range, control_block, registers, start, words }
    };
    threads.map(copy).collect()
}

impl StackCopy {
    /// The lowest address that may be on the stack.
    pub fn stack_start(&self) -> u64 {
        self.start.saturating_sub(RED_ZONE)
    }

    /// The frames, the innermost first.
    pub fn frames(&self, space: &AddressSpace, contents: &mut Contents) -> Vec<FrameAt> {
        let read = |address: u64| {
            let place = address.checked_sub(self.start).filter(|place| place.is_multiple_of(WORD))?;
            self.words.get((place / WORD) as usize).copied()
        };
        self.registers.map_or_else(Vec::new, |registers| frames(space, registers, &read, contents))
    }
}
