//! How what one process has outstanding develops, and where that passes a limit. Pure.
//!
//! In: looks, each with a time and bytes. Out: the limits that are passed at that look.

use std::collections::VecDeque;
use std::time::Duration;

use super::before::{Before, Turnover};

/// The time over which growth is looked at.
const WINDOW: Duration = Duration::from_secs(30);
/// The least of it that must be known.
pub(super) const LEAST: Duration = Duration::from_secs(10);
/// The window is seen in so many parts.
const PARTS: usize = 3;
/// From part to part it must grow by one in so many of the limit at least.
const LEAST_OF_LIMIT: f64 = 2.0;
/// In the middle one of so many parts it must grow by the limit: two large allocations are in two of them at most.
const STRETCHES: u32 = 5;

/// What there are alerts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Outstanding bytes.
    Bytes,
    /// Their growth.
    Rate,
}

/// What is too much.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Outstanding bytes.
    pub bytes: Option<u64>,
    /// Bytes a second.
    pub rate: Option<u64>,
}

/// A look at a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Time since the trace began.
    pub at: Duration,
    /// Bytes outstanding.
    pub live: u64,
    /// The most that ever were.
    pub peak: u64,
    /// Whether the process has ended, after which it holds nothing.
    pub ended: bool,
    /// What it frees that is from before the trace.
    pub before: Before,
}

/// A limit that is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// Which.
    pub kind: Kind,
    /// The limit.
    pub limit: u64,
    /// Bytes outstanding when it was passed.
    pub outstanding: u64,
    /// Growth in bytes a second, over this time; `None` where there was but one look.
    pub growth: Option<(i64, Duration)>,
    /// Whether less than the limit is outstanding by now.
    pub is_over: bool,
    /// Whether it cannot be told, since blocks from before the trace are freed. That is said once of a process.
    pub is_untold: bool,
}

/// Bytes outstanding at a time.
type Point = (Duration, u64);

/// What one process has outstanding, as far as that is needed.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// What is outstanding.
    live: Levels,
    /// What is resident, where that is read.
    resident: Levels,
    turnover: Turnover,
    is_said_untold: bool,
    peak: u64,
}

/// The looks of the window.
#[derive(Debug, Default)]
struct Levels(VecDeque<Point>);

impl Course {
    /// Takes in a look. Which limits are passed.
    pub(super) fn take(&mut self, look: Look, limits: Limits) -> impl Iterator<Item = Passed> + use<> {
        if !look.ended {
            self.live.take(look.at, Some(look.live));
            self.resident.take(look.at, look.before.resident);
            self.turnover.take(look.at, look.before, WINDOW);
        }
        // A peak since the last look: it may be over.
        let is_new_peak = look.peak > self.peak;
        self.peak = look.peak.max(self.peak);
        let growth = self.live.growth();
        let by_bytes = limits.bytes.and_then(|limit| {
            let is_over = look.ended || look.live < limit;
            let outstanding = if is_over { look.peak } else { look.live };
            let counts = !is_over || (is_new_peak && look.peak >= limit);
            counts.then_some(Passed { kind: Kind::Bytes, limit, outstanding, growth, is_over, is_untold: false })
        });
        let by_rate = limits.rate.filter(|_| !look.ended).and_then(|limit| {
            let (growth, is_untold) = self.rate(limit)?;
            let growth = Some(growth);
            Some(Passed { kind: Kind::Rate, limit, outstanding: look.live, growth, is_over: false, is_untold })
        });
        by_bytes.into_iter().chain(by_rate)
    }

    /// The growth that passes the limit, and whether it cannot be told. Where blocks from before the trace are freed meanwhile, what is
    /// resident has to grow as well.
    fn rate(&mut self, limit: u64) -> Option<((i64, Duration), bool)> {
        let growth = self.live.lasting_growth(limit)?;
        if !self.turnover.hides_growth() {
            return Some((growth, false));
        }
        match self.resident.lasting_growth(limit) {
            Some(resident) => Some((growth.min(resident), false)),
            None => (!std::mem::replace(&mut self.is_said_untold, true)).then_some((growth, true)),
        }
    }
}

