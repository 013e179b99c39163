//! The shape of what is outstanding over time.
//!
//! In: bytes at moments at about equal distances. Out: one of five words, and the slope of a straight line through them.

use std::time::Duration;

use crate::model::Trend;

/// Fewer moments have no shape.
const FEWEST: usize = 8;
/// Changes below this part of the most are none.
const FLAT: f64 = 0.05;
/// Two changes that make this part of the growth are steps.
const IN_STEPS: f64 = 0.7;

/// The shape; `None` for too few moments.
pub fn shape(live: &[u64]) -> Option<Trend> {
    if live.len() < FEWEST {
        return None;
    }
    let live: Vec<f64> = live.iter().map(|bytes| *bytes as f64).collect();
    let (most, least) = (live.iter().copied().fold(0.0, f64::max), live.iter().copied().fold(f64::MAX, f64::min));
    let range = most - least;
    if range <= FLAT * most {
        return Some(Trend::Stable);
    }
    let (begin, end) = (live[0], live[live.len() - 1]);
    let fall: f64 = live.windows(2).map(|pair| (pair[0] - pair[1]).max(0.0)).sum();
    let rise: f64 = live.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).sum();
    let quarter = live.len() / 4;
    let floors: Vec<f64> =
        live.chunks(quarter).take(4).map(|part| part.iter().copied().fold(f64::MAX, f64::min)).collect();
    let rises = floors.windows(2).all(|pair| pair[1] > pair[0]);
    if end - begin >= 0.5 * range && fall <= 0.2 * rise {
        let mut changes: Vec<f64> = live.windows(2).map(|pair| pair[1] - pair[0]).collect();
        changes.sort_by(f64::total_cmp);
        // As many as one in ten, at least two.
        let steps = (changes.len() / 10).max(2);
        let by_steps: f64 = changes.iter().rev().take(steps).sum();
        return Some(if by_steps >= IN_STEPS * (end - begin) { Trend::Steps } else { Trend::Growing });
    }
    if rises {
        return Some(Trend::Growing);
    }
    let middle = least + range / 2.0;
    let crossings = live.windows(2).filter(|pair| (pair[0] < middle) != (pair[1] < middle)).count();
    match crossings {
        2 if begin < middle => Some(Trend::Spike),
        0..=3 => Some(Trend::Stable),
        _ => Some(Trend::Periodic),
    }
}

/// Bytes in each second, by the straight line with the least squares.
pub fn slope(times: &[Duration], live: &[u64]) -> f64 {
    let count = times.len().min(live.len()) as f64;
    if count < 2.0 {
        return 0.0;
    }
    let points = || times.iter().map(Duration::as_secs_f64).zip(live.iter().map(|bytes| *bytes as f64));
    let (time, bytes) = points().fold((0.0, 0.0), |(time, bytes), point| (time + point.0, bytes + point.1));
    let (time, bytes) = (time / count, bytes / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (at, live) in points() {
        above += (at - time) * (live - bytes);
        below += (at - time).powi(2);
    }
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_has_its_word() {
        let of = |live: &dyn Fn(u64) -> u64| shape(&(0..100).map(live).collect::<Vec<_>>());
        assert_eq!(of(&|at| 1000 + 64 * at), Some(Trend::Growing));
        assert_eq!(
            of(&|at| 10_000 + 100 * at + if at % 7 == 0 { 4000 } else { 0 }),
            Some(Trend::Growing),
            "with peaks"
        );
        assert_eq!(of(&|at| 1000 + 5000 * (at / 30)), Some(Trend::Steps));
        assert_eq!(of(&|at| if at / 10 % 2 == 0 { 100 } else { 9000 }), Some(Trend::Periodic));
        assert_eq!(of(&|at| if (40..60).contains(&at) { 9000 } else { 100 }), Some(Trend::Spike));
        assert_eq!(of(&|at| 9000 + at % 3), Some(Trend::Stable));
        assert_eq!(of(&|_| 0), Some(Trend::Stable));
        assert_eq!(shape(&[1, 2, 3]), None);
    }

    #[test]
    fn the_slope_is_that_of_the_line() {
        let times: Vec<Duration> = (0..50).map(Duration::from_secs).collect();
        let live: Vec<u64> = (0..50).map(|at| 7000 + 640 * at).collect();
        assert!((slope(&times, &live) - 640.0).abs() < 1e-6);
        assert!(slope(&times, &[5; 50]).abs() < 1e-9);
        assert!(slope(&times[..1], &live).abs() < 1e-9, "a point has none");
    }
}
