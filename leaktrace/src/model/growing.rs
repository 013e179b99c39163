//! `--only growing` on a finished snapshot: the sites that keep growing.

use super::growth::{GrowthVerdict, Trend};
use super::request::Only;
use super::snapshot::{Site, Snapshot};

impl Site {
    /// Whether it keeps growing: it is judged to leak, or there is no decision and it rises. What is judged steady does not, whatever
    /// its shape: one large block is a step, and a cache rises until it is full.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        let rises = matches!(self.trend, Some(Trend::Growing | Trend::Steps));
        match self.growth.as_ref().map(|growth| growth.verdict) {
            Some(GrowthVerdict::Leak) => true,
            Some(GrowthVerdict::Steady) => false,
            Some(GrowthVerdict::Undecided | GrowthVerdict::Unknown) => self.growth_rate() > 0.0 || rises,
            None => rises,
        }
    }

    /// How surely it keeps growing, and by how many bytes a second, in the order of `--sort growth`: leaks; what there is no decision
    /// on, with a rate; what of that has none, and what was not judged, by the slope of its outstanding bytes; the rest.
    pub(super) fn growth_order(&self) -> (u8, f64) {
        let (verdict, rate) = (self.growth.as_ref().map(|growth| growth.verdict), self.growth_rate());
        match verdict {
            Some(GrowthVerdict::Leak) => (3, rate),
            Some(GrowthVerdict::Steady) => (0, 0.0),
            _ if rate > 0.0 => (2, rate),
            _ if self.growth_bytes_per_s > 0.0 => (1, self.growth_bytes_per_s),
            _ => (0, 0.0),
        }
    }
}

impl Snapshot {
    /// Whether the growth of any site was followed.
    #[must_use]
    pub fn has_growth(&self) -> bool {
        self.sites.iter().any(|site| site.growth.is_some())
    }

    /// The snapshot of the growing sites alone. Where growth was not followed, a warning says so.
    #[must_use]
    pub fn only_growing(&self) -> Self {
        let mut growing = self.clone();
        if !self.has_growth() && !self.sites.is_empty() {
            let why = "--only growing: the growth of these sites was not followed, so that there is nothing to show";
            growing.warnings.insert(0, why.to_owned());
        }
        growing.sites.retain(Site::is_growing);
        growing.recount_processes();
        growing.options.only = Some(Only::Growing);
        growing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SortKey;

    /// A snapshot of one process with these sites.
    fn snapshot(sites: &str) -> Snapshot {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":99,"target":{{"mode":"pid"}},
            "processes":[{{"pid":7,"outstanding_bytes":96,"outstanding_count":2}}],"sites":[{sites}]}}"#
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    fn site(more: &str, function: &str) -> String {
        format!(
            r#"{{"pid":7,"process":0,"outstanding_bytes":48,"outstanding_count":1{more},
            "stack":[{{"function":"operator new(unsigned long)","address":"0x1"}},{{"function":"{function}","address":"0x2"}}]}}"#
        )
    }

    const LEAK: &str = r#","growth":{"verdict":"leak","bytes_per_s":8.0,"reason":"blocks stay"}"#;
    const STEADY: &str = r#","growth":{"verdict":"steady","reason":"all blocks are freed"}"#;

    #[test]
    fn only_what_grows_stays_and_a_snapshot_without_growth_says_so() {
        let growing = snapshot(&[site(LEAK, "f"), site(STEADY, "g")].join(",")).only_growing();
        assert_eq!((growing.sites.len(), growing.processes[0].outstanding_bytes), (1, 48));
        assert!(growing.warnings.is_empty());
        let rising = r#","trend":"steps","growth":{"verdict":"undecided"}"#;
        assert_eq!(snapshot(&site(rising, "f")).only_growing().sites.len(), 1);
        // One large block is a step, and rises by its slope; it is steady all the same.
        let once = r#","trend":"steps","growth_bytes_per_s":8e6,"growth":{"verdict":"steady"}"#;
        assert!(snapshot(&site(once, "f")).only_growing().sites.is_empty());
        let open = r#","trend":"stable","growth":{"verdict":"undecided","bytes_per_s":1.5}"#;
        assert_eq!(snapshot(&site(open, "f")).only_growing().sites.len(), 1);
        assert_eq!(snapshot(&site(r#","trend":"growing""#, "f")).only_growing().sites.len(), 1, "without a verdict");
        let unknown = snapshot(&site("", "f")).only_growing();
        assert!(unknown.sites.is_empty() && unknown.warnings[0].contains("was not followed"));
    }

    #[test]
    fn leaks_come_first_and_what_is_steady_last() {
        let growth = |verdict: &str, rate: f64, slope: f64| {
            let growth = format!(r#""growth":{{"verdict":"{verdict}","bytes_per_s":{rate:.1}}}"#);
            format!(r#","growth_bytes_per_s":{slope:.1},{growth}"#)
        };
        let sites = [
            site(&growth("steady", 0.0, 8e6), "once"),
            site(&growth("undecided", 0.0, 9e6), "early"),
            site(&growth("undecided", 70.0, 1.0), "open"),
            site(&growth("leak", 60.0, 60.0), "leak"),
            site(r#","growth_bytes_per_s":1e7"#, "unjudged"),
            site(&growth("undecided", 0.0, -5.0), "falls"),
            site(&growth("leak", 61.0, 9.0), "larger"),
        ];
        let mut all = snapshot(&sites.join(","));
        all.sort_sites(SortKey::Growth);
        let order: Vec<_> = all.sites.iter().map(|site| site.stack[1].function.as_deref().unwrap()).collect();
        assert_eq!(order[..5], ["larger", "leak", "open", "unjudged", "early"]);
        // Of a file from before there were verdicts only the slopes are known.
        let early = [site(r#","growth_bytes_per_s":1.0"#, "f"), site(r#","growth_bytes_per_s":2.0"#, "g")];
        let mut all = snapshot(&early.join(","));
        all.sort_sites(SortKey::Growth);
        assert_eq!(all.sites[0].stack[1].function.as_deref(), Some("g"));
    }

    #[test]
    fn a_process_is_told_by_who_called_the_operator() {
        let mut two = snapshot(&[site(LEAK, "f"), site(STEADY, "g")].join(","));
        two.sum_growth();
        assert_eq!(two.processes[0].growth.as_ref().unwrap().reason, "at f: blocks stay");
        two.sites.remove(0);
        two.sum_growth();
        assert_eq!(two.processes[0].growth.as_ref().unwrap().reason, "no site keeps growing");
        let before = two.processes[0].growth.clone();
        two.sites.clear();
        two.sum_growth();
        assert_eq!(two.processes[0].growth, before, "nothing is known that is newer");
    }
}
