//! A lock-free hash table over an array of cache-line buckets, used from BPF programs and userspace alike.
//!
//! After Facebook's F14: a bucket holds [`BUCKET_KEYS`] keys and the number of keys that hashed to it or passed
//! through it and lie further on. A look-up that misses in a bucket nobody overflowed from ends there, and removal
//! needs no tombstones. Values lie in arrays of their own at the position a key was given.
//!
//! Why not the kernel's hash map: its insertion and removal cost 100-200 ns a pair where this costs 20, it has no
//! reader that keeps up with millions of entries short of batch look-ups, while an array is simply mapped; and its
//! per-bucket locks can refuse an update under preemption.
//!
//! What callers must guarantee: a key is inserted and removed by one party at a time (the owner of the memory block,
//! the thread itself). Different keys need no order. The same key inserted by two parties at once may be booked
//! twice; only the site table allows that, and userspace merges.

use crate::atomic;

/// Keys of one bucket: with the overflow count they fill a 64-byte cache line.
pub const BUCKET_KEYS: usize = 7;

/// Buckets that one key may probe. In a table filled to its nominal size one bucket in ten is full, so the chance that
/// all of these are is 1e-10; a completely full table refuses after this many.
pub const MAX_PROBES: u32 = 10;

/// One cache line of keys. A zero key is a free place.
#[repr(C)]
#[derive(Debug)]
pub struct Bucket {
    /// The keys, in no order.
    pub keys: [u64; BUCKET_KEYS],
    /// How many keys lie beyond this bucket because it was full when they came by.
    pub overflow: u64,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Access to the buckets by index: a BPF array map, or its memory mapped in userspace.
pub trait Buckets {
    /// How many buckets there are. Should be prime, so that every step visits all of them.
    fn count(&self) -> u32;
    /// The bucket at `index`, `None` out of bounds (which the verifier wants to see handled).
    fn bucket(&self, index: u32) -> Option<*mut Bucket>;
}

/// Where a key lies, packed into one word so that a BPF function can return it: bucket, lane, and how many buckets
/// the key passed on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    #[inline(always)]
    fn new(bucket: u32, lane: usize, passed: u32) -> Self {
        Self(u64::from(bucket) | (lane as u64) << 32 | u64::from(passed) << 40)
    }

    /// Back from [`Place::word`].
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The place as one word, below 2^48.
    #[inline(always)]
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn bucket(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn lane(self) -> usize {
        (self.0 >> 32) as usize & 0xff
    }

    #[inline(always)]
    fn passed(self) -> u32 {
        (self.0 >> 40) as u32 & 0xff
    }

    /// The index of this place in the arrays of values beside the table.
    #[inline(always)]
    #[must_use]
    pub fn index(self) -> u32 {
        self.bucket() * BUCKET_KEYS as u32 + self.lane() as u32
    }
}

/// What [`insert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key is new and was given this place.
    New(Place),
    /// The key was there, at this place.
    Present(Place),
    /// No place within [`MAX_PROBES`] buckets.
    Full,
}

/// How many buckets hold `entries` keys at no more than 4 of 7 places taken, as a prime.
#[must_use]
pub fn buckets_for(entries: u32) -> u32 {
    let mut count = (entries / 4).max(16) | 1;
    while !is_prime(count) {
        count += 2;
    }
    count
}

/// How many buckets hold `entries` keys at no more than 5 of 7 places taken, as a prime: for large values, where places cost
/// more than look-ups that go on to another bucket. At that one bucket in five is full.
#[must_use]
pub fn dense_buckets_for(entries: u32) -> u32 {
    buckets_for((u64::from(entries) * 4).div_ceil(5) as u32)
}

/// How many positions a table of `buckets` buckets gives out: the length of the arrays of values beside it.
#[must_use]
pub fn positions(buckets: u32) -> u32 {
    buckets * BUCKET_KEYS as u32
}

