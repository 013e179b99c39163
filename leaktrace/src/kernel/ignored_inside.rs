//! Addresses that programs have called no leak, and that lie so far inside of a block that the BPF programs did not find it.
//!
//! In: the map of these. Out: whether a block is meant by one. A block that was there when its address was ignored is; one that was
//! allocated later is not. Within one jiffy that is not known, and the block counts as ignored.

use std::collections::{HashMap as ByKey, HashSet};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use leaktrace_common::abi::{self, Inside};

/// The map.
pub struct IgnoredInside(HashMap<MapData, u64, Inside>);

impl IgnoredInside {
    /// Takes the map, once.
    ///
    /// # Errors
    /// The BPF object has no such map.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(ebpf.take_map("INSIDE").context("the BPF object has no map INSIDE")?.try_into()?))
    }

    /// What is there at a moment, in the units of a block's time.
    pub fn read(&self, now: u32) -> Marks {
        let mut by_slot: ByKey<u32, Own> = ByKey::new();
        // What is added meanwhile may be missed, as if it had come later.
        for (key, time) in self.0.iter().filter_map(Result::ok) {
            let (slot, address) = abi::split_block_key(key);
            let new = || Own { addresses: Vec::new(), now };
            by_slot.entry(slot).or_insert_with(new).addresses.push((address, time));
        }
        for own in by_slot.values_mut() {
            own.addresses.sort_unstable();
        }
        Marks(by_slot)
    }

    /// Forgets lives that are over.
    pub fn forget(&mut self, slots: &HashSet<u32>) {
        let is_theirs = |key: &u64| slots.contains(&abi::split_block_key(*key).0);
        let keys: Vec<u64> = self.0.keys().filter_map(Result::ok).filter(is_theirs).collect();
        for key in keys {
            // Nobody else removes any.
            let _ = self.0.remove(&key);
        }
    }
}

/// Such addresses of all lives.
#[derive(Debug, Default)]
pub struct Marks(ByKey<u32, Own>);

impl Marks {
    /// Those of the life in a slot, if there are any.
    pub fn of(&self, slot: u32) -> Option<&Own> {
        self.0.get(&slot)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Those of one life.
#[derive(Debug)]
pub struct Own {
    /// By address, each with the time at which it was ignored.
    addresses: Vec<(u64, u32)>,
    now: u32,
}

impl Own {
    /// Whether a block that was allocated at a time was there when an address in it was ignored.
    pub fn mean(&self, start: u64, size: u64, time: u32) -> bool {
        let first = self.addresses.partition_point(|(address, _)| *address < start);
        let mut within = self.addresses[first..].iter().take_while(|(address, _)| address - start < size);
        within.any(|(_, ignored)| abi::jiffies_since(time, self.now) >= abi::jiffies_since(*ignored, self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_that_was_there_when_its_address_was_ignored_is_meant() {
        let meant = |address, at| {
            let own = Own { addresses: vec![(address, at)], now: 100 };
            [(0x10000, 50), (0x20000, 60), (0x30000, 70)].map(|(start, time)| own.mean(start, 0x8000, time))
        };
        assert_eq!(meant(0x25000, 65), [false, true, false]);
        assert_eq!(meant(0x25000, 60), [false, true, false], "within one jiffy");
        assert_eq!(meant(0x25000, 59), [false; 3], "it is another that has its place");
        assert_eq!(meant(0x27fff, 99), [false, true, false]);
        assert_eq!(meant(0x28000, 99), [false; 3], "between blocks");
        assert_eq!(meant(0x0fff, 99), [false; 3]);
        assert_eq!(meant(0x99000, 99), [false; 3]);
        let several = Own { addresses: vec![(0x21000, 59), (0x22000, 61)], now: 100 };
        assert!(several.mean(0x20000, 0x8000, 60));
    }
}
