//! Walking the user stack into scratch memory.
//!
//! The walk begins at the entry of the outermost allocation function: its return address still lies on the stack, so
//! frame 0 is the caller, whoever built it. What follows is found by frame pointers.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_common::abi::{Scratch, WINDOW_WORDS};

use crate::config;
use crate::maps::SCRATCH;

const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;
const PAGE_BYTES: u64 = 4096;

/// Walks from an entry with the stack pointer `sp`, that will return to `caller` (0: that is the word at `sp`), whose
/// frame pointer is `fp`. Leaves the frames in the scratch slot, one more than may be kept if the stack has more.
/// Returns how many.
///
/// A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_walk(slot: u64, caller: u64, sp: u64, fp: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: the slot was claimed by our caller.
    unsafe { (*scratch).length = 0 };
    let caller = if caller == 0 { read_word(scratch, sp).unwrap_or(0) } else { caller };
    if caller == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*scratch).frames[0] = caller };
    let limit = config::max_depth();
    let mut low = sp;
    let mut fp = fp;
    let mut depth: u32 = 1;
    // One frame more than is kept, which tells a stack that was cut from one that just fits.
    while depth <= limit {
        // A frame pointer points up the stack, at words; where it does not, this code keeps none.
        if fp <= low || fp & 7 != 0 {
            break;
        }
        let Some(next) = read_word(scratch, fp) else { break };
        let Some(address) = read_word(scratch, fp + 8) else { break };
        if address < PAGE_BYTES {
            break;
        }
        let index = depth as usize;
        // SAFETY: as above.
        let frames = unsafe { &mut (*scratch).frames };
        if index >= frames.len() {
            break;
        }
        frames[index] = address;
        low = fp;
        fp = next;
        depth += 1;
    }
    u64::from(depth)
}

/// One word of the user's stack, by way of the scratch slot's window, which begins at the word that was last missed:
/// walks go up.
#[inline(always)]
fn read_word(scratch: *mut Scratch, address: u64) -> Option<u64> {
    // SAFETY: the slot was claimed by our caller; the helper writes no more than the window.
    unsafe {
        let mut offset = address.wrapping_sub((*scratch).base);
        if offset >= (*scratch).length {
            (*scratch).length = read_window(scratch, address);
            (*scratch).base = address;
            if (*scratch).length < 8 {
                return None;
            }
            offset = 0;
        }
        let index = (offset as usize >> 3) & (WINDOW_WORDS - 1);
        Some((*scratch).window[index])
    }
}

/// Fills the window from `address` on. Returns how many bytes there are, in whole words.
#[inline(always)]
fn read_window(scratch: *mut Scratch, address: u64) -> u64 {
    // SAFETY: as in `read_word`.
    unsafe {
        let window = (&raw mut (*scratch).window).cast();
        if bpf_probe_read_user(window, WINDOW_BYTES as u32, address as *const _) == 0 {
            return WINDOW_BYTES;
        }
        // The next page may be missing, as beyond the end of a small stack.
        let rest = (PAGE_BYTES - (address & (PAGE_BYTES - 1))) & (WINDOW_BYTES - 1) & !7;
        if rest != 0 && bpf_probe_read_user(window, rest as u32, address as *const _) == 0 { rest } else { 0 }
    }
}
