//! Sampling simulated with the programs' own integer arithmetic, over many seeds: estimates are right on average whatever
//! the mix of sizes, and intervals hold as often as they say.

use leaktrace::model::Spread;
use leaktrace::model::sampling::{Weights, gaps};
use leaktrace_common::sampling::{self, BYTES_SHIFT, COUNT_SHIFT};

const MEAN: u64 = 4096;

/// `SplitMix64` (Steele, Lea, Flood 2014), whose upper halves are the random words.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 32) as u32
    }
}

/// What one thread that allocates `population`, in this order, is estimated at.
struct Outcome {
    bytes: f64,
    count: f64,
    interval: [u64; 2],
}

struct Sampler {
    gaps: Vec<u64>,
    weights: Weights,
}

impl Sampler {
    fn new() -> Self {
        Self { gaps: gaps(MEAN), weights: Weights::new(MEAN) }
    }

    fn sample(&self, population: &[(u64, u32)], seed: u64) -> Outcome {
        let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95));
        let mut draw = || sampling::draw_gap(|step| self.gaps[step as usize], || random.word());
        let mut gap = draw();
        let (mut bytes, mut count, mut spread) = (0, 0, Spread::default());
        for &(size, times) in population {
            for _ in 0..times {
                gap = sampling::pass(gap, size);
                if gap == 0 {
                    gap = draw();
                    let weight = self.weights.of(size, None);
                    bytes += weight.0;
                    count += weight.1;
                    spread.add(size, weight.0);
                }
            }
        }
        Outcome {
            bytes: bytes as f64 / f64::from(1 << BYTES_SHIFT),
            count: count as f64 / f64::from(1 << COUNT_SHIFT),
            interval: spread.interval(MEAN),
        }
    }

    /// Checks that estimates are unbiased to within three standard errors of their mean. The share of intervals that hold.
    fn check(&self, name: &str, population: &[(u64, u32)], seeds: u64) -> f64 {
        let truth: u64 = population.iter().map(|(size, times)| size * u64::from(*times)).sum();
        let blocks: u64 = population.iter().map(|(_, times)| u64::from(*times)).sum();
        let outcomes: Vec<_> = (1..=seeds).map(|seed| self.sample(population, seed)).collect();
        unbiased(name, "bytes", &outcomes.iter().map(|outcome| outcome.bytes).collect::<Vec<_>>(), truth as f64);
        unbiased(name, "blocks", &outcomes.iter().map(|outcome| outcome.count).collect::<Vec<_>>(), blocks as f64);
        let held =
            outcomes.iter().filter(|outcome| (outcome.interval[0]..=outcome.interval[1]).contains(&truth)).count();
        held as f64 / seeds as f64
    }
}

fn unbiased(name: &str, what: &str, values: &[f64], truth: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Where all blocks are surely recorded nothing varies, and only rounding is left.
    let error = (variance / n).sqrt() + truth * 1e-6;
    assert!((mean - truth).abs() < 3.0 * error, "{name}: {mean} {what} on average, {truth} in truth, error {error}");
}

/// Sizes from a quarter of the mean distance to four times it, the same number of each.
fn around(times: u32) -> Vec<(u64, u32)> {
    (0..17).map(|step| ((MEAN as f64 / 4.0 * (f64::from(step) / 4.0).exp2()) as u64, times)).collect()
}

#[test]
fn estimates_are_unbiased_and_intervals_hold_in_19_cases_of_20() {
    let sampler = Sampler::new();
    let small = 16;
    // Twice the mean distance, as 1 MiB is to the usual 512 KiB.
    let large = 2 * MEAN;
    let mut mixed = vec![(small, 9000), (256 * MEAN, 2), (small, 9000), (100, 900), (64 * MEAN, 5), (small, 9000)];
    mixed.push((3 * MEAN / 2, 40));
    let cases: [(&str, Vec<(u64, u32)>); 5] = [
        ("all small", vec![(small, 30_000)]),
        ("all large", vec![(large, 2000)]),
        ("nine in ten small, a few huge", mixed),
        ("around the mean distance", around(20)),
        ("at the mean distance", vec![(MEAN, 400)]),
    ];
    for (name, population) in cases {
        let held = sampler.check(name, &population, 3000);
        // The standard error of a share of 0.95 over so many seeds is 0.004.
        assert!((0.93..=0.97).contains(&held), "{name}: {held} of the intervals hold");
    }
}

#[test]
fn intervals_of_few_blocks_err_on_the_wide_side() {
    let sampler = Sampler::new();
    let cases: [(&str, Vec<(u64, u32)>); 11] = [
        ("one hit expected", vec![(16, 256)]),
        ("three", vec![(16, 768)]),
        ("eight", vec![(16, 2048)]),
        ("one block of the mean distance", vec![(MEAN, 1)]),
        ("three", vec![(MEAN, 3)]),
        ("ten", vec![(MEAN, 10)]),
        ("twenty of twice that", vec![(2 * MEAN, 20)]),
        ("five of four times that", vec![(4 * MEAN, 5)]),
        ("many that are missed once in 3000 times", vec![(8 * MEAN, 2000)]),
        ("few of many sizes", around(1)),
        ("small and large", vec![(16, 512), (2 * MEAN, 3)]),
    ];
    for (name, population) in cases {
        let held = sampler.check(name, &population, 3000);
        assert!(held >= 0.94, "{name}: {held} of the intervals hold");
    }
}

#[test]
fn blocks_of_no_bytes_are_never_hit_and_huge_ones_always() {
    let outcome = Sampler::new().sample(&[(0, 1000), (1 << 50, 1), (1 << 30, 10)], 1);
    assert_eq!((outcome.bytes as u64, outcome.count as u64), ((1 << 50) + (10 << 30), 11));
}

#[test]
fn the_largest_mean_distance_has_room() {
    let mean = sampling::MAX_SAMPLE_BYTES;
    let gaps = gaps(mean);
    let draw = |words: &[u32]| {
        let mut words = words.iter();
        let gap = sampling::draw_gap(|step| gaps[step as usize], || *words.next().unwrap());
        gap as f64 / f64::from(1 << sampling::GAP_SHIFT) / mean as f64
    };
    // Steps are in the lower 12 bits: the first, the middle, the last but one, and four times the last.
    assert!(draw(&[0]) < 1e-15);
    assert!((draw(&[2048]) - 2f64.ln()).abs() < 1e-9);
    assert!((draw(&[0xffff_fffe]) - 4096f64.ln()).abs() < 1e-5);
    assert!((draw(&[u32::MAX; 4]) - 4.0 * 4096f64.ln()).abs() < 1e-9);
    // What a small block stands for there is the mean distance, to half its own size.
    let (bytes, count) = Weights::new(mean).of(1, None);
    assert_eq!((bytes >> BYTES_SHIFT, count >> COUNT_SHIFT), (mean, mean));
}
