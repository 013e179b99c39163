//! Who holds what can still be reached, in words.

use std::io::{self, Write};

use super::human::{Bytes, Count, counted};
use super::names;
use crate::clean::{clean, elide};
use crate::model::{Holder, Site, Snapshot};

/// Ways in which a site's blocks are held that are shown.
const OF_SITE: usize = 2;
/// Variables that are shown of a process.
const LARGEST: usize = 5;
/// Most characters of one part of a path: names of templates have no end.
const LONGEST: usize = 120;

/// The variables that alone hold most, of each process; why none is known, where no process was judged.
pub fn largest(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    if snapshot.processes.iter().all(|process| process.leak_check.is_none()) {
        return writeln!(out, "holders are not known: no leak check ran; see --leak-check");
    }
    for process in snapshot.processes.iter().filter(|process| !process.holders.is_empty()) {
        let whose = if snapshot.processes.len() > 1 { format!(" of {}", names::one(process)) } else { String::new() };
        writeln!(out, "largest holders{whose}:")?;
        for held in process.holders.iter().take(LARGEST) {
            let (name, bytes) = (part(&held.name), Bytes(held.bytes));
            writeln!(out, "    {name} keeps {bytes} in {}", counted(held.blocks, "allocation"))?;
        }
    }
    Ok(())
}

/// How most of a site's blocks are held.
pub fn of_site(site: &Site, out: &mut dyn Write) -> io::Result<()> {
    let holders = site.holders.as_deref().unwrap_or_default();
    let is_all = holders.len() == 1 && holders[0].blocks == site.outstanding_count;
    for holder in holders.iter().take(OF_SITE) {
        writeln!(out, "    {}", line(holder, is_all))?;
    }
    let (rest, blocks) = match holders.get(OF_SITE..) {
        Some(rest) if !rest.is_empty() => (rest.len(), rest.iter().fold(0u64, |sum, it| sum.saturating_add(it.blocks))),
        _ => return Ok(()),
    };
    writeln!(out, "    [{} held in {}]", Count(blocks), counted(rest as u64, "more way"))
}

/// `held by cache+0x10 (/usr/bin/app) -> block from session_new (app.c:12)`, with how much unless that is all.
fn line(holder: &Holder, is_all: bool) -> String {
    let path: Vec<_> = holder.path.iter().map(|name| part(name)).collect();
    let much = format!("{} in {} ", Bytes(holder.bytes), Count(holder.blocks));
    format!("{}held by {}", if is_all { "" } else { &much }, path.join(" -> "))
}

fn part(name: &str) -> String {
    clean(&elide(name, LONGEST)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RootKind;

    #[test]
    fn a_way_is_one_line_and_safe_to_print() {
        let path = vec!["cache+0x10 (/usr/bin/app)".to_owned(), "block from \u{1b}[2Jnew".to_owned()];
        let holder = Holder { root: RootKind::Data, path, blocks: 1234, bytes: 4096 };
        let told = line(&holder, false);
        assert!(told.starts_with("4.0 KiB in 1,234 held by cache+0x10 (/usr/bin/app) -> block from "), "{told}");
        assert!(!told.contains('\u{1b}'));
        assert!(line(&holder, true).starts_with("held by cache"));
    }
}
