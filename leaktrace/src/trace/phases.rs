//! The phases of making a report, each named with its time, for `-v`.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// A stopwatch that logs how long each phase took, by the clock and in processor time of all threads: on a busy machine the
/// clock alone says little.
pub struct Phases {
    /// What is made.
    of: String,
    begun: Moment,
    phase: Moment,
}

#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    /// Processor time of this process.
    worked: Duration,
}

impl Phases {
    /// The first phase of making this begins now.
    pub fn of(what: impl Into<String>) -> Self {
        let now = Moment::now();
        Self { of: what.into(), begun: now, phase: now }
    }

    /// How long ago the first phase began.
    pub fn elapsed(&self) -> Duration {
        self.begun.at.elapsed()
    }

    /// Logs the phase that ends now; the next begins.
    pub fn done(&mut self, phase: &str) {
        let now = Moment::now();
        self.tell(phase, self.phase, now);
        self.phase = now;
    }

    /// Logs the total.
    pub fn over(self) {
        self.tell("all", self.begun, Moment::now());
    }

    fn tell(&self, phase: &str, from: Moment, to: Moment) {
        let (took, worked) = (to.at - from.at, to.worked.saturating_sub(from.worked));
        log::info!("{}: {phase} took {:.1} ms, {:.1} ms of processor time", self.of, ms(took), ms(worked));
    }
}

impl Moment {
    fn now() -> Self {
        let worked = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        Self { at: Instant::now(), worked }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
