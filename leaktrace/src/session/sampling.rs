//! The tables that the programs sample by: BPF has neither logarithm nor exponential.
//!
//! Pure but for [`fill`], which puts them into the maps.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::Array;
use leaktrace_common::abi::{SAMPLE_GAP_SHIFT, SAMPLE_STEPS, SAMPLE_STEPS_PER_MEAN, SAMPLE_WEIGHT_SHIFT};

/// Quantiles of the exponential distribution with this mean, in units of 1/256 byte: the distance to the next hit
/// exceeds entry i with probability 1 - i / `SAMPLE_STEPS`. The last entry, which would be infinite, repeats the one
/// before: the program draws again there.
fn gaps(mean: u64) -> Vec<u64> {
    let scale = mean as f64 * f64::from(1 << SAMPLE_GAP_SHIFT);
    (0..=SAMPLE_STEPS)
        .map(|step| {
            let below = f64::from(step.min(SAMPLE_STEPS - 1)) / f64::from(SAMPLE_STEPS);
            (-(-below).ln_1p() * scale).round() as u64
        })
        .collect()
}

/// x / (1 - exp(-x)) for x = i / `SAMPLE_STEPS_PER_MEAN`: how many means a hit block of x means stands for.
fn weights() -> Vec<u64> {
    (0..=SAMPLE_STEPS)
        .map(|step| {
            let x = f64::from(step) / f64::from(SAMPLE_STEPS_PER_MEAN);
            let weight = if step == 0 { 1.0 } else { x / -(-x).exp_m1() };
            (weight * f64::from(1 << SAMPLE_WEIGHT_SHIFT)).round() as u64
        })
        .collect()
}

/// Fills the maps for this mean distance in bytes.
pub fn fill(ebpf: &mut Ebpf, mean: u64) -> Result<()> {
    for (name, values) in [("SAMPLE_GAPS", gaps(mean)), ("SAMPLE_WEIGHTS", weights())] {
        let map = ebpf.map_mut(name).with_context(|| format!("the BPF object has no map {name}"))?;
        let mut array: Array<_, u64> = Array::try_from(map)?;
        for (index, value) in (0..).zip(values) {
            array.set(index, value, 0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_rise_and_average_to_the_mean() {
        let mean = 524_288;
        let gaps = gaps(mean);
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]));
        // Half of all distances are below ln 2 of the mean.
        let median = gaps[SAMPLE_STEPS as usize / 2] as f64 / 256.0;
        assert!((median / mean as f64 - std::f64::consts::LN_2).abs() < 1e-8);
        // Within the steps distances are spread evenly; the last step begins anew with the mean beyond its start.
        let steps = SAMPLE_STEPS as usize;
        let inner: f64 = (0..steps - 1).map(|step| (gaps[step] + gaps[step + 1]) as f64 / 2.0).sum();
        let average = (inner + gaps[steps - 1] as f64 + mean as f64 * 256.0) / steps as f64 / 256.0;
        assert!((average / mean as f64 - 1.0).abs() < 1e-4, "{average}");
    }

    #[test]
    fn weights_are_the_inverse_of_the_chance_to_be_hit() {
        let weights = weights();
        for (x, expected) in [(0.0, 1.0), (1.0, 1.581_976_707), (8.0, 8.002_684_602), (32.0, 32.0)] {
            let weight = weights[(x * f64::from(SAMPLE_STEPS_PER_MEAN)) as usize] as f64 / f64::from(1 << 20);
            assert!((weight - expected).abs() < 2e-6, "{x}: {weight}");
        }
    }
}
