//! What programs say of their own blocks by the functions of LeakSanitizer (`sanitizer/lsan_interface.h` of LLVM's compiler-rt): which
//! of them are no leaks.
//!
//! An object given to `__lsan_ignore_object` gets [`BLOCK_IGNORED`] into its record, and so does what a thread allocates between
//! `__lsan_disable` and `__lsan_enable`. As there, a block that `realloc` has given is a new one, and the child of a fork goes on with
//! what the thread that forked has disabled. Programs without these functions pay one load for it at each allocation.

use leaktrace_common::abi::{self, BLOCK_IGNORED, IGNORED_REACH};
use leaktrace_common::atomic;
use leaktrace_common::table::Place;

use aya_ebpf::programs::ProbeContext;

use crate::blocks::{block_find, now};
use crate::maps::{BLOCKS, INHERITED, INSIDE, TAILS, unknown};
use crate::process::Id;
use crate::registers::{Entry, Mapped};
use crate::{alloc, sampling, stats::lose, threads, wide};

/// No key is so.
const NONE: u64 = u64::MAX;
/// Blocks begin at multiples of this, as far as blocks are looked for that begin in front of an address.
const STEP: u64 = 8;

/// What is known of an address in front of one that is ignored.
const NO_BLOCK: u64 = 0;
const IGNORED: u64 = 1;
/// A block begins there and ends in front of the other.
const ENDS_BEFORE: u64 = 2;

/// The program calls one of the functions; the cookie tells which.
#[inline(always)]
pub fn told(ctx: &ProbeContext) {
    alloc::forbid_private_stack(ctx, &TAILS);
    if alloc::stopped() {
        return;
    }
    let entry = Entry::<Mapped>::new(ctx);
    match entry.function() {
        abi::FUNCTION_IGNORE => ignore(entry.a()),
        abi::FUNCTION_DISABLE => change(1),
        abi::FUNCTION_ENABLE => change(u32::MAX),
        _ => {}
    }
}

/// Of blocks that a thread allocates which has disabled leaks so many times.
#[inline(always)]
pub fn mark(disabled: u32) -> u32 {
    if disabled == 0 { 0 } else { BLOCK_IGNORED }
}

/// The current thread disables leaks once more, or once less.
#[inline(always)]
fn change(by: u32) {
    // Also where the process is not traced: a filter may choose it later.
    let Some(thread) = threads::any(Id::current()) else {
        lose!(marks_lost);
        return;
    };
    // SAFETY: the thread's own state.
    unsafe {
        let before = (*thread).disabled;
        if before == 0 && by != 1 {
            // That it was disabled came before the trace, and what it has allocated since then looks as if it was not.
            lose!(marks_lost);
            return;
        }
        let disabled = before.wrapping_add(by);
        (*thread).disabled = disabled;
        (*thread).ignores = mark(disabled);
    }
}

/// The block in which an address lies is no leak.
#[inline(always)]
fn ignore(address: u64) {
    // SAFETY: the thread's own state.
    let Some(process) = threads::current(Id::current()).map(|thread| unsafe { (*thread).process }) else { return };
    let Some(key) = abi::block_key(process, address) else {
        if !wide::ignore(process, address) {
            lose!(marks_lost);
        }
        return;
    };
    let mut answer = unknown(annotations_ignore(process, address, 0));
    let first = address & !(STEP - 1);
    let mut back = 0;
    while answer == NO_BLOCK && back <= IGNORED_REACH {
        let start = first.wrapping_sub(back);
        answer = unknown(annotations_ignore(process, start, address.wrapping_sub(start)));
        back += STEP;
    }
    if answer == NO_BLOCK && INSIDE.insert(key, now(), 0).is_err() {
        lose!(marks_lost);
    }
}

/// Has a block that begins at this address ignored, if what lies so many bytes further in belongs to it.
///
/// A global function: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn annotations_ignore(process: u32, start: u64, further_in: u64) -> u64 {
    let Some(key) = abi::block_key(process, start) else { return NO_BLOCK };
    let word = unknown(block_find(key));
    if word == NONE {
        return NO_BLOCK;
    }
    let Some(block) = BLOCKS.get_ptr_mut(Place::from_word(word).index()) else { return NO_BLOCK };
    // SAFETY: an element of the map. Its block may be another one's that is freed at this moment, so that the place has a new owner:
    // then the key is gone from there, or site and time are others.
    unsafe {
        let site_and_time = (&raw mut (*block).site).cast::<u64>();
        let before = atomic::load(site_and_time);
        let size = sampling::size((&raw const (*block).size).read_volatile());
        if further_in != 0 && further_in >= size {
            return ENDS_BEFORE;
        }
        if before as u32 == 0 || unknown(block_find(key)) != word {
            return NO_BLOCK;
        }
        let ignored = before | u64::from(BLOCK_IGNORED) << 32;
        if atomic::compare_exchange(site_and_time, before, ignored) == before { IGNORED } else { NO_BLOCK }
    }
}

/// What a first thread that has no state yet has disabled since it was made.
#[inline(always)]
pub fn inherited(tid: u32) -> u32 {
    // SAFETY: the value is copied at once.
    let disabled = unsafe { INHERITED.get(tid) }.copied().unwrap_or(0);
    if disabled != 0 {
        let _ = INHERITED.remove(tid);
    }
    disabled
}

/// The current thread makes a process.
#[inline(always)]
pub fn fork(child: u32) {
    let disabled = threads::disabled(Id::current());
    if disabled != 0 && INHERITED.insert(child, disabled, 0).is_err() {
        lose!(marks_lost);
    }
}

/// The current thread makes a process or a thread, and the kernel does not tell which.
#[inline(always)]
pub fn not_inherited() {
    if threads::disabled(Id::current()) != 0 {
        lose!(marks_lost);
    }
}