impl Levels {
    /// Takes in a look, if it has this level, and forgets those from before the window.
    fn take(&mut self, at: Duration, level: Option<u64>) {
        self.0.extend(level.map(|level| (at, level)));
        while self.0.front().is_some_and(|(then, _)| *then + WINDOW < at) {
            self.0.pop_front();
        }
    }

    /// Bytes a second over the window, and its length.
    fn growth(&self) -> Option<(i64, Duration)> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        (first.0 < last.0).then(|| (per_second(*first, *last) as i64, last.0.saturating_sub(first.0)))
    }

    /// By how many bytes a second it grows, and for how long, if that is the limit at least and goes on.
    ///
    /// What programs hold goes up and down by far more than they leak. What they lose is what the lowest level rises by: so the
    /// lowest looks of the window's parts are compared. A large allocation raises it once, and not from each part to the next. Beside
    /// a slow leak it can carry the whole, so that the median has to pass as well.
    fn lasting_growth(&self, limit: u64) -> Option<(i64, Duration)> {
        let (from, last) = (self.0.front()?.0, *self.0.back()?);
        let over = last.0.saturating_sub(from);
        if over < LEAST {
            return None;
        }
        let mut lowest: [Option<Point>; PARTS] = [None; PARTS];
        for point in &self.0 {
            let part = (point.0.saturating_sub(from).as_secs_f64() / over.as_secs_f64() * PARTS as f64) as usize;
            let lowest = &mut lowest[part.min(PARTS - 1)];
            if lowest.is_none_or(|(_, bytes)| point.1 < bytes) {
                *lowest = Some(*point);
            }
        }
        let [Some(first), Some(second), Some(third)] = lowest else { return None };
        let limit = limit as f64;
        let goes_on = |(from, to): (Point, Point)| from.0 < to.0 && per_second(from, to) >= limit / LEAST_OF_LIMIT;
        if ![(first, second), (second, third), (third, last)].into_iter().all(goes_on) {
            return None;
        }
        let rate = per_second(first, third).min(self.median(from, over)?);
        (rate >= limit).then_some((rate as i64, over))
    }

    /// Bytes a second by which what stays until the window's end rises: the median over equal parts of the window. `None` where
    /// nobody looked within one of them.
    fn median(&self, from: Duration, over: Duration) -> Option<f64> {
        // What is held for a time and freed before the end does not stay.
        let mut stays: Vec<Point> = self.0.iter().copied().collect();
        let mut least = u64::MAX;
        for (_, bytes) in stays.iter_mut().rev() {
            least = least.min(*bytes);
            *bytes = least;
        }
        let end_of = |stretch: u32| {
            let end = from + over * stretch / STRETCHES;
            stays.get(stays.partition_point(|(at, _)| *at < end)).copied()
        };
        let rate_of = |stretch| {
            let (from, to) = (end_of(stretch)?, end_of(stretch + 1)?);
            (from.0 < to.0).then(|| per_second(from, to))
        };
        let mut rates = (0..STRETCHES).map(rate_of).collect::<Option<Vec<f64>>>()?;
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}

