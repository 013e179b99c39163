//! Poisson sampling by bytes: the arithmetic that the programs and userspace share to the last bit.
//!
//! Every byte allocated has the same chance to be hit, once in `mean` bytes on average: the distance between hits is
//! exponential. A block of s bytes is recorded if at least one of its bytes is hit, which happens with
//! p = 1 - exp(-s / mean) and independently of every other block. A recorded block stands for s / p bytes and 1 / p
//! blocks (Horvitz and Thompson, 1952), so that sums over recorded blocks are right on average whatever the mix of sizes.
//! A block of 0 bytes has none to be hit: those are not seen while sampling.
//!
//! In: two tables, since BPF has neither logarithm nor exponential, and a source of random words, both as closures. Out:
//! integers. A free takes off exactly what the allocation has put on, and a reader of the recorded blocks arrives at
//! exactly the sums that the programs keep, because all of them call what stands here.
//! Never here: floating point, loops without a small bound.

/// Steps of both tables, which have one entry more.
pub const STEPS: u32 = 4096;
/// Steps of the weight table to one mean distance: the table ends at 32 of them.
pub const STEPS_PER_MEAN: u32 = 128;
/// While sampling, counters of bytes are in units of 1/2^this.
pub const BYTES_SHIFT: u32 = 8;
/// While sampling, counters of blocks are in units of 1/2^this: large blocks stand for little more than one each.
pub const COUNT_SHIFT: u32 = 16;
/// Distances are in units of 1/2^this byte.
pub const GAP_SHIFT: u32 = 16;
/// Entries of the weight table are in units of 1/2^this.
pub const WEIGHT_SHIFT: u32 = 20;
/// The largest mean distance, bytes (64 GiB): what 64 bits have room for.
pub const MAX_SAMPLE_BYTES: u64 = 1 << 36;

/// Mean distances that the weight table covers.
const MEANS: u64 = 32;
/// Bits of a random word that choose a step; the others choose a place within it.
const STEP_BITS: u32 = STEPS.ilog2();
/// Bits of a random word that choose the place within a step.
const WITHIN_BITS: u32 = 32 - STEP_BITS;
/// How often the table's last step, which has a chance of 1 in 4096, may follow upon itself.
const MAX_DRAWS: u32 = 4;

/// The distance to the next hit, at least 1, in units of 1/2^[`GAP_SHIFT`] byte.
///
/// `quantile(i)` is the distance that is exceeded with probability 1 - i / [`STEPS`], for i below [`STEPS`]. Within a step
/// distances are spread evenly, which makes their mean too large by 4e-5 of itself. The result is the whole part plus
/// one, so that "not above n units" means exactly "below n" of what was rounded.
#[inline(always)]
pub fn draw_gap(quantile: impl Fn(u32) -> u64, mut random: impl FnMut() -> u32) -> u64 {
    let mut gap = 0;
    let mut draws = 0;
    while draws < MAX_DRAWS {
        let word = random();
        let step = word & (STEPS - 1);
        let within = u64::from(word >> STEP_BITS);
        let low = quantile(step);
        if step < STEPS - 1 {
            let width = quantile(step + 1).wrapping_sub(low);
            // In two parts, since the product takes more than 64 bits.
            let part = (width >> WITHIN_BITS) * within + (((width & ((1 << WITHIN_BITS) - 1)) * within) >> WITHIN_BITS);
            return gap + low + part + 1;
        }
        // The last step has no end. What lies beyond its start is distributed as the whole.
        gap += low;
        draws += 1;
    }
    gap + 1
}

/// What is left of the distance to the next hit after a block of `size` bytes; 0 where the block is hit, and then the
/// next distance is to be drawn: where within the block it was hit does not matter, since distances have no memory.
#[inline(always)]
#[must_use]
pub fn pass(gap: u64, size: u64) -> u64 {
    let length = if size >> (64 - GAP_SHIFT) == 0 { size << GAP_SHIFT } else { u64::MAX };
    gap.saturating_sub(length)
}

/// The bytes that a recorded block of `size` bytes stands for, `size / (1 - exp(-size / mean))`, in units of
/// 1/2^[`BYTES_SHIFT`] byte.
///
/// `factor(i)` is x / (1 - exp(-x)) at x = i / [`STEPS_PER_MEAN`], for i up to [`STEPS`], in units of
/// 1/2^[`WEIGHT_SHIFT`]. The line between two entries lies above the curve by at most 2e-6 of its value.
#[inline(always)]
pub fn weighted_bytes(size: u64, mean: u64, factor: impl Fn(u32) -> u64) -> u64 {
    if size == 0 {
        return 0;
    }
    if mean == 0 || size / MEANS >= mean {
        // Beyond the table the chance to be hit is 1 to within 1e-13.
        return size << BYTES_SHIFT;
    }
    // In units of 1/2^16 step: 7 bits are the steps to a mean, one is shifted in afterwards lest the first overflow.
    let position = ((size << 22) / mean) << 1;
    let step = (position >> 16) as u32;
    let within = position & 0xffff;
    let low = factor(step);
    let rise = factor(step + 1).wrapping_sub(low);
    let factor = low + ((rise * within) >> 16);
    let shift = WEIGHT_SHIFT - BYTES_SHIFT;
    (mean * factor + (1 << (shift - 1))) >> shift
}

/// The number of blocks that a recorded block of `size` bytes stands for, given what [`weighted_bytes`] says of it, in
/// units of 1/2^[`COUNT_SHIFT`].
#[inline(always)]
#[must_use]
pub fn weighted_count(size: u64, bytes: u64) -> u64 {
    if size == 0 {
        return 0;
    }
    if bytes == size << BYTES_SHIFT {
        // Surely recorded. Beyond the weight table the shift below would overflow.
        return 1 << COUNT_SHIFT;
    }
    ((bytes << (COUNT_SHIFT - BYTES_SHIFT)) + size / 2) / size
}

const _: () = {
    assert!(STEPS.is_power_of_two() && STEPS_PER_MEAN == 1 << 7);
    assert!(MEANS * STEPS_PER_MEAN as u64 == STEPS as u64);
};
