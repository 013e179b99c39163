//! Walking the user stack into scratch memory.
//!
//! The walk begins at the entry of the outermost allocation function: its return address still lies on the stack, so
//! frame 0 is the caller, whoever built it. What follows is found by frame pointers.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_common::abi::{Scratch, WINDOW_WORDS};

use crate::config;
use crate::maps::SCRATCH;

const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;

/// Walks from an entry with the stack pointer `sp`, that will return to `caller`, whose frame pointer is `fp`. Leaves the
/// frames in the scratch slot, one more than may be kept if the stack has more. Returns how many.
///
/// A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_walk(slot: u64, caller: u64, sp: u64, fp: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: the slot was claimed by our caller.
    unsafe { (*scratch).base = 0 };
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
        if address < 4096 {
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

/// One word of the user's stack, by way of the scratch slot's window.
#[inline(always)]
fn read_word(scratch: *mut Scratch, address: u64) -> Option<u64> {
    let base = address & !(WINDOW_BYTES - 1);
    // SAFETY: the slot was claimed by our caller; the helper writes the window's bytes and no more.
    unsafe {
        if (*scratch).base != base {
            let window = (&raw mut (*scratch).window).cast();
            if bpf_probe_read_user(window, WINDOW_BYTES as u32, base as *const _) != 0 {
                (*scratch).base = 0;
                return None;
            }
            (*scratch).base = base;
        }
        let index = (address as usize >> 3) & (WINDOW_WORDS - 1);
        Some((*scratch).window[index])
    }
}
