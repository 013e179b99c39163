//! How resident pages of processes' heaps are used, for a report.
//!
//! In: the running processes of a report, and their outstanding blocks while the report reads them. Out: the sums of each process
//! and what each site pins. Which pages are there is read once, from a process that runs or is held at its end: so pages are of one
//! moment, and blocks are those that the report tells. Nothing is read of the pages themselves.
//!
//! Which pages are a heap's:
//! - what lies below the program break (`[heap]`);
//! - with glibc alone, the heaps of its arenas, which begin at multiples of 64 MiB (`new_heap` of malloc/arena.c); of blocks that have
//!   a mapping of their own, the pages that they touch: the kernel joins such mappings with others, which are not malloc's;
//! - with other allocators, each private mapping without a file in which an outstanding block lies. What the program maps itself may
//!   be joined with it and then counts as well.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use crate::analysis::fragmentation::{Counts, Heap, HeapUse, Part, judge};
use crate::model::{HeapPages, Pid, RawProcess};
use crate::process::memory::{self, Pages, Region, RegionKind};

/// The address space of one heap of a glibc arena (`HEAP_MAX_SIZE`).
const ARENA: u64 = 64 << 20;
/// Smaller blocks have no mapping of their own: half of the least that glibc begins with (`DEFAULT_MMAP_THRESHOLD`).
const SMALL: u64 = 64 << 10;

/// The heaps that a report looks at.
#[derive(Default)]
pub struct Heaps {
    /// By the process' place among the report's.
    by_process: Vec<Option<Looked>>,
    /// For each site its place among the merged ones; empty where each is its own.
    places: Vec<usize>,
    /// What was left out, a sentence each.
    pub notes: Vec<String>,
}

/// A heap that is looked at.
pub struct Looked {
    heap: Heap,
    is_glibc: bool,
    blocks_missing: bool,
}

impl Looked {
    /// That of a process, without blocks. `is_glibc` says that glibc alone allocates there, `blocks_missing` that there may be blocks
    /// that were not recorded.
    ///
    /// # Errors
    /// Which pages are there is not known.
    pub fn of(pid: Pid, is_glibc: bool, blocks_missing: bool) -> anyhow::Result<Self> {
        let heap = Heap::new(memory::page_size(), parts(pid, is_glibc)?);
        Ok(Self { heap, is_glibc, blocks_missing })
    }
}

impl Heaps {
    /// Those of some processes by their places, and for each site its place among the merged ones (none: each is its own).
    pub fn of(by_process: Vec<Option<Looked>>, places: Vec<usize>, notes: Vec<String>) -> Self {
        Self { by_process, places, notes }
    }

    /// Adds an outstanding block of a site of a process.
    pub fn add(&mut self, process: usize, site: usize, address: u64, bytes: u64) {
        let Some(Some(looked)) = self.by_process.get_mut(process) else { return };
        let place = self.places.get(site).copied().unwrap_or(site);
        looked.heap.add(address, bytes, place as u32);
    }

    /// Whether no blocks are wanted.
    pub fn is_empty(&self) -> bool {
        self.by_process.is_empty()
    }

    /// Gives the processes what was found; what each site pins, by its place.
    pub fn finish(self, processes: &mut [RawProcess]) -> HashMap<usize, u64> {
        let mut pinned = HashMap::new();
        for (process, looked) in processes.iter_mut().zip(self.by_process) {
            let Some(Looked { heap, is_glibc, blocks_missing }) = looked else { continue };
            let Some(used) = heap.finish() else {
                log::debug!("the blocks of process {} overlap: its heap's pages are not told", process.pid);
                continue;
            };
            process.heap_pages = Some(pages_of(&used, is_glibc, blocks_missing));
            pinned.extend(used.pinned.into_iter().map(|(site, bytes)| (site as usize, bytes)));
        }
        pinned
    }
}

fn pages_of(used: &HeapUse, malloc_trim: bool, blocks_missing: bool) -> HeapPages {
    let mut heap = HeapPages {
        resident_bytes: used.resident,
        held_bytes: used.held,
        empty_bytes: used.empty(),
        occupied_bytes: used.occupied,
        blocks_missing: false,
        malloc_trim,
        finding: judge(used),
    };
    if blocks_missing {
        heap.miss_blocks();
    }
    heap
}

