//! Outstanding blocks: booking them, and taking them off the books.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use leaktrace_common::abi::{self, BLOCK_TIME, Block, Thread};
use leaktrace_common::table::{self, Inserted, Place};

use crate::accounts::{lower, raise, settle};
use crate::maps::{BLOCK_KEYS, BLOCKS, Keys, unknown};
use crate::sites::{self, End};
use crate::{config, sampling, stats::lose, wide};

const NONE: u64 = u64::MAX;
/// Set in what [`block_insert`] returns where the key was there already.
const PRESENT: u64 = 1 << 62;

#[inline(always)]
fn keys() -> Keys {
    Keys::new(&BLOCK_KEYS, config::block_buckets())
}

/// The place of a block as a word, or [`NONE`]. A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn block_find(key: u64) -> u64 {
    table::find(&keys(), key).map_or(NONE, Place::word)
}

/// A place for a block, with [`PRESENT`] where it had one; [`NONE`] where the table is full.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn block_insert(key: u64) -> u64 {
    match table::insert(&keys(), key) {
        Inserted::New(place) => place.word(),
        Inserted::Present(place) => place.word() | PRESENT,
        Inserted::Full => NONE,
    }
}

/// Now, as [`Block::time`] has it.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_jiffies64() as u32 & BLOCK_TIME }
}

/// Books a block of the thread's process, in which it takes the place of `gone` bytes that are still counted as outstanding.
#[inline(always)]
pub fn book(thread: *mut Thread, address: u64, size: u64, site: u32, gone: u64) {
    // SAFETY: the thread's own state.
    let (process, ignored) = unsafe { ((*thread).process, (*thread).ignores) };
    let Some(key) = abi::block_key(process, address) else {
        // A function has no more than five arguments, and slots leave the mark's bit free.
        wide::wide_book(process | ignored, address, size, site, gone);
        return;
    };
    let word = match table::insert_first(&keys(), key) {
        Some(place) => place.word(),
        None => unknown(block_insert(key)),
    };
    if word == NONE {
        lose!(allocs_dropped);
        lose!(bytes_dropped, sampling::size(size));
        lower(process, gone);
        return;
    }
    let Some(block) = BLOCKS.get_ptr_mut(Place::from_word(word & !PRESENT).index()) else { return };
    // SAFETY: an element of the map; the block is ours, since its address was given to this very call.
    unsafe {
        if word & PRESENT != 0 {
            // Its free was missed: the address cannot have been handed out twice.
            settle(process, &*block, End::UNSEEN);
        }
        (&raw mut (*block).site).write_volatile(0);
        (&raw mut (*block).size).write_volatile(size);
        (&raw mut (*block).time).write_volatile(now() | ignored);
        (&raw mut (*block).site).write_volatile(site);
    }
    let weight = sampling::weight(size);
    sites::count_alloc(site, weight);
    raise(process, weight.0.wrapping_sub(gone));
}

/// Takes a block off the table without settling its accounts: its record, if we knew it.
#[inline(always)]
pub fn take(process: u32, address: u64) -> Option<Block> {
    let Some(key) = abi::block_key(process, address) else { return wide::take(process, address) };
    let word = match table::find_first(&keys(), key) {
        Some(place) => place.word(),
        None => unknown(block_find(key)),
    };
    if word == NONE {
        return None;
    }
    let place = Place::from_word(word);
    let block = BLOCKS.get_ptr_mut(place.index())?;
    // SAFETY: an element of the map; the block is being freed, so nobody else frees it or is given its address.
    let record = unsafe {
        let record = Block { size: (*block).size, site: (*block).site, time: (*block).time };
        (&raw mut (*block).site).write_volatile(0);
        record
    };
    table::remove(&keys(), key, place);
    Some(record)
}

/// Puts back a block that [`take`] gave.
#[inline(always)]
pub fn put_back(process: u32, address: u64, record: &Block) {
    let Some(key) = abi::block_key(process, address) else {
        wide::wide_put_back(process, address, record.size, record.site, record.time);
        return;
    };
    let word = unknown(block_insert(key));
    if word == NONE {
        // The place it had was given away meanwhile: off the books, and said.
        settle(process, record, End::UNSEEN);
        lose!(allocs_dropped);
        lose!(bytes_dropped, sampling::size(record.size));
        return;
    }
    if let Some(block) = BLOCKS.get_ptr_mut(Place::from_word(word & !PRESENT).index()) {
        // SAFETY: as in `book`.
        unsafe {
            (&raw mut (*block).size).write_volatile(record.size);
            (&raw mut (*block).time).write_volatile(record.time);
            (&raw mut (*block).site).write_volatile(record.site);
        }
    }
}
