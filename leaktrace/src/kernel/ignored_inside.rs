//! Addresses that programs have called no leak, and that lie so far inside of a block that the BPF programs did not find it.
//!
//! In: the map of these, and the blocks of a life. Out: marks on the blocks. A block that was there when its address was ignored is meant;
//! one that was allocated later is not. Within one jiffy that is not known, and the block counts as ignored.

use std::collections::HashSet;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use leaktrace_common::abi::{self, BLOCK_IGNORED, Inside};

use super::drain::TabledBlock;

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

    /// Marks blocks of the life in a slot, given by address. `now` is in the units of a block's time.
    pub fn mark(&self, slot: u32, blocks: &mut [TabledBlock], now: u32) {
        // What is added meanwhile may be missed, as if it had come later.
        let entries = self.0.iter().filter_map(Result::ok);
        let own = entries.map(|(key, time)| (abi::split_block_key(key), time)).filter(|((of, _), _)| *of == slot);
        for ((_, address), time) in own {
            mark(blocks, address, time, now);
        }
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

/// Marks the block in which an address lies that was ignored at a time, if it was there then.
fn mark(blocks: &mut [TabledBlock], address: u64, time: u32, now: u32) {
    let behind = blocks.partition_point(|block| block.address <= address);
    let Some(block) = behind.checked_sub(1).and_then(|place| blocks.get_mut(place)) else { return };
    let is_inside = address - block.address < block.size;
    if is_inside && abi::jiffies_since(block.time, now) >= abi::jiffies_since(time, now) {
        block.time |= BLOCK_IGNORED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_that_was_there_when_its_address_was_ignored_is_meant() {
        let block = |address, time| TabledBlock { address, size: 0x8000, site: 1, time };
        let marked = |address, at| {
            let mut blocks = [block(0x10000, 50), block(0x20000, 60), block(0x30000, 70)];
            mark(&mut blocks, address, at, 100);
            blocks.map(|block| block.is_ignored())
        };
        assert_eq!(marked(0x25000, 65), [false, true, false]);
        assert_eq!(marked(0x25000, 60), [false, true, false], "within one jiffy");
        assert_eq!(marked(0x25000, 59), [false; 3], "it is another that has its place");
        assert_eq!(marked(0x27fff, 99), [false, true, false]);
        assert_eq!(marked(0x28000, 99), [false; 3], "between blocks");
        assert_eq!(marked(0x0fff, 99), [false; 3]);
        assert_eq!(marked(0x99000, 99), [false; 3]);
    }
}
