//! The status line on a terminal while tracing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::capture;
use crate::config::Messages;
use crate::kernel::Kernel;
use crate::kernel::drain;
use crate::model::Counters;
use crate::report::status::Status;

/// Columns where the terminal does not tell.
const WIDTH: usize = 80;

/// Shows the status line, where there is somebody to see it.
pub struct Progress {
    bar: Option<ProgressBar>,
    sampled: bool,
    last: (Duration, u64),
}

impl Progress {
    /// A status line if wanted, of estimates where a sample is recorded.
    pub fn new(messages: Messages, sampled: bool) -> Self {
        let bar = messages.progress.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant that indicatif understands.
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, sampled, last: (Duration::ZERO, 0) }
    }

    /// Shows the numbers of this moment, with those of lives that are out of the tables.
    pub fn show(&mut self, kernel: &Kernel, buried: &Counters, elapsed: Duration) {
        let Some(bar) = &self.bar else { return };
        let accounts = drain::accounts(kernel);
        let counters = accounts.iter().map(|account| &account.counters).chain([buried]);
        let counters: Vec<Counters> =
            counters.map(|counters| if self.sampled { counters.whole() } else { *counters }).collect();
        let sum = |number: fn(&Counters) -> u64| counters.iter().map(number).sum::<u64>();
        let allocs = sum(|counters| counters.alloc_count);
        let seconds = elapsed.saturating_sub(self.last.0).as_secs_f64();
        let status = Status {
            elapsed,
            live_bytes: sum(Counters::outstanding_bytes),
            live_count: sum(Counters::outstanding_count),
            allocs_per_s: if seconds > 0.0 { allocs.saturating_sub(self.last.1) as f64 / seconds } else { 0.0 },
            losses: capture::losses(kernel).total(),
        };
        self.last = (elapsed, allocs);
        let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(WIDTH, |(width, _)| usize::from(width.0));
        bar.set_message(status.line(width.saturating_sub(1)));
        bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