/// The parts of a process' memory in which blocks may lie, with their resident pages.
fn parts(pid: Pid, is_glibc: bool) -> anyhow::Result<Vec<Part>> {
    let regions = memory::regions(pid)?;
    let mut pages = Pages::of(pid)?;
    let (mut parts, mut until) = (Vec::new(), 0);
    for (place, region) in regions.iter().enumerate() {
        if !matches!(region.kind, RegionKind::Heap | RegionKind::Anonymous | RegionKind::Data) {
            continue;
        }
        // The kernel lists mappings a page of text at a time, and a process that runs may change them in between.
        if region.start.0 < until {
            continue;
        }
        until = region.end.0;
        let mut runs = Vec::new();
        match pages.runs(region, &mut runs) {
            Ok(()) => {}
            // Only reserved.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => continue,
            Err(error) => return Err(error.into()),
        }
        let resident: Vec<_> = runs.iter().filter(|run| !run.swapped).map(|run| run.start.0..run.end.0).collect();
        if resident.is_empty() {
            continue;
        }
        for (range, counts) in divided(region, regions.get(place + 1), is_glibc) {
            let within = resident.iter().filter(|run| run.start < range.end && run.end > range.start);
            let resident = within.map(|run| run.start.max(range.start)..run.end.min(range.end)).collect();
            parts.push(Part { range, counts, resident });
        }
    }
    Ok(parts)
}

/// A region in parts that count differently; `next` is the region behind it.
fn divided(region: &Region, next: Option<&Region>, is_glibc: bool) -> Vec<(Range<u64>, Counts)> {
    let (start, end) = (region.start.0, region.end.0);
    match region.kind {
        RegionKind::Heap => return vec![(start..end, Counts::Always)],
        RegionKind::Anonymous if !is_glibc => return vec![(start..end, Counts::IfHolding { below: u64::MAX })],
        RegionKind::Anonymous => {}
        _ => return vec![(start..end, Counts::Touched)],
    }
    let (mut parts, mut at) = (Vec::new(), start);
    while at < end {
        let until = end.min((at / ARENA + 1) * ARENA);
        let is_at_start = at.is_multiple_of(ARENA);
        // The rest of a heap that has not grown to its end may not be read or written.
        let is_reserved = |next: &Region| {
            next.kind == RegionKind::Inaccessible && next.start.0 == until && next.end.0 >= at.saturating_add(ARENA)
        };
        let counts = if is_at_start && until == end && next.is_some_and(is_reserved) {
            Counts::Always
        } else if is_at_start && until - at == ARENA {
            Counts::IfHolding { below: SMALL }
        } else {
            Counts::Touched
        };
        parts.push((at..until, counts));
        at = until;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, HeapFinding};
    use crate::process::maps::{MappingName, Permissions};

    fn region(start: u64, end: u64, kind: RegionKind) -> Region {
        let permissions = Permissions { read: true, write: true, execute: false, shared: false };
        Region { start: Address(start), end: Address(end), kind, permissions, name: MappingName::Anonymous }
    }

    #[test]
    fn where_blocks_are_missing_pages_are_not_called_empty() {
        let used = HeapUse { resident: 52 << 20, held: 0, occupied: 0, blocks: 0, pinned: Vec::new() };
        assert_eq!(pages_of(&used, true, false).finding, Some(HeapFinding::Empty));
        let heap = pages_of(&used, true, true);
        assert_eq!((heap.finding, heap.empty_bytes), (Some(HeapFinding::Undecided), 52 << 20));
    }

    #[test]
    fn a_heap_of_an_arena_is_known_by_where_it_begins_and_what_it_has_reserved() {
        let anonymous = |start, end| region(start, end, RegionKind::Anonymous);
        let (heap, page) = (7 * ARENA, 4096);
        let rest = region(heap + 8 * page, heap + ARENA, RegionKind::Inaccessible);
        let of = |region: &Region, next| divided(region, next, true);
        assert_eq!(of(&anonymous(heap, heap + 8 * page), Some(&rest)), [(heap..heap + 8 * page, Counts::Always)]);
        // A mapping that happens to begin there.
        assert_eq!(of(&anonymous(heap, heap + 8 * page), None), [(heap..heap + 8 * page, Counts::Touched)]);
        // One heap has grown to its end, and the kernel has joined another with it.
        let second = heap + ARENA;
        let rest = region(second + page, second + ARENA, RegionKind::Inaccessible);
        assert_eq!(
            of(&anonymous(heap - page, second + page), Some(&rest)),
            [
                (heap - page..heap, Counts::Touched),
                (heap..second, Counts::IfHolding { below: SMALL }),
                (second..second + page, Counts::Always)
            ]
        );
    }

    #[test]
    fn of_other_allocators_a_mapping_with_blocks_counts_whole() {
        let region = region(0x1000, 0x9000, RegionKind::Anonymous);
        assert_eq!(divided(&region, None, false), [(0x1000..0x9000, Counts::IfHolding { below: u64::MAX })]);
    }
}
