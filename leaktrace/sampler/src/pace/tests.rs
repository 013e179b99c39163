//! The interval under a clock of the tests' own.

use super::*;
use crate::draw;

const LIMITS: Limits = Limits { floor: 512 << 10, rate: 200 };

/// Threads that allocate `bytes_per_second` in all, sampled for `seconds`. Samples of each second.
fn run(pace: &Pace, limits: Limits, clock: &mut u64, bytes_per_second: u64, seconds: u64, seed: &mut u64) -> Vec<u64> {
    let end = *clock + seconds * SECOND;
    let begin = *clock;
    let mut samples = vec![0; seconds as usize];
    // Looks come every 16 MiB.
    let mut next_look = 16 << 20;
    loop {
        let distance = draw::distance(pace.interval(), || draw::random(seed));
        let (step, is_sample) = if distance < next_look { (distance, true) } else { (next_look, false) };
        next_look = if is_sample { next_look - step } else { 16 << 20 };
        *clock += (u128::from(step) * u128::from(SECOND) / u128::from(bytes_per_second)) as u64;
        if *clock >= end {
            *clock = end;
            return samples;
        }
        if is_sample {
            samples[((*clock - begin) / SECOND) as usize] += 1;
        }
        // As the kernel has it, to a tick of 4 ms.
        pace.note(limits, *clock / 4_000_000 * 4_000_000, is_sample);
    }
}

fn started(limits: Limits) -> Pace {
    let pace = Pace::new();
    pace.start(limits);
    pace
}

#[test]
fn a_program_that_allocates_little_stays_at_the_floor() {
    let (pace, mut clock, mut seed) = (started(LIMITS), 5 * SECOND, 1);
    let samples = run(&pace, LIMITS, &mut clock, 20 << 20, 30, &mut seed);
    assert_eq!(pace.interval(), LIMITS.floor);
    let total: u64 = samples.iter().sum();
    // 40 a second.
    assert!((1000..1400).contains(&total), "{samples:?}");
}

#[test]
fn samples_stay_below_the_rate_and_come_back_when_it_is_quiet() {
    for rate in [10, 200, 5000] {
        let limits = Limits { rate, ..LIMITS };
        let (pace, mut clock, mut seed) = (started(limits), 5 * SECOND, 2);
        // 5,000 samples a second at the floor, as much as a parser of JSON makes; and a hundred times that.
        for bytes_per_second in [2_600_000_000, 260_000_000_000] {
            let samples = run(&pace, limits, &mut clock, bytes_per_second, 40, &mut seed);
            let settled = samples[20..].iter().sum::<u64>() / 20;
            assert!(settled <= rate, "{rate}: {samples:?}");
            assert!(settled * 5 >= rate.min(bytes_per_second / limits.floor), "{rate}: {samples:?}");
            // The first second has the windows by which it is found.
            assert!(samples.iter().all(|samples| *samples <= 2 * rate + 4 * BUDGET), "{rate}: {samples:?}");
        }
        let samples = run(&pace, limits, &mut clock, 1 << 20, 120, &mut seed);
        let expected = rate.min(2);
        assert!(samples[60..].iter().sum::<u64>() >= 60 * expected / 3, "{rate}: {samples:?}");
        assert!(pace.interval() >= limits.floor);
    }
}

#[test]
fn the_interval_is_the_floor_times_a_power_of_two_within_its_bounds() {
    let limits = Limits { floor: 100_000, rate: 1 };
    let (pace, mut now) = (started(limits), SECOND);
    for _ in 0..100_000 {
        now += 10;
        pace.note(limits, now, true);
        let times = pace.interval() / limits.floor;
        assert!(times.is_power_of_two() && pace.interval() == times * limits.floor);
        assert!(pace.interval() <= crate::sampling::MAX_SAMPLE_BYTES);
    }
    assert!(pace.interval() > crate::sampling::MAX_SAMPLE_BYTES / 4);
    for day in 1..=3 {
        pace.note(limits, now + day * 86_400 * SECOND, false);
    }
    assert_eq!(pace.interval(), limits.floor);
}

#[test]
fn a_clock_that_stands_still_does_not_let_it_run_away() {
    let (pace, now) = (started(LIMITS), SECOND);
    pace.note(LIMITS, now, true);
    for _ in 0..BUDGET {
        pace.note(LIMITS, now, true);
    }
    assert!((2..=32).contains(&(pace.interval() / LIMITS.floor)), "{}", pace.interval());
}

/// A cache of small blocks that only grows, up to half a terabyte.
#[test]
fn a_program_that_keeps_everything_does_not_fill_the_set() {
    let (limits, room) = (Limits { floor: 16 << 10, rate: 200 }, 1 << 17);
    let (mut held, mut bytes, mut seed) = (0, 0u64, 4);
    let mut at = std::collections::BTreeMap::new();
    while bytes < 1 << 39 {
        bytes += draw::distance(limits.least(held, room), || draw::random(&mut seed));
        held += 1;
        at.insert(bytes, held);
    }
    assert!(held < room * 4 / 5, "{held}");
    // Up to 7 GiB no less is sampled than by an interval of 512 KiB that stays.
    let (_, at_7g) = at.range(..7u64 << 30).next_back().unwrap();
    assert_eq!(limits.least(*at_7g, room), 512 << 10);
    assert_eq!(limits.least(u64::MAX, room), crate::sampling::MAX_SAMPLE_BYTES);
    assert_eq!(limits.least(0, room), limits.floor);
    assert_eq!(Limits { rate: 0, ..limits }.least(room, room), limits.floor);
}

#[test]
fn nothing_adapts_where_everything_is_wanted() {
    for limits in [Limits { floor: 1, rate: 200 }, Limits { floor: 4096, rate: 0 }] {
        let pace = started(limits);
        for now in 0..10_000 {
            pace.note(limits, now, true);
        }
        assert_eq!(pace.interval(), limits.floor);
    }
}

/// A leak and a churn, sampled while the interval goes up and down all the time: what weights add up to is right on average.
#[test]
fn estimates_are_unbiased_while_the_interval_adapts() {
    let limits = Limits { floor: 4096, rate: 200 };
    let (runs, blocks, size) = (400, 20_000u64, 100u64);
    let truth = (blocks * size) as f64;
    let mut seed = 3;
    let mut estimates = Vec::new();
    let mut intervals = std::collections::BTreeSet::new();
    for _ in 0..runs {
        let (pace, mut clock) = (started(limits), SECOND);
        let (mut drawn_by, mut left) = (pace.interval(), draw::distance(pace.interval(), || draw::random(&mut seed)));
        let mut estimate = 0;
        for block in 0..blocks {
            // By turns quick and slow, 100 ms each.
            clock += if block / 1000 % 2 == 0 { 20_000 } else { 2_000_000 };
            if size < left {
                left -= size;
                continue;
            }
            estimate += draw::weight(size, drawn_by);
            pace.note(limits, clock, true);
            drawn_by = pace.interval();
            intervals.insert(drawn_by);
            left = draw::distance(drawn_by, || draw::random(&mut seed));
        }
        estimates.push(estimate as f64);
    }
    let mean = estimates.iter().sum::<f64>() / f64::from(runs);
    let variance = estimates.iter().map(|estimate| (estimate - mean).powi(2)).sum::<f64>() / f64::from(runs - 1);
    let error = (variance / f64::from(runs)).sqrt();
    assert!((mean - truth).abs() < 3.0 * error && error < 0.01 * truth, "{mean} of {truth}, error {error}");
    assert!(intervals.len() > 2, "it did adapt: {intervals:?}");
}
