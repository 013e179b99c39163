//! Scratch memory for stack walks: a pool of slots, claimed for the length of one walk.
//!
//! Not per CPU: from 6.0 a uprobe program can be preempted and another run on the CPU meanwhile.

use leaktrace_common::abi::{SCRATCH_SLOTS, Scratch};
use leaktrace_common::atomic;

use crate::maps::SCRATCH;

/// Slots tried before giving up.
const TRIES: u32 = 8;

/// Claims a slot; its number, or [`SCRATCH_SLOTS`] where all that were tried are taken.
#[inline(always)]
pub fn claim(tid: u64) -> u32 {
    let start = (tid as u32).wrapping_mul(0x9e37_79b9) >> 16;
    let mut attempt = 0;
    while attempt < TRIES {
        let slot = start.wrapping_add(attempt) % SCRATCH_SLOTS;
        if let Some(scratch) = SCRATCH.get_ptr_mut(slot)
            // SAFETY: the word is only accessed by this exchange and the store in `release`.
            && unsafe { atomic::exchange(busy(scratch), 1) } == 0
        {
            return slot;
        }
        attempt += 1;
    }
    SCRATCH_SLOTS
}

/// Gives a slot back.
#[inline(always)]
pub fn release(slot: u32) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(slot) {
        // SAFETY: the slot is ours until this store.
        unsafe { atomic::store(busy(scratch), 0) };
    }
}

#[inline(always)]
fn busy(scratch: *mut Scratch) -> *mut u64 {
    // SAFETY: a field's address; nothing is read.
    unsafe { &raw mut (*scratch).busy }
}
