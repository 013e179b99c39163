//! The mean distance between samples, adapted so that no more than so many samples are taken in a second.
//!
//! In: samples as they are taken, looks in between, the time. Out: the interval for draws from now on. It is the floor times a power
//! of two. It rises where `BUDGET` samples have come sooner than the rate permits, at once as far as needed, and falls where
//! fewer than half would come at half of it. Beside that, it is the larger the more samples are outstanding, so that a program which keeps
//! what it allocates does not fill the set of them.
//!
//! Estimates stay right on average: a countdown keeps the interval that drew it, what was drawn depends on the past only, and a
//! countdown that has not run out may be drawn again at any time, since an exponential distribution has no memory.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Samples by which the rate is judged: its error is one in six.
pub const BUDGET: u64 = 32;
/// What a clock may stand still for, nanoseconds: a window that is full within it says no more than that.
const TICK: u64 = 10_000_000;
/// Rates are computed to this part of one.
const PARTS: u64 = 1000;
/// See [`Limits::least`].
const PART: u64 = 16;
/// Nanoseconds to the second.
const SECOND: u64 = 1_000_000_000;

/// What the interval is held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest interval, bytes. At most 1: every allocation is a sample, and nothing adapts.
    pub floor: u64,
    /// Samples per second that are not to be exceeded; 0: as many as there are.
    pub rate: u64,
}

impl Limits {
    /// Whether the interval ever changes.
    fn adapts(self) -> bool {
        self.floor > 1 && self.rate > 0
    }

    /// The smallest interval while `held` samples are in a set that has room for `room`: the floor, doubled for each `PART`th of the
    /// room that is taken. What takes `n` parts is so 2^n times as many bytes as what takes the first.
    #[must_use]
    pub fn least(self, held: u64, room: u64) -> u64 {
        if !self.adapts() {
            return self.floor;
        }
        let most = crate::sampling::MAX_SAMPLE_BYTES;
        let doublings = (held / (room / PART).max(1)).min(u64::from(most.ilog2()));
        self.floor.saturating_mul(1 << doublings).min(most.max(self.floor))
    }

    /// Nanoseconds in which `BUDGET` samples may come.
    fn window(self) -> u64 {
        BUDGET * SECOND / self.rate.max(1)
    }
}

/// The interval, with the window in which samples are counted.
#[repr(C)]
pub struct Pace {
    interval: AtomicU64,
    since: AtomicU64,
    count: AtomicU64,
}

impl Pace {
    /// A pace without an interval: [`Pace::start`] gives it one.
    pub const fn new() -> Self {
        Self { interval: AtomicU64::new(0), since: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Begins at the smallest interval.
    pub fn start(&self, limits: Limits) {
        self.interval.store(limits.floor, Relaxed);
    }

    /// The interval for the next draw, bytes; 0 before the start.
    pub fn interval(&self) -> u64 {
        self.interval.load(Relaxed)
    }

    /// Takes note of the time `now`, nanoseconds of any clock, at which a sample was taken or only the countdown looked at.
    pub fn note(&self, limits: Limits, now: u64, sampled: bool) {
        if !limits.adapts() {
            return;
        }
        let since = self.since.load(Relaxed);
        let count = if sampled { self.count.fetch_add(1, Relaxed) + 1 } else { self.count.load(Relaxed) };
        let elapsed = now.saturating_sub(since).max(1);
        let is_over = elapsed >= limits.window();
        if !is_over && count < BUDGET {
            return;
        }
        // One thread closes the window. What the others count meanwhile may go to either.
        if self.since.compare_exchange(since, now, Relaxed, Relaxed).is_err() {
            return;
        }
        self.count.store(0, Relaxed);
        let interval = self.interval();
        let next = if is_over {
            fallen(interval, limits, count, elapsed)
        } else {
            risen(interval, limits, count, elapsed.max(TICK))
        };
        self.interval.store(next, Relaxed);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

/// Doubled until the samples of a second are not more than the rate.
fn risen(mut interval: u64, limits: Limits, count: u64, elapsed: u64) -> u64 {
    let mut expected = rate(count, elapsed);
    loop {
        if interval > crate::sampling::MAX_SAMPLE_BYTES / 2 {
            return interval;
        }
        interval *= 2;
        expected /= 2;
        if expected <= limits.rate * PARTS {
            return interval;
        }
    }
}

/// Halved while the samples of a second would still not be more than half of the rate.
fn fallen(mut interval: u64, limits: Limits, count: u64, elapsed: u64) -> u64 {
    // One more, since none in a short while does not mean none for ever.
    let mut expected = rate(count + 1, elapsed).max(1);
    while interval / 2 >= limits.floor && expected * 4 <= limits.rate * PARTS {
        interval /= 2;
        expected *= 2;
    }
    interval
}

/// Samples per second, in units of 1 / `PARTS`.
fn rate(count: u64, elapsed: u64) -> u64 {
    count.saturating_mul(SECOND / 1000 * PARTS).checked_div((elapsed / 1000).max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
