//! Numbers as people read them. Exact ones are in the JSON.

use std::fmt;
use std::time::Duration;

/// Bytes in binary units, one decimal: `64 B`, `4.0 KiB`, `1.5 GiB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut units = UNITS.iter();
        let mut unit = units.next().unwrap_or(&"");
        // Not 1024: what would print as "1024.0 KiB" is 1.0 MiB.
        while value >= 1023.95 {
            let Some(next) = units.next() else { break };
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// A whole number with its thousands apart: `1,234,567`.
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// Bytes a second: `0.5 B/s`, `4.0 KiB/s`.
pub struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is to be rounded below a unit is shown in tenths.
        if self.0.abs() < 1023.95 {
            write!(f, "{:.1} B/s", self.0.abs())
        } else {
            write!(f, "{}/s", Bytes(self.0.abs() as u64))
        }
    }
}

/// A number of things: `1 site`, `1,234 sites`.
pub fn counted(number: u64, thing: &str) -> String {
    let plural = match number {
        1 => "",
        _ if thing.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {thing}{plural}", Count(number))
}

/// A span of time in its two largest units: `300 ms`, `12.3 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |f: &mut fmt::Formatter<'_>, large: u64, unit: &str, small: u64, smaller: &str| {
            if small == 0 { write!(f, "{large} {unit}") } else { write!(f, "{large} {unit} {small} {smaller}") }
        };
        // A saved snapshot has microseconds, rounded, and its report is to say the same.
        let span = Duration::from_micros(u64::try_from((self.0.as_nanos() + 500) / 1000).unwrap_or(u64::MAX));
        let milliseconds = span.as_millis();
        let seconds = span.as_secs();
        match seconds {
            // Rounded to tenths, so that a minute begins at 59.95 s.
            _ if milliseconds < 1000 => write!(f, "{milliseconds} ms"),
            _ if milliseconds < 59_950 => write!(f, "{:.1} s", span.as_secs_f64()),
            ..3600 => {
                let seconds = seconds.max(60);
                two(f, seconds / 60, "min", seconds % 60, "s")
            }
            3600..86_400 => two(f, seconds / 3600, "h", seconds / 60 % 60, "min"),
            _ => two(f, seconds / 86_400, "d", seconds / 3600 % 24, "h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_the_same_from_a_saved_snapshot() {
        for (nanoseconds, words) in [(331_999_600, "332 ms"), (331_999_400, "331 ms"), (999_999_500, "1.0 s")] {
            let span = Duration::from_nanos(nanoseconds);
            let saved = Duration::from_secs_f64((span.as_nanos() + 500).div_euclid(1000) as f64 / 1e6);
            assert_eq!((Span(span).to_string(), Span(saved).to_string()), (words.to_owned(), words.to_owned()));
        }
    }

    #[test]
    fn bytes_change_unit_before_they_need_four_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_048_576, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn rates_are_bytes_a_second() {
        let cases =
            [(0.0, "0.0 B/s"), (0.26, "0.3 B/s"), (-40.0, "40.0 B/s"), (1023.96, "1023 B/s"), (4096.0, "4.0 KiB/s")];
        for (rate, text) in cases {
            assert_eq!(Rate(rate).to_string(), text);
        }
    }

    #[test]
    fn thousands_are_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (100_000, "100,000")];
        for (count, text) in cases {
            assert_eq!(Count(count).to_string(), text);
        }
        assert_eq!((counted(1, "site"), counted(0, "site")), ("1 site".to_owned(), "0 sites".to_owned()));
        assert_eq!(counted(2, "process"), "2 processes");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (12_345, "12.3 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min"),
            (60_000, "1 min"),
            (200_000, "3 min 20 s"),
            (3_599_999, "59 min 59 s"),
            (3_600_000, "1 h"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(Span(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }
}
