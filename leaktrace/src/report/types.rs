//! What is outstanding by the class of the objects in it, with `--group-by type`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::estimates;
use super::human::counted;
use crate::clean::clean;
use crate::model::{Site, Snapshot, Tally};

/// The sites of one class.
#[derive(Default)]
struct Group {
    bytes: u64,
    count: u64,
    sites: u64,
}

/// Writes a line for each class of these sites, given with what of them is shown, the largest first, `top` of them; then one for
/// blocks of no class.
pub fn write(snapshot: &Snapshot, sites: &[(&Site, Tally)], top: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    let mut groups: BTreeMap<Option<&str>, Group> = BTreeMap::new();
    for (site, shown) in sites {
        let group = groups.entry(site.type_name.as_deref()).or_default();
        group.bytes = group.bytes.saturating_add(shown.bytes);
        group.count = group.count.saturating_add(shown.count);
        group.sites += 1;
    }
    let others = groups.remove(&None);
    let mut groups: Vec<(&str, Group)> = groups.into_iter().filter_map(|(name, group)| Some((name?, group))).collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse((group.bytes, group.count)));
    let shown = top.unwrap_or(groups.len()).min(groups.len());
    if !groups.is_empty() || others.is_some() {
        writeln!(out)?;
    }
    for (name, group) in &groups[..shown] {
        writeln!(out, "{}: type {}", amount(snapshot, group), clean(name))?;
    }
    if shown < groups.len() {
        let rest = groups[shown..].iter().fold(Group::default(), |sum, (_, group)| Group {
            bytes: sum.bytes.saturating_add(group.bytes),
            count: sum.count.saturating_add(group.count),
            sites: sum.sites + group.sites,
        });
        let types = counted((groups.len() - shown) as u64, "more type");
        writeln!(out, "{}: {types}; --top all shows them", amount(snapshot, &rest))?;
    }
    if let Some(others) = &others {
        writeln!(out, "{}: no type is known", amount(snapshot, others))?;
    }
    Ok(())
}

fn amount(snapshot: &Snapshot, group: &Group) -> String {
    let bytes = estimates::bytes(group.bytes, snapshot.sampled, None);
    let count = estimates::allocations(group.count, snapshot.sampled);
    format!("{bytes} in {count} at {}", counted(group.sites, "site"))
}
