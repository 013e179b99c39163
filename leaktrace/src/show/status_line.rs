//! The status line shown on a terminal while tracing: numbers in, one line of text out.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::model::Status;
use crate::report::human::{Bytes, Count, Span, counted};

/// Columns where the terminal does not tell.
const WIDTH: usize = 80;

/// A line on standard error that is drawn anew with each status, and gone when this is dropped.
pub struct StatusLine(ProgressBar);

impl StatusLine {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant that indicatif understands.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Draws it.
    pub fn show(&self, status: &Status) {
        let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(WIDTH, |(width, _)| usize::from(width.0));
        self.say(line(status, width.saturating_sub(1)));
    }

    /// Has this in its place.
    pub fn say(&self, text: impl Into<Cow<'static, str>>) {
        self.0.set_message(text);
        self.0.tick();
    }

    /// Takes the line away while something else is written to the terminal.
    pub fn without<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Default for StatusLine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The line in at most `width` characters. What says least goes first where there is no room: the number of
/// allocations, then their rate, then the bytes; a loss is shown as long as anything is.
fn line(status: &Status, width: usize) -> String {
    let elapsed = Span(Duration::from_secs(status.elapsed.as_secs())).to_string().replace(".0 s", " s");
    let bytes = format!("{} live", Bytes(status.live_bytes));
    let count = counted(status.live_count, "block");
    let rate = format!("{} allocs/s", rate(status.allocs_per_s));
    let losses = (status.losses > 0).then(|| format!("{} LOST", Count(status.losses)));
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
        assert_eq!(line(&STATUS, 80), "12 s | 3.0 MiB live | 1,234 blocks | 45.7k allocs/s");
        assert_eq!(line(&STATUS, 40), "12 s | 3.0 MiB live | 45.7k allocs/s");
        assert_eq!(line(&STATUS, 20), "12 s | 3.0 MiB live");
        assert_eq!(line(&STATUS, 10), "12 s");
        for width in 0..80 {
            assert!(line(&STATUS, width).chars().count() <= width);
        }
    }

    #[test]
    fn losses_are_the_last_thing_to_go() {
        let status = Status { losses: 77, ..STATUS };
        assert_eq!(line(&status, 80), "12 s | 3.0 MiB live | 1,234 blocks | 45.7k allocs/s | 77 LOST");
        assert_eq!(line(&status, 15), "12 s | 77 LOST");
        assert_eq!(line(&status, 8), "77 LOST");
    }

    #[test]
    fn one_block_is_no_blocks() {
        let status = Status { live_count: 1, ..STATUS };
        assert_eq!(line(&status, 80), "12 s | 3.0 MiB live | 1 block | 45.7k allocs/s");
    }

    #[test]
    fn rates_are_short() {
        let cases = [(0.0, "0"), (f64::NAN, "0"), (950.2, "950"), (999.6, "1.0k"), (4.5e6, "4.5M")];
        for (per_second, text) in cases {
            assert_eq!(rate(per_second), text);
        }
    }
}
