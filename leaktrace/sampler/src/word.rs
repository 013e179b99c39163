//! The atomics that the set and the filter need, as traits, so that loom's take their place in tests.
//!
//! In: an atomic type. Out: the four operations that the sampler does with it, each with the ordering that it needs.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A word of eight bytes.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u64;
    /// Writes it.
    fn store(&self, value: u64);
    /// Stores `new` where it holds `old`. Whether it did.
    fn exchange(&self, old: u64, new: u64) -> bool;
}

/// A counter of one byte.
pub trait Byte {
    /// Reads it.
    fn load(&self) -> u8;
    /// Stores `new` where it holds `old`; otherwise gives what it holds.
    fn exchange(&self, old: u8, new: u8) -> Result<(), u8>;
}

macro_rules! implement {
    ($word:ty, $byte:ty) => {
        impl Word for $word {
            fn load(&self) -> u64 {
                self.load(Ordering::Acquire)
            }

            fn store(&self, value: u64) {
                self.store(value, Ordering::Release);
            }

            fn exchange(&self, old: u64, new: u64) -> bool {
                self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
            }
        }

        impl Byte for $byte {
            fn load(&self) -> u8 {
                self.load(Ordering::Acquire)
            }

            fn exchange(&self, old: u8, new: u8) -> Result<(), u8> {
                self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
            }
        }
    };
}

implement!(AtomicU64, AtomicU8);
#[cfg(test)]
implement!(loom::sync::atomic::AtomicU64, loom::sync::atomic::AtomicU8);
