//! What counts as leaked, for whoever fails by it.
//!
//! In: a snapshot. Out: bytes.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::{Pid, Process, Site, Snapshot};

impl Snapshot {
    /// Bytes that count as leaked: definitely and indirectly lost where a leak check ran, otherwise all outstanding; not what
    /// suppressions hide, nor what the program calls no leak, nor what ended when its process executed another program.
    #[must_use]
    pub fn leaked_bytes(&self) -> u64 {
        let lasting = self.lasting();
        let leaked = |site: &Site| match site.shown_verdict() {
            Some(verdict) => verdict.lost().bytes,
            None => self.unjudged(site, &lasting),
        };
        self.sites.iter().fold(0, |sum, site| sum.saturating_add(leaked(site)))
    }

    /// What processes on whose blocks there is no verdict hold of [`Snapshot::leaked_bytes`], in bytes by process.
    #[must_use]
    pub fn unjudged_bytes(&self) -> BTreeMap<Pid, u64> {
        let lasting = self.lasting();
        let mut by_process = BTreeMap::new();
        for site in self.sites.iter().filter(|site| site.verdict.is_none()) {
            let bytes = self.unjudged(site, &lasting);
            if bytes > 0 {
                let sum: &mut u64 = by_process.entry(site.pid).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        by_process
    }

    /// What a site that was not judged holds, unless its process lived on when that life ended: by executing another program.
    fn unjudged(&self, site: &Site, lasting: &HashSet<(Pid, Timestamp)>) -> u64 {
        let was_replaced = self.process_of(site).is_some_and(|life| {
            let process = life.start_time.map(|start| (life.pid, start));
            !lasts(life) && life.merged == 0 && process.is_some_and(|process| lasting.contains(&process))
        });
        if was_replaced { 0 } else { site.shown().bytes.saturating_sub(site.ignored.bytes) }
    }

    /// The processes of which there is a life that still runs, or whose end is that of the process.
    fn lasting(&self) -> HashSet<(Pid, Timestamp)> {
        let lives = self.processes.iter().filter(|life| lasts(life));
        lives.filter_map(|life| Some((life.pid, life.start_time?))).collect()
    }
}

/// Whether a life still runs, or is known to have ended with its process.
fn lasts(life: &Process) -> bool {
    !life.exited || life.exit_status.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(processes: &str, sites: &str) -> Snapshot {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{{"mode":"command"}},
            "processes":[{processes}],"sites":[{sites}]}}"#
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    const JUDGED: &str = r#"{"pid":7,"outstanding_bytes":100,"outstanding_count":3,"verdict":
        {"definitely_lost":{"bytes":30,"count":1},"indirectly_lost":{"bytes":6,"count":1},"still_reachable":{"bytes":64,"count":1}}}"#;

    #[test]
    fn leaked_bytes_follow_the_leak_check_where_one_ran() {
        let unjudged = r#"{"pid":8,"outstanding_bytes":5,"outstanding_count":1}"#;
        let found = snapshot("", &[JUDGED, unjudged].join(","));
        assert_eq!(found.leaked_bytes(), 36 + 5);
        assert_eq!(found.unjudged_bytes(), BTreeMap::from([(Pid(8), 5)]));
    }

    #[test]
    fn what_ended_with_an_exec_is_not_leaked() {
        let held = r#""outstanding_bytes":5,"outstanding_count":1"#;
        let life = |end: &str| format!(r#"{{"pid":8,"start_time":"2026-01-31T12:00:00Z","comm":"env",{held},{end}}}"#);
        let site = format!(r#"{{"pid":8,"process":0,{held}}}"#);
        let lives = |ends: &[&str]| ends.iter().map(|end| life(end)).collect::<Vec<_>>().join(",");
        let leaked = |ends: &[&str]| snapshot(&lives(ends), &site).leaked_bytes();
        let (unknown, ended, runs) = (r#""exited":true"#, r#""exited":true,"exit_status":0"#, r#""exited":false"#);
        assert_eq!(leaked(&[unknown]), 5, "how it ended is not known");
        assert_eq!(leaked(&[ended]), 5);
        assert_eq!(leaked(&[unknown, ended]), 0);
        assert_eq!(leaked(&[unknown, runs]), 0);
        assert_eq!(leaked(&[unknown, unknown]), 5, "which of them came first is not known");
    }
}
