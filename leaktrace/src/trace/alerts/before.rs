//! Whether a process frees blocks from before the trace, which are in no account: what it allocates in their place then looks like
//! growth. Pure.
//!
//! In: looks, each with how many such blocks were freed, and how many others are outstanding. Out: whether they hide how it grows.

use std::collections::VecDeque;
use std::time::Duration;

/// They do where there are as many as one in so many of the blocks by which it grows.
const PART: u64 = 4;

/// What a look has on this.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    /// Blocks freed that are in no account.
    pub freed: u64,
    /// Blocks outstanding; `None` where they were not counted.
    pub blocks: Option<u64>,
    /// Bytes of memory that are resident; `None` where that was not read.
    pub resident: Option<u64>,
}

/// The looks at which blocks were counted.
#[derive(Debug, Default)]
pub(super) struct Turnover(VecDeque<(Duration, u64, u64)>);

impl Turnover {
    /// Takes in a look, and forgets those from before `window`.
    pub(super) fn take(&mut self, at: Duration, before: Before, window: Duration) {
        self.0.extend(before.blocks.map(|blocks| (at, before.freed, blocks)));
        while self.0.front().is_some_and(|(then, ..)| *then + window < at) {
            self.0.pop_front();
        }
    }

    /// Whether blocks from before the trace that were freed in the window hide how it grows.
    pub(super) fn hides_growth(&self) -> bool {
        let (Some((_, freed_by, from)), Some((_, freed, to))) = (self.0.front(), self.0.back()) else { return false };
        let freed = freed.saturating_sub(*freed_by);
        freed > 0 && freed.saturating_mul(PART) >= to.saturating_sub(*from)
    }
}
