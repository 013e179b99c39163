//! The status line shown on a terminal while tracing: numbers in, one line of text out.

use std::time::Duration;

use super::human::{Bytes, Count, Span};

/// What the status line tells.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Status {
    /// Time since tracing began.
    pub elapsed: Duration,
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding allocations.
    pub live_count: u64,
    /// Allocations a second since the line was last drawn.
    pub allocs_per_s: f64,
    /// [`Losses::total`](crate::model::Losses::total).
    pub losses: u64,
}

impl Status {
    /// The line in at most `width` characters. What says least goes first where there is no room: the number of
    /// allocations, then their rate, then the bytes; a loss is shown as long as anything is.
    #[must_use]
    pub fn line(&self, width: usize) -> String {
        let elapsed = Span(Duration::from_secs(self.elapsed.as_secs())).to_string().replace(".0 s", " s");
        let bytes = format!("{} live", Bytes(self.live_bytes));
        let count = format!("{} blocks", Count(self.live_count));
        let rate = format!("{} allocs/s", rate(self.allocs_per_s));
        let losses = (self.losses > 0).then(|| format!("{} LOST", Count(self.losses)));
        let candidates: [&[&String]; 4] = [&[&bytes, &count, &rate], &[&bytes, &rate], &[&bytes], &[]];
        for candidate in candidates {
            let parts: Vec<&str> = std::iter::once(&elapsed)
                .chain(candidate.iter().copied())
                .chain(losses.as_ref())
                .map(String::as_str)
                .collect();
            let line = parts.join(" | ");
            if line.chars().count() <= width {
                return line;
            }
        }
        losses.unwrap_or(elapsed).chars().take(width).collect()
    }
}

/// A rate in three digits or so: `0`, `950`, `12.3k`, `4.5M`.
fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate.is_nan() || rate < 0.5 => "0".to_owned(),
        rate if rate < 999.5 => format!("{rate:.0}"),
        rate if rate < 999_950.0 => format!("{:.1}k", rate / 1e3),
        rate => format!("{:.1}M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: Status = Status {
        elapsed: Duration::from_millis(12_900),
        live_bytes: 3 << 20,
        live_count: 1234,
        allocs_per_s: 45_678.0,
        losses: 0,
    };

    #[test]
    fn the_line_fits_and_says_as_much_as_it_can() {
        assert_eq!(STATUS.line(80), "12 s | 3.0 MiB live | 1,234 blocks | 45.7k allocs/s");
        assert_eq!(STATUS.line(40), "12 s | 3.0 MiB live | 45.7k allocs/s");
        assert_eq!(STATUS.line(20), "12 s | 3.0 MiB live");
        assert_eq!(STATUS.line(10), "12 s");
        for width in 0..80 {
            assert!(STATUS.line(width).chars().count() <= width);
        }
    }

    #[test]
    fn losses_are_the_last_thing_to_go() {
        let status = Status { losses: 77, ..STATUS };
        assert_eq!(status.line(80), "12 s | 3.0 MiB live | 1,234 blocks | 45.7k allocs/s | 77 LOST");
        assert_eq!(status.line(15), "12 s | 77 LOST");
        assert_eq!(status.line(8), "77 LOST");
    }

    #[test]
    fn rates_are_short() {
        let cases = [(0.0, "0"), (f64::NAN, "0"), (950.2, "950"), (999.6, "1.0k"), (4.5e6, "4.5M")];
        for (per_second, text) in cases {
            assert_eq!(rate(per_second), text);
        }
    }
}
