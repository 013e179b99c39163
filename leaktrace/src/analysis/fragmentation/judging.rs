//! What a heap's pages amount to: a leak, fragmentation, or memory that the allocator keeps.
//!
//! In: the sums. Out: a word, or none where it is not worth one.

use super::HeapUse;
use crate::model::HeapFinding;

/// Smaller heaps are no reason for a word, bytes.
const NOTEWORTHY: u64 = 4 << 20;
/// What an allocator adds to a block at most, bytes: `malloc(1)` takes 32 in glibc. Where small blocks lie side by side little is
/// occupied, and nothing is fragmented.
const ADDED: u64 = 32;

/// What it amounts to, if at least 4 MiB are resident. *Thin* is what blocks leave free of the pages that they hold, 32 bytes for each
/// block granted. Where a quarter of the heap or less is thin or empty, the program holds it; else the larger of both is to blame.
#[must_use]
pub fn judge(heap: &HeapUse) -> Option<HeapFinding> {
    if heap.resident < NOTEWORTHY {
        return None;
    }
    let thin = heap.held.saturating_sub(heap.occupied.saturating_add(heap.blocks.saturating_mul(ADDED)));
    let empty = heap.empty();
    Some(if thin + empty <= heap.resident / 4 {
        HeapFinding::Retained
    } else if thin >= empty {
        HeapFinding::Fragmented
    } else {
        HeapFinding::Empty
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn heap(resident: u64, held: u64, occupied: u64, blocks: u64) -> HeapUse {
        HeapUse { resident, held, occupied, blocks, pinned: Vec::new() }
    }

    #[test]
    fn a_heap_is_named_after_where_most_of_it_goes() {
        assert_eq!(judge(&heap(50 * MIB, 48 * MIB, 45 * MIB, 1000)), Some(HeapFinding::Retained));
        assert_eq!(judge(&heap(50 * MIB, 48 * MIB, 3 * MIB, 1000)), Some(HeapFinding::Fragmented));
        assert_eq!(judge(&heap(50 * MIB, 2 * MIB, MIB, 1000)), Some(HeapFinding::Empty));
        assert_eq!(judge(&heap(3 * MIB, 3 * MIB, MIB, 1)), None, "too small to matter");
    }

    #[test]
    fn the_smallest_blocks_side_by_side_are_no_fragmentation() {
        // malloc(1) takes 32 bytes.
        assert_eq!(judge(&heap(32 * MIB, 32 * MIB, MIB, MIB)), Some(HeapFinding::Retained));
        assert_eq!(judge(&heap(32 * MIB, 32 * MIB, MIB, MIB / 4)), Some(HeapFinding::Fragmented));
    }

    #[test]
    fn a_quarter_is_allowed() {
        assert_eq!(judge(&heap(40 * MIB, 40 * MIB, 30 * MIB, 0)), Some(HeapFinding::Retained));
        assert_eq!(judge(&heap(40 * MIB, 40 * MIB, 30 * MIB - 1, 0)), Some(HeapFinding::Fragmented));
        assert_eq!(judge(&heap(40 * MIB, 30 * MIB, 30 * MIB - 1, 0)), Some(HeapFinding::Empty));
    }
}