/// Bytes a second from one look to a later one.
fn per_second(from: Point, to: Point) -> f64 {
    (to.1 as f64 - from.1 as f64) / to.0.saturating_sub(from.0).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RATE: Limits = Limits { bytes: None, rate: Some(MIB) };

    fn look(second: f64, live: u64) -> Look {
        Look { at: Duration::from_secs_f64(second), live, peak: 0, ended: false, before: Before::default() }
    }

    /// At which seconds the rate is passed, of a process that has so much outstanding in each second.
    fn passed(course: &[u64]) -> Vec<usize> {
        let mut all = Course::default();
        let looks = course.iter().enumerate();
        looks.filter(|(at, bytes)| all.take(look(*at as f64, **bytes), RATE).count() == 1).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_steady_leak_is_seen_as_soon_as_ten_seconds_are_known_and_for_as_long_as_it_lasts() {
        let steady: Vec<u64> = (0..20).map(|second| second * MIB).collect();
        assert_eq!(passed(&steady), (10..20).collect::<Vec<_>>());
        let slower: Vec<u64> = (0..100).map(|second| second * (MIB - 1)).collect();
        assert_eq!(passed(&slower), [0; 0]);
        let ends: Vec<u64> = (0..100).map(|second| second.min(40) * 2 * MIB).collect();
        let passed = passed(&ends);
        assert!(passed.contains(&40) && passed.iter().all(|second| *second <= 50), "{passed:?}");
    }

    #[test]
    fn one_large_allocation_is_no_growth_that_goes_on() {
        for second in [0, 1, 5, 29, 45] {
            let course: Vec<u64> = (0..100).map(|at| if at >= second { 4096 * MIB } else { 0 }).collect();
            assert_eq!(passed(&course), [0; 0], "at second {second}");
        }
        // Nor is a start of six seconds that is followed by rest.
        let course: Vec<u64> = (0..100).map(|at: u64| at.min(6) * 100 * MIB).collect();
        assert_eq!(passed(&course), [0; 0]);
    }

    #[test]
    fn two_large_allocations_beside_a_slow_leak_are_no_growth_that_goes_on() {
        for (one, other) in (0..40).flat_map(|one| [(one, one), (one, one + 1), (one, one + 5), (one, one + 17)]) {
            let large = |at: u64| u64::from(at > one) + u64::from(at > other);
            let course: Vec<u64> = (0..100).map(|at| at * MIB * 6 / 10 + large(at) * 80 * MIB).collect();
            assert_eq!(passed(&course), [0; 0], "after seconds {one} and {other}");
            // Above the limit it is an alert nevertheless, whose rate is that of the leak.
            let course: Vec<u64> = (0..100).map(|at| at * MIB * 11 / 10 + large(at) * 80 * MIB).collect();
            let mut all = Course::default();
            let looks = course.iter().enumerate();
            let found: Vec<_> =
                looks.filter_map(|(at, bytes)| all.take(look(at as f64, *bytes), RATE).next()).collect();
            assert!(found.len() > 60, "{} looks, after seconds {one} and {other}", found.len());
            let rates = found.iter().filter_map(|passed| passed.growth).map(|(rate, _)| rate as u64);
            assert!(rates.into_iter().all(|rate| rate.abs_diff(MIB * 11 / 10) < 100), "{found:?}");
        }
    }

    #[test]
    fn a_leak_just_above_the_limit_of_one_batch_a_second_is_seen_within_the_window() {
        // Looks that are late by up to a tenth of a second and drift against the batches; what is in use goes up and down.
        for start in 0..20 {
            let mut course = Course::default();
            let mut random = 12345 + start;
            let first = (0..120).find(|second| {
                random = (random * 1_103_515_245 + 12345) % (1 << 31);
                let at = f64::from(*second) * 1.003 + (random >> 8 & 0xff) as f64 / 2560.0;
                let batches = (at + start as f64 / 20.0) as u64;
                let in_use = (random >> 16) % (MIB / 2);
                course.take(look(at, batches * MIB * 12 / 10 + in_use), RATE).next().is_some()
            });
            assert!(first.is_some_and(|second| second <= 31), "{first:?}");
        }
    }

    #[test]
    fn what_comes_in_steps_counts_by_its_average_and_what_is_freed_does_not() {
        let steps: Vec<u64> = (0..60).map(|at: u64| at / 4 * 6 * MIB).collect();
        assert!(passed(&steps).len() > 20, "{:?}", passed(&steps));
        let sawtooth = |second: u64| second % 8 * 50 * MIB;
        assert_eq!(passed(&(0..100).map(sawtooth).collect::<Vec<_>>()), [0; 0]);
        let leaking: Vec<u64> = (0..100).map(|second| sawtooth(second) + second * 2 * MIB).collect();
        assert!(!passed(&leaking).is_empty(), "a leak shows below what goes up and down");
    }

    #[test]
    fn what_was_not_looked_at_is_no_growth() {
        let mut course = Course::default();
        // As after a standstill of the machine.
        let mut at = |second: u64| course.take(look(second as f64, second * 2 * MIB), RATE).next();
        assert_eq!([0, 1, 2, 40, 41, 49].map(|second| at(second).is_some()), [false; 6]);
        // Until then two ends of the five parts are at one look, the one after eight seconds without.
        let found: Vec<_> = (50..64).filter_map(at).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].growth, Some((2 * MIB as i64, Duration::from_secs(23))));
    }

    /// At which seconds the rate is passed or cannot be told, of a process that allocates ten blocks of 2 MiB in all in each second and
    /// frees so many from before the trace, with so much resident.
    fn told(freed: u64, resident: impl Fn(u64) -> Option<u64>) -> Vec<(u64, bool)> {
        let mut course = Course::default();
        let at = |second: u64| Before { freed: freed * second, blocks: Some(10 * second), resident: resident(second) };
        let looks = (0..40).map(|second| Look { before: at(second), ..look(second as f64, second * 2 * MIB) });
        let looks = looks.filter_map(|look| Some((look.at.as_secs(), course.take(look, RATE).next()?.is_untold)));
        looks.collect()
    }

    #[test]
    fn growth_is_told_only_of_few_blocks_from_before_the_trace_or_where_memory_grows_too() {
        let alerts: Vec<_> = (10..40).map(|second| (second, false)).collect();
        assert_eq!(told(0, |_| None), alerts);
        assert_eq!(told(2, |_| None), alerts, "a fifth");
        for resident in [None, Some(100 * MIB)] {
            assert_eq!(told(3, |_| resident), [(10, true)], "that is said once");
            assert_eq!(told(10, |_| resident), [(10, true)]);
        }
        assert_eq!(told(10, |second| Some(50 * MIB + second * 3 * MIB / 2)), alerts);
        assert_eq!(told(10, |second| Some(50 * MIB + second * MIB / 2)), [(10, true)], "by less than the limit");
    }

    #[test]
    fn no_more_is_kept_than_the_window_needs() {
        let mut course = Course::default();
        for second in 0..1000 {
            let _ = course.take(look(f64::from(second), 0), RATE).count();
        }
        assert_eq!(course.live.0.len(), 31, "each second, both ends included");
        assert_eq!(course.live.growth(), Some((0, WINDOW)));
    }

    #[test]
    fn bytes_are_passed_from_the_limit_on_and_by_what_was_held_between_two_looks() {
        let limits = Limits { bytes: Some(100), rate: None };
        let mut course = Course::default();
        let mut at = |second, live, peak| {
            let look = Look { at: Duration::from_secs(second), live, peak, ended: false, before: Before::default() };
            course.take(look, limits).next().map(|passed| (passed.outstanding, passed.is_over))
        };
        assert_eq!(at(0, 99, 99), None);
        assert_eq!(at(1, 100, 100), Some((100, false)));
        assert_eq!(at(2, 100, 100), Some((100, false)), "it lasts");
        assert_eq!(at(3, 10, 100), None, "that peak is known");
        assert_eq!(at(4, 10, 5000), Some((5000, true)));
        assert_eq!(at(5, 10, 5000), None);
    }

    #[test]
    fn what_has_ended_has_passed_by_its_peak() {
        let limits = Limits { bytes: Some(100), rate: Some(1) };
        let ended =
            |peak| Look { at: Duration::from_secs(50), live: peak, peak, ended: true, before: Before::default() };
        assert_eq!(Course::default().take(ended(99), limits).count(), 0);
        let passed = Course::default().take(ended(100), limits).next().unwrap();
        assert_eq!(
            passed,
            Passed { kind: Kind::Bytes, limit: 100, outstanding: 100, growth: None, is_over: true, is_untold: false }
        );
        let mut known = Course::default();
        assert_eq!(known.take(Look { ended: false, ..ended(100) }, limits).count(), 1);
        assert_eq!(known.take(ended(100), limits).count(), 0, "it was said while it ran");
    }
}
