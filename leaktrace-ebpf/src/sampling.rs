//! Poisson sampling by bytes: which blocks are hit, and what they stand for. The arithmetic and its reasons are
//! `leaktrace_common::sampling`'s; this is where it meets the maps.
//!
//! Hits are rare, so what is done for them may cost; a block that is passed over costs one subtraction.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use leaktrace_common::abi::Thread;
use leaktrace_common::drawn::{BY_PROGRAMS, Drawn};
use leaktrace_common::sampling;

use crate::config;
use crate::maps::{SAMPLE_GAPS, SAMPLE_WEIGHTS};

/// Whether a block of `size` bytes is hit. Moves the thread on its way to the next hit.
#[inline(always)]
pub fn hit(thread: *mut Thread, size: u64) -> bool {
    if config::sample_bytes() == 0 {
        return true;
    }
    // SAFETY: the thread's own state.
    unsafe {
        if (*thread).gap == 0 {
            (*thread).gap = draw_gap(0);
        }
        let left = sampling::pass((*thread).gap, size);
        (*thread).gap = if left == 0 { draw_gap(0) } else { left };
        left == 0
    }
}

/// The distance to the next hit beyond `base`. A global function: verified once. (Its argument is there because one
/// without any is not verified as such by older kernels.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn draw_gap(base: u64) -> u64 {
    base + sampling::draw_gap(
        |step| SAMPLE_GAPS.get(step).copied().unwrap_or(0),
        // SAFETY: the helper takes nothing.
        || unsafe { bpf_get_prandom_u32() },
    )
}

/// The bytes and the number of blocks that one block of `size` bytes stands for: in the units of
/// `leaktrace_common::sampling` while sampling, 1:1 otherwise. Where programs draw blocks themselves, its record says that in place of
/// a size ([`Drawn::word`]).
#[inline(always)]
pub fn weight(size: u64) -> (u64, u64) {
    match config::sample_bytes() {
        0 => (size, 1),
        BY_PROGRAMS => Drawn::of_word(size).weighted(),
        _ => {
            let bytes = weighted_bytes(size);
            (bytes, sampling::weighted_count(size, bytes))
        }
    }
}

/// The bytes of a block with this in its record.
#[inline(always)]
pub fn size(word: u64) -> u64 {
    if config::sample_bytes() == BY_PROGRAMS { Drawn::of_word(word).size } else { word }
}

/// The bytes that one block of `size` bytes stands for while sampling.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weighted_bytes(size: u64) -> u64 {
    sampling::weighted_bytes(size, config::sample_bytes(), |step| SAMPLE_WEIGHTS.get(step).copied().unwrap_or(0))
}
