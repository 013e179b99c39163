//! The rule cache: one word per slot, so that readers and writers on different CPUs never see half an entry.
//!
//! A lookup address and a process' generation are mixed into 48 bits one-to-one: 16 choose the slot, 32 are the tag that
//! is stored beside the rule. Within a list of mappings a hit is therefore never another address' rule; a new list gets
//! a new generation and thereby an empty cache. Between processes two addresses meet with a chance of 2^-48.
//!
//! Of two addresses that share a slot only one could stay, and each walk through both would search for both. So there is
//! a second way, with slots of its own, in which the 48 bits are mixed once more, again one-to-one: addresses that meet in
//! the first way go apart in the second. It is looked at after a miss in the first.

use super::{ProcessWord, Rule};

/// Slots of each way.
const WAY_SLOTS: u32 = 1 << 16;

/// Slots of the cache: the first way's, then the second's.
pub const CACHE_SLOTS: u32 = 2 * WAY_SLOTS;

/// Bits of a user space address (x86-64 and aarch64 with four-level tables; five levels are only used by programs that
/// ask for them, and their high addresses are not cached).
const ADDRESS_BITS: u32 = 48;

const MASK: u64 = (1 << ADDRESS_BITS) - 1;

/// Odd, hence invertible modulo 2^48: the golden ratio's fraction, which spreads neighbouring addresses over the slots.
const SPREAD: u64 = 0x9e37_79b9_7f4b;

/// Odd as well, and different, so that no multiple of a generation undoes the step from one address to the next.
const SALT: u64 = 0xc2b2_ae3d_27d5;

/// Odd too: 2^48 over the square root of 5, rounded. It mixes for the second way.
const SPREAD_AGAIN: u64 = 0x727c_9716_ffb7;

/// Where in one way of the cache an address' rule is, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey {
    /// The slot, below [`CACHE_SLOTS`].
    pub slot: u32,
    /// What the upper half of the slot's word must be.
    pub tag: u32,
}

impl CacheKey {
    /// The first way's key of `address` in the list of mappings that `process` stands for; `None` for an address that is
    /// not cached.
    #[inline(always)]
    #[must_use]
    pub const fn new(process: ProcessWord, address: u64) -> Option<Self> {
        if address > MASK {
            return None;
        }
        let salt = (process.generation() as u64).wrapping_mul(SALT);
        let mixed = (address ^ salt).wrapping_mul(SPREAD) & MASK;
        Some(Self { slot: (mixed >> 32) as u32, tag: mixed as u32 })
    }

    /// The second way's key for the first way's.
    #[inline(always)]
    #[must_use]
    pub const fn second(self) -> Self {
        let mixed = (self.slot as u64) << 32 | self.tag as u64;
        // Both steps can be undone. The shift lets the first way's slot, its upper bits, act upon the second's.
        let mixed = (mixed ^ mixed >> (ADDRESS_BITS / 2)).wrapping_mul(SPREAD_AGAIN) & MASK;
        Self { slot: WAY_SLOTS | (mixed >> 32) as u32, tag: mixed as u32 }
    }
}

/// Whether a rule is to be put into the second way, where its slots hold these words: an empty slot is taken, the first
/// way's before the second's. Otherwise a coin decides, a fresh one each time: two addresses that are both in use and meet
/// in the first way cannot keep driving each other out.
#[inline(always)]
#[must_use]
pub fn goes_second(first: u64, second: u64, coin: impl FnOnce() -> u32) -> bool {
    first != 0 && (second == 0 || coin() & 1 != 0)
}

/// The word to store for a rule.
#[inline(always)]
#[must_use]
pub const fn cache_word(key: CacheKey, rule: Rule) -> u64 {
    (key.tag as u64) << 32 | rule.to_bits() as u64
}

