//! Poisson sampling by bytes: every byte allocated has the same small chance to be hit, and a block that was hit stands
//! for as many as its chance was small.
//!
//! The distance between hits is exponential with mean `sample_bytes`. Hits are rare, so their arithmetic may cost; a
//! block that is passed over costs one subtraction. Tables come from userspace, since BPF has no logarithm.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use leaktrace_common::abi::{
    SAMPLE_GAP_SHIFT, SAMPLE_SHIFT, SAMPLE_STEPS, SAMPLE_STEPS_PER_MEAN, SAMPLE_WEIGHT_SHIFT, Thread,
};

use crate::config;
use crate::maps::{SAMPLE_GAPS, SAMPLE_WEIGHTS};

/// Draws from the last of the table's steps that may follow one another; each has a chance of 1 in 4096.
const MAX_DRAWS: u32 = 4;

/// Whether a block of `size` bytes is hit. Moves the thread on its way to the next hit.
#[inline(always)]
pub fn hit(thread: *mut Thread, size: u64) -> bool {
    if config::sample_bytes() == 0 {
        return true;
    }
    let length = if size >> 48 == 0 { size << SAMPLE_GAP_SHIFT } else { u64::MAX };
    // SAFETY: the thread's own state.
    unsafe {
        if (*thread).gap == 0 {
            (*thread).gap = draw_gap(0);
        }
        if length < (*thread).gap {
            (*thread).gap -= length;
            return false;
        }
        (*thread).gap = draw_gap(0);
    }
    true
}

/// The distance to the next hit. A global function: verified once. (Its argument is there because one without any is
/// not verified as such by older kernels.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn draw_gap(base: u64) -> u64 {
    let mut gap = base;
    let mut draws = 0;
    while draws < MAX_DRAWS {
        // SAFETY: the helper takes nothing.
        let random = unsafe { bpf_get_prandom_u32() };
        let step = random % SAMPLE_STEPS;
        let within = u64::from(random / SAMPLE_STEPS);
        let low = SAMPLE_GAPS.get(step).copied().unwrap_or(0);
        if step < SAMPLE_STEPS - 1 {
            let high = SAMPLE_GAPS.get(step + 1).copied().unwrap_or(low);
            // 2^32 / SAMPLE_STEPS = 2^20 values within a step.
            return gap + low + ((high - low) >> 10) * within / (1 << 10) + 1;
        }
        // The last step has no end. What lies beyond its start is distributed as the whole.
        gap += low;
        draws += 1;
    }
    gap + 1
}

/// The bytes and the number of blocks that one block of `size` bytes stands for: in units of 1/256 while sampling, 1:1
/// otherwise.
#[inline(always)]
pub fn weight(size: u64) -> (u64, u64) {
    let mean = config::sample_bytes();
    if mean == 0 {
        return (size, 1);
    }
    let bytes = weighted_bytes(size);
    (bytes, if size == 0 { 0 } else { bytes / size })
}

/// `size / (1 - exp(-size / mean))` in units of 1/256 byte.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weighted_bytes(size: u64) -> u64 {
    let mean = config::sample_bytes();
    let end = u64::from(SAMPLE_STEPS / SAMPLE_STEPS_PER_MEAN);
    if mean == 0 || size / end >= mean {
        // Beyond the table the chance to be hit is 1 to within 1e-13.
        return size << SAMPLE_SHIFT;
    }
    let position = (size << 16) / mean * u64::from(SAMPLE_STEPS_PER_MEAN);
    let step = (position >> 16) as u32;
    let within = position & 0xffff;
    let low = SAMPLE_WEIGHTS.get(step).copied().unwrap_or(0);
    let high = SAMPLE_WEIGHTS.get(step + 1).copied().unwrap_or(low);
    let factor = low + ((high - low) * within >> 16);
    (mean * factor) >> (SAMPLE_WEIGHT_SHIFT - SAMPLE_SHIFT)
}