fn is_prime(n: u32) -> bool {
    let mut divisor = 3;
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    n > 2 && !n.is_multiple_of(2)
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The buckets a key visits: a start, and a step as in double hashing.
#[derive(Clone, Copy)]
struct Probe {
    bucket: u32,
    step: u32,
    count: u32,
}

impl Probe {
    #[inline(always)]
    fn new(key: u64, count: u32) -> Self {
        // Fibonacci hashing, twice: once leaves keys in an arithmetic progression evenly apart, which is as bad as it is good.
        // Blocks 48 bytes apart, as those of 32 bytes are, filled a seventh of the buckets and were refused at a third of the
        // table's nominal size.
        let hash = key.wrapping_mul(GOLDEN);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(GOLDEN);
        let start = hash >> 32;
        let other = (hash ^ (hash >> 29)) & 0xffff_ffff;
        // A number below 2^32 times n, shifted down by 32, is a number below n: no division on the hot path.
        let bucket = ((start * u64::from(count)) >> 32) as u32;
        let step = 1 + ((other * u64::from(count - 1)) >> 32) as u32;
        Self { bucket, step, count }
    }

    #[inline(always)]
    fn advance(&mut self) {
        let next = self.bucket + self.step;
        self.bucket = if next >= self.count { next - self.count } else { next };
    }
}

#[inline(always)]
fn key_at(bucket: *mut Bucket, lane: usize) -> *mut u64 {
    bucket.cast::<u64>().wrapping_add(lane)
}

#[inline(always)]
fn overflow_of(bucket: *mut Bucket) -> *mut u64 {
    bucket.cast::<u64>().wrapping_add(BUCKET_KEYS)
}

/// The place of `key`, which must not be 0.
#[inline(always)]
pub fn find<B: Buckets>(table: &B, key: u64) -> Option<Place> {
    find_where(table, key, |_| true)
}

/// The same where keys are hashes of what they stand for: the place of `key` whose value, by its index, is what is looked
/// for. There may be several of one key, and only who owns one may look for it.
#[inline(always)]
pub fn find_where<B: Buckets>(table: &B, key: u64, is_it: impl Fn(u32) -> bool) -> Option<Place> {
    let mut probe = Probe::new(key, table.count());
    let mut probes = 0;
    while probes < MAX_PROBES {
        let bucket = table.bucket(probe.bucket)?;
        let mut lane = 0;
        while lane < BUCKET_KEYS {
            // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
            if unsafe { atomic::load(key_at(bucket, lane)) } == key {
                let place = Place::new(probe.bucket, lane, probes);
                if is_it(place.index()) {
                    return Some(place);
                }
            }
            lane += 1;
        }
        // SAFETY: as above.
        if unsafe { atomic::load(overflow_of(bucket)) } == 0 {
            return None;
        }
        probe.advance();
        probes += 1;
    }
    None
}

/// The place of `key` if it is the first of its first bucket, where keys of a table that is far from full are. For BPF
/// programs, before they call [`find`]: where the kernel guards returns against speculation (on AMD's processors since 2023)
/// a call costs more than what is done here.
#[inline(always)]
pub fn find_first<B: Buckets>(table: &B, key: u64) -> Option<Place> {
    let probe = Probe::new(key, table.count());
    let bucket = table.bucket(probe.bucket)?;
    // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
    if unsafe { atomic::load(key_at(bucket, 0)) } == key { Some(Place::new(probe.bucket, 0, 0)) } else { None }
}

/// Gives `key` (not 0) the first place of its first bucket if it has none and that one is free; `None` says nothing, and
/// [`insert`] is to be asked. As [`find_first`], for BPF programs.
#[inline(always)]
pub fn insert_first<B: Buckets>(table: &B, key: u64) -> Option<Place> {
    let probe = Probe::new(key, table.count());
    let bucket = table.bucket(probe.bucket)?;
    // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
    unsafe {
        if atomic::load(overflow_of(bucket)) != 0 {
            return None;
        }
        let mut lane = 1;
        while lane < BUCKET_KEYS {
            if atomic::load(key_at(bucket, lane)) == key {
                return None;
            }
            lane += 1;
        }
        // The key itself is not there either if the word was free.
        if atomic::compare_exchange(key_at(bucket, 0), 0, key) == 0 {
            Some(Place::new(probe.bucket, 0, 0))
        } else {
            None
        }
    }
}

/// The place of `key` in this lane of this bucket, if it is there. Unlike [`find`] this tells apart the two places of a key
/// that two parties inserted at once.
#[must_use]
pub fn place_at<B: Buckets>(table: &B, key: u64, bucket: u32, lane: usize) -> Option<Place> {
    let mut probe = Probe::new(key, table.count());
    for probes in 0..MAX_PROBES {
        if probe.bucket == bucket {
            let word = key_at(table.bucket(bucket)?, lane);
            // SAFETY: the word is the bucket's, which came from the table; it is accessed by atomics only.
            let is_there = lane < BUCKET_KEYS && unsafe { atomic::load(word) } == key;
            return is_there.then(|| Place::new(bucket, lane, probes));
        }
        probe.advance();
    }
    None
}

/// Gives `key` (not 0) a place, or finds the one it has.
#[inline(always)]
pub fn insert<B: Buckets>(table: &B, key: u64) -> Inserted {
    insert_where(table, key, |_| true)
}

/// The same for [`find_where`]'s keys. The value is to be written before anybody looks for it.
#[inline(always)]
pub fn insert_where<B: Buckets>(table: &B, key: u64, is_it: impl Fn(u32) -> bool) -> Inserted {
    let mut probe = Probe::new(key, table.count());
    let Some(bucket) = table.bucket(probe.bucket) else { return Inserted::Full };
    // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
    if unsafe { atomic::load(overflow_of(bucket)) } != 0
        && let Some(present) = find_where(table, key, &is_it)
    {
        return Inserted::Present(present);
    }
    let mut probes = 0;
    while probes < MAX_PROBES {
        let Some(bucket) = table.bucket(probe.bucket) else { return Inserted::Full };
        // Where nothing overflows, the first bucket is the only one that can hold the key: looked at on the way.
        let mut lane = 0;
        while lane < BUCKET_KEYS {
            // SAFETY: as above.
            if unsafe { atomic::load(key_at(bucket, lane)) } == key {
                let place = Place::new(probe.bucket, lane, probes);
                if is_it(place.index()) {
                    return Inserted::Present(place);
                }
            }
            lane += 1;
        }
        // A second look, instead of noting a free place in the first: each that was noted would be verified apart. Others may
        // take the place first; then the next one after it is tried.
        lane = 0;
        while lane < BUCKET_KEYS {
            // SAFETY: as above.
            let is_ours = unsafe {
                atomic::load(key_at(bucket, lane)) == 0 && atomic::compare_exchange(key_at(bucket, lane), 0, key) == 0
            };
            if is_ours {
                return Inserted::New(Place::new(probe.bucket, lane, probes));
            }
            lane += 1;
        }
        // SAFETY: as above.
        unsafe { atomic::add(overflow_of(bucket), 1) };
        probe.advance();
        probes += 1;
    }
    forget(table, key, MAX_PROBES);
    Inserted::Full
}

/// Frees the place of `key` that [`find`] gave. The value kept there must be read, and marked as gone, before: the next
/// owner of the place may come at once.
#[inline(always)]
pub fn remove<B: Buckets>(table: &B, key: u64, place: Place) {
    let lane = place.lane();
    if let Some(bucket) = table.bucket(place.bucket())
        && lane < BUCKET_KEYS
    {
        // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
        unsafe { atomic::store(key_at(bucket, lane), 0) };
        if place.passed() > 0 {
            forget(table, key, place.passed());
        }
    }
}

/// Takes back the overflow counts of the first `passed` buckets of `key`.
#[inline(always)]
fn forget<B: Buckets>(table: &B, key: u64, passed: u32) {
    let mut probe = Probe::new(key, table.count());
    let mut probes = 0;
    while probes < passed && probes < MAX_PROBES {
        let Some(bucket) = table.bucket(probe.bucket) else { return };
        // SAFETY: `bucket` came from the table, all its words are accessed by atomics only.
        unsafe { atomic::add(overflow_of(bucket), 1u64.wrapping_neg()) };
        probe.advance();
        probes += 1;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::cell::UnsafeCell;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    struct Memory(Vec<UnsafeCell<Bucket>>);

    // SAFETY: the table accesses its words by atomics only; that is what these tests are about.
    unsafe impl Sync for Memory {}

    impl Memory {
        fn new(buckets: u32) -> Self {
            Self((0..buckets).map(|_| UnsafeCell::new(Bucket { keys: [0; BUCKET_KEYS], overflow: 0 })).collect())
        }

        fn words(&self) -> impl Iterator<Item = &Bucket> {
            // SAFETY: called while nobody writes.
            self.0.iter().map(|cell| unsafe { &*cell.get() })
        }

        fn assert_empty(&self) {
            for bucket in self.words() {
                assert_eq!(bucket.keys, [0; BUCKET_KEYS]);
                assert_eq!(bucket.overflow, 0);
            }
        }
    }

    impl Buckets for Memory {
        fn count(&self) -> u32 {
            self.0.len() as u32
        }

        fn bucket(&self, index: u32) -> Option<*mut Bucket> {
            self.0.get(index as usize).map(UnsafeCell::get)
        }
    }

    fn insert_as_programs(table: &Memory, key: u64) -> Inserted {
        insert_first(table, key).map_or_else(|| insert(table, key), Inserted::New)
    }

    fn find_as_programs(table: &Memory, key: u64) -> Option<Place> {
        find_first(table, key).or_else(|| find(table, key))
    }

    #[test]
    fn bucket_counts_are_prime_and_hold_what_is_asked() {
        for entries in [1, 100, 16_384, 1_000_000, 10_000_000] {
            let count = buckets_for(entries);
            assert!(
                (2..count).take_while(|d| d * d <= count).all(|d| !count.is_multiple_of(d)),
                "{count} is not prime"
            );
            assert!(u64::from(positions(count)) * 4 >= u64::from(entries) * 7);
        }
    }

    #[test]
    fn a_table_filled_to_its_nominal_size_refuses_nobody_and_empties_without_a_trace() {
        let table = Memory::new(buckets_for(100_000));
        // However far apart the blocks of an allocator are.
        for distance in (16..=320).step_by(16).chain([1040, 3024, 4096, 1 << 20]) {
            let keys: Vec<u64> = (1..=100_000u64).map(|n| 7 << 48 | (0x7f00_0000_0000 + n * distance)).collect();
            let mut passed = 0;
            for &key in &keys {
                let Inserted::New(place) = insert(&table, key) else { panic!("no place for a key {distance} apart") };
                passed += place.passed();
            }
            assert!(passed < 15_000, "keys {distance} apart pass {passed} buckets");
            for &key in &keys {
                let place = find(&table, key).expect("every key is found");
                remove(&table, key, place);
                assert_eq!(find(&table, key), None);
            }
            table.assert_empty();
        }
    }

    #[test]
    fn a_place_found_by_looking_at_every_bucket_is_the_one_that_was_given() {
        let table = Memory::new(17);
        let mut given = HashMap::new();
        for key in 1..=100u64 {
            if let Inserted::New(place) = insert(&table, key) {
                given.insert(key, place);
            }
        }
        for bucket in 0..table.count() {
            for lane in 0..BUCKET_KEYS {
                let key = table.words().nth(bucket as usize).unwrap().keys[lane];
                if key != 0 {
                    let place = place_at(&table, key, bucket, lane).expect("it is there");
                    assert_eq!(given.remove(&key), Some(place));
                    remove(&table, key, place);
                }
                assert_eq!(place_at(&table, 1000, bucket, lane), None);
            }
        }
        assert!(given.is_empty());
        table.assert_empty();
    }

    #[test]
    fn an_overfull_table_refuses_and_what_it_took_stays_intact() {
        let table = Memory::new(17);
        let mut held = Vec::new();
        let mut refused = 0;
        for key in 1..=1000u64 {
            match insert(&table, key) {
                Inserted::New(_) => held.push(key),
                Inserted::Full => refused += 1,
                Inserted::Present(_) => panic!("{key} was never inserted"),
            }
        }
        assert_eq!(held.len() + refused, 1000);
        assert!(held.len() <= 17 * BUCKET_KEYS);
        for key in held {
            let place = find(&table, key).expect("every key that was taken is found");
            remove(&table, key, place);
        }
        table.assert_empty();
    }

    #[test]
    fn threads_that_churn_their_own_keys_never_lose_or_mix_them() {
        let table = Memory::new(buckets_for(4_000));
        let owners: Vec<AtomicU64> = (0..positions(table.count())).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (table, owners) = (&table, &owners);
                scope.spawn(move || {
                    let mut random = thread.wrapping_mul(0x9e37_79b9) | 1;
                    let mut live = Vec::new();
                    for round in 0..20_000u64 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        if live.len() < 400 && random % 3 != 0 {
                            let key = (thread + 1) << 48 | (round + 1) << 4;
                            let Inserted::New(place) = insert_as_programs(table, key) else {
                                panic!("there is room for {key:#x}")
                            };
                            assert_eq!(owners[place.index() as usize].swap(key, Ordering::SeqCst), 0);
                            live.push(key);
                        } else if let Some(key) = live.pop() {
                            let place = find_as_programs(table, key).expect("a live key is found");
                            assert_eq!(owners[place.index() as usize].swap(0, Ordering::SeqCst), key);
                            remove(table, key, place);
                        }
                    }
                    for key in live {
                        let place = find_as_programs(table, key).expect("a live key is found");
                        owners[place.index() as usize].store(0, Ordering::SeqCst);
                        remove(table, key, place);
                    }
                });
            }
        });
        table.assert_empty();
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(steps in prop::collection::vec((any::<bool>(), 1u64..300), 1..2000), buckets in 16u32..100) {
            let table = Memory::new(buckets | 1);
            let mut model: HashMap<u64, Place> = HashMap::new();
            for (add, key) in steps {
                if add {
                    match insert_as_programs(&table, key) {
                        Inserted::New(place) => prop_assert_eq!(model.insert(key, place), None),
                        Inserted::Present(place) => prop_assert_eq!(model.get(&key), Some(&place)),
                        Inserted::Full => prop_assert!(!model.contains_key(&key)),
                    }
                } else {
                    let found = find_as_programs(&table, key);
                    prop_assert_eq!(found, find(&table, key));
                    prop_assert_eq!(found, model.remove(&key));
                    if let Some(place) = found {
                        remove(&table, key, place);
                    }
                }
            }
        }
    }
}
