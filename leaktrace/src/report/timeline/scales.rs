//! Axes: where a number stands, and at which round numbers there are marks.
//!
//! In: numbers of a saved file, which may be anything. Out: pixels within the plot, and a few marks.

use std::time::Duration;

use super::super::human::{Bytes, Span};

/// Latest moment that is drawn, seconds: 30 years.
pub const LATEST: f64 = 1e9;
/// Most marks of an axis.
const MARKS: usize = 16;

/// Numbers on a line of pixels.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The first and the last number.
    pub numbers: (f64, f64),
    /// Where they stand.
    pub pixels: (f64, f64),
}

impl Scale {
    /// The place of a number, never outside.
    pub fn place(&self, number: f64) -> f64 {
        let (from, to) = self.numbers;
        let length = to - from;
        let share = if length > 0.0 { (number - from) / length } else { 1.0 };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Multiples of `step` on it.
    fn multiples(&self, step: f64) -> impl Iterator<Item = f64> {
        let (from, to) = self.numbers;
        let first = (from / step).ceil();
        let slack = step * 1e-6;
        (0..MARKS).map(move |index| (first + index as f64) * step).take_while(move |number| *number <= to + slack)
    }

    /// Marks of bytes, at most so many above zero: powers of two, which are round in binary units.
    pub fn bytes(&self, most: f64) -> Vec<(f64, String)> {
        let step = (0..64).map(|power| 2f64.powi(power)).find(|step| self.numbers.1 / step <= most);
        let step = step.unwrap_or(2f64.powi(64));
        self.multiples(step).map(|number| (number, short(&Bytes(number as u64).to_string()))).collect()
    }

    /// Marks of moments, at most ten or so.
    pub fn moments(&self) -> Vec<(f64, String)> {
        const STEPS: [f64; 30] = [
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0,
            600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 432_000.0,
            864_000.0,
        ];
        let length = self.numbers.1 - self.numbers.0;
        let large = (1..8).map(|power| 864_000.0 * 10f64.powi(power));
        let step = STEPS.into_iter().chain(large).find(|step| length / step <= 10.0);
        let step = step.unwrap_or(length.max(1.0));
        self.multiples(step).map(|number| (number, moment(number))).collect()
    }
}

/// A moment in words: `0`, `10 s`, `1 min 30 s`.
pub fn moment(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.clamp(0.0, LATEST) } else { 0.0 };
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) | Err(_) => "0".to_owned(),
        Ok(span) => short(&Span(span).to_string()),
    }
}

/// Without a decimal that says nothing.
fn short(number: &str) -> String {
    number.replacen(".0 ", " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(from: f64, to: f64) -> Scale {
        Scale { numbers: (from, to), pixels: (100.0, 200.0) }
    }

    fn words(marks: Vec<(f64, String)>) -> Vec<String> {
        marks.into_iter().map(|(_, words)| words).collect()
    }

    #[test]
    fn marks_stand_at_round_numbers() {
        assert_eq!(words(scale(0.0, 1_700_000.0).bytes(5.0)), ["0 B", "512 KiB", "1 MiB", "1.5 MiB"]);
        assert_eq!(words(scale(0.0, 5.0).bytes(5.0)), ["0 B", "1 B", "2 B", "3 B", "4 B", "5 B"]);
        assert_eq!(words(scale(0.0, 1e15).bytes(4.0)), ["0 B", "256 TiB", "512 TiB", "768 TiB"]);
        assert_eq!(
            words(scale(0.0, 90.0).moments()),
            ["0", "10 s", "20 s", "30 s", "40 s", "50 s", "1 min", "1 min 10 s", "1 min 20 s", "1 min 30 s"]
        );
        assert_eq!(
            words(scale(7000.0, 20_000.0).moments()),
            ["2 h", "2 h 30 min", "3 h", "3 h 30 min", "4 h", "4 h 30 min", "5 h", "5 h 30 min"]
        );
    }

    #[test]
    fn any_numbers_have_places_within_and_few_marks() {
        let odd = [0.0, 1e-9, 1.0, 1e9, 1e300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -1.0];
        for from in odd {
            for to in odd {
                let scale = scale(from, to);
                for number in odd {
                    assert!((100.0..=200.0).contains(&scale.place(number)), "{number} from {from} to {to}");
                }
                assert!(scale.bytes(5.0).len() <= MARKS && scale.moments().len() <= MARKS);
            }
        }
    }

    #[test]
    fn the_last_moment_stands_at_the_edge() {
        assert!((scale(3.0, 17.0).place(17.0) - 200.0).abs() < 1e-9);
        assert!((scale(0.0, 0.0).place(0.0) - 200.0).abs() < 1e-9, "also where it is the only one");
    }
}
