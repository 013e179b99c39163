//! Which code an input reaches, by the counters that LLVM puts into every branch
//! (`-sanitizer-coverage-inline-8bit-counters`, clang's `SanitizerCoverage`). Without these flags there are no counters.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static COUNTERS: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Called before `main` by what the flags make the compiler add: where the counters of this program are, a byte each.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    COUNTERS.store(start, Ordering::Relaxed);
    COUNT.store((stop as usize).saturating_sub(start as usize), Ordering::Relaxed);
}

/// What all inputs so far have reached.
pub struct Coverage {
    /// For each counter the ranges of counts that were seen, a bit each.
    seen: Vec<u8>,
    reached: usize,
}

impl Coverage {
    pub fn new() -> Self {
        Self { seen: vec![0; COUNT.load(Ordering::Relaxed)], reached: 0 }
    }

    /// How many places can be reached.
    pub fn places(&self) -> usize {
        self.seen.len()
    }

    /// How many were.
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Sets all counters to 0.
    pub fn reset(&self) {
        // SAFETY: the counters lie at this place for as long as the program runs, writable, and the only other thread does not
        // look at them; what it adds to its own meanwhile may be lost.
        unsafe { ptr::write_bytes(COUNTERS.load(Ordering::Relaxed), 0, self.seen.len()) }
    }

    /// Whether what ran since the reset has reached something new, or something much more often than before.
    pub fn is_new(&mut self) -> bool {
        let start = COUNTERS.load(Ordering::Relaxed);
        let mut new = false;
        let words = self.seen.len() / 8;
        for word in 0..words {
            // SAFETY: within the counters (see `reset`); bytes have no alignment.
            let counts = unsafe { start.add(word * 8).cast::<[u8; 8]>().read() };
            if u64::from_le_bytes(counts) != 0 {
                new |= self.note(word * 8, counts);
            }
        }
        new
    }

    fn note(&mut self, at: usize, counts: [u8; 8]) -> bool {
        let mut new = false;
        for (seen, count) in self.seen[at..].iter_mut().zip(counts) {
            let bit = range(count);
            if *seen & bit != bit {
                self.reached += usize::from(*seen == 0);
                *seen |= bit;
                new = true;
            }
        }
        new
    }
}

/// A bit for each of eight ranges of counts, as AFL has them.
fn range(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reached_and_one_reached_more_often_are_new_once() {
        let mut coverage = Coverage { seen: vec![0; 16], reached: 0 };
        assert!(coverage.note(8, [0, 1, 0, 0, 0, 0, 0, 200]));
        assert!(!coverage.note(8, [0, 1, 0, 0, 0, 0, 0, 255]));
        assert!(coverage.note(8, [0, 2, 0, 0, 0, 0, 0, 0]));
        assert!(!coverage.note(8, [0; 8]));
        assert_eq!(coverage.reached(), 2);
    }
}
