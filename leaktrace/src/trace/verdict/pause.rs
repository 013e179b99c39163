//! How long a process would be stopped for a leak check, and the way to read its memory that follows from that.
//!
//! In: what the kernel says of a process' size, and how long it takes to go through its pages. Out: an estimate, and the ways that
//! keep to the longest pause allowed.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use procfs::ProcError;
use procfs::process::Process;

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
    swapped_bytes: u64,
    threads: u64,
    /// What the kernel takes to go through all pages: at best, as long as it was not measured.
    walk: Duration,
    /// The first thread has ended. What is read of the process by its id is empty then.
    is_headless: bool,
}

impl Estimate {
    fn of(pid: Pid) -> Result<Self, ProcError> {
        let process = Process::new(pid.0.cast_signed())?;
        let stat = process.stat()?;
        let is_ended = |state| matches!(state, 'Z' | 'X' | 'x');
        let is_headless = is_ended(stat.state);
        let mut status = process.status()?;
        if is_headless {
            for task in process.tasks()?.flatten() {
                if task.stat().is_ok_and(|stat| !is_ended(stat.state)) {
                    status = task.status()?;
                    break;
                }
            }
        }
        let bytes = |kib: Option<u64>| kib.unwrap_or(0).saturating_mul(1024);
        let resident_bytes = bytes(status.vmrss).saturating_add(bytes(status.hugetlbpages));
        Ok(Self {
            resident_bytes,
            walk: Duration::from_nanos(resident_bytes / 100),
            swapped_bytes: bytes(status.vmswap),
            threads: status.threads,
            is_headless,
        })
    }

    /// A thread is stopped in 23 us, its stack copied in less, and as much again is allowed.
    fn live(self) -> Duration {
        Duration::from_millis(3) + Duration::from_micros(self.threads * 60)
    }

    /// A fork copies the page tables and counts the users of each page. For 1 GB in small pages this takes from 12 to 65 ms, by
    /// the machine: 1.3 times as long as a walk in the median, and in one of a hundred copies 2.5 times.
    fn snapshot(self) -> Duration {
        Duration::from_millis(6) + self.live() + self.walk * 5 / 2
    }

    /// Asking for the marks of all pages takes longest.
    fn tracked(self) -> Duration {
        Duration::from_millis(2) + self.live() + self.walk * 2
    }

    fn pause(self, mode: CheckMode) -> Duration {
        match mode {
            CheckMode::Snapshot | CheckMode::Live if self.is_headless => Duration::MAX,
            CheckMode::Exact => self.exact(),
            CheckMode::Snapshot => self.snapshot(),
            CheckMode::Live => self.live(),
        }
    }

    /// On two cores 1 GB in a million blocks with four pointers each is searched in 0.8 s; fewer pointers take less. To find the blocks
    /// from before the trace takes half as long, if all of it is from then. What is swapped out is read at the speed of a disk.
    fn exact(self) -> Duration {
        let searching = Duration::from_nanos(self.resident_bytes.saturating_mul(6) / 5);
        let reading = Duration::from_nanos(self.swapped_bytes.saturating_mul(5));
        Duration::from_millis(2) + self.live() + searching + reading
    }
}

/// The ways to read the memory of a running process that this plan permits and that keep to its pause, the strongest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Ways {
    /// At least one.
    pub modes: Vec<CheckMode>,
    /// How much of the pause is left for what has changed while pages were tracked; `None` if to track them takes longer.
    pub room: Option<Duration>,
}

impl Ways {
    /// Those for a process.
    ///
    /// # Errors
    /// None keeps to the pause, or it is not known how long that would be.
    pub fn of(pid: Pid, plan: &CheckPlan) -> Result<Self, NoPause> {
        let mut estimate = Estimate::of(pid).map_err(|error| match error {
            ProcError::NotFound(_) => NoPause::Ended,
            other => NoPause::Unknown(other),
        })?;
        let ways = Self::by(estimate, plan)?;
        if ways.modes.first() == Some(&CheckMode::Exact) || estimate.walk > plan.max_pause {
            return Ok(ways);
        }
        let Some(walk) = walk(pid) else { return Ok(ways) };
        log::debug!("process {pid}: the kernel goes through its pages in {walk:?}");
        estimate.walk = walk;
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
            let live_is_shorter = plan.mode.is_some() && estimate.pause(CheckMode::Live) <= max_pause;
            return Err(TooLong { expected, max_pause, live_is_shorter });
        }
        Ok(Self { modes, room: max_pause.checked_sub(estimate.tracked()) })
    }
}

