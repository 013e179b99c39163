//! What was measured, and questions to it.
//!
//! In: a [`Sample`] for each workload, variant and round. Out: summaries. A ratio is taken within each round, between
//! measurements that lie seconds apart, so that what changes slowly (clock rates, other programs) cancels.

use super::catalog::Variant;
use super::stats::Summary;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// CPU time of the threads that did the work, ns a unit.
    pub cpu_ns: f64,
    /// Time that passed meanwhile, ns a unit.
    pub wall_ns: f64,
    /// How many units were done.
    pub units: u64,
}

/// Whose time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// That of the threads themselves.
    Cpu,
    /// Everybody's.
    Wall,
}

#[derive(Debug)]
struct Entry {
    workload: &'static str,
    variant: Variant,
    round: u32,
    sample: Sample,
}

/// All measurements of one run.
#[derive(Debug, Default)]
pub struct Results {
    entries: Vec<Entry>,
}

impl Results {
    /// Takes note of a measurement.
    pub fn add(&mut self, workload: &'static str, variant: Variant, round: u32, sample: Sample) {
        self.entries.push(Entry { workload, variant, round, sample });
    }

    /// Whether a workload was measured.
    pub fn has_workload(&self, workload: &str) -> bool {
        self.entries.iter().any(|entry| entry.workload == workload)
    }

    /// Whether a variant was measured.
    pub fn has_variant(&self, variant: Variant) -> bool {
        self.entries.iter().any(|entry| entry.variant == variant)
    }

    /// Time a unit, ns.
    pub fn time(&self, clock: Clock, workload: &str, variant: Variant) -> Option<Summary> {
        Summary::of(self.of(workload, variant).map(|(_, sample)| sample.time(clock)))
    }

    /// CPU time under one variant by that under another.
    pub fn ratio(&self, workload: &str, variant: Variant, to: Variant) -> Option<Summary> {
        Summary::of(self.of(workload, variant).filter_map(|(round, sample)| {
            let (_, base) = self.of(workload, to).find(|(other, _)| *other == round)?;
            Some(sample.cpu_ns / base.cpu_ns)
        }))
    }

    fn of(&self, workload: &str, variant: Variant) -> impl Iterator<Item = (u32, Sample)> {
        self.entries
            .iter()
            .filter(move |entry| entry.workload == workload && entry.variant == variant)
            .map(|entry| (entry.round, entry.sample))
    }
}

impl Sample {
    fn time(&self, clock: Clock) -> f64 {
        match clock {
            Clock::Cpu => self.cpu_ns,
            Clock::Wall => self.wall_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Results, Sample, Variant};

    fn results(samples: &[(Variant, u32, f64)]) -> Results {
        let mut results = Results::default();
        for (variant, round, cpu_ns) in samples {
            results.add("flat", *variant, *round, Sample { cpu_ns: *cpu_ns, wall_ns: 2.0 * cpu_ns, units: 1 });
        }
        results
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The machine is half as fast in the second round. Ratios between measurements of different rounds would be 0.75 and
        // 3.
        let results = results(&[
            (Variant::Floor, 0, 100.0),
            (Variant::Full, 0, 150.0),
            (Variant::Floor, 1, 200.0),
            (Variant::Full, 1, 300.0),
        ]);
        let ratio = results.ratio("flat", Variant::Full, Variant::Floor).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (1.5, 1.5, 1.5));
    }

    #[test]
    fn rounds_without_a_counterpart_count_for_nothing() {
        let results = results(&[(Variant::Floor, 1, 100.0), (Variant::Full, 0, 900.0), (Variant::Full, 1, 150.0)]);
        assert_eq!(results.ratio("flat", Variant::Full, Variant::Floor).map(|it| it.count), Some(1));
        assert_eq!(results.ratio("flat", Variant::Full, Variant::Bare), None);
    }

    #[test]
    fn both_clocks_are_kept() {
        let results = results(&[(Variant::Bare, 0, 5.0)]);
        assert_eq!(results.time(Clock::Cpu, "flat", Variant::Bare).map(|it| it.median), Some(5.0));
        assert_eq!(results.time(Clock::Wall, "flat", Variant::Bare).map(|it| it.median), Some(10.0));
    }
}
