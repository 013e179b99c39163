//! The counting filter in front of the set of samples: what a free looks at first.
//!
//! In: addresses that enter and leave the set. Out: for an address, whether it may be in the set. A counter that has reached its
//! most stays there for ever: what it counts is not known any more, and a free must never pass by a sample.
//!
//! The order makes that hold: an address is counted before it enters the set, and enters before the program has it; it is taken
//! off after it has left.

use crate::word::Byte;
use core::sync::atomic::AtomicU8;

/// Counters, a power of two. A table that nothing was written to costs no memory: all its pages are the kernel's page of zeros.
pub const COUNTERS: usize = 1 << 18;
const STUCK: u8 = u8::MAX;

/// Counters by address. The instructions in `crate::entry` compute the same index.
#[repr(transparent)]
pub struct Filter<B, const COUNTERS: usize> {
    counters: [B; COUNTERS],
}

impl<const COUNTERS: usize> Filter<AtomicU8, COUNTERS> {
    /// A filter that nothing is in.
    pub const fn new() -> Self {
        Self { counters: [const { AtomicU8::new(0) }; COUNTERS] }
    }
}

impl<const COUNTERS: usize> Default for Filter<AtomicU8, COUNTERS> {
    fn default() -> Self {
        Self::new()
    }
}

/// The counter of an address: blocks are 16 bytes apart, and what is used together lies together.
#[must_use]
pub fn index(address: u64) -> usize {
    (address >> 4) as usize
}

impl<B: Byte, const COUNTERS: usize> Filter<B, COUNTERS> {
    /// A filter of these counters.
    #[cfg(test)]
    pub fn of(counters: [B; COUNTERS]) -> Self {
        Self { counters }
    }

    fn counter(&self, address: u64) -> Option<&B> {
        // Never none, since the number of counters is a power of two.
        self.counters.get(index(address) & (COUNTERS - 1))
    }

    /// Whether the address may be in the set.
    pub fn may_hold(&self, address: u64) -> bool {
        self.counter(address).is_some_and(|counter| counter.load() != 0)
    }

    /// Counts an address that is about to enter the set.
    pub fn add(&self, address: u64) {
        self.change(address, 1);
    }

    /// Takes off an address that has left the set.
    pub fn remove(&self, address: u64) {
        self.change(address, u8::MAX);
    }

    /// Lets an address be found for ever.
    pub fn stick(&self, address: u64) {
        let Some(counter) = self.counter(address) else { return };
        let mut held = counter.load();
        while let Err(now) = counter.exchange(held, STUCK) {
            held = now;
        }
    }

    fn change(&self, address: u64, by: u8) {
        let Some(counter) = self.counter(address) else { return };
        let mut held = counter.load();
        while held != STUCK {
            match counter.exchange(held, held.wrapping_add(by)) {
                Ok(()) => return,
                Err(now) => held = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_full_stay_so() {
        let filter = Box::new(Filter::<AtomicU8, 16>::new());
        for _ in 0..254 {
            filter.add(0x1230);
        }
        filter.add(0x1220);
        for _ in 0..254 {
            filter.remove(0x1230);
        }
        assert!(!filter.may_hold(0x1230) && filter.may_hold(0x1220));
        for _ in 0..300 {
            filter.add(0x1230);
        }
        for _ in 0..300 {
            filter.remove(0x1230);
        }
        assert!(filter.may_hold(0x1230));
        filter.remove(0x1220);
        assert!(!filter.may_hold(0x1220));
        filter.stick(0x1220);
        filter.remove(0x1220);
        assert!(filter.may_hold(0x1220));
    }
}
