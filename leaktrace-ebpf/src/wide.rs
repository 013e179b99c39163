//! Outstanding blocks at addresses that the block table has no keys for (`leaktrace_common::wide`): booking them, and taking
//! them off the books, as [`blocks`](crate::blocks) does for all others.
//!
//! They are rare. So everything is done in global functions, which are verified once, and costs other blocks nothing.

use leaktrace_common::abi::{BLOCK_IGNORED, Block};
use leaktrace_common::table::{self, Inserted, Place};
use leaktrace_common::wide::{Name, WideBlock};

use crate::accounts::{lower, raise, settle};
use crate::blocks::now;
use crate::maps::{Keys, WIDE_BLOCKS, WIDE_KEYS, unknown};
use crate::sites::{self, End};
use crate::{config, sampling, stats::lose};

const NONE: u64 = u64::MAX;
/// Set in what [`wide_insert`] returns where the block had its place already.
const PRESENT: u64 = 1 << 62;

#[inline(always)]
fn keys() -> Keys {
    Keys::new(&WIDE_KEYS, config::wide_buckets())
}

/// Whether the record at an index is a block's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_is_of(process: u32, address: u64, index: u32) -> u64 {
    let name = Name::of_allocator(process, address);
    // SAFETY: an element of the map.
    u64::from(WIDE_BLOCKS.get_ptr(index).is_some_and(|record| unsafe { name.is_of(record) }))
}

/// [`wide_is_of`], as the table asks.
#[inline(always)]
fn is_of(name: Name, index: u32) -> bool {
    unknown(wide_is_of(name.process, name.address, index)) != 0
}

/// The place of a block as a word, or [`NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_find(process: u32, address: u64) -> u64 {
    let name = Name::of_allocator(process, address);
    table::find_where(&keys(), name.key(), |index| is_of(name, index)).map_or(NONE, Place::word)
}

/// A place for a block, with [`PRESENT`] where it had one; [`NONE`] where the table is full.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_insert(process: u32, address: u64) -> u64 {
    let name = Name::of_allocator(process, address);
    match table::insert_where(&keys(), name.key(), |index| is_of(name, index)) {
        Inserted::New(place) => place.word(),
        Inserted::Present(place) => place.word() | PRESENT,
        Inserted::Full => NONE,
    }
}

/// Gives up a block's place, which is a word of [`wide_find`]'s.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_remove(process: u32, address: u64, word: u64) -> u64 {
    table::remove(&keys(), Name::of_allocator(process, address).key(), Place::from_word(word));
    0
}

/// The record of a block whose place is a word of [`wide_insert`]'s.
#[inline(always)]
fn record(word: u64) -> Option<*mut WideBlock> {
    WIDE_BLOCKS.get_ptr_mut(Place::from_word(word & !PRESENT).index())
}

/// Fills the record of a block.
///
/// # Safety
/// `record` must be an element of the map, and its place this block's.
#[inline(always)]
unsafe fn write(record: *mut WideBlock, name: Name, block: &Block) {
    // SAFETY: the caller's promise.
    unsafe {
        let to = &raw mut (*record).block;
        (&raw mut (*to).site).write_volatile(0);
        name.write(record);
        (&raw mut (*to).size).write_volatile(block.size);
        (&raw mut (*to).time).write_volatile(block.time);
        (&raw mut (*to).site).write_volatile(block.site);
    }
}

/// As [`blocks::book`](crate::blocks::book). With the process' slot comes [`BLOCK_IGNORED`] where the block is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_book(owner: u32, address: u64, size: u64, site: u32, gone: u64) -> u64 {
    let (process, ignored) = (owner & !BLOCK_IGNORED, owner & BLOCK_IGNORED);
    let word = unknown(wide_insert(process, address));
    if word == NONE {
        lose!(wide_dropped);
        lose!(wide_bytes_dropped, sampling::size(size));
        lower(process, gone);
        return 0;
    }
    let Some(record) = record(word) else { return 0 };
    // SAFETY: an element of the map; the block is ours, since its address was given to this very call.
    unsafe {
        if word & PRESENT != 0 {
            // Its free was missed: the address cannot have been handed out twice.
            let block = (*record).block;
            settle(process, &block, End::UNSEEN);
        }
        write(record, Name::of_allocator(process, address), &Block { size, site, time: now() | ignored });
    }
    let weight = sampling::weight(size);
    sites::count_alloc(site, weight);
    raise(process, weight.0.wrapping_sub(gone));
    0
}

/// Has a block that begins at this address ignored: whether there is one.
#[inline(always)]
pub fn ignore(process: u32, address: u64) -> bool {
    let word = unknown(wide_find(process, address));
    if word == NONE {
        return false;
    }
    // SAFETY: an element of the map; its program says this of the block, and does not free it meanwhile.
    record(word).is_some_and(|record| unsafe {
        let time = &raw mut (*record).block.time;
        time.write_volatile(time.read_volatile() | BLOCK_IGNORED);
        true
    })
}

/// As [`blocks::take`](crate::blocks::take).
#[inline(always)]
pub fn take(process: u32, address: u64) -> Option<Block> {
    let word = unknown(wide_find(process, address));
    if word == NONE {
        return None;
    }
    let record = record(word)?;
    // SAFETY: an element of the map; the block is being freed, so nobody else frees it or is given its address.
    let block = unsafe {
        let block = Block { size: (*record).block.size, site: (*record).block.site, time: (*record).block.time };
        Name::erase(record);
        block
    };
    wide_remove(process, address, word);
    Some(block)
}

/// As [`blocks::put_back`](crate::blocks::put_back), of the block's record.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wide_put_back(process: u32, address: u64, size: u64, site: u32, time: u32) -> u64 {
    let block = Block { size, site, time };
    let word = unknown(wide_insert(process, address));
    if word == NONE {
        // The place it had was given away meanwhile: off the books, and said.
        settle(process, &block, End::UNSEEN);
        lose!(wide_dropped);
        lose!(wide_bytes_dropped, sampling::size(size));
        return 0;
    }
    if let Some(record) = record(word) {
        // SAFETY: as in `wide_book`.
        unsafe { write(record, Name::of_allocator(process, address), &block) };
    }
    0
}
