//! What the trace failed to record: each kind has its own name and counter, from the programs to every report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters of everything that can make a number of the snapshot wrong. If all are zero, the numbers are exact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// Allocations that found no room in the block table (`--max-allocs`): they are in no total.
    pub allocs_dropped: u64,
    /// Allocations whose stack found no room in the stack table (`--max-stacks`): they are in the totals, under the
    /// site without frames of their process.
    pub stacks_dropped: u64,
    /// Stacks that were deeper than `--max-depth`: their outermost frames are missing.
    pub stacks_truncated: u64,
    /// Stacks whose walk ended before the outermost frame for another reason.
    pub unwind_failed: u64,
    /// Stacks with frames in code that was replaced during the trace, in a way that does not show which code was called.
    pub stacks_unsure: u64,
    /// Calls of allocation functions whose return was never seen: their blocks are in no total.
    pub returns_missed: u64,
    /// Records of the kernel about processes and mappings that were lost before they could be read.
    pub events_lost: u64,
    /// Calls that were not recorded because more processes or threads were active than there is room for.
    pub threads_dropped: u64,
    /// Bytes of `allocs_dropped`.
    pub bytes_dropped: u64,
    /// Allocations at addresses of 48 bits and more that found no room in their table (a sixteenth of `--max-allocs`): they
    /// are in no total.
    pub wide_dropped: u64,
    /// Bytes of `wide_dropped`.
    pub wide_bytes_dropped: u64,
    /// Calls by which a program said of blocks that they are no leaks (`__lsan_ignore_object`, `__lsan_disable`), and of which it is
    /// not known which blocks these are.
    #[serde(skip_serializing_if = "is_zero")]
    pub marks_lost: u64,
    /// Samples, or frees of such, of which it could not be read what their programs told, or that cannot be.
    #[serde(skip_serializing_if = "is_zero")]
    pub samples_lost: u64,
    /// `unwind_failed` by reason, where reasons are known. The reasons add up to `unwind_failed`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unwind_failures: BTreeMap<String, u64>,
}

/// How many of the recorded stacks are complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stacks {
    /// Distinct stacks of distinct processes.
    pub recorded: u64,
    /// Those with every frame up to the outermost. The others are in `guessed`, [`Losses::stacks_truncated`],
    /// [`Losses::unwind_failed`] or [`Losses::stacks_unsure`].
    pub complete: u64,
    /// Those that reach the outermost frame and in between pass code without a table, in which a frame pointer was followed:
    /// callers may be missing. 0 in snapshots of versions that counted them as complete.
    #[serde(default)]
    pub guessed: u64,
}

impl Losses {
    /// Whether nothing at all was lost.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.total() == 0
    }

    /// Whether blocks may be missing, not only their stacks.
    #[must_use]
    pub fn may_miss_blocks(&self) -> bool {
        let blocks = self.allocs_dropped + self.wide_dropped + self.samples_lost;
        blocks + self.returns_missed + self.threads_dropped + self.events_lost > 0
    }

    /// Everything that was lost, of whatever kind, as one number for a status line.
    #[must_use]
    pub fn total(&self) -> u64 {
        // Destructured so that a counter added later cannot be forgotten here.
        let Self {
            allocs_dropped,
            stacks_dropped,
            stacks_truncated,
            unwind_failed: _,
            stacks_unsure,
            returns_missed,
            events_lost,
            threads_dropped,
            // Another measure of the same allocations.
            bytes_dropped: _,
            wide_dropped,
            wide_bytes_dropped: _,
            marks_lost,
            samples_lost,
            unwind_failures: _,
        } = self;
        let others = [
            *allocs_dropped,
            *stacks_dropped,
            *stacks_truncated,
            *stacks_unsure,
            *returns_missed,
            *events_lost,
            *threads_dropped,
            *wide_dropped,
            *marks_lost,
            *samples_lost,
        ];
        others.into_iter().fold(self.unwind_failed_total(), u64::saturating_add)
    }

    /// Stacks whose walk failed, whether or not each has a named reason.
    #[must_use]
    pub fn unwind_failed_total(&self) -> u64 {
        let by_reason = self.unwind_failures.values().fold(0u64, |sum, n| sum.saturating_add(*n));
        self.unwind_failed.max(by_reason)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_single_counter_ends_losslessness() {
        assert!(Losses::default().is_lossless());
        let one_each = [
            Losses { allocs_dropped: 1, ..Losses::default() },
            Losses { stacks_dropped: 1, ..Losses::default() },
            Losses { stacks_truncated: 1, ..Losses::default() },
            Losses { unwind_failed: 1, ..Losses::default() },
            Losses { stacks_unsure: 1, ..Losses::default() },
            Losses { returns_missed: 1, ..Losses::default() },
            Losses { events_lost: 1, ..Losses::default() },
            Losses { threads_dropped: 1, ..Losses::default() },
            Losses { wide_dropped: 1, ..Losses::default() },
            Losses { marks_lost: 1, ..Losses::default() },
            Losses { samples_lost: 1, ..Losses::default() },
            Losses { unwind_failures: [("no mapping".to_owned(), 1)].into(), ..Losses::default() },
        ];
        for losses in one_each {
            assert!(!losses.is_lossless(), "{losses:?}");
            assert_eq!(losses.total(), 1, "{losses:?}");
        }
    }

    #[test]
    fn named_unwind_failures_are_not_counted_twice() {
        let losses =
            Losses { unwind_failed: 5, unwind_failures: [("bad read".to_owned(), 5)].into(), ..Losses::default() };
        assert_eq!(losses.total(), 5);
    }
}
