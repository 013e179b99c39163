//! Totals over a snapshot, and the check that its sites, blocks and processes agree.

use std::collections::BTreeMap;
use std::fmt;

use leaktrace_common::sampling::{BYTES_SHIFT, COUNT_SHIFT};

use super::histogram::Histogram;
use super::snapshot::{Block, Site, Snapshot};
use super::types::Pid;
use super::verdict::Tally;
use crate::model::sampling::{Weights, whole};

/// What a whole snapshot adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Outstanding bytes.
    pub bytes: u64,
    /// Outstanding allocations.
    pub count: u64,
    /// Sites with outstanding allocations.
    pub sites: usize,
    /// Allocations seen since tracing began, freed or not.
    pub alloc_count: u64,
}

/// Two numbers of a snapshot that must be equal and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumMismatch {
    /// The process.
    pub pid: Pid,
    /// What was compared, as `one side / other side`.
    pub what: &'static str,
    /// The first side.
    pub left: u64,
    /// The other side.
    pub right: u64,
}

impl fmt::Display for SumMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}: {} are {} / {}", self.pid, self.what, self.left, self.right)
    }
}

impl std::error::Error for SumMismatch {}

impl Snapshot {
    /// Sums over all sites; sites that are left out count as far as the processes' totals include them.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for site in &self.sites {
            totals.bytes = totals.bytes.saturating_add(site.outstanding_bytes);
            totals.count = totals.count.saturating_add(site.outstanding_count);
            totals.sites += usize::from(site.outstanding_count > 0);
        }
        // Sites with nothing outstanding may be left out, so the processes say how many there were.
        let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
        let of_sites = sum(&mut self.sites.iter().map(|site| site.alloc_count));
        totals.alloc_count = of_sites.max(sum(&mut self.processes.iter().map(|process| process.alloc_count)));
        totals
    }

    /// Checks that blocks, sites and processes agree, as far as each is exact: a site's blocks with its outstanding numbers,
    /// these with what it allocated and freed, and the sites of a pid with its processes. Blocks of a sample count with
    /// their weights. Meant for the last report: counters of a running process change while they are read.
    ///
    /// # Errors
    /// The first two numbers that differ.
    pub fn check_sums(&self) -> Result<(), SumMismatch> {
        let mut by_pid: BTreeMap<Pid, [u64; 6]> = BTreeMap::new();
        let weights = Weights::of_trace(&self.options);
        for site in &self.sites {
            self.check_site(site, weights.as_ref())?;
            add(
                by_pid.entry(site.pid).or_default(),
                [
                    site.outstanding_bytes,
                    site.outstanding_count,
                    site.alloc_bytes,
                    site.alloc_count,
                    site.free_bytes,
                    site.free_count,
                ],
            );
        }
        let mut processes: BTreeMap<Pid, [u64; 6]> = BTreeMap::new();
        for process in &self.processes {
            add(
                processes.entry(process.pid).or_default(),
                [
                    process.outstanding_bytes,
                    process.outstanding_count,
                    process.alloc_bytes,
                    process.alloc_count,
                    process.free_bytes,
                    process.free_count,
                ],
            );
        }
        for pid in by_pid.keys().chain(processes.keys()) {
            let sites = by_pid.get(pid).copied().unwrap_or_default();
            let process = processes.get(pid).copied().unwrap_or_default();
            // Sites that are left out have nothing outstanding, but contribute to the other sums.
            let compared = if self.sites_left_out > 0 { 2 } else { PROCESS_SUMS.len() };
            for (what, (left, right)) in PROCESS_SUMS.iter().zip(sites.into_iter().zip(process)).take(compared) {
                equal(*pid, what, left, right)?;
            }
        }
        Ok(())
    }

    fn check_site(&self, site: &Site, weights: Option<&Weights>) -> Result<(), SumMismatch> {
        if self.options.older_than.is_zero() && self.options.only.is_none() {
            let balance = |allocated: u64, freed: u64| allocated.wrapping_sub(freed);
            let bytes = balance(site.alloc_bytes, site.free_bytes);
            equal(site.pid, "bytes outstanding / allocated - freed of a site", site.outstanding_bytes, bytes)?;
            let count = balance(site.alloc_count, site.free_count);
            equal(site.pid, "allocations outstanding / made - freed of a site", site.outstanding_count, count)?;
        }
        if let Some(blocks) = &site.blocks {
            let (bytes, count) = outstanding(blocks, weights);
            equal(site.pid, "bytes of a site's blocks / of the site", bytes, site.outstanding_bytes)?;
            equal(site.pid, "number of a site's blocks / of the site", count, site.outstanding_count)?;
        }
        Ok(())
    }
}

