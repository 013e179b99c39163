//! How long a process would be stopped for a leak check, and the way to read its memory that follows from that.
//!
//! In: what the kernel says of a process' size. Out: an estimate, and a way that keeps to the longest pause allowed.

use std::time::Duration;

use procfs::process::Process;
use procfs::{ProcError, WithCurrentSystemInfo};

use super::life::ENDED;
use crate::config::{CheckMode, CheckPlan};
use crate::model::Pid;

/// A stop that takes longer than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "it would be stopped for about {} ms, longer than --max-pause {} ms; raise that{}", .expected.as_millis(),
    .max_pause.as_millis(), if *.live_is_shorter { ", or give --leak-check-mode live" } else { "" }
)]
pub struct TooLong {
    expected: Duration,
    max_pause: Duration,
    live_is_shorter: bool,
}

/// Why it is not known how long a stop would take.
#[derive(Debug, thiserror::Error)]
pub enum NoPause {
    /// Longer than allowed.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The process is gone.
    #[error("{ENDED}")]
    Ended,
    /// Its size cannot be read.
    #[error(transparent)]
    Unknown(ProcError),
}

/// What the length of a stop depends on.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    resident_bytes: u64,
    threads: u64,
}

impl Estimate {
    fn of(pid: Pid) -> Result<Self, ProcError> {
        let stat = Process::new(pid.0.cast_signed())?.stat()?;
        Ok(Self { resident_bytes: stat.rss_bytes().get(), threads: stat.num_threads.unsigned_abs() })
    }

    /// A thread is stopped in 23 us, its stack copied in less, and as much again is allowed.
    fn live(self) -> Duration {
        Duration::from_millis(3) + Duration::from_micros(self.threads * 60)
    }

    /// A fork copies the page tables, which takes 12 ms for 1 GB, and ends what was shared before it, which takes longer.
    fn snapshot(self) -> Duration {
        Duration::from_millis(6) + self.live() + Duration::from_nanos(self.resident_bytes / 50)
    }

    fn pause(self, mode: CheckMode) -> Duration {
        match mode {
            CheckMode::Exact => self.exact(),
            CheckMode::Snapshot => self.snapshot(),
            CheckMode::Live => self.live(),
        }
    }

    /// On two cores 1 GB in a million blocks with four pointers each is searched in 0.55 s; fewer pointers take less.
    fn exact(self) -> Duration {
        Duration::from_millis(2) + self.live() + Duration::from_nanos(self.resident_bytes * 3 / 5)
    }
}

/// The ways to read the memory of a running process that this plan permits and that keep to its pause, the strongest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Ways {
    /// At least one.
    pub modes: Vec<CheckMode>,
    /// How much of the pause is left, beside what every way takes.
    pub room: Duration,
}

impl Ways {
    /// Those for a process.
    ///
    /// # Errors
    /// None keeps to the pause, or it is not known how long that would be.
    pub fn of(pid: Pid, plan: &CheckPlan) -> Result<Self, NoPause> {
        let estimate = Estimate::of(pid).map_err(|error| match error {
            ProcError::NotFound(_) => NoPause::Ended,
            other => NoPause::Unknown(other),
        })?;
        Ok(Self::by(estimate, plan)?)
    }

    fn by(estimate: Estimate, plan: &CheckPlan) -> Result<Self, TooLong> {
        let max_pause = plan.max_pause;
        let permitted = match &plan.mode {
            Some(mode) => std::slice::from_ref(mode),
            None => &[CheckMode::Exact, CheckMode::Snapshot, CheckMode::Live],
        };
        let modes: Vec<_> = permitted.iter().copied().filter(|mode| estimate.pause(*mode) <= max_pause).collect();
        if modes.is_empty() {
            let expected = permitted.iter().map(|mode| estimate.pause(*mode)).min().unwrap_or_default();
            let live_is_shorter = plan.mode.is_some() && estimate.live() <= max_pause;
            return Err(TooLong { expected, max_pause, live_is_shorter });
        }
        Ok(Self { modes, room: max_pause.saturating_sub(estimate.live()) })
    }
}

/// How long a stop may last at worst: no estimate knows how many of a heap's words are pointers.
pub fn longest(max_pause: Duration) -> Duration {
    max_pause.saturating_mul(10).max(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::Heuristics;

    const PLAN: CheckPlan = CheckPlan {
        mode: None,
        max_pause: Duration::from_millis(50),
        at_intervals: false,
        most_others: 0,
        heuristics: Heuristics::ALL,
    };

    fn modes(estimate: Estimate, plan: &CheckPlan) -> Vec<CheckMode> {
        Ways::by(estimate, plan).unwrap().modes
    }

    #[test]
    fn all_ways_that_keep_to_the_pause_may_be_taken() {
        use CheckMode::{Exact, Live, Snapshot};
        let of = |resident_bytes| Estimate { resident_bytes, threads: 8 };
        assert_eq!(modes(of(10 << 20), &PLAN), [Exact, Snapshot, Live]);
        assert_eq!(modes(of(1 << 30), &PLAN), [Snapshot, Live]);
        assert_eq!(modes(of(10 << 30), &PLAN), [Live]);
        let longer = CheckPlan { max_pause: Duration::from_mins(1), ..PLAN };
        assert_eq!(modes(of(10 << 30), &longer), [Exact, Snapshot, Live]);
        let live = CheckPlan { mode: Some(Live), ..PLAN };
        assert_eq!(modes(of(10 << 20), &live), [Live], "what is asked for");
    }

    #[test]
    fn no_way_is_taken_that_would_take_too_long() {
        let large = Estimate { resident_bytes: 1 << 30, threads: 8 };
        let exact = CheckPlan { mode: Some(CheckMode::Exact), ..PLAN };
        let words = Ways::by(large, &exact).unwrap_err().to_string();
        assert!(words.contains("about 649 ms, longer than --max-pause 50 ms"), "{words}");
        assert!(words.ends_with("raise that, or give --leak-check-mode live"), "{words}");
        let many = Estimate { resident_bytes: 0, threads: 10_000 };
        assert!(Ways::by(many, &PLAN).unwrap_err().to_string().ends_with("raise that"), "live would not help");
    }
}
