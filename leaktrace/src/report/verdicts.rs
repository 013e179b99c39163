//! What the leak check found, in words.

use super::human::{Bytes, Count, Span, counted};
use super::names;
use crate::model::{Block, LeakCheck, LeakCheckMode, Reachability, Site, Snapshot, Tally, Verdict};

/// A line for each process whose blocks were judged: how much is lost, and how that was found; and one for what was taken back.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let mut verdicts = vec![Verdict::default(); snapshot.processes.len()];
    for site in &snapshot.sites {
        if let (Some(verdict), Some(index)) = (&site.verdict, site.process) {
            verdicts.get_mut(index).into_iter().for_each(|sum| sum.join(verdict));
        }
    }
    let mut lines = Vec::new();
    for (process, verdict) in snapshot.processes.iter().zip(&verdicts) {
        let whose = if snapshot.processes.len() > 1 { format!(" of {}", names::one(process)) } else { String::new() };
        if let Some(check) = process.leak_check {
            lines.push(format!("leak check{whose}: {}; {}", sums(verdict), manner(&check)));
        }
        let Tally { bytes, count } = process.lost_taken_back;
        if count > 0 {
            let what = counted(count, "allocation");
            lines.push(format!(
                "taken back{whose}: {} in {what} that a leak check had called lost, since freed or found again",
                Bytes(bytes)
            ));
        }
    }
    lines
}

/// What was found of a site's blocks that are shown: `definitely lost`, or `2 definitely lost, 1 still reachable`.
pub fn of_site(site: &Site, shown: Tally) -> Option<String> {
    let found: Vec<_> = kinds(&site.shown_verdict()?).into_iter().filter(|(_, tally)| tally.count > 0).collect();
    match found.as_slice() {
        [] => None,
        [(words, tally)] if tally.count == shown.count => Some((*words).to_owned()),
        several => {
            let parts: Vec<_> =
                several.iter().map(|(words, tally)| format!("{} {words}", Count(tally.count))).collect();
            Some(parts.join(", "))
        }
    }
}

/// What was found of a block.
pub fn of_block(block: &Block) -> Option<&'static str> {
    Some(match block.verdict? {
        Reachability::DefinitelyLost => "definitely lost",
        Reachability::IndirectlyLost => "indirectly lost",
        Reachability::PossiblyLost => "possibly lost",
        Reachability::StillReachable => "still reachable",
        Reachability::Undecided | Reachability::Unknown => "undecided",
    })
}

/// The kinds with their words, the worst first.
fn kinds(verdict: &Verdict) -> [(&'static str, Tally); 5] {
    [
        ("definitely lost", verdict.definitely_lost),
        ("indirectly lost", verdict.indirectly_lost),
        ("possibly lost", verdict.possibly_lost),
        ("undecided", verdict.undecided),
        ("still reachable", verdict.still_reachable),
    ]
}

fn sums(verdict: &Verdict) -> String {
    let [definitely, others @ ..] = kinds(verdict);
    let mut parts = vec![match definitely.1.count {
        0 => "nothing definitely lost".to_owned(),
        count => format!("{} definitely lost in {}", Bytes(definitely.1.bytes), counted(count, "allocation")),
    }];
    let found = others.iter().filter(|(_, tally)| tally.count > 0);
    parts.extend(found.map(|(words, tally)| format!("{} {words} in {}", Bytes(tally.bytes), Count(tally.count))));
    parts.join(", ")
}

fn manner(check: &LeakCheck) -> String {
    let searched = match check.mode {
        LeakCheckMode::Exact => format!("{} searched", Bytes(check.scanned_bytes)),
        LeakCheckMode::Snapshot => format!("a copy of {} searched", Bytes(check.scanned_bytes)),
        LeakCheckMode::Live | LeakCheckMode::Unknown => {
            format!("{} searched {} times while it ran", Bytes(check.scanned_bytes), check.passes)
        }
    };
    let unread = match check.unread_bytes {
        0 => String::new(),
        bytes => format!(", {} could not be read", Bytes(bytes)),
    };
    let pause =
        if check.pause.is_zero() { "at its end".to_owned() } else { format!("stopped for {}", Span(check.pause)) };
    format!("{searched}{unread}, {pause}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tally(bytes: u64, count: u64) -> Tally {
        Tally { bytes, count }
    }

    #[test]
    fn sums_say_what_is_definitely_lost_also_if_nothing_is() {
        let verdict = Verdict { still_reachable: tally(2048, 2), ..Verdict::default() };
        assert_eq!(sums(&verdict), "nothing definitely lost, 2.0 KiB still reachable in 2");
        let verdict = Verdict { definitely_lost: tally(10, 1), possibly_lost: tally(1, 1), ..verdict };
        assert_eq!(
            sums(&verdict),
            "10 B definitely lost in 1 allocation, 1 B possibly lost in 1, 2.0 KiB still reachable in 2"
        );
    }

    #[test]
    fn the_manner_tells_the_pause_and_what_was_not_read() {
        let check = LeakCheck {
            mode: LeakCheckMode::Exact,
            pause: Duration::ZERO,
            scanned_bytes: 4096,
            unread_bytes: 0,
            passes: 1,
        };
        assert_eq!(manner(&check), "4.0 KiB searched, at its end");
        let check = LeakCheck { pause: Duration::from_millis(12), unread_bytes: 8, ..check };
        assert_eq!(manner(&check), "4.0 KiB searched, 8 B could not be read, stopped for 12 ms");
    }
}