/// How old and how large blocks are, each counted as what it stands for.
pub(super) fn histograms(blocks: &[Block], weights: Option<&Weights>) -> (Histogram, Histogram) {
    let (mut ages, mut sizes) = (Histogram::default(), Histogram::default());
    for block in blocks {
        let (bytes, count) = weights.map_or((block.size, 1), |weights| weights.of(block.size, block.weight));
        ages.add_age(block.age, Tally { bytes, count });
        sizes.add_size(block.size, Tally { bytes, count });
    }
    if weights.is_none() { (ages, sizes) } else { (ages.whole(), sizes.whole()) }
}

/// The bytes and allocations that blocks stand for: in a sample by their weights, else for themselves.
pub(super) fn outstanding(blocks: &[Block], weights: Option<&Weights>) -> (u64, u64) {
    let sum = blocks.iter().fold((0u64, 0u64), |(bytes, count), block| {
        let weight = weights.map_or((block.size, 1), |weights| weights.of(block.size, block.weight));
        (bytes.saturating_add(weight.0), count.saturating_add(weight.1))
    });
    if weights.is_some() { (whole(sum.0, BYTES_SHIFT), whole(sum.1, COUNT_SHIFT)) } else { sum }
}

const PROCESS_SUMS: [&str; 6] = [
    "outstanding bytes of its sites / of itself",
    "outstanding allocations of its sites / of itself",
    "allocated bytes of its sites / of itself",
    "allocations of its sites / of itself",
    "freed bytes of its sites / of itself",
    "frees of its sites / of itself",
];

fn add(sums: &mut [u64; 6], numbers: [u64; 6]) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum = sum.saturating_add(number);
    }
}

fn equal(pid: Pid, what: &'static str, left: u64, right: u64) -> Result<(), SumMismatch> {
    if left == right { Ok(()) } else { Err(SumMismatch { pid, what, left, right }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with one site of two blocks, 64 and 36 bytes outstanding of 150 allocated in 3.
    fn exact() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,
            "target":{"mode":"pid","pids":[7]},
            "processes":[{"pid":7,"comm":"a","outstanding_bytes":100,"outstanding_count":2,
                "alloc_bytes":150,"alloc_count":3,"free_bytes":50,"free_count":1}],
            "sites":[{"pid":7,"outstanding_bytes":100,"outstanding_count":2,
                "alloc_bytes":150,"alloc_count":3,"free_bytes":50,"free_count":1,
                "blocks":[{"address":"0x1000","size":64,"age_s":1},{"address":"0x2000","size":36,"age_s":0.5}]}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn agreeing_views_pass() {
        assert_eq!(exact().check_sums(), Ok(()));
        assert_eq!(exact().totals(), Totals { bytes: 100, count: 2, sites: 1, alloc_count: 3 });
    }

    #[test]
    fn each_disagreement_is_found() {
        let broken: [fn(&mut Snapshot); 7] = [
            |s| s.sites[0].blocks.as_mut().unwrap()[0].size = 65,
            |s| s.sites[0].blocks.as_mut().unwrap().truncate(1),
            |s| s.sites[0].free_bytes = 51,
            |s| s.sites[0].free_count = 0,
            |s| s.processes[0].outstanding_bytes = 99,
            |s| s.processes[0].alloc_count = 4,
            |s| s.processes.clear(),
        ];
        for (index, breaks) in broken.into_iter().enumerate() {
            let mut snapshot = exact();
            breaks(&mut snapshot);
            assert!(snapshot.check_sums().is_err(), "change {index} went unnoticed");
        }
        let mut snapshot = exact();
        snapshot.sites[0].blocks.as_mut().unwrap()[0].size = 65;
        let mismatch = snapshot.check_sums().unwrap_err();
        assert_eq!(mismatch.to_string(), "pid 7: bytes of a site's blocks / of the site are 101 / 100");
    }
}
