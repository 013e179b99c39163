//! How long a string of the user's is.

use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use leaktrace_common::abi::{SCRATCH_SLOTS, WINDOW_WORDS};

use crate::maps::{SCRATCH, unknown};
use crate::scratch;

const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;
/// Pieces of a window that are read: a string of a mebibyte.
const PIECES: u32 = 512;

/// The bytes of the string at `address`, its terminator included; 0 where it cannot be read, or is longer than
/// [`PIECES`] pieces.
#[inline(always)]
pub fn size(tid: u32, address: u64) -> u64 {
    unknown(string_size(u64::from(tid), address))
}

/// [`size`] by way of the window of a scratch slot. A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn string_size(tid: u64, address: u64) -> u64 {
    let slot = scratch::claim(tid);
    if slot >= SCRATCH_SLOTS {
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return 0 };
    let (mut before, mut last, mut piece) = (0, 0, 0);
    while piece < PIECES {
        // SAFETY: the slot was claimed above; the helper writes no more than the window.
        last = unsafe {
            let window = (&raw mut (*scratch).window).cast();
            bpf_probe_read_user_str(window, WINDOW_BYTES as u32, (address + before) as *const _)
        };
        // A full window ends in a terminator of the helper's own.
        if last != WINDOW_BYTES as i64 {
            break;
        }
        before += WINDOW_BYTES - 1;
        piece += 1;
    }
    scratch::release(slot);
    if last <= 0 || piece == PIECES { 0 } else { before + last as u64 }
}
