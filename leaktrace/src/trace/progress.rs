//! How the trace stands at this moment, by the counters alone.

use std::time::Duration;

use super::capture;
use crate::kernel::Kernel;
use crate::kernel::drain;
use crate::model::{Counters, Status};

/// What there was when it was asked last.
pub struct Progress {
    sampled: bool,
    last: (Duration, u64),
}

impl Progress {
    /// Of estimates where a sample is recorded.
    pub fn new(sampled: bool) -> Self {
        Self { sampled, last: (Duration::ZERO, 0) }
    }

    /// The numbers of this moment, with those of lives that are out of the tables.
    pub fn status(&mut self, kernel: &Kernel, archived: &Counters, elapsed: Duration) -> Status {
        let accounts = drain::accounts(kernel);
        let counters = accounts.iter().map(|account| &account.counters).chain([archived]);
        let counters: Vec<Counters> =
            counters.map(|counters| if self.sampled { counters.whole() } else { *counters }).collect();
        let sum = |number: fn(&Counters) -> u64| counters.iter().map(number).sum::<u64>();
        let allocs = sum(|counters| counters.alloc_count);
        let seconds = elapsed.saturating_sub(self.last.0).as_secs_f64();
        let allocs_per_s = if seconds > 0.0 { allocs.saturating_sub(self.last.1) as f64 / seconds } else { 0.0 };
        self.last = (elapsed, allocs);
        Status {
            elapsed,
            live_bytes: sum(Counters::outstanding_bytes),
            live_count: sum(Counters::outstanding_count),
            allocs_per_s,
            losses: capture::losses(kernel).total(),
        }
    }
}
