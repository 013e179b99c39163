//! The tables of Poisson sampling by bytes, and what recorded blocks weigh: `leaktrace_common::sampling` with the
//! logarithms and exponentials that BPF lacks. Pure.

use std::num::NonZeroU64;

use leaktrace_common::drawn::Drawn;
use leaktrace_common::sampling::{self, GAP_SHIFT, STEPS, STEPS_PER_MEAN, WEIGHT_SHIFT};

use super::request::Options;

/// Quantiles of the exponential distribution with this mean in bytes, in units of 1/2^[`GAP_SHIFT`] byte: the distance
/// to the next hit exceeds entry i with probability 1 - i / [`STEPS`]. The last entry, which would be infinite, repeats
/// the one before and is not read.
#[must_use]
pub fn gaps(mean: u64) -> Vec<u64> {
    let scale = mean as f64 * f64::from(1 << GAP_SHIFT);
    (0..=STEPS)
        .map(|step| {
            let below = f64::from(step.min(STEPS - 1)) / f64::from(STEPS);
            (-(-below).ln_1p() * scale).round() as u64
        })
        .collect()
}

/// x / (1 - exp(-x)) for x = i / [`STEPS_PER_MEAN`]: how many means a recorded block of x means stands for, in units of
/// 1/2^[`WEIGHT_SHIFT`].
#[must_use]
pub fn factors() -> Vec<u64> {
    (0..=STEPS)
        .map(|step| {
            let x = f64::from(step) / f64::from(STEPS_PER_MEAN);
            let factor = if step == 0 { 1.0 } else { x / -(-x).exp_m1() };
            (factor * f64::from(1 << WEIGHT_SHIFT)).round() as u64
        })
        .collect()
}

/// The mean distance at which programs draw blocks themselves as long as none of them has told of one, bytes.
pub const DRAWN_AT_FIRST: u64 = 512 << 10;

/// What recorded blocks stand for.
#[derive(Debug, Clone)]
pub struct Weights {
    mean: u64,
    /// `None` if each block has its own.
    factors: Option<Vec<u64>>,
}

impl Weights {
    /// For hits at this mean distance in bytes, at most [`sampling::MAX_SAMPLE_BYTES`].
    #[must_use]
    pub fn new(mean: u64) -> Self {
        Self { mean, factors: Some(factors()) }
    }

    /// Those of a trace with these options; `None` where each block stands for itself.
    #[must_use]
    pub fn of_trace(options: &Options) -> Option<Self> {
        let mean = options.sample_bytes?;
        Some(if options.sampler { Self { mean, factors: None } } else { Self::new(mean) })
    }

    /// The mean distance between hits, bytes.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.mean
    }

    /// The bytes that one recorded block of this size stands for, in units of 1/2^[`sampling::BYTES_SHIFT`], and the number
    /// of blocks, in units of 1/2^[`sampling::COUNT_SHIFT`]: exactly the numbers that the programs count. `weight` is the bytes that
    /// it stands for where a program has drawn it itself, or `None` for as many as it has.
    #[must_use]
    pub fn of(&self, size: u64, weight: Option<NonZeroU64>) -> (u64, u64) {
        let Some(factors) = &self.factors else {
            return Drawn { size, weight: weight.map_or(size, NonZeroU64::get) }.weighted();
        };
        let factor = |step: u32| factors.get(step as usize).copied().unwrap_or(0);
        let bytes = sampling::weighted_bytes(size, self.mean, factor);
        (bytes, sampling::weighted_count(size, bytes))
    }
}

/// Units of a counter rounded to whole ones, halves up.
#[must_use]
pub fn whole(units: u64, shift: u32) -> u64 {
    (units >> shift) + (units >> (shift - 1) & 1)
}

/// How many bytes a sample of one byte in `mean` overlooks at most, 95 times in 100. Bytes are hit each by itself, so that nothing
/// of n bytes is with the probability e^(-n/mean), which is 5 % for 3 times the mean.
#[must_use]
pub fn overlooked(mean: u64) -> u64 {
    mean.saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_rise_and_average_to_the_mean() {
        let mean = 524_288;
        let gaps = gaps(mean);
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]));
        let unit = f64::from(1 << GAP_SHIFT);
        // Half of all distances are below ln 2 of the mean.
        let median = gaps[STEPS as usize / 2] as f64 / unit;
        assert!((median / mean as f64 - std::f64::consts::LN_2).abs() < 1e-8);
        // Within the steps distances are spread evenly; the last step begins anew with the mean beyond its start.
        let steps = STEPS as usize;
        let inner: f64 = (0..steps - 1).map(|step| (gaps[step] + gaps[step + 1]) as f64 / 2.0).sum();
        let average = (inner + gaps[steps - 1] as f64 + mean as f64 * unit) / steps as f64 / unit;
        assert!((average / mean as f64 - 1.0).abs() < 5e-5, "{average}");
    }

    #[test]
    fn factors_are_the_inverse_of_the_chance_to_be_hit() {
        let factors = factors();
        for (x, expected) in [(0.0, 1.0), (1.0, 1.581_976_707), (8.0, 8.002_684_602), (32.0, 32.0)] {
            let factor = factors[(x * f64::from(STEPS_PER_MEAN)) as usize] as f64 / f64::from(1 << 20);
            assert!((factor - expected).abs() < 2e-6, "{x}: {factor}");
        }
    }

    #[test]
    fn weights_keep_to_the_formula_at_every_size_and_distance() {
        for mean in [1, 7, 100, 4096, 524_288, 1 << 30, sampling::MAX_SAMPLE_BYTES] {
            let weights = Weights::new(mean);
            let around = (0..48).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3, 3 * mean, mean / 3 + 1]);
            for size in around {
                let (bytes, count) = weights.of(size, None);
                let expected = size as f64 / -(-(size as f64) / mean as f64).exp_m1();
                let (bytes, count) = (bytes as f64 / 256.0, count as f64 / 65_536.0);
                // A relative error of the table, and half a unit.
                let error = expected * 2e-5 + 1.0 / 512.0;
                assert!((bytes - expected).abs() < error, "{size} B at {mean}: {bytes}, not {expected}");
                let error = (error + 1e-9) / size as f64 + 1.0 / 131_072.0;
                assert!((count - expected / size as f64).abs() < error, "{size} B at {mean}: {count} blocks");
            }
        }
        assert_eq!(Weights::new(4096).of(0, None), (0, 0));
        assert_eq!(Weights::new(4096).of(1 << 50, None), (1 << 58, 1 << 16));
    }

    #[test]
    fn halves_round_up() {
        assert_eq!([0, 127, 128, 384, u64::MAX].map(|units| whole(units, 8)), [0, 0, 1, 2, 1 << 56]);
    }
}