/// How long the kernel takes to go through all pages of a process that runs on, if it does: `smaps_rollup` in
/// `Documentation/filesystems/proc.rst`. Whoever waits for a processor meanwhile is not counted.
fn walk(pid: Pid) -> Option<Duration> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from);
    let began = now()?;
    fs::read(format!("/proc/{pid}/smaps_rollup")).ok()?;
    now()?.checked_sub(began)
}

/// What to say of a stop that took longer than allowed.
pub fn overrun(pid: Pid, pause: Duration, plan: &CheckPlan) -> Option<String> {
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    (pause > plan.max_pause).then(|| {
        format!(
            "process {pid} was stopped for {:.1} ms for its leak check, longer than --max-pause {:.1} ms: the estimate was too low; for \
             a shorter stop lower --max-pause, or give --leak-check-mode live",
            ms(pause),
            ms(plan.max_pause)
        )
    })
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

    const SMALL: Estimate =
        Estimate { resident_bytes: 0, swapped_bytes: 0, threads: 1, walk: Duration::ZERO, is_headless: false };

    fn modes(estimate: Estimate, plan: &CheckPlan) -> Vec<CheckMode> {
        Ways::by(estimate, plan).unwrap().modes
    }

    #[test]
    fn all_ways_that_keep_to_the_pause_may_be_taken() {
        use CheckMode::{Exact, Live, Snapshot};
        let of = |resident_bytes| {
            let walk = Duration::from_nanos(resident_bytes / 100);
            Estimate { resident_bytes, threads: 8, walk, ..SMALL }
        };
        assert_eq!(modes(of(10 << 20), &PLAN), [Exact, Snapshot, Live]);
        assert_eq!(modes(of(1 << 30), &PLAN), [Snapshot, Live]);
        assert_eq!(modes(of(10 << 30), &PLAN), [Live]);
        let slow = Estimate { walk: Duration::from_millis(50), ..of(1 << 30) };
        assert_eq!(modes(slow, &PLAN), [Live], "on a machine where a fork takes longer");
        let longer = CheckPlan { max_pause: Duration::from_mins(1), ..PLAN };
        assert_eq!(modes(of(10 << 30), &longer), [Exact, Snapshot, Live]);
        let live = CheckPlan { mode: Some(Live), ..PLAN };
        assert_eq!(modes(of(10 << 20), &live), [Live], "what is asked for");
    }

    #[test]
    fn a_stop_that_took_longer_than_allowed_is_said_with_both_figures() {
        let words = overrun(Pid(7), Duration::from_micros(61_340), &PLAN).unwrap();
        assert!(words.starts_with("process 7 was stopped for 61.3 ms"), "{words}");
        assert!(words.contains("longer than --max-pause 50.0 ms"), "{words}");
        assert_eq!(overrun(Pid(7), PLAN.max_pause, &PLAN), None);
    }

    #[test]
    fn no_way_is_taken_that_would_take_too_long() {
        let large = Estimate { resident_bytes: 1 << 30, threads: 8, ..SMALL };
        let exact = CheckPlan { mode: Some(CheckMode::Exact), ..PLAN };
        let words = Ways::by(large, &exact).unwrap_err().to_string();
        assert!(words.contains("about 1293 ms, longer than --max-pause 50 ms"), "{words}");
        assert!(words.ends_with("raise that, or give --leak-check-mode live"), "{words}");
        let many = Estimate { threads: 10_000, ..SMALL };
        assert!(Ways::by(many, &PLAN).unwrap_err().to_string().ends_with("raise that"), "live would not help");
        let swapped = Estimate { swapped_bytes: 1 << 30, ..SMALL };
        assert!(!modes(swapped, &PLAN).contains(&CheckMode::Exact));
        let headless = Estimate { is_headless: true, ..SMALL };
        assert_eq!(modes(headless, &PLAN), [CheckMode::Exact]);
        let live = CheckPlan { mode: Some(CheckMode::Live), ..PLAN };
        assert!(Ways::by(headless, &live).is_err());
    }
}
