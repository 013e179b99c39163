//! `--only growing` on a finished snapshot: the sites that keep growing.

use super::growth::Trend;
use super::request::Only;
use super::snapshot::{Site, Snapshot};

impl Site {
    /// Whether it keeps growing: it is judged to leak, or its outstanding bytes rise throughout or in steps.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.leaks_by_growth() || matches!(self.trend, Some(Trend::Growing | Trend::Steps))
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
        let unknown = snapshot(&site("", "f")).only_growing();
        assert!(unknown.sites.is_empty() && unknown.warnings[0].contains("was not followed"));
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
