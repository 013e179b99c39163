//! What suppressions leave out of a report, in words.

use std::fmt::Write;

use super::estimates;
use super::human::{Bytes, counted};
use crate::clean::{clean, elide};
use crate::model::{Snapshot, Suppressed, Tally};

/// Rules that a line names.
const NAMED: usize = 3;
/// Characters of a rule's or a file's name that a line shows.
const LONGEST: usize = 60;

/// What rules of one kind of source leave out.
struct Sum<'a> {
    rules: Vec<&'a Suppressed>,
    hidden: Tally,
    lost: Tally,
    sites: u64,
}

impl<'a> Sum<'a> {
    fn of(all: &'a [Suppressed], is_built_in: bool) -> Option<Self> {
        let mut rules: Vec<_> = all.iter().filter(|it| it.rule.is_built_in() == is_built_in).collect();
        rules.sort_by_key(|it| std::cmp::Reverse(it.hidden.bytes));
        let mut sum = Self { rules, hidden: Tally::default(), lost: Tally::default(), sites: 0 };
        for it in &sum.rules {
            sum.hidden.join(it.hidden);
            sum.lost.join(it.lost);
            sum.sites = sum.sites.saturating_add(it.sites);
        }
        (!sum.rules.is_empty()).then_some(sum)
    }

    /// The sums, and the rules that they are of.
    fn line(&self, begin: &str, end: &str, sampled: bool) -> String {
        let bytes = estimates::bytes(self.hidden.bytes, sampled, None);
        let count = estimates::allocations(self.hidden.count, sampled);
        let mut line = format!("{begin}: {bytes} in {count} at {}", counted(self.sites, "site"));
        // A string takes any text.
        let _ = match self.lost.count {
            0 => Ok(()),
            count if count == self.hidden.count => line.write_str(", all of it lost"),
            _ => write!(line, ", {} of it lost", Bytes(self.lost.bytes)),
        };
        // Generated files give all rules one name.
        let mut names: Vec<_> = self.rules.iter().map(|it| it.rule.name.as_str()).collect();
        names.dedup();
        let names = listed(names.into_iter());
        let _ = write!(line, " ({names}); {end}");
        line
    }
}

/// One line for what is known to be harmless, and one for what the user's files name.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let all = snapshot.suppressed();
    let harmless = Sum::of(&all, true).map(|sum| {
        let end = "in the totals, not listed: see --no-default-suppressions";
        sum.line("known harmless", end, snapshot.sampled)
    });
    let users = Sum::of(&all, false).map(|sum| {
        let mut files: Vec<_> = sum.rules.iter().map(|it| it.rule.source.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        let begin = format!("suppressed by {}", listed(files.into_iter()));
        sum.line(&begin, "in the totals, not listed", snapshot.sampled)
    });
    harmless.into_iter().chain(users).collect()
}

/// A few words for a subtitle.
pub fn short(snapshot: &Snapshot) -> Option<String> {
    let all = snapshot.suppressed();
    let words = |is_built_in, what: &str| {
        let sum = Sum::of(&all, is_built_in)?;
        Some(format!("{} {what}", estimates::bytes(sum.hidden.bytes, snapshot.sampled, None)))
    };
    let parts: Vec<_> = [words(true, "known harmless"), words(false, "suppressed")].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
}

/// What no rule hides, summed over all sites.
pub fn shown(snapshot: &Snapshot) -> Tally {
    snapshot.sites.iter().fold(Tally::default(), |mut sum, site| {
        sum.join(site.shown());
        sum
    })
}

/// The first few names, safe to print, and how many more there are.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut shown: Vec<_> = names.take(NAMED).map(|name| elide(&clean(name), LONGEST)).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"target":{"mode":"pid","pids":[7]},
            "suppressions":[{"name":"pool","source":"built-in"},{"name":"leak:f","source":"/etc/a\u001b.supp"}],
            "sites":[
                {"pid":7,"outstanding_bytes":72704,"outstanding_count":1,"suppressed_by":[{"rule":0}]},
                {"pid":7,"outstanding_bytes":48,"outstanding_count":2,"suppressed_by":[{"rule":1,"kinds":["definitely_lost"]}],
                    "verdict":{"definitely_lost":{"bytes":16,"count":1},"still_reachable":{"bytes":32,"count":1}}}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_kind_of_source_has_a_line() {
        assert_eq!(
            lines(&snapshot()),
            [
                "known harmless: 71.0 KiB in 1 allocation at 1 site (pool); in the totals, not listed: see --no-default-suppressions",
                "suppressed by /etc/a?.supp: 16 B in 1 allocation at 1 site, all of it lost (leak:f); in the totals, not listed",
            ]
        );
        assert_eq!(short(&snapshot()).unwrap(), "left out: 71.0 KiB known harmless, 16 B suppressed");
        assert_eq!(shown(&snapshot()), Tally { bytes: 32, count: 1 });
    }

    #[test]
    fn only_a_few_rules_are_named() {
        assert_eq!(listed(["a", "b", "c", "d", "e"].into_iter()), "a, b, c, 2 more");
    }
}
