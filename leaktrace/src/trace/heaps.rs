//! Which processes' heaps a report looks at.
//!
//! In: the processes and sites of a report that is being made. Out: their heaps, to which the report adds its blocks.

use super::Trace;
use super::capture::{Draft, Occasion};
use super::heap_pages::{Heaps, Looked};
use crate::model::{Capture, RawProcess, RawSite, Untraced};

/// Processes that are looked at, at most: those that hold most.
const MOST_PROCESSES: usize = 5;
/// The largest resident set that is looked at, bytes: its pages take 64 MiB here, and more where it has many holes.
const MOST_RESIDENT: u64 = 32 << 30;
/// The same in a report on the way, for which the trace waits: some milliseconds.
const MOST_ON_THE_WAY: u64 = 1 << 30;

impl Trace {
    /// The pages of the heaps of those processes that hold most, before a report's blocks are read. None of a sample, which most
    /// blocks are missing in.
    pub(super) fn heaps(&self, draft: &Draft, occasion: &Occasion) -> Heaps {
        if self.options.sample_bytes.is_some() || !draft.reads_blocks() {
            return Heaps::default();
        }
        let (mut looked, mut notes) = (Vec::new(), Vec::new());
        let most = if occasion.is_final { MOST_RESIDENT } else { MOST_ON_THE_WAY };
        for (place, process) in largest(&draft.processes, draft.sites()) {
            let Some(resident) = process.memory.rss_bytes else { continue };
            if resident > most {
                let told = if occasion.is_final { "not told" } else { "told in the last report only" };
                notes.push(format!(
                    "how the heap pages of process {} are used is {told}: more than {} GiB are resident",
                    process.pid,
                    most >> 30
                ));
                continue;
            }
            let is_glibc = self.processes.space(process.life).is_some_and(|space| self.prober.found(space).is_glibc());
            let blocks_missing = self.options.filters_sizes()
                || draft.lost_blocks()
                || !self.processes.is_known_from_its_beginning(process.life, self.untraced.begun_ns());
            match Looked::of(process.pid, is_glibc, blocks_missing) {
                Ok(heap) => {
                    looked.resize_with(draft.processes.len(), || None);
                    looked[place] = Some(heap);
                }
                Err(error) => log::debug!("the pages of process {} are not known: {error:#}", process.pid),
            }
        }
        let merges = !looked.is_empty() && draft.may_repeat_stacks();
        let places = if merges { Capture::merged_places(draft.sites()) } else { Vec::new() };
        Heaps::of(looked, places, notes)
    }
}

/// Marks processes that were traced in part: what they have may hold pages that look empty.
pub fn mark_partly_traced(processes: &mut [RawProcess], untraced: &[Untraced]) {
    for process in processes {
        if let Some(heap) = &mut process.heap_pages
            && untraced.iter().any(|untraced| untraced.tells_a_part_of(&process.comm))
        {
            heap.miss_blocks();
        }
    }
}

/// The running processes that hold most, with their places.
fn largest<'a>(processes: &'a [RawProcess], sites: &[RawSite]) -> Vec<(usize, &'a RawProcess)> {
    let mut outstanding = vec![0u64; processes.len()];
    for site in sites {
        if let Some(sum) = outstanding.get_mut(site.process) {
            *sum = sum.saturating_add(site.counters.outstanding_bytes());
        }
    }
    let mut running: Vec<_> =
        processes.iter().enumerate().filter(|(_, process)| !process.exited && process.merged == 0).collect();
    running.sort_by_key(|(place, process)| std::cmp::Reverse((outstanding[*place], process.memory.rss_bytes)));
    running.truncate(MOST_PROCESSES);
    running
}
