//! What frees do to the books, and which of those that are of no block we know are the allocator's own.

use leaktrace_common::abi::Thread;
use leaktrace_common::atomic;

use crate::alloc::stopped;
use crate::maps::PROCESSES;
use crate::process::Id;
use crate::registers::{Entry, Placement};
use crate::sites::End;
use crate::{accounts, alloc, blocks, config, flow, threads};

/// More than lies between `free` and any other function of its source file: it calls itself from no further away.
const ALLOCATOR_BYTES: u64 = 32 << 10;
/// More than lies between two calls in the function that empties a thread's cache, and less than that function is away from
/// others that free.
const CACHE_BYTES: u32 = 256;

/// A block is about to be freed: off the table before its address can be handed out again.
#[inline(always)]
pub fn release<P: Placement>(entry: &Entry<'_, P>, address: u64) {
    if address == 0 || stopped() {
        return;
    }
    let Some(thread) = threads::current(Id::current()) else { return };
    let sp = entry.sp();
    alloc::renew(thread);
    // SAFETY: the thread's own state.
    let (process, pending, again) = unsafe {
        let again = (*thread).freed_sp == sp && (*thread).freed_address == address;
        (*thread).freed_sp = sp;
        (*thread).freed_address = address;
        ((*thread).process, (*thread).sp, again)
    };
    if config::bursts() != 0 && sp >= pending && !again {
        flow::freed(thread, address, is_near(entry) && entry.empties_thread_cache());
    }
    if let Some(record) = blocks::take(process, address) {
        accounts::settle(process, &record, End::by(thread, address, &record));
        return;
    }
    // SAFETY: as above.
    unsafe { (*thread).last_allocated = 0 };
    if sp >= pending && !(again && config::records_every_block()) {
        // Not from inside an allocation function, which may free memory of its own. Nor a call that has jumped to its own
        // beginning: glibc 2.43's in a thread that has no cache yet. Where not all blocks are recorded, a loop may free one
        // address again and again.
        count_untracked(process);
        count_cache(entry, thread);
    }
}

/// Counts a free of a block that we do not know as the allocator's own, if it may be.
///
/// At a thread's end glibc frees the blocks that it had kept for it, which the program had freed before, and where it had kept them,
/// all of that in one function. After that it may free stacks of other threads, or run the process' exit handlers, but it allocates
/// nothing.
#[inline(always)]
fn count_cache<P: Placement>(entry: &Entry<'_, P>, thread: *mut Thread) {
    let from = entry.return_address();
    // SAFETY: the thread's own state.
    unsafe {
        if !is_near(entry) || !entry.empties_thread_cache() {
            return;
        }
        let from = from as u32;
        let distance = from.wrapping_sub((*thread).cache_freed_from).wrapping_add(CACHE_BYTES);
        if (*thread).cache_frees == 0 || distance >= 2 * CACHE_BYTES {
            retract(thread);
            (*thread).cache_freed_from = from;
        }
        (*thread).cache_frees += 1;
        if let Some(process) = PROCESSES.get_ptr_mut((*thread).process) {
            atomic::add(&raw mut (*process).thread_end_frees, 1);
        }
    }
}

/// Whether a call of `free` comes from within the allocator, by where it returns to.
#[inline(always)]
fn is_near<P: Placement>(entry: &Entry<'_, P>) -> bool {
    entry.return_address().wrapping_sub(entry.ip()).wrapping_add(ALLOCATOR_BYTES) < 2 * ALLOCATOR_BYTES
}

/// An allocation function is called: what was freed before was not at the thread's end.
#[inline(always)]
pub fn begin_anew(thread: *mut Thread) {
    // SAFETY: the thread's own state.
    unsafe {
        (*thread).freed_sp = 0;
        if config::bursts() != 0 {
            flow::go_on(thread);
        }
        if (*thread).cache_frees != 0 {
            retract(thread);
        }
    }
}

/// Other frees of the thread are its cache's, if any are.
#[inline(always)]
fn retract(thread: *mut Thread) {
    // SAFETY: the thread's own state, and an element of the map.
    unsafe {
        if let Some(process) = PROCESSES.get_ptr_mut((*thread).process) {
            atomic::add(&raw mut (*process).thread_end_frees, 0u64.wrapping_sub(u64::from((*thread).cache_frees)));
        }
        (*thread).cache_frees = 0;
    }
}

/// A free of a block that we do not know.
#[inline(always)]
pub fn count_untracked(process: u32) {
    if let Some(process) = PROCESSES.get_ptr_mut(process) {
        // SAFETY: an element of the map; the counter is written by atomics alone.
        unsafe { atomic::add(&raw mut (*process).untracked_frees, 1) };
    }
}
