//! How far it is to the next sample, and what a sample stands for.
//!
//! In: the mean distance between samples, a source of random words, a block's size. Out: bytes. The arithmetic is
//! [`crate::sampling`], which leaktrace's own BPF programs sample with; here are its two tables, computed by the compiler since
//! there is no logarithm and no exponential without a mathematics library.

use crate::sampling::{self, BYTES_SHIFT, GAP_SHIFT, STEPS, STEPS_PER_MEAN, WEIGHT_SHIFT};

const ENTRIES: usize = STEPS as usize;
/// Entries of `QUANTILES` are in units of 1/2^this of the mean distance.
const QUANTILE_SHIFT: u32 = 32;

/// Distances that are exceeded with probability 1 - i / `STEPS`.
static QUANTILES: [u64; ENTRIES] = quantiles();
/// x / (1 - exp(-x)) at x = i / `STEPS_PER_MEAN`, in units of 1/2^`WEIGHT_SHIFT`.
static FACTORS: [u32; ENTRIES + 1] = factors();

/// -ln(1 - i / n) is the sum of ln(k / (k - 1)) over k from n down to n - i + 1, and ln(k / (k - 1)) = 2 artanh(1 / (2k - 1)).
#[expect(clippy::large_stack_arrays, reason = "on the stack of the compiler")]
const fn quantiles() -> [u64; ENTRIES] {
    let mut table = [0; ENTRIES];
    let mut sum = 0.0;
    let mut i = 1;
    while i < ENTRIES {
        let z = 1.0 / (2 * (ENTRIES - i + 1) - 1) as f64;
        let mut power = z;
        let mut n = 1;
        while power > 1e-18 {
            sum += 2.0 * power / n as f64;
            power *= z * z;
            n += 2;
        }
        table[i] = (sum * (1u64 << QUANTILE_SHIFT) as f64 + 0.5) as u64;
        i += 1;
    }
    table
}

#[expect(clippy::large_stack_arrays, reason = "on the stack of the compiler")]
const fn factors() -> [u32; ENTRIES + 1] {
    let step = 1.0 / STEPS_PER_MEAN as f64;
    // exp(-step), by its series.
    let (mut decay, mut term, mut n) = (1.0, 1.0, 1);
    while n < 12 {
        term *= -step / n as f64;
        decay += term;
        n += 1;
    }
    let mut table = [1 << WEIGHT_SHIFT; ENTRIES + 1];
    let mut exponential = 1.0;
    let mut i = 1;
    while i <= ENTRIES {
        exponential *= decay;
        let x = i as f64 * step;
        table[i] = (x / (1.0 - exponential) * (1u64 << WEIGHT_SHIFT) as f64 + 0.5) as u32;
        i += 1;
    }
    table
}

/// Bytes to the next sample, exponential with mean `mean`, at least 1: the block with which so many bytes are reached is one.
#[must_use]
pub fn distance(mean: u64, random: impl FnMut() -> u32) -> u64 {
    let quantile = |step: u32| {
        let unit = QUANTILES.get(step as usize).copied().unwrap_or(0);
        ((u128::from(unit) * u128::from(mean)) >> (QUANTILE_SHIFT - GAP_SHIFT)) as u64
    };
    let gap = sampling::draw_gap(quantile, random);
    // A block of n bytes is hit where the gap is not above n, and n is whole.
    gap.div_ceil(1 << GAP_SHIFT)
}

/// What a sample of `size` bytes stands for: `size / (1 - exp(-size / mean))` bytes, rounded to the nearest.
#[must_use]
pub fn weight(size: u64, mean: u64) -> u64 {
    if mean <= 1 {
        return size;
    }
    let factor = |step: u32| u64::from(FACTORS.get(step as usize).copied().unwrap_or(0));
    (sampling::weighted_bytes(size, mean, factor) + (1 << (BYTES_SHIFT - 1))) >> BYTES_SHIFT
}

/// The next word of a thread's random numbers: `SplitMix64` (Steele, Lea and Flood 2014), whose upper half is used.
pub fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree_with_the_mathematics_library() {
        for (i, entry) in QUANTILES.iter().enumerate() {
            let exact = -(1.0 - i as f64 / ENTRIES as f64).ln() * (1u64 << QUANTILE_SHIFT) as f64;
            assert!((*entry as f64 - exact).abs() < 1.0, "quantile {i}: {entry} {exact}");
        }
        for (i, entry) in FACTORS.iter().enumerate().skip(1) {
            let x = i as f64 / f64::from(STEPS_PER_MEAN);
            let exact = x / -(-x).exp_m1() * f64::from(1 << WEIGHT_SHIFT);
            assert!((f64::from(*entry) - exact).abs() <= 0.51, "factor {i}");
        }
    }

    #[test]
    fn distances_are_exponential() {
        let mut state = 7;
        for mean in [100, 4096, 512 << 10, 1 << 36] {
            let draws = 400_000;
            // Shares of distances beyond parts of the mean, against exp(-x).
            let mut beyond = [0; 6];
            let mut sum = 0.0;
            for _ in 0..draws {
                let distance = distance(mean, || random(&mut state)) as f64 / mean as f64;
                sum += distance;
                for (i, count) in beyond.iter_mut().enumerate() {
                    *count += u32::from(distance > i as f64);
                }
            }
            // What rounding up to a whole byte adds.
            let rounded = 0.5 / mean as f64;
            let error = 4.0 / f64::from(draws).sqrt();
            assert!((sum / f64::from(draws) - 1.0 - rounded).abs() < error, "mean {mean}: {}", sum / f64::from(draws));
            for (i, count) in beyond.iter().enumerate() {
                let (share, expected) = (f64::from(*count) / f64::from(draws), (-(i as f64)).exp());
                assert!((share - expected).abs() < error * expected.sqrt() + 1e-9, "mean {mean}, beyond {i}: {share}");
            }
        }
    }

    #[test]
    fn a_block_is_hit_with_the_probability_that_its_weight_takes_for_granted() {
        let (mut state, mean, draws) = (11, 1000, 400_000);
        for size in [1, 10, 64, 300, 1000, 2500, 6000] {
            let hits = (0..draws).filter(|_| size >= distance(mean, || random(&mut state))).count();
            let (share, expected) = (hits as f64 / f64::from(draws), -(-(size as f64) / mean as f64).exp_m1());
            let error = 4.0 * (expected * (1.0 - expected) / f64::from(draws)).sqrt();
            assert!((share - expected).abs() < error + 2e-4 * expected, "{size}: {share} {expected}");
        }
    }

    #[test]
    fn weights_are_right_to_a_hundred_thousandth() {
        for mean in [2, 1000, 4096, 512 << 10, 3 << 20, 1 << 36] {
            for size in (0..44).flat_map(|bit| [1u64 << bit, (1 << bit) * 3 / 2, (1 << bit) * 5 / 4]) {
                let x = size as f64 / mean as f64;
                let exact = size as f64 / -(-x).exp_m1();
                let error = (weight(size, mean) as f64 - exact).abs();
                assert!(error <= 0.51 + 1e-5 * exact, "{size} of {mean}: {} {exact}", weight(size, mean));
            }
        }
        assert_eq!(weight(0, 4096), 0);
        assert_eq!(weight(77, 1), 77);
    }
}
