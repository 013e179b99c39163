//! Net flow from windows: how much more is allocated than freed, and whether that can be chance.
//!
//! In: what went in and out of each size class in each window. Out: rates with their intervals.
//!
//! Survivors of a window say nothing of leaks, as all that lives for longer survives. What leaves in a window is mostly older than it,
//! and balances what comes unless blocks stay for ever (or for as long as it takes to fill a cache). So the net flow of a window is an
//! unbiased measure of the growth, whatever the blocks' ages, if windows are at random times.
//!
//! Its error is taken from how windows differ, but not to be less than if blocks came and went independently of one another: few windows
//! that are alike by chance must not pass for certainty. Student's distribution accounts for their number.

use std::collections::BTreeMap;
use std::time::Duration;

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::model::{ClassFlow, Finding, Flow, LEAST_WINDOWS, NetFlow};

/// Both ends of the interval together.
const DOUBT: f64 = 0.05;

/// What one window shows of a size class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks allocated.
    pub allocs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks freed.
    pub frees: u64,
}

/// Sums over the windows of a process. Windows in which nothing was seen of a class count for it all the same.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    number: u64,
    seconds: f64,
    seconds_squared: f64,
    all: Sums,
    classes: BTreeMap<u32, Sums>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    counts: Counts,
    net_squared: f64,
    net_seconds: f64,
}

/// A rate of blocks, with its error.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    net: f64,
    /// `None` with fewer than two windows.
    error: Option<f64>,
}

impl Counts {
    fn join(&mut self, other: Self) {
        self.allocs += other.allocs;
        self.bytes += other.bytes;
        self.frees += other.frees;
    }

    fn net(self) -> f64 {
        self.allocs as f64 - self.frees as f64
    }
}

impl Sums {
    fn add(&mut self, seconds: f64, counts: Counts) {
        self.counts.join(counts);
        self.net_squared += counts.net().powi(2);
        self.net_seconds += counts.net() * seconds;
    }
}

impl Windows {
    /// Adds a window that was open for so long, with what it shows of each class of which it shows something.
    pub fn add(&mut self, open: Duration, classes: impl IntoIterator<Item = (u32, Counts)>) {
        let seconds = open.as_secs_f64();
        let mut all = Counts::default();
        for (class, counts) in classes {
            self.classes.entry(class).or_default().add(seconds, counts);
            all.join(counts);
        }
        self.all.add(seconds, all);
        self.number += 1;
        self.seconds += seconds;
        self.seconds_squared += seconds * seconds;
    }

    /// How many there were.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Calls that they show.
    pub fn calls(&self) -> u64 {
        self.all.counts.allocs + self.all.counts.frees
    }

    /// The classes into which more seems to come than goes, though perhaps by chance: worth a look at where it comes from.
    pub fn suspected(&self) -> impl Iterator<Item = u32> + '_ {
        let grows = |sums: &Sums| {
            let Estimate { net, error } = self.estimate(sums);
            error.is_some_and(|error| net > 3.0 * error)
        };
        self.classes.iter().filter(move |(_, sums)| grows(sums)).map(|(class, _)| *class)
    }

    /// What they show in all. `sizes` are those of a class; class 0 has blocks of unknown size.
    #[must_use]
    pub fn net_flow(&self, sizes: impl Fn(u32) -> [u64; 2], is_recorded: impl Fn(u32) -> bool) -> NetFlow {
        // So many classes are looked at that one in twenty would seem to grow or to shrink by chance.
        let doubt = DOUBT / self.classes.len().max(1) as f64;
        let mut classes: Vec<ClassFlow> = self
            .classes
            .iter()
            .map(|(class, sums)| ClassFlow {
                sizes: (*class > 0).then(|| sizes(*class)),
                flow: self.flow(sums, doubt, *class > 0),
                recorded: is_recorded(*class),
            })
            .collect();
        let bytes = |class: &ClassFlow| class.flow.net_bytes_per_s.unwrap_or(class.flow.net_per_s);
        classes.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)));
        let all = Flow {
            net_bytes_per_s: classes.iter().map(|class| class.flow.net_bytes_per_s).sum(),
            ..self.flow(&self.all, DOUBT, false)
        };
        NetFlow { windows: self.number, open: Duration::from_secs_f64(self.seconds), all, classes }
    }

    fn flow(&self, sums: &Sums, doubt: f64, knows_sizes: bool) -> Flow {
        let Estimate { net, error } = self.estimate(sums);
        let Counts { allocs, bytes, frees } = sums.counts;
        let within = |doubt: f64| error.map(|error| self.quantile(doubt) * error);
        let finding = match within(doubt) {
            Some(within) if self.number >= LEAST_WINDOWS && net > within => Finding::Grows,
            Some(within) if self.number >= LEAST_WINDOWS && -net > within => Finding::Shrinks,
            _ => Finding::Undecided,
        };
        let mean = if allocs > 0 { bytes as f64 / allocs as f64 } else { 0.0 };
        Flow {
            allocs_per_s: self.rate(allocs),
            frees_per_s: self.rate(frees),
            net_per_s: net,
            net_ci95: within(DOUBT).map(|within| [net - within, net + within]),
            net_bytes_per_s: knows_sizes.then_some(net * mean),
            finding,
        }
    }

    fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    fn estimate(&self, sums: &Sums) -> Estimate {
        if self.seconds <= 0.0 {
            return Estimate { net: 0.0, error: None };
        }
        let net = sums.counts.net() / self.seconds;
        let number = self.number as f64;
        // The sum of squared distances of each window's net flow from what this rate has it be.
        let squares = sums.net_squared - 2.0 * net * sums.net_seconds + net * net * self.seconds_squared;
        let observed = squares.max(0.0) / (number - 1.0);
        let independent = (sums.counts.allocs + sums.counts.frees) as f64 / number;
        let error = (number * observed.max(independent)).sqrt() / self.seconds;
        Estimate { net, error: (self.number >= 2).then_some(error) }
    }

    /// As many errors as the truth is within, but for this probability.
    fn quantile(&self, doubt: f64) -> f64 {
        let freedom = (self.number - 1).max(1) as f64;
        StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |student| student.inverse_cdf(1.0 - doubt / 2.0))
    }
}

#[cfg(test)]
mod tests;
