//! Which sites a report is about and in which order: `--older-than` and `--sort` on a finished snapshot.

use std::cmp::Ordering;
use std::time::Duration;

use super::estimate::Spread;
use super::request::SortKey;
use super::snapshot::{Block, Site, Snapshot};
use super::sums::{histograms, outstanding};
use super::types::Address;
use super::verdict::{Tally, Verdict};
use crate::model::sampling::Weights;

/// The snapshot does not carry the blocks that filtering by age needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot holds no blocks; record it with --show-allocs to filter by age or to show blocks")]
pub struct NoBlocks;

impl Snapshot {
    /// Puts the sites in the order of `key`, largest (or oldest) first; equal ones in an order that depends on the
    /// snapshot alone.
    pub fn sort_sites(&mut self, key: SortKey) {
        self.options.sort = key;
        self.sites.sort_by(|a, b| compare(key, a, b));
    }

    /// Leaves out every block younger than `age`; outstanding numbers then count the blocks that remain.
    ///
    /// # Errors
    /// [`NoBlocks`] where the snapshot was taken without them; nothing is changed then.
    pub fn retain_older_than(&mut self, age: Duration) -> Result<(), NoBlocks> {
        if !self.has_blocks() {
            return Err(NoBlocks);
        }
        let weights = Weights::of_trace(&self.options);
        for site in &mut self.sites {
            let Some(blocks) = &mut site.blocks else { continue };
            blocks.retain(|block| block.age >= age);
            recount(site, weights.as_ref());
        }
        self.recount_processes();
        if let Some(weights) = &weights {
            self.restate_intervals(weights);
        }
        self.options.older_than = self.options.older_than.max(age);
        Ok(())
    }

    /// Computes the intervals of the estimates from the blocks.
    fn restate_intervals(&mut self, weights: &Weights) {
        let mut total = Spread::default();
        let mut spreads = vec![Spread::default(); self.processes.len()];
        for index in 0..self.sites.len() {
            let owner = self.process_index(&self.sites[index]);
            let site = &mut self.sites[index];
            let mut spread = Spread::default();
            let blocks = site.blocks.iter().flatten();
            blocks.for_each(|block| spread.add(block.size, weights.of(block.size, block.weight).0));
            site.outstanding_bytes_ci95 = Some(spread.interval(weights.mean()));
            total.merge(&spread);
            if let Some(sum) = owner.and_then(|owner| spreads.get_mut(owner)) {
                sum.merge(&spread);
            }
        }
        for (process, spread) in self.processes.iter_mut().zip(spreads) {
            process.outstanding_bytes_ci95 = Some(spread.interval(weights.mean()));
        }
        self.outstanding_bytes_ci95 = Some(total.interval(weights.mean()));
    }

    /// Computes the processes' outstanding numbers from their sites.
    pub(super) fn recount_processes(&mut self) {
        let mut sums = vec![(0u64, 0u64); self.processes.len()];
        for site in &self.sites {
            if let Some((bytes, count)) = self.process_index(site).and_then(|index| sums.get_mut(index)) {
                *bytes = bytes.saturating_add(site.outstanding_bytes);
                *count = count.saturating_add(site.outstanding_count);
            }
        }
        for (process, (bytes, count)) in self.processes.iter_mut().zip(sums) {
            process.outstanding_bytes = bytes;
            process.outstanding_count = count;
        }
    }
}

/// Computes a site's outstanding numbers, ages and verdict from its blocks.
fn recount(site: &mut Site, weights: Option<&Weights>) {
    let blocks = site.blocks.as_deref().unwrap_or_default();
    (site.outstanding_bytes, site.outstanding_count) = outstanding(blocks, weights);
    site.oldest = blocks.iter().map(|block| block.age).max();
    site.youngest = blocks.iter().map(|block| block.age).min();
    (site.ages, site.sizes) = histograms(blocks, weights);
    let ignored: Vec<_> = blocks.iter().filter(|block| block.ignored).cloned().collect();
    let (bytes, count) = outstanding(&ignored, weights);
    site.ignored = Tally { bytes, count };
    if site.verdict.is_some() {
        site.verdict = Some(verdict(blocks));
    }
}

