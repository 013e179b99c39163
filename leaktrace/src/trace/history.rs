//! Counters over time: what growth is judged by.
//!
//! In: the tables, at moments of its own choice. Out: the window of a process, and the past of a site in it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Trace;
use crate::analysis::growth::rings::{MOMENTS, Reading, Rings, SITES};
use crate::kernel::{Kernel, drain};
use crate::model::{Counters, Past, Window};

/// Between the first readings. Each time that half of the moments are dropped it doubles.
const FIRST_STEP: Duration = Duration::from_millis(100);
/// Reading takes at most this part of the time.
const SHARE: u32 = 100;

/// What was read so far.
pub struct History {
    rings: Rings,
    step: Duration,
    due: Instant,
    /// Growth is judged from then on.
    warm_up: Duration,
    is_sample: bool,
}

impl History {
    /// Nothing yet.
    pub fn new(warm_up: Duration, is_sample: bool) -> Self {
        Self { rings: Rings::default(), step: FIRST_STEP, due: Instant::now(), warm_up, is_sample }
    }

    /// When the next reading is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Reads all counters, `elapsed` after the trace began.
    fn read(&mut self, kernel: &Kernel, elapsed: Duration) {
        let began = Instant::now();
        if self.rings.moments() == MOMENTS {
            self.step *= 2;
        }
        let is_sample = self.is_sample;
        let sites = drain::placed_counters(kernel);
        self.rings.add(elapsed, sites.map(|(index, slot, counters)| (index, slot, reading(&counters, is_sample))));
        self.due = began + self.step.max(began.elapsed() * SHARE);
    }

    /// Forgets lives that are taken out of the tables.
    pub fn forget(&mut self, slots: &HashSet<u32>) {
        self.rings.forget(slots);
    }

    /// The window of a life that began and ended (or has lasted) so long after the trace began; `None` where too little was read.
    pub fn window(&self, began: Duration, ended: Duration) -> Option<Window> {
        // What the life had when the warm-up was over is known; at its beginning it had nothing.
        self.rings.window(began.max(self.warm_up), ended, began >= self.warm_up)
    }

    /// A site in its process' window, which ends with these counters.
    pub fn past(&self, index: u32, slot: u32, window: &Window, now: &Counters) -> Option<Past> {
        self.rings.past(index, slot, window, reading(now, self.is_sample))
    }

    /// What to say of sites that are not followed for want of room.
    pub fn warning(&self) -> Option<String> {
        let left_out = self.rings.left_out();
        (left_out > 0).then(|| format!("the growth of {left_out} sites is not followed: there is room for {SITES}"))
    }
}

fn reading(counters: &Counters, is_sample: bool) -> Reading {
    let counters = if is_sample { counters.whole() } else { *counters };
    Reading { born: counters.alloc_count, live: counters.outstanding_bytes() }
}

impl Trace {
    /// Reads all counters, which is due.
    pub(super) fn look_at_counters(&mut self) {
        let elapsed = self.since.elapsed();
        self.history.read(&self.kernel, elapsed);
    }
}