/// The rule in the slot's word, [`Rule::NONE`] where it is another address'.
#[inline(always)]
#[must_use]
pub const fn cached_rule(key: CacheKey, word: u64) -> Rule {
    if (word >> 32) as u32 == key.tag { Rule::from_bits(word as u32) } else { Rule::NONE }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::{HashMap, HashSet};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::vec::Vec;
    use std::{thread, vec};

    use proptest::prelude::*;

    use super::{CACHE_SLOTS, CacheKey, MASK, SPREAD, WAY_SLOTS, cache_word, cached_rule, goes_second};
    use crate::unwind::{Kind, ProcessWord, Rule};

    /// The cache as the programs keep it.
    struct Cache {
        slots: Vec<AtomicU64>,
        searches: u32,
    }

    impl Cache {
        fn new() -> Self {
            Self { slots: (0..CACHE_SLOTS).map(|_| AtomicU64::new(0)).collect(), searches: 0 }
        }

        fn word(&self, key: CacheKey) -> u64 {
            self.slots[key.slot as usize].load(Ordering::Relaxed)
        }

        fn find(&self, key: CacheKey) -> Rule {
            let rule = cached_rule(key, self.word(key));
            if rule == Rule::NONE { cached_rule(key.second(), self.word(key.second())) } else { rule }
        }

        fn keep(&self, key: CacheKey, rule: Rule, coin: u32) {
            let second = key.second();
            let key = if goes_second(self.word(key), self.word(second), || coin) { second } else { key };
            self.slots[key.slot as usize].store(cache_word(key, rule), Ordering::Relaxed);
        }

        /// As a walk does: searched for and kept where it is not there.
        fn look_up(&mut self, key: CacheKey, rule: Rule, coin: u32) {
            match self.find(key) {
                Rule::NONE => {
                    self.searches += 1;
                    self.keep(key, rule, coin);
                }
                found => assert_eq!(found, rule),
            }
        }
    }

    fn process() -> ProcessWord {
        ProcessWord::new(0, 0, 3)
    }

    /// `count` addresses of [`process`] that share a slot of the first way. Its slot is the upper 16 of 48 bits, so the
    /// mix is undone for words that differ in the lower ones.
    fn colliding(count: u64) -> Vec<CacheKey> {
        // Newton's iteration: each step doubles the bits that are right, of which any odd number has three.
        let mut inverse = SPREAD;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(SPREAD.wrapping_mul(inverse)));
        }
        let salt = CacheKey::new(process(), 0).unwrap();
        let salt = (u64::from(salt.slot) << 32 | u64::from(salt.tag)).wrapping_mul(inverse) & MASK;
        let keys: Vec<_> = (0..count)
            .map(|i| {
                let mixed = 0x1234_0000_0000 | ((i * 0x0123_4567) & 0xffff_ffff);
                CacheKey::new(process(), (mixed.wrapping_mul(inverse) & MASK) ^ salt).unwrap()
            })
            .collect();
        assert!(keys.iter().all(|key| key.slot == 0x1234));
        keys
    }

    fn rule(i: usize) -> Rule {
        Rule::new(Kind::Sp, 1 + i as u32, -2)
    }

    proptest! {
        #[test]
        fn two_addresses_of_a_process_never_share_a_key(generation in 1u32..1 << 24, a in 0u64..1 << 48, b in 0u64..1 << 48) {
            prop_assume!(a != b);
            let process = ProcessWord::new(0, 0, generation);
            let (a, b) = (CacheKey::new(process, a).unwrap(), CacheKey::new(process, b).unwrap());
            prop_assert_ne!(a, b);
            prop_assert_ne!(a.second(), b.second());
            // Nor does a word of one way stand where the other way looks.
            prop_assert!(a.slot < WAY_SLOTS && (WAY_SLOTS..CACHE_SLOTS).contains(&b.second().slot));
        }

        #[test]
        fn what_one_way_stores_answers_for_no_other_address(a in 0u64..1 << 48, b in 0u64..1 << 48) {
            prop_assume!(a != b);
            let (a, b) = (CacheKey::new(process(), a).unwrap(), CacheKey::new(process(), b).unwrap());
            for coin in [0, 1] {
                let cache = Cache::new();
                cache.keep(a, rule(1), coin);
                cache.keep(a, rule(1), coin);
                prop_assert_eq!(cache.find(a), rule(1));
                prop_assert_eq!(cache.find(b), Rule::NONE);
            }
        }

        #[test]
        fn the_same_address_has_another_key_in_another_generation(g in 1u32..1 << 24, h in 1u32..1 << 24, a in 0u64..1 << 48) {
            prop_assume!(g != h);
            prop_assert_ne!(CacheKey::new(ProcessWord::new(0, 0, g), a), CacheKey::new(ProcessWord::new(0, 0, h), a));
        }
    }

    #[test]
    fn an_empty_slot_holds_no_rule_for_anyone() {
        let process = ProcessWord::new(0, 0, 1);
        for address in (0..1 << 20).step_by(7) {
            let key = CacheKey::new(process, address).unwrap();
            assert_eq!(cached_rule(key, 0), Rule::NONE);
            assert_eq!(cached_rule(key.second(), 0), Rule::NONE);
        }
    }

    #[test]
    fn neighbouring_return_addresses_spread_over_the_slots() {
        // 16,384 addresses 37 bytes apart (a call site each), a quarter of a way's slots: chance alone would leave
        // exp(-1/4) = 78 % of them empty, i.e. 14,497 in use.
        let process = ProcessWord::new(0, 0, 77);
        let mut used = HashMap::new();
        for i in 0..u64::from(WAY_SLOTS / 4) {
            let key = CacheKey::new(process, 0x7f12_3456_7000 + 37 * i).unwrap();
            assert!(key.slot < WAY_SLOTS);
            *used.entry(key.slot).or_insert(0) += 1;
        }
        assert!(used.len() > 14_000, "{} slots for 16,384 addresses", used.len());
    }

    #[test]
    fn addresses_that_meet_in_the_first_way_go_apart_in_the_second() {
        // 1,000 of them in 65,536 slots: chance alone would have 8 meet again.
        let slots: HashSet<u32> = colliding(1000).into_iter().map(|key| key.second().slot).collect();
        assert!(slots.len() > 970, "{} slots for 1,000 addresses", slots.len());
    }

    #[test]
    fn two_addresses_that_meet_both_stay() {
        let keys = colliding(2);
        let mut cache = Cache::new();
        for walk in 0..1000 {
            for (i, key) in keys.iter().enumerate() {
                cache.look_up(*key, rule(i), walk);
            }
        }
        assert_eq!(cache.searches, 2);
    }

    #[test]
    fn two_addresses_that_meet_both_stay_even_where_strangers_were_before() {
        let keys = colliding(2);
        let mut cache = Cache::new();
        for key in &keys {
            // Left by a process that has ended.
            cache.slots[key.slot as usize] = AtomicU64::new(u64::from(!key.tag) << 32 | 7);
            cache.slots[key.second().slot as usize] = AtomicU64::new(u64::from(!key.second().tag) << 32 | 7);
        }
        // Any coin that shows both sides will do.
        let mut coin = 0x9e37_79b9u32;
        for _ in 0..1000 {
            for (i, key) in keys.iter().enumerate() {
                coin = coin.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                cache.look_up(*key, rule(i), coin >> 16);
            }
        }
        assert!(cache.searches < 30, "{} searches", cache.searches);
    }

    #[test]
    fn whoever_else_writes_a_hit_is_the_address_own_rule() {
        let keys = colliding(8);
        let cache = Cache::new();
        let over = AtomicBool::new(false);
        let hits = thread::scope(|scope| {
            for seed in 0..3u32 {
                let (keys, cache, over) = (&keys, &cache, &over);
                scope.spawn(move || {
                    let mut coin = seed;
                    while !over.load(Ordering::Relaxed) {
                        coin = coin.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let i = coin as usize >> 24 & 7;
                        cache.keep(keys[i], rule(i), coin >> 16);
                    }
                });
            }
            let mut hits = vec![0; keys.len()];
            while hits.iter().any(|hits| *hits < 1000) {
                for (i, key) in keys.iter().enumerate() {
                    match cache.find(*key) {
                        Rule::NONE => {}
                        found => {
                            assert_eq!(found, rule(i));
                            hits[i] += 1;
                        }
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
            hits
        });
        assert_eq!(hits.len(), 8);
    }

    #[test]
    fn a_stored_rule_is_found_again_by_its_key_only() {
        let process = process();
        let rule = Rule::new(Kind::Sp, 5, -2);
        let key = CacheKey::new(process, 0x7fff_0000_1234).unwrap();
        let word = cache_word(key, rule);
        assert_eq!(cached_rule(key, word), rule);
        assert_eq!(cached_rule(CacheKey { tag: key.tag ^ 1, ..key }, word), Rule::NONE);
        assert_eq!(CacheKey::new(process, 1 << 48), None);
    }
}
