//! What suppressions hide of a site: its blocks stay in every sum, reports leave them out of their lists, and a gate does not
//! count them.
//!
//! A leak check divides a site's blocks into kinds, and a rule hides whole kinds. So the hidden amounts follow from the verdict, and
//! still do after blocks were filtered. Without a leak check a rule hides the whole site.

use std::collections::HashMap;
use std::sync::Arc;

use super::snapshot::{Block, Site, Snapshot};
use super::suppression::{Hidden, Kinds, Rule};
use super::verdict::{Reachability, Tally, Verdict};

/// What a rule hides in a whole snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppressed {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The blocks that it hides.
    pub hidden: Tally,
    /// Those of them that are lost.
    pub lost: Tally,
    /// The sites that they belong to.
    pub sites: u64,
}

impl Site {
    /// The kinds of its outstanding blocks; all where they were not judged.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        let Some(verdict) = &self.verdict else { return Kinds::ALL };
        Reachability::ALL.into_iter().filter(|kind| verdict.of(*kind).count > 0).collect()
    }

    /// Its outstanding blocks that a rule hides.
    #[must_use]
    pub fn hidden_by(&self, hidden: &Hidden) -> Tally {
        match &self.verdict {
            Some(verdict) => verdict.sum(hidden.kinds),
            None => Tally { bytes: self.outstanding_bytes, count: self.outstanding_count },
        }
    }

    /// Its outstanding blocks that reports show: those that no rule hides.
    #[must_use]
    pub fn shown(&self) -> Tally {
        let hidden = self.suppressed.iter().fold(Tally::default(), |mut sum, hidden| {
            sum.join(self.hidden_by(hidden));
            sum
        });
        Tally {
            bytes: self.outstanding_bytes.saturating_sub(hidden.bytes),
            count: self.outstanding_count.saturating_sub(hidden.count),
        }
    }

    /// The verdict on the blocks that no rule hides; `None` where they were not judged.
    #[must_use]
    pub fn shown_verdict(&self) -> Option<Verdict> {
        let mut verdict = self.verdict?;
        for hidden in &self.suppressed {
            verdict.clear(hidden.kinds);
        }
        Some(verdict)
    }

    /// Whether a block of it is hidden.
    #[must_use]
    pub fn hides(&self, block: &Block) -> bool {
        let is_hidden = |hidden: &Hidden| block.verdict.is_none_or(|kind| hidden.kinds.contains(kind));
        self.suppressed.iter().any(is_hidden)
    }
}

impl Snapshot {
    /// What each rule hides, in the order in which the sites name them first.
    #[must_use]
    pub fn suppressed(&self) -> Vec<Suppressed> {
        let mut all: Vec<Suppressed> = Vec::new();
        let mut places = HashMap::new();
        for site in &self.sites {
            for hidden in &site.suppressed {
                let tally = site.hidden_by(hidden);
                if tally.count == 0 {
                    continue;
                }
                let lost = site.verdict.map_or(Tally::default(), |verdict| verdict.sum(hidden.kinds.and(Kinds::LOST)));
                let place = *places.entry(Arc::as_ptr(&hidden.rule)).or_insert_with(|| {
                    let rule = Arc::clone(&hidden.rule);
                    all.push(Suppressed { rule, hidden: Tally::default(), lost: Tally::default(), sites: 0 });
                    all.len() - 1
                });
                if let Some(sum) = all.get_mut(place) {
                    sum.hidden.join(tally);
                    sum.lost.join(lost);
                    sum.sites += 1;
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(verdict: Option<Verdict>, suppressed: Vec<Hidden>) -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,
            "target":{"mode":"pid","pids":[7]},"sites":[{"pid":7,"outstanding_bytes":100,"outstanding_count":3}]}"#;
        let mut snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        snapshot.sites[0].verdict = verdict;
        snapshot.sites[0].suppressed = suppressed;
        snapshot
    }

    fn hidden(name: &str, kinds: impl Into<Kinds>) -> Hidden {
        let rule = Rule { name: name.to_owned(), source: "a.supp".to_owned() };
        Hidden { rule: Arc::new(rule), kinds: kinds.into() }
    }

    fn tally(bytes: u64, count: u64) -> Tally {
        Tally { bytes, count }
    }

    #[test]
    fn rules_hide_whole_kinds_where_there_is_a_verdict() {
        let verdict = Verdict {
            definitely_lost: tally(10, 1),
            indirectly_lost: tally(20, 1),
            still_reachable: tally(70, 1),
            ..Verdict::default()
        };
        let rules =
            vec![hidden("head", [Reachability::DefinitelyLost]), hidden("rest", [Reachability::IndirectlyLost])];
        let snapshot = site(Some(verdict), rules);
        let site = &snapshot.sites[0];
        assert_eq!(site.shown(), tally(70, 1));
        assert_eq!(site.shown_verdict().unwrap().lost(), Tally::default());
        let sums: Vec<_> = snapshot.suppressed().iter().map(|it| (it.hidden, it.lost, it.sites)).collect();
        assert_eq!(sums, [(tally(10, 1), tally(10, 1), 1), (tally(20, 1), tally(20, 1), 1)]);
        assert_eq!(snapshot.leaked_bytes(), 0);
    }

    #[test]
    fn rules_hide_everything_where_nothing_was_judged() {
        let snapshot = site(None, vec![hidden("all", [Reachability::DefinitelyLost])]);
        assert_eq!(snapshot.sites[0].shown(), Tally::default());
        assert_eq!(snapshot.suppressed()[0].hidden, tally(100, 3));
        assert_eq!(snapshot.leaked_bytes(), 0);
        assert_eq!(snapshot.totals().bytes, 100, "totals keep counting everything");
    }
}
