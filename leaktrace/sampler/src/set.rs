//! The exact set of sampled blocks that are not freed yet, with the size and the weight of each.
//!
//! In: blocks that are sampled, addresses that are freed. Out: for a freed address, its sample, to exactly one taker.
//!
//! An address has two buckets of a cache line each, and lies anywhere in one of them. So nothing is ever moved, a look-up reads
//! sixteen words whatever has come and gone, and every operation is one compare-and-swap of one word: a thread that is stopped,
//! killed or left behind by `fork()` at any instruction leaves a set that is whole. Two buckets to choose from let it fill to four
//! fifths before one address finds no room.
//!
//! An address is in the set once at most, because the block that it names is: it enters before malloc returns and leaves before
//! the real free.

use crate::word::Word;
use core::sync::atomic::AtomicU64;

/// Slots of a bucket: the words of a cache line.
pub const WAYS: usize = 8;
/// Buckets, a power of two: 131,072 slots. Memory is used as it is written to.
pub const BUCKETS: usize = 1 << 14;

const EMPTY: u64 = 0;

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Address of the block, not 0.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The bytes that it stands for.
    pub weight: u64,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the set.
    New,
    /// It took the place of an earlier sample of the same address, which was freed in a way that nobody saw.
    InPlaceOf(Sample),
    /// Both of its buckets are full.
    NoRoom,
}

#[repr(align(64))]
struct Bucket<W, const WAYS: usize>([W; WAYS]);

/// The set. Sizes and weights lie apart, so that a look-up touches addresses only.
pub struct Set<W, const BUCKETS: usize, const WAYS: usize> {
    addresses: [Bucket<W, WAYS>; BUCKETS],
    sizes: [Bucket<W, WAYS>; BUCKETS],
    weights: [Bucket<W, WAYS>; BUCKETS],
}

impl<const BUCKETS: usize, const WAYS: usize> Set<AtomicU64, BUCKETS, WAYS> {
    /// An empty set.
    pub const fn new() -> Self {
        Self { addresses: Self::zeros(), sizes: Self::zeros(), weights: Self::zeros() }
    }

    const fn zeros() -> [Bucket<AtomicU64, WAYS>; BUCKETS] {
        [const { Bucket([const { AtomicU64::new(0) }; WAYS]) }; BUCKETS]
    }
}

impl<const BUCKETS: usize, const WAYS: usize> Default for Set<AtomicU64, BUCKETS, WAYS> {
    fn default() -> Self {
        Self::new()
    }
}

/// The slots of an address.
struct Slot<'a, W> {
    address: &'a W,
    size: &'a W,
    weight: &'a W,
}

impl<W: Word> Slot<'_, W> {
    fn fill(&self, sample: Sample) {
        self.size.store(sample.size);
        self.weight.store(sample.weight);
    }

    fn read(&self, address: u64) -> Sample {
        Sample { address, size: self.size.load(), weight: self.weight.load() }
    }
}

impl<W: Word, const BUCKETS: usize, const WAYS: usize> Set<W, BUCKETS, WAYS> {
    /// A set of zeros.
    #[cfg(test)]
    pub fn of(zero: impl Fn() -> W) -> Self {
        let zeros = || std::array::from_fn(|_| Bucket(std::array::from_fn(|_| zero())));
        Self { addresses: zeros(), sizes: zeros(), weights: zeros() }
    }

    /// The two buckets of an address, as numbers; they may be the same.
    fn buckets(address: u64) -> [usize; 2] {
        let hash = (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [(hash >> 32) as usize & (BUCKETS - 1), (hash >> 48) as usize & (BUCKETS - 1)]
    }

    fn slots(&self, address: u64) -> impl Iterator<Item = Slot<'_, W>> {
        Self::buckets(address).into_iter().flat_map(|bucket| self.bucket(bucket))
    }

    fn bucket(&self, bucket: usize) -> impl Iterator<Item = Slot<'_, W>> {
        // Never none, since the number of buckets is a power of two.
        let parts = (self.addresses.get(bucket), self.sizes.get(bucket), self.weights.get(bucket));
        let parts = if let (Some(a), Some(s), Some(w)) = parts { Some((a, s, w)) } else { None };
        parts.into_iter().flat_map(|(addresses, sizes, weights)| {
            let rest = sizes.0.iter().zip(&weights.0);
            addresses.0.iter().zip(rest).map(|(address, (size, weight))| Slot { address, size, weight })
        })
    }

    /// Puts a sample into the set. Nobody but the caller has the address yet.
    pub fn insert(&self, sample: Sample) -> Inserted {
        for slot in self.slots(sample.address) {
            if slot.address.load() == sample.address {
                let earlier = slot.read(sample.address);
                slot.fill(sample);
                return Inserted::InPlaceOf(earlier);
            }
        }
        // Into the emptier bucket first: that is what lets the set fill.
        let [first, second] = Self::buckets(sample.address);
        let room = |bucket| self.bucket(bucket).filter(|slot| slot.address.load() == EMPTY).count();
        let order = if room(second) > room(first) { [second, first] } else { [first, second] };
        for slot in order.into_iter().flat_map(|bucket| self.bucket(bucket)) {
            if slot.address.load() == EMPTY && slot.address.exchange(EMPTY, sample.address) {
                // Only who frees the block looks at these, and nobody can free it before malloc has returned.
                slot.fill(sample);
                return Inserted::New;
            }
        }
        Inserted::NoRoom
    }

    /// Takes the sample at `address` out of the set, if there is one. Of several takers one gets it.
    pub fn take(&self, address: u64) -> Option<Sample> {
        if address == EMPTY {
            return None;
        }
        self.slots(address).find_map(|slot| {
            if slot.address.load() != address {
                return None;
            }
            let sample = slot.read(address);
            slot.address.exchange(address, EMPTY).then_some(sample)
        })
    }
}

#[cfg(test)]
mod tests;
