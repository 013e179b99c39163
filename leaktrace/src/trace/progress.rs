//! How the trace stands at this moment, by the counters alone.

use std::time::Duration;

use super::capture;
use crate::kernel::Kernel;
use crate::kernel::drain;
use crate::model::{Counters, Status};

/// The elapsed time and allocations at the last status line.
pub struct Progress {
    sampled: bool,
    last: (Duration, u64),
}

impl Progress {
    /// With `sampled`, the numbers are estimates from the sample.
    pub fn new(sampled: bool) -> Self {
        Self { sampled, last: (Duration::ZERO, 0) }
    }

    /// The numbers of this moment, with those of lives that are out of the tables.
    pub fn status(&mut self, kernel: &Kernel, archived: &Counters, elapsed: Duration) -> Status {
        let (mut allocs, mut live_bytes, mut live_count) = (0, 0, 0);
        for counters in drain::counters(kernel).chain([*archived]) {
            let counters = if self.sampled { counters.whole() } else { counters };
            allocs += counters.alloc_count;
            live_bytes += counters.outstanding_bytes();
            live_count += counters.outstanding_count();
        }
        let seconds = elapsed.saturating_sub(self.last.0).as_secs_f64();
        let allocs_per_s = if seconds > 0.0 { allocs.saturating_sub(self.last.1) as f64 / seconds } else { 0.0 };
        self.last = (elapsed, allocs);
        Status { elapsed, live_bytes, live_count, allocs_per_s, losses: capture::losses(kernel).total() }
    }
}
