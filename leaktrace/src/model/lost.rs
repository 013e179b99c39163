//! `--only lost` on a finished snapshot: the lost blocks alone.

use std::time::Duration;

use super::request::Only;
use super::snapshot::{Process, Site, Snapshot};
use super::sums::histograms;
use super::suppression::Kinds;
use super::verdict::Tally;

/// The snapshot has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it holds no leak check, by which --only lost chooses; record it with --pid or a COMMAND, without --leak-check=no and \
     --sample-bytes"
)]
pub struct NoVerdict;

impl Snapshot {
    /// Whether a process' blocks were judged.
    #[must_use]
    pub fn has_verdict(&self) -> bool {
        self.processes.iter().any(|process| process.leak_check.is_some())
            || self.sites.iter().any(|site| site.verdict.is_some())
    }

    /// The snapshot of the lost blocks alone. What was not judged is left out, with a warning.
    #[must_use]
    pub fn only_lost(&self) -> Self {
        let mut lost = Self { warnings: Vec::new(), ..self.clone() };
        lost.warnings.extend(self.not_judged());
        lost.warnings.extend(self.warnings.iter().cloned());
        lost.sites.retain_mut(|site| {
            retain_lost(site);
            site.is_outstanding()
        });
        lost.recount_processes();
        lost.sort_sites(self.options.sort);
        lost.options.only = Some(Only::Lost);
        lost
    }

    /// What to say of outstanding blocks that nobody has judged.
    fn not_judged(&self) -> Option<String> {
        let is_open = |process: &&Process| process.leak_check.is_none() && process.outstanding_count > 0;
        let open: Vec<_> = self.processes.iter().filter(is_open).collect();
        let bytes = open.iter().fold(0u64, |sum, process| sum.saturating_add(process.outstanding_bytes));
        match open.as_slice() {
            [] => None,
            _ if !self.is_final => Some(
                "--only lost: the leak check runs at the last report, so that there is nothing to show yet".to_owned(),
            ),
            [one] => Some(format!(
                "--only lost leaves out pid {}, which no leak check has judged: {bytes} bytes outstanding; name it with --pid",
                one.pid
            )),
            several => Some(format!(
                "--only lost leaves out {} processes that no leak check has judged: {bytes} bytes outstanding; name them with --pid",
                several.len()
            )),
        }
    }
}

/// Leaves a site only its lost blocks; of those it is not known how old they are, unless they are listed, or all are lost.
fn retain_lost(site: &mut Site) {
    let before = site.outstanding_count;
    let lost = site.verdict.map_or_else(Default::default, |verdict| verdict.sum(Kinds::LOST));
    (site.outstanding_bytes, site.outstanding_count) = (lost.bytes, lost.count);
    site.ignored = Tally::default();
    if let Some(verdict) = &mut site.verdict {
        verdict.clear(Kinds::ALL.without(Kinds::LOST));
    }
    let ages: Option<Vec<Duration>> = site.blocks.as_mut().map(|blocks| {
        blocks.retain(|block| block.verdict.is_some_and(|kind| Kinds::LOST.contains(kind)));
        blocks.iter().map(|block| block.age).collect()
    });
    match ages {
        Some(ages) => (site.oldest, site.youngest) = (ages.iter().max().copied(), ages.iter().min().copied()),
        None if site.outstanding_count < before => {
            (site.oldest, site.youngest) = (None, None);
            (site.ages, site.sizes) = Default::default();
        }
        None => {}
    }
    if let Some(blocks) = &site.blocks {
        (site.ages, site.sizes) = histograms(blocks, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":10,"final":true,
            "target":{"mode":"pid","pids":[7]},
            "processes":[{"pid":7,"outstanding_bytes":500,"outstanding_count":4,
                "leak_check":{"mode":"exact","pause_ms":1,"scanned_bytes":4096,"passes":1}},
                {"pid":8,"outstanding_bytes":9,"outstanding_count":1}],
            "sites":[
              {"pid":7,"outstanding_bytes":300,"outstanding_count":1,"oldest_s":5,"youngest_s":5,
               "verdict":{"still_reachable":{"bytes":300,"count":1}}},
              {"pid":7,"outstanding_bytes":150,"outstanding_count":2,"oldest_s":9,"youngest_s":1,
               "verdict":{"definitely_lost":{"bytes":70,"count":1},"possibly_lost":{"bytes":80,"count":1}},
               "blocks":[{"address":"0x1000","size":70,"age_s":9,"verdict":"definitely_lost"},
                         {"address":"0x2000","size":80,"age_s":1,"verdict":"possibly_lost"}]},
              {"pid":7,"outstanding_bytes":50,"outstanding_count":1,"oldest_s":3,"youngest_s":3,
               "verdict":{"indirectly_lost":{"bytes":50,"count":1}}},
              {"pid":8,"outstanding_bytes":9,"outstanding_count":1}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_lost_bytes_remain_in_sites_processes_and_blocks() {
        let all = snapshot();
        let lost = all.only_lost();
        let numbers: Vec<_> = lost.sites.iter().map(|s| (s.outstanding_bytes, s.outstanding_count)).collect();
        assert_eq!(numbers, [(70, 1), (50, 1)]);
        assert_eq!(lost.sites[0].youngest, Some(Duration::from_secs(9)));
        assert_eq!(lost.sites[0].blocks.as_ref().unwrap().len(), 1);
        assert_eq!(lost.sites[1].oldest, Some(Duration::from_secs(3)), "all of its blocks are lost");
        assert_eq!((lost.processes[0].outstanding_bytes, lost.processes[0].outstanding_count), (120, 2));
        assert_eq!(lost.options.only, Some(Only::Lost));
        assert_eq!((lost.leaked_bytes(), all.leaked_bytes()), (120, 129), "the gate is asked before");
        assert_eq!(
            lost.warnings,
            ["--only lost leaves out pid 8, which no leak check has judged: 9 bytes outstanding; name it with --pid"]
        );
    }

    #[test]
    fn before_the_leak_check_that_is_said() {
        let mut early = Snapshot { is_final: false, ..snapshot() };
        early.processes[0].leak_check = None;
        early.sites.iter_mut().for_each(|site| site.verdict = None);
        assert!(!early.has_verdict());
        let lost = early.only_lost();
        assert!(lost.sites.is_empty());
        assert_eq!(
            lost.warnings,
            ["--only lost: the leak check runs at the last report, so that there is nothing to show yet"]
        );
    }
}
