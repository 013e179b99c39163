//! Walking the user stack into scratch memory.
//!
//! The walk begins at the entry of the outermost allocation function: its return address still lies on the stack, so
//! frame 0 is the caller, whoever built it. What follows is found by frame pointers.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_common::abi::{MAX_DEPTH, Scratch, WINDOW_WORDS, Walked};
use leaktrace_common::unwind::Stop;

use crate::maps::{SCRATCH, unknown};
use crate::registers::first_frame;
use crate::stretch::Stretch;
use crate::{process, sites};

const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;
const PAGE_BYTES: u64 = 4096;

/// Walks from an entry, of which `apart`, `sp` and `fp` are what [`first_frame`] takes. Leaves the frames in the scratch slot, one
/// more than may be kept if the stack has more.
/// Returns the stack's key, as [`sites::site_of`] takes it, or [`GOES_ON`](crate::stretch::GOES_ON) at the end of a stretch.
///
/// A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_walk(slot: u64, process: u32, apart: u64, sp: u64, fp: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 1 };
    let Some(life) = process::of(process) else { return 1 };
    // SAFETY: the slot was claimed by our caller; an element of the map.
    unsafe {
        (*scratch).length = 0;
        (*scratch).layout = process::layout(life);
    }
    let (caller, _, fp) = first_frame(scratch, slot, apart, sp, fp);
    if caller == 0 {
        return sites::end_of_stretch::<true, 0>(process, scratch, 0, Walked::new(0, 0, 0));
    }
    // SAFETY: as above.
    unsafe { (*scratch).frames[0] = caller };
    walk::<true>(slot, process, scratch, sp, fp, 1)
}

/// Goes on where [`stack_walk`] or this has returned [`GOES_ON`](crate::stretch::GOES_ON), and returns the same.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_walk_on(slot: u64, process: u32) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 1 };
    // SAFETY: the slot was claimed by our caller.
    let ([_, low, fp, _], walked) = unsafe { ((*scratch).walk, (*scratch).walked) };
    walk::<false>(slot, process, scratch, low, fp, Walked::from_bits(walked).depth())
}

/// A stretch of a walk that has `depth` frames already.
#[inline(always)]
fn walk<const FIRST: bool>(slot: u64, process: u32, scratch: *mut Scratch, low: u64, fp: u64, depth: u32) -> u64 {
    let (mut low, mut fp, mut depth, from) = (low, fp, depth, if FIRST { 0 } else { depth });
    let mut stretch = Stretch::<FIRST>::new();
    let mut ended = false;
    while stretch.holds(depth) {
        ended = true;
        // A frame pointer points up the stack, at words; where it does not, this code keeps none.
        if fp <= low || fp & 7 != 0 {
            break;
        }
        let Some(next) = read_word(scratch, slot, fp) else { break };
        let Some(address) = read_word(scratch, slot, fp + 8) else { break };
        let index = Stretch::<FIRST>::index(depth);
        if address < PAGE_BYTES || index > MAX_DEPTH {
            break;
        }
        // SAFETY: the slot was claimed by our caller's caller.
        unsafe { (*scratch).frames[index] = address };
        low = fp;
        fp = next;
        depth += 1;
        ended = false;
    }
    // Where frame pointers end cannot be told from where they are missing.
    let mut stop = Stop::Outermost;
    if !ended {
        stop = Stop::TooDeep;
        // SAFETY: as above.
        unsafe { (*scratch).walk = [0, low, fp, 0] };
    }
    Stretch::<FIRST>::end(process, scratch, from, Walked::new(depth, stop as u32, 0))
}

/// One word of the user's stack, by way of the window of scratch slot `slot`, which begins at the word that was last
/// missed: walks go up.
#[inline(always)]
pub fn read_word(scratch: *mut Scratch, slot: u64, address: u64) -> Option<u64> {
    // SAFETY: the slot was claimed by our caller.
    unsafe {
        let mut offset = address.wrapping_sub((*scratch).base);
        if offset >= (*scratch).length {
            if unknown(stack_window(slot, address)) < 8 {
                return None;
            }
            offset = 0;
        }
        let index = (offset as usize >> 3) & (WINDOW_WORDS - 1);
        Some((*scratch).window[index])
    }
}

/// The first word that a walk reads, which is never in the window: without the call that [`read_word`] makes.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn first_word(scratch: *mut Scratch, address: u64) -> Option<u64> {
    // SAFETY: the slot was claimed by our caller.
    if fill(scratch, address) < 8 { None } else { Some(unsafe { (*scratch).window[0] }) }
}

/// [`fill`] as a global function: verified once, not at every read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_window(slot: u64, address: u64) -> u64 {
    SCRATCH.get_ptr_mut(slot as u32).map_or(0, |scratch| fill(scratch, address))
}

/// Fills a scratch slot's window from `address` on, up to the end of its page: reading on into a page that is not there (beyond
/// the end of a small stack, or between a main thread's first frame and its environment) would cost a page fault each time.
/// Returns how many bytes there are, in whole words.
#[inline(always)]
fn fill(scratch: *mut Scratch, address: u64) -> u64 {
    let rest = PAGE_BYTES - (address & (PAGE_BYTES - 1));
    // A word that lies across the end of a page, which no compiler puts on a stack, is read all the same.
    let bytes = if rest < 8 { 8 } else { rest.min(WINDOW_BYTES) & !7 };
    // SAFETY: the slot was claimed by our caller; the helper writes no more than the window.
    unsafe {
        (*scratch).base = address;
        let window = (&raw mut (*scratch).window).cast();
        let read = bpf_probe_read_user(window, bytes as u32, address as *const _) == 0;
        (*scratch).length = if read { bytes } else { 0 };
        (*scratch).length
    }
}
