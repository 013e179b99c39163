//! What is outstanding by the class of the objects in it, and how much of that is lost, with `--group-by type`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::estimates;
use super::human::counted;
use super::verdicts;
use crate::clean::clean;
use crate::model::{Site, Snapshot, Tally, Verdict};

/// The sites of one class.
#[derive(Default)]
struct Group {
    amount: Tally,
    sites: u64,
    /// What was found of the blocks that were judged, if any were.
    verdict: Option<Verdict>,
}

impl Group {
    fn join(&mut self, amount: Tally, sites: u64, verdict: Option<Verdict>) {
        self.amount.join(amount);
        self.sites += sites;
        if let Some(verdict) = verdict {
            self.verdict.get_or_insert_default().join(&verdict);
        }
    }
}

/// Writes a line for each class of these sites, given with what of them is shown, the largest first, `top` of them; then one for
/// blocks of no class.
pub fn write(snapshot: &Snapshot, sites: &[(&Site, Tally)], top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    let mut groups: BTreeMap<Option<&str>, Group> = BTreeMap::new();
    for (site, shown) in sites {
        groups.entry(site.type_name.as_deref()).or_default().join(*shown, 1, site.shown_verdict());
    }
    let others = groups.remove(&None);
    let mut groups: Vec<(&str, Group)> = groups.into_iter().filter_map(|(name, group)| Some((name?, group))).collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse((group.amount.bytes, group.amount.count)));
    let shown = top.unwrap_or(groups.len()).min(groups.len());
    if !groups.is_empty() || others.is_some() {
        writeln!(out)?;
    }
    for (name, group) in &groups[..shown] {
        writeln!(out, "{}: type {}{}", amount(snapshot, group), clean(name), found(group))?;
    }
    if shown < groups.len() {
        let mut rest = Group::default();
        groups[shown..].iter().for_each(|(_, group)| rest.join(group.amount, group.sites, group.verdict));
        let types = counted((groups.len() - shown) as u64, "more type");
        writeln!(out, "{}: {types}{}; --top all shows them", amount(snapshot, &rest), found(&rest))?;
    }
    if let Some(others) = &others {
        writeln!(out, "{}: no type is known{}", amount(snapshot, others), found(others))?;
    }
    Ok(())
}

fn amount(snapshot: &Snapshot, group: &Group) -> String {
    let bytes = estimates::bytes(group.amount.bytes, snapshot.sampled, None);
    let count = estimates::allocations(group.amount.count, snapshot.sampled);
    format!("{bytes} in {count} at {}", counted(group.sites, "site"))
}

/// What leak checks found of it, if they judged any of it: `, 2.0 KiB definitely lost, 64 B still reachable`.
fn found(group: &Group) -> String {
    let found = group.verdict.iter().flat_map(|verdict| verdicts::by_kind(verdict, group.amount));
    std::iter::once(String::new()).chain(found).collect::<Vec<_>>().join(", ")
}
