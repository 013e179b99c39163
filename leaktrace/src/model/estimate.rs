//! How far an estimate from a sample can be trusted: the interval that holds the truth 95 times in 100.
//!
//! In: the outstanding blocks that were recorded. Out: bounds of the bytes outstanding. The estimate itself is the sum of
//! the blocks' weights, w = s / p for a block of s bytes that was recorded with probability p (`leaktrace_common::sampling`).
//!
//! Of the truth, the recorded blocks' own sizes S are certain. What is uncertain is the rest, the blocks that were passed
//! over; its estimate is E = sum(w - s), and the variance of the error is estimated without bias by
//! V = sum(s^2 (1 - p) / p^2) = sum(w (w - s)).
//! For many recorded blocks E +- 1.96 sqrt(V) would do. For few it would not (below zero, and wrong in a quarter of all
//! cases), so the bounds are quantiles of the gamma distribution with that mean and variance, as Fay and Feuer (1997) have
//! them for weighted sums of rare events: the upper bound for one hit more than was seen, which adds `mean` to E and
//! `mean`^2 to V. For small blocks this is the exact interval of Garwood (1936) for a Poisson count, which errs on the
//! side of being too wide; it approaches the normal interval as hits become many. With nothing uncertain seen at all, the
//! upper bound is 3.7 `mean`: so much may go unrecorded with a probability of 2.5 %. The bytes passed over come in whole
//! blocks, which a continuous distribution does not know; the lower bound gives one of them away, of the size
//! sum(s (w - s)) / E that is to be expected, lest three blocks of which none was missed be taken for more than three.

use leaktrace_common::sampling::BYTES_SHIFT;

/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_963_985;

/// Sums over recorded blocks for the interval of their estimate. Blocks are recorded independently of one another, so the
/// sums of several sites are added.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// Sum of the sizes, bytes.
    known: f64,
    /// Estimate of the bytes that were passed over.
    passed: f64,
    /// Variance of that, bytes squared.
    variance: f64,
    /// Sum of sizes times the estimate of the bytes passed over for each.
    grain: f64,
}

impl Spread {
    /// Counts a recorded block of `size` bytes in that stands for `weight`, in units of 1/2^[`BYTES_SHIFT`] byte.
    pub fn add(&mut self, size: u64, weight: u64) {
        let weight = weight as f64 / f64::from(1 << BYTES_SHIFT);
        let size = size as f64;
        // What is surely recorded weighs its size; rounding must not make it less.
        let passed = (weight - size).max(0.0);
        self.known += size;
        self.passed += passed;
        self.variance += weight * passed;
        self.grain += size * passed;
    }

    /// Counts the blocks of another in.
    pub fn merge(&mut self, other: &Self) {
        self.known += other.known;
        self.passed += other.passed;
        self.variance += other.variance;
        self.grain += other.grain;
    }

    /// Bounds in bytes that the truth lies within, inclusive, with a probability of about 95 % (of more, where few blocks
    /// were recorded). `mean` is the mean distance between hits, bytes.
    #[must_use]
    pub fn interval(&self, mean: u64) -> [u64; 2] {
        let mean = mean as f64;
        let block = if self.passed > 0.0 { self.grain / self.passed } else { 0.0 };
        let low = (gamma_quantile(self.passed, self.variance, -Z) - block).max(0.0);
        let high = gamma_quantile(self.passed + mean, self.variance + mean * mean, Z);
        [(self.known + low).floor() as u64, (self.known + high).ceil() as u64]
    }
}

/// A quantile of the gamma distribution with this mean and variance, `z` being that of the normal distribution: Wilson and
/// Hilferty (1931), who take the cube root for normal. Wherever it is needed here it is within 2 % above, and below it errs
/// towards 0.
fn gamma_quantile(mean: f64, variance: f64, z: f64) -> f64 {
    if mean <= 0.0 || variance <= 0.0 {
        return mean.max(0.0);
    }
    // A ninth of the shape's inverse.
    let ninth = variance / (9.0 * mean * mean);
    mean * (1.0 - ninth + z * ninth.sqrt()).max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sampling::Weights;

    fn interval(sizes: impl IntoIterator<Item = u64>, mean: u64) -> [f64; 2] {
        let weights = Weights::new(mean);
        let mut spread = Spread::default();
        sizes.into_iter().for_each(|size| spread.add(size, weights.of(size, None).0));
        spread.interval(mean).map(|bound| bound as f64 / mean as f64)
    }

    #[test]
    fn small_blocks_have_the_exact_interval_of_a_poisson_count() {
        // Garwood's limits as every table of them has them.
        let cases = [(1, 0.0253, 5.5716), (2, 0.2422, 7.2247), (10, 4.7954, 18.3904), (100, 81.364, 121.627)];
        for (hits, low, high) in cases {
            let [below, above] = interval((0..hits).map(|_| 16), 1 << 20);
            // The approximation is a little wide below where hits are few.
            assert!(below <= low * 1.001 && below > low - 0.02, "{hits}: {below}");
            assert!((above / high - 1.0).abs() < 0.002, "{hits}: {above}");
        }
    }

    #[test]
    fn what_was_recorded_is_certain_and_what_was_not_has_its_limit() {
        let [below, above] = interval([1 << 40, 1 << 30], 1 << 20);
        assert!((below - ((1u64 << 20) + 1024) as f64).abs() < 0.01, "{below}");
        // -ln 0.025 mean distances go unrecorded with a probability of 2.5 %.
        assert!((above - below - 3.689).abs() < 0.04, "{above}");
        assert_eq!(Spread::default().interval(1 << 20)[0], 0);
    }
}
