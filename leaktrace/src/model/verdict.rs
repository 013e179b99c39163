//! What the leak check found: which blocks a program can still reach.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::notation::milliseconds;

/// What the leak check says of a block, in the words of Valgrind's memcheck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// Nothing points at it any more.
    DefinitelyLost,
    /// Only lost blocks point at it.
    IndirectlyLost,
    /// No search found a pointer to it, but the process ran meanwhile: a pointer that moved may have been missed each time.
    ProbablyLost,
    /// Only pointers into its middle were found.
    PossiblyLost,
    /// A pointer to its start was found.
    StillReachable,
    /// The only pointers to it were found in memory that tells nothing for certain: blocks from before the trace, free memory.
    Undecided,
    /// A finding that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Reachability {
    /// The kinds that can be told apart.
    pub const ALL: [Self; 6] = [
        Self::DefinitelyLost,
        Self::IndirectlyLost,
        Self::ProbablyLost,
        Self::PossiblyLost,
        Self::StillReachable,
        Self::Undecided,
    ];

    /// Whether nothing that is not lost itself points at it, for certain or probably.
    #[must_use]
    pub fn is_lost(self) -> bool {
        matches!(self, Self::DefinitelyLost | Self::IndirectlyLost | Self::ProbablyLost)
    }
}

/// The leak check's findings about the outstanding blocks of one site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Blocks that nothing points at.
    pub definitely_lost: Tally,
    /// Blocks that only lost blocks point at.
    pub indirectly_lost: Tally,
    /// Blocks that nothing pointed at whenever the memory of a process that ran was searched.
    #[serde(skip_serializing_if = "Tally::is_empty")]
    pub probably_lost: Tally,
    /// Blocks of which only pointers into their middle were found.
    pub possibly_lost: Tally,
    /// Blocks of which a pointer to their start was found.
    pub still_reachable: Tally,
    /// Blocks that only memory of which nothing is known points at.
    pub undecided: Tally,
}

/// Some blocks, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Their sizes' sum.
    pub bytes: u64,
    /// Their number.
    pub count: u64,
}

/// How the blocks of a process were judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakCheck {
    /// How its memory was read.
    pub mode: LeakCheckMode,
    /// How long it did not run for that; zero where it was about to end.
    #[serde(rename = "pause_ms", with = "milliseconds")]
    pub pause: Duration,
    /// Bytes of its memory that were searched for pointers.
    pub scanned_bytes: u64,
    /// Bytes that could not be read, in which there may be pointers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unread_bytes: u64,
    /// How often memory was read.
    pub passes: u32,
    /// Where it was read while the process ran, and the kernel told what changed meanwhile: bytes of that, which were read while
    /// it did not run. Then the verdict is as good as if all had been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescanned_bytes: Option<u64>,
}

/// How a process' memory is read for the leak check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakCheckMode {
    /// All of it while nothing runs.
    Exact,
    /// A copy that was made in a moment.
    Snapshot,
    /// While the process runs.
    Live,
    /// A way that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Tally {
    /// Whether it counts no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Counts one block of `bytes` bytes in.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.count = self.count.saturating_add(1);
    }

    /// Counts in what another counts.
    pub fn join(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.count = self.count.saturating_add(other.count);
    }
}

impl Verdict {
    /// Counts one block in.
    pub fn add(&mut self, kind: Reachability, bytes: u64) {
        self.of_mut(kind).add(bytes);
    }

    /// The blocks of one kind.
    #[must_use]
    pub fn of(mut self, kind: Reachability) -> Tally {
        *self.of_mut(kind)
    }

    pub(super) fn of_mut(&mut self, kind: Reachability) -> &mut Tally {
        match kind {
            Reachability::DefinitelyLost => &mut self.definitely_lost,
            Reachability::IndirectlyLost => &mut self.indirectly_lost,
            Reachability::ProbablyLost => &mut self.probably_lost,
            Reachability::PossiblyLost => &mut self.possibly_lost,
            Reachability::StillReachable => &mut self.still_reachable,
            Reachability::Undecided | Reachability::Unknown => &mut self.undecided,
        }
    }

    /// Counts in what another counts.
    pub fn join(&mut self, other: &Self) {
        self.definitely_lost.join(other.definitely_lost);
        self.indirectly_lost.join(other.indirectly_lost);
        self.probably_lost.join(other.probably_lost);
        self.possibly_lost.join(other.possibly_lost);
        self.still_reachable.join(other.still_reachable);
        self.undecided.join(other.undecided);
    }

    /// What counts as leaked.
    #[must_use]
    pub fn lost(&self) -> Tally {
        let mut lost = self.definitely_lost;
        lost.join(self.indirectly_lost);
        lost
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
