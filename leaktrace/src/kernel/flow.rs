//! Windows in which the programs count what flows in and out (`--burst`): opened, closed and read.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::Ebpf;
use leaktrace_common::flow::{CLASSES, FLOW_SLOTS, Flow, Windows};

use super::mapped::MappedArray;

/// A bit for each size class.
pub type Classes = [u64; CLASSES as usize / 64];

/// What the programs count while a window is open.
pub struct FlowTables {
    flows: MappedArray<Flow>,
    windows: MappedArray<Windows>,
}

impl FlowTables {
    /// Elements that the array of flows has room for; one where no windows are to be opened.
    pub fn elements(has_windows: bool) -> u32 {
        if has_windows { CLASSES * FLOW_SLOTS } else { 1 }
    }

    /// Maps them.
    pub fn new(ebpf: &Ebpf) -> Result<Self> {
        Ok(Self { flows: MappedArray::new(ebpf, "FLOWS")?, windows: MappedArray::new(ebpf, "WINDOWS")? })
    }

    /// Opens a window of this number, which is not 0: from now on all programs count. `has_headers` where each block of each process has its
    /// size in front of it, as glibc's have; blocks of these classes are recorded with their stacks.
    pub fn open(&self, number: u64, has_headers: bool, recorded: Classes) -> Result<()> {
        let windows = self.windows()?;
        // SAFETY: the map's only element; aligned words, which the programs only read.
        unsafe {
            (&raw mut (*windows).headers).write_volatile(u64::from(has_headers));
            (&raw mut (*windows).recorded).write_volatile(recorded);
        }
        self.set_open(number)
    }

    /// Closes the window: no program that begins from now on counts.
    pub fn close(&self) -> Result<()> {
        self.set_open(0)
    }

    fn set_open(&self, number: u64) -> Result<()> {
        let windows = self.windows()?;
        // SAFETY: the map's only element; one aligned word.
        let open = unsafe { AtomicU64::from_ptr(&raw mut (*windows).open) };
        // What the programs are to know of a window they must see no later than that it is open.
        open.store(number, Ordering::SeqCst);
        Ok(())
    }

    fn windows(&self) -> Result<*mut Windows> {
        self.windows.pointer(0).context("the BPF object's map WINDOWS is empty")
    }

    /// What has flowed in a process so far, by class; `None` for a slot of which nothing is counted.
    pub fn read(&self, slot: u32) -> Option<Vec<Flow>> {
        let first = slot.checked_mul(CLASSES).filter(|_| slot < FLOW_SLOTS)?;
        (first..first + CLASSES).map(|index| self.flows.read(index)).collect()
    }

    /// Forgets what has flowed in a slot, before another process gets it.
    pub fn clear(&self, slot: u32) {
        let first = slot.saturating_mul(CLASSES);
        let pointers = (first..first.saturating_add(CLASSES)).filter_map(|index| self.flows.pointer(index));
        for flow in pointers.filter(|_| slot < FLOW_SLOTS) {
            // SAFETY: in bounds; no process has the slot, so that no program writes there.
            unsafe { flow.write_volatile(Flow::default()) };
        }
    }

    /// Frees that may have been a program's, and were not counted.
    pub fn frees_lost(&self) -> u64 {
        self.windows.read(0).map_or(0, |windows| windows.frees_lost)
    }
}
