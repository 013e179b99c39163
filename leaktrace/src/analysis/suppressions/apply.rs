//! Marks the sites of a snapshot that rules match, and says what each rule hid.

use std::fmt;
use std::sync::Arc;

use super::matching::Matcher;
use super::rule::Rule;
use super::rules::Rules;
use crate::model::{self, Hidden, Kinds, Snapshot, Tally};

/// What rules did to a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// What the rules hid: those that hid something, and those of the user's that did not, in the order in which they were tried.
    pub rules: Vec<RuleUse>,
}

/// What a rule hid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleUse {
    /// The rule.
    pub rule: Arc<model::Rule>,
    /// The blocks that it hid.
    pub hidden: Tally,
    /// The sites that they belong to.
    pub sites: u64,
}

impl fmt::Display for RuleUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, hidden, sites } = self;
        write!(f, "suppression `{}` ({}) hid ", rule.name, rule.source)?;
        let plural = |number: u64| if number == 1 { "" } else { "s" };
        match hidden {
            Tally { count: 0, .. } => f.write_str("nothing"),
            Tally { bytes, count } => write!(
                f,
                "{bytes} byte{} in {count} allocation{} at {sites} site{}",
                plural(*bytes),
                plural(*count),
                plural(*sites)
            ),
        }
    }
}

impl Rules {
    /// Marks what the rules hide in a snapshot. Each kind of a site's blocks is hidden by the first rule that matches: by the user's
    /// files before the built-in rules. Marks that the snapshot has stay, unless they are of a file that is applied again, or
    /// built in.
    pub fn apply(&self, snapshot: &mut Snapshot) -> Applied {
        let mut matcher = Matcher::new(&self.rules);
        let nothing = |rule: &Rule| RuleUse { rule: Arc::clone(&rule.known), hidden: Tally::default(), sites: 0 };
        let mut hits: Vec<_> = self.rules.iter().map(nothing).collect();
        for site in &mut snapshot.sites {
            site.suppressed.retain(|hidden| !hidden.rule.is_built_in() && !self.sources.contains(&hidden.rule.source));
            if !site.is_outstanding() || self.rules.is_empty() {
                continue;
            }
            let is_judged = site.verdict.is_some();
            let hidden = |sum: Kinds, hidden: &Hidden| sum.without(hidden.kinds);
            let mut left = site.suppressed.iter().fold(site.kinds(), hidden);
            for place in matcher.matching(&site.stack) {
                let Some((rule, used)) = self.rules.get(place).zip(hits.get_mut(place)) else { continue };
                let kinds = match is_judged {
                    _ if rule.kinds.is_empty() => rule.kinds,
                    true => rule.kinds.and(left),
                    // Which kinds there are is not known.
                    false => left,
                };
                if kinds.is_empty() {
                    continue;
                }
                let hidden = Hidden { rule: Arc::clone(&rule.known), kinds };
                used.hidden.join(site.hidden_by(&hidden));
                used.sites += 1;
                site.suppressed.push(hidden);
                left = left.without(kinds);
            }
        }
        hits.retain(|used| used.sites > 0 || !used.rule.is_built_in());
        Applied { rules: hits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sites: 10 bytes lost and 30 reachable under `cache`, 5 lost under `leak`, and 7 that were not judged under `leak`.
    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,
            "target":{"mode":"pid","pids":[7]},
            "sites":[
                {"pid":7,"outstanding_bytes":40,"outstanding_count":2,"stack":[{"function":"cache","address":"0x1"}],
                 "verdict":{"definitely_lost":{"bytes":10,"count":1},"still_reachable":{"bytes":30,"count":1}}},
                {"pid":7,"outstanding_bytes":5,"outstanding_count":1,"stack":[{"function":"leak","address":"0x2"}],
                 "verdict":{"definitely_lost":{"bytes":5,"count":1}}},
                {"pid":8,"outstanding_bytes":7,"outstanding_count":1,"stack":[{"function":"leak","address":"0x3"}]}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    fn rules(files: &[(&str, &str)]) -> Rules {
        let mut rules = Rules::default();
        for (source, text) in files {
            rules.add(text.as_bytes(), source).unwrap();
        }
        rules
    }

    fn lines(applied: &Applied) -> Vec<String> {
        applied.rules.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_lost_blocks_are_hidden_by_lines_of_leak_sanitizer() {
        let mut snapshot = snapshot();
        let applied = rules(&[("a.supp", "leak:cache\nleak:leak\nleak:nothing\n")]).apply(&mut snapshot);
        assert_eq!(
            lines(&applied),
            [
                "suppression `leak:cache` (a.supp) hid 10 bytes in 1 allocation at 1 site",
                "suppression `leak:leak` (a.supp) hid 12 bytes in 2 allocations at 2 sites",
                "suppression `leak:nothing` (a.supp) hid nothing"
            ]
        );
        let shown: Vec<_> = snapshot.sites.iter().map(|site| site.shown().bytes).collect();
        assert_eq!(shown, [30, 0, 0]);
        assert_eq!(snapshot.leaked_bytes(), 0);
    }

    #[test]
    fn each_kind_goes_to_the_first_rule_that_covers_it() {
        let block = |name: &str, kinds: &str| {
            format!("{{\n {name}\n Memcheck:Leak\n match-leak-kinds: {kinds}\n fun:malloc\n fun:cache\n}}\n")
        };
        let mut snapshot = snapshot();
        let text = block("possible", "possible") + &block("reachable", "reachable") + &block("all", "all");
        let applied = rules(&[("a.supp", &text)]).apply(&mut snapshot);
        let hidden: Vec<_> = applied.rules.iter().map(|used| (used.rule.name.as_str(), used.hidden.bytes)).collect();
        assert_eq!(hidden, [("possible", 0), ("reachable", 30), ("all", 10)]);
        assert_eq!(snapshot.sites[0].shown().count, 0);
        assert_eq!(snapshot.suppressed().len(), 2);
    }

    #[test]
    fn marks_are_kept_in_files_and_renewed_when_rules_are_applied_again() {
        let mut once = snapshot();
        let first = rules(&[("a.supp", "leak:leak\n")]);
        first.apply(&mut once);
        for schema in [crate::model::Schema::V1, crate::model::Schema::V2] {
            let written = crate::model::Written { snapshot: &once, schema, all_sites: true };
            let text = serde_json::to_string(&written).unwrap();
            assert!(
                text.contains(
                    r#""suppressions":[{"name":"leak:leak","source":"a.supp","bytes":12,"count":2,"sites":2}]"#
                )
            );
            let mut again = Snapshot::from_json(text.as_bytes()).unwrap();
            assert_eq!(again, once);
            assert_eq!(lines(&first.apply(&mut again)).len(), 1);
            assert_eq!(again, once);
            // Other rules are added.
            rules(&[("b.supp", "leak:cache\n")]).apply(&mut again);
            let sources: Vec<_> = again.suppressed().iter().map(|it| it.rule.source.clone()).collect();
            assert_eq!(sources, ["b.supp", "a.supp"], "in the order of the sites");
        }
    }

    #[test]
    fn the_built_in_rules_are_well_formed_and_can_be_taken_off() {
        let mut rules = Rules::default();
        rules.add_built_in().unwrap();
        assert!(!rules.is_empty());
        let mut snapshot = snapshot();
        let known = Arc::new(model::Rule { name: "x".to_owned(), source: model::Rule::BUILT_IN.to_owned() });
        snapshot.sites[1].suppressed = vec![Hidden { rule: known, kinds: Kinds::ALL }];
        Rules::default().apply(&mut snapshot);
        assert_eq!(snapshot, super::tests::snapshot());
    }
}
