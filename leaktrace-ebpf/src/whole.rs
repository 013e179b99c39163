//! Calls that are seen in the middle of a function: by one probe whole, what was asked for and what will be returned, or by one that
//! sees a call begin and another that sees it end (`once` in userspace says where these are). No probed function is called by such
//! a function. The allocation protocol is that of [`alloc`](crate::alloc).

use aya_ebpf::programs::ProbeContext;
use leaktrace_common::abi::{CALL_ALLOCATE, CALL_TO_EXIT, Thread};
use leaktrace_common::whole;

use crate::alloc::{begin, forbid_private_stack, given, is_wanted, site, stopped};
use crate::maps::TAILS;
use crate::process::Id;
use crate::registers::{Entry, Mapped};
use crate::{blocks, config, flow, frees, sampling, threads};

/// How a call is remembered that was seen to begin: until a probe that is not at its return sees it end.
const BEGUN: u32 = CALL_ALLOCATE | CALL_TO_EXIT;

/// A call comes past such a probe.
#[inline(always)]
pub fn allocated(ctx: &ProbeContext) -> u32 {
    if !stopped() {
        let entry = Entry::<Mapped>::new(ctx);
        if entry.counts() {
            if entry.function() == whole::FUNCTION_ENDED {
                end(&entry);
            } else {
                see(&entry);
            }
        }
    }
    forbid_private_stack(ctx, &TAILS);
    0
}

/// All of a call, or its beginning.
#[inline(always)]
fn see(entry: &Entry<'_, Mapped>) {
    let (size, result) = entry.size_and_result();
    let mut wanted = is_wanted(size);
    if config::bursts() == 0 && !wanted {
        return;
    }
    let Some(thread) = threads::current(Id::current()) else { return };
    if !begin(entry, thread) {
        return;
    }
    frees::begin_anew(thread);
    let begins = entry.function() == whole::FUNCTION_BEGUN;
    if !begins && given(result) == 0 {
        // SAFETY: the thread's own state.
        unsafe { (*thread).last_allocated = 0 };
        return;
    }
    if config::bursts() != 0 && !begins {
        // SAFETY: the thread's own state.
        wanted &= flow::allocated(unsafe { (*thread).process }, result, size);
    }
    let site = if wanted && sampling::hit(thread, size) { site(entry, thread, size) } else { 0 };
    if site == 0 && (config::bursts() == 0 || !begins) {
        return;
    }
    if begins {
        // SAFETY: as above.
        unsafe {
            (*thread).sp = entry.sp();
            (*thread).call = BEGUN;
            (*thread).size = size;
            (*thread).out = entry.return_address();
            (*thread).old_address = 0;
            (*thread).site = site;
        }
    } else {
        book(thread, result, size, site);
    }
}

/// The end of a call that was seen to begin.
#[inline(always)]
fn end(entry: &Entry<'_, Mapped>) {
    let Some(thread) = threads::existing(Id::current()) else { return };
    // SAFETY: the thread's own state.
    unsafe {
        let is_over = config::bursts() != 0 && !flow::is_current(thread);
        if (*thread).sp != entry.sp() || (*thread).call != BEGUN || is_over {
            return;
        }
        (*thread).sp = 0;
        let (size, site) = ((*thread).size, (*thread).site);
        let result = given(entry.size_and_result().1);
        if result == 0 {
            (*thread).last_allocated = 0;
            return;
        }
        let is_recorded = config::bursts() == 0 || flow::allocated((*thread).process, result, size);
        if is_recorded && site != 0 {
            book(thread, result, size, site);
        }
    }
}

#[inline(always)]
fn book(thread: *mut Thread, address: u64, size: u64, site: u32) {
    blocks::book(thread, address, size, site, 0);
    // SAFETY: the thread's own state.
    unsafe { (*thread).last_allocated = address };
}
