//! What words outside of blocks say of the blocks that they point to, by where in a process they are.
//!
//! In: the process' memory that is there, where its blocks and its stacks are. Out: [`Region`]s to be scanned.
//!
//! What a program mapped itself, its variables and its stacks vouch. An allocator's own memory does not: it holds pointers that
//! the program has dropped, in blocks that were freed, and its own lists. Whether there are also blocks from before the trace
//! in it is known only of processes that were traced from their start.

use std::os::unix::ffi::OsStrExt;

use super::scanning::{Region, Standing};
use super::Blocks;
use crate::process::maps::MappingName;
use crate::process::memory::{self, RegionKind, Survey};

/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
const RED_ZONE: u64 = 128;

/// What is known of a process beside its memory.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// Where the stacks of its threads end: the stack pointers.
    pub stack_pointers: &'a [u64],
    /// Every block that it has was recorded.
    pub since_start: bool,
}

/// The regions of a process, by address.
#[must_use]
pub fn regions(survey: &Survey, blocks: &Blocks, circumstances: &Circumstances<'_>) -> Vec<Region> {
    let mut regions = Vec::with_capacity(survey.runs.len());
    let mut runs = survey.runs.iter().peekable();
    let mut is_behind_libc = false;
    for (number, mapping) in survey.regions.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| &survey.regions[before]);
        let is_adjacent = before.is_some_and(|before| before.end == mapping.start);
        // Variables without initial values follow the others, in memory without a name.
        is_behind_libc = is_libc(mapping) || is_behind_libc && is_adjacent && mapping.kind == RegionKind::Anonymous;
        let is_guarded = is_adjacent && before.is_some_and(|before| before.kind == RegionKind::Inaccessible);
        let (outside, holds_chunks) = standing(mapping, is_behind_libc, blocks, circumstances);
        let live = live_part(mapping, is_guarded, circumstances);
        while let Some(run) = runs.next_if(|run| run.start < mapping.end) {
            let (start, end) = (run.start.0.max(live), run.end.0);
            if start < end {
                regions.push(Region { range: start..end, outside, holds_chunks });
            }
        }
    }
    regions
}

/// Where the words of a mapping begin that may be in use: below a stack pointer there are only those of calls that have returned.
fn live_part(mapping: &memory::Region, is_guarded: bool, circumstances: &Circumstances<'_>) -> u64 {
    // A stack that the program placed itself may have other things below it, unless a guard is there.
    if mapping.kind != RegionKind::Stack && !(mapping.kind == RegionKind::Anonymous && is_guarded) {
        return mapping.start.0;
    }
    let within = |pointer: &&u64| (mapping.start.0..mapping.end.0).contains(*pointer);
    let lowest = circumstances.stack_pointers.iter().filter(within).min();
    lowest.map_or(mapping.start.0, |pointer| (pointer.saturating_sub(RED_ZONE) & !7).max(mapping.start.0))
}

fn standing(
    mapping: &memory::Region,
    is_libcs: bool,
    blocks: &Blocks,
    circumstances: &Circumstances<'_>,
) -> (Standing, bool) {
    let between_blocks = if circumstances.since_start { Standing::Ignored } else { Standing::Undecided };
    let has_blocks = || {
        let first = blocks.first_behind(mapping.start.0);
        first < blocks.len() && blocks.start(first as u32) < mapping.end.0
    };
    match mapping.kind {
        RegionKind::Heap => (between_blocks, true),
        RegionKind::Anonymous if is_libcs => (Standing::Vouches, true),
        RegionKind::Anonymous if has_blocks() => (Standing::Undecided, true),
        RegionKind::Anonymous | RegionKind::Stack | RegionKind::Shared => (Standing::Vouches, false),
        RegionKind::Data | RegionKind::ReadOnly => (Standing::Vouches, is_libcs),
        RegionKind::Inaccessible => (Standing::Doubts, false),
    }
}

/// Whether a mapping is of glibc's own file.
fn is_libc(mapping: &memory::Region) -> bool {
    let MappingName::File { path, .. } = &mapping.name else { return false };
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    name == b"libc.so.6" || name.starts_with(b"libc-2.")
}