fn verdict(blocks: &[Block]) -> Verdict {
    let mut verdict = Verdict::default();
    for block in blocks {
        if let Some(kind) = block.verdict {
            verdict.add(kind, block.size);
        }
    }
    verdict
}

fn compare(key: SortKey, a: &Site, b: &Site) -> Ordering {
    let by_key = match key {
        SortKey::Bytes | SortKey::Unknown => Ordering::Equal,
        SortKey::Count => b.outstanding_count.cmp(&a.outstanding_count),
        // None, nothing outstanding, is below every age.
        SortKey::Age => b.oldest.cmp(&a.oldest),
        SortKey::Growth => {
            let ((one, rate), (other, other_rate)) = (a.growth_order(), b.growth_order());
            other.cmp(&one).then(other_rate.total_cmp(&rate))
        }
    };
    by_key
        .then_with(|| b.outstanding_bytes.cmp(&a.outstanding_bytes))
        .then_with(|| b.outstanding_count.cmp(&a.outstanding_count))
        .then_with(|| (a.pid, a.process).cmp(&(b.pid, b.process)))
        .then_with(|| addresses(a).cmp(addresses(b)))
}

fn addresses(site: &Site) -> impl Iterator<Item = Address> {
    site.stack.iter().map(|frame| frame.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sites of pid 7: 300 bytes in 1 block of 5 s, and 200 bytes in 2 blocks of 9 s and 1 s.
    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":10,
            "target":{"mode":"pid","pids":[7]},
            "processes":[{"pid":7,"outstanding_bytes":500,"outstanding_count":3}],
            "sites":[
              {"pid":7,"outstanding_bytes":200,"outstanding_count":2,"oldest_s":9,"youngest_s":1,
               "verdict":{"definitely_lost":{"bytes":120,"count":1},"still_reachable":{"bytes":80,"count":1}},
               "blocks":[{"address":"0x1000","size":120,"age_s":9,"verdict":"definitely_lost"},
                         {"address":"0x2000","size":80,"age_s":1,"verdict":"still_reachable"}]},
              {"pid":7,"outstanding_bytes":300,"outstanding_count":1,"oldest_s":5,"youngest_s":5,
               "blocks":[{"address":"0x3000","size":300,"age_s":5}]}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    fn bytes_in_order(key: SortKey) -> Vec<u64> {
        let mut snapshot = snapshot();
        snapshot.sort_sites(key);
        snapshot.sites.iter().map(|site| site.outstanding_bytes).collect()
    }

    #[test]
    fn each_key_puts_its_largest_first() {
        assert_eq!(bytes_in_order(SortKey::Bytes), [300, 200]);
        assert_eq!(bytes_in_order(SortKey::Count), [200, 300]);
        assert_eq!(bytes_in_order(SortKey::Age), [200, 300]);
    }

    #[test]
    fn what_is_younger_leaves_sites_processes_and_verdict() {
        let mut snapshot = snapshot();
        snapshot.retain_older_than(Duration::from_secs(5)).unwrap();
        let numbers: Vec<_> = snapshot.sites.iter().map(|s| (s.outstanding_bytes, s.outstanding_count)).collect();
        assert_eq!(numbers, [(120, 1), (300, 1)]);
        assert_eq!(snapshot.sites[0].youngest, Some(Duration::from_secs(9)));
        let verdict = snapshot.sites[0].verdict.unwrap();
        assert_eq!((verdict.definitely_lost.bytes, verdict.still_reachable.bytes), (120, 0));
        assert_eq!((snapshot.processes[0].outstanding_bytes, snapshot.processes[0].outstanding_count), (420, 2));
        assert_eq!(snapshot.options.older_than, Duration::from_secs(5));
        snapshot.retain_older_than(Duration::from_mins(1)).unwrap();
        assert_eq!(snapshot.totals().count, 0);
        assert_eq!(snapshot.sites[0].oldest, None);
    }

    #[test]
    fn without_blocks_age_cannot_be_filtered() {
        let mut snapshot = snapshot();
        snapshot.sites[1].blocks = None;
        let before = snapshot.clone();
        assert_eq!(snapshot.retain_older_than(Duration::from_secs(5)), Err(NoBlocks));
        assert_eq!(snapshot, before);
    }
}
