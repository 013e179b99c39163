//! The rule cache: one word per slot, so that readers and writers on different CPUs never see half an entry.
//!
//! A lookup address and a process' generation are mixed into 48 bits one-to-one: 16 choose the slot, 32 are the tag that
//! is stored beside the rule. Within a list of mappings a hit is therefore never another address' rule; a new list gets
//! a new generation and thereby an empty cache. Between processes two addresses meet with a chance of 2^-48.

use super::{ProcessWord, Rule};

/// Slots of the cache.
pub const CACHE_SLOTS: u32 = 1 << 16;

/// Bits of a user space address (x86-64 and aarch64 with four-level tables; five levels are only used by programs that
/// ask for them, and their high addresses are not cached).
const ADDRESS_BITS: u32 = 48;

const MASK: u64 = (1 << ADDRESS_BITS) - 1;

/// Odd, hence invertible modulo 2^48: the golden ratio's fraction, which spreads neighbouring addresses over the slots.
const SPREAD: u64 = 0x9e37_79b9_7f4b;

/// Odd as well, and different, so that no multiple of a generation undoes the step from one address to the next.
const SALT: u64 = 0xc2b2_ae3d_27d5;

/// Where in the cache an address' rule is, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey {
    /// The slot, below [`CACHE_SLOTS`].
    pub slot: u32,
    /// What the upper half of the slot's word must be.
    pub tag: u32,
}

impl CacheKey {
    /// The key of `address` in the list of mappings that `process` stands for; `None` for an address that is not cached.
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

    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{CACHE_SLOTS, CacheKey, cache_word, cached_rule};
    use crate::unwind::{Kind, ProcessWord, Rule};

    proptest! {
        #[test]
        fn two_addresses_of_a_process_never_share_a_key(generation in 1u32..1 << 24, a in 0u64..1 << 48, b in 0u64..1 << 48) {
            prop_assume!(a != b);
            let process = ProcessWord::new(0, 0, generation);
            prop_assert_ne!(CacheKey::new(process, a), CacheKey::new(process, b));
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
        }
    }

    #[test]
    fn neighbouring_return_addresses_spread_over_the_slots() {
        // 16,384 addresses 37 bytes apart (a call site each) in a quarter of the slots' number: chance alone would
        // leave exp(-1/4) = 78 % of the slots empty, i.e. 14,497 in use.
        let process = ProcessWord::new(0, 0, 77);
        let mut used = HashMap::new();
        for i in 0..u64::from(CACHE_SLOTS / 4) {
            let key = CacheKey::new(process, 0x7f12_3456_7000 + 37 * i).unwrap();
            assert!(key.slot < CACHE_SLOTS);
            *used.entry(key.slot).or_insert(0) += 1;
        }
        assert!(used.len() > 14_000, "{} slots for 16,384 addresses", used.len());
    }

    #[test]
    fn a_stored_rule_is_found_again_by_its_key_only() {
        let process = ProcessWord::new(0, 0, 3);
        let rule = Rule::new(Kind::Sp, 5, -2);
        let key = CacheKey::new(process, 0x7fff_0000_1234).unwrap();
        let word = cache_word(key, rule);
        assert_eq!(cached_rule(key, word), rule);
        assert_eq!(cached_rule(CacheKey { tag: key.tag ^ 1, ..key }, word), Rule::NONE);
        assert_eq!(CacheKey::new(process, 1 << 48), None);
    }
}
