//! What the leak check found, in words.

use super::estimates;
use super::human::{Bytes, Count, Span, counted};
use super::names;
use crate::model::{Block, LeakCheck, LeakCheckMode, Process, Reachability, Site, Snapshot, Tally, Verdict};

/// A line for each process whose blocks were judged: how much is lost, and how that was found; one for what the program itself calls
/// no leak, and one for what was taken back.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let mut verdicts = vec![Verdict::default(); snapshot.processes.len()];
    let mut ignored = vec![Tally::default(); snapshot.processes.len()];
    for site in &snapshot.sites {
        if let Some(sum) = site.process.and_then(|index| ignored.get_mut(index)) {
            sum.join(site.ignored);
        }
        if let (Some(verdict), Some(index)) = (&site.verdict, site.process) {
            verdicts.get_mut(index).into_iter().for_each(|sum| sum.join(verdict));
        }
    }
    let mut lines = Vec::new();
    for ((process, verdict), ignored) in snapshot.processes.iter().zip(&verdicts).zip(&ignored) {
        let whose = if snapshot.processes.len() > 1 { format!(" of {}", names::one(process)) } else { String::new() };
        if let Some(check) = process.leak_check {
            let newer = newer(process, verdict);
            lines.push(format!("leak check{whose}: {}{newer}; {}", sums(verdict, &check), manner(&check)));
        }
        if ignored.count > 0 {
            let bytes = estimates::bytes(ignored.bytes, snapshot.sampled, None);
            let what = estimates::allocations(ignored.count, snapshot.sampled);
            let all = if process.leak_check.is_some() { ", nor is what they lead to" } else { "" };
            lines.push(format!(
                "ignored by the program{whose}: {bytes} in {what} (__lsan_ignore_object, __lsan_disable); no leaks{all}"
            ));
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

/// What a process holds by now that it had not yet when it was searched.
fn newer(process: &Process, verdict: &Verdict) -> String {
    let mut judged = Tally::default();
    for (_, tally) in kinds(verdict) {
        judged.join(tally);
    }
    match process.outstanding_count.saturating_sub(judged.count) {
        0 => String::new(),
        count => {
            let bytes = process.outstanding_bytes.saturating_sub(judged.bytes);
            format!(", {} in {} newer than the search", Bytes(bytes), Count(count))
        }
    }
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

/// What was found of all blocks that are shown, by kind: `of these 2.0 KiB definitely lost, 64 B still reachable, 96 B not judged`. `None`
/// where no process was judged.
pub fn of_all(snapshot: &Snapshot) -> Option<String> {
    let mut checks = snapshot.processes.iter().filter_map(|process| process.leak_check).peekable();
    checks.peek()?;
    let is_sound = checks.any(|check| !is_unsound(&check));
    let (mut verdict, mut shown) = (Verdict::default(), Tally::default());
    for site in &snapshot.sites {
        shown.join(site.shown());
        site.shown_verdict().into_iter().for_each(|found| verdict.join(&found));
    }
    let mut parts = by_kind(&verdict, shown);
    let (words, worst) =
        if is_sound { ("definitely lost", verdict.definitely_lost) } else { ("probably lost", verdict.probably_lost) };
    if worst.count == 0 {
        parts.insert(0, format!("nothing {words}"));
    }
    Some(format!("of these {}", parts.join(", ")))
}

/// What was found of some blocks, as `2.0 KiB definitely lost` for each kind that there is, the worst first, and what of those that are
/// shown was not judged.
pub fn by_kind(verdict: &Verdict, shown: Tally) -> Vec<String> {
    let (mut parts, mut judged) = (Vec::new(), Tally::default());
    for (words, tally) in kinds(verdict).into_iter().filter(|(_, tally)| tally.count > 0) {
        judged.join(tally);
        parts.push(format!("{} {words}", Bytes(tally.bytes)));
    }
    if shown.count > judged.count {
        parts.push(format!("{} not judged", Bytes(shown.bytes.saturating_sub(judged.bytes))));
    }
    parts
}

/// What was found of a block.
pub fn of_block(block: &Block) -> Option<&'static str> {
    Some(match block.verdict? {
        Reachability::DefinitelyLost => "definitely lost",
        Reachability::IndirectlyLost => "indirectly lost",
        Reachability::ProbablyLost => "probably lost",
        Reachability::PossiblyLost => "possibly lost",
        Reachability::StillReachable => "still reachable",
        Reachability::Undecided | Reachability::Unknown => "undecided",
    })
}

/// The kinds with their words, the worst first.
pub(super) fn kinds(verdict: &Verdict) -> [(&'static str, Tally); 6] {
    [
        ("definitely lost", verdict.definitely_lost),
        ("indirectly lost", verdict.indirectly_lost),
        ("probably lost", verdict.probably_lost),
        ("possibly lost", verdict.possibly_lost),
        ("undecided", verdict.undecided),
        ("still reachable", verdict.still_reachable),
    ]
}

/// Whether nothing could be called definitely lost.
fn is_unsound(check: &LeakCheck) -> bool {
    check.mode == LeakCheckMode::Live && check.rescanned_bytes.is_none()
}

fn sums(verdict: &Verdict, check: &LeakCheck) -> String {
    let mut kinds = kinds(verdict).to_vec();
    if is_unsound(check) {
        // Of which it could say nothing.
        kinds.retain(|(words, _)| !matches!(*words, "definitely lost" | "indirectly lost"));
    }
    let parts =
        kinds.into_iter().enumerate().filter_map(|(place, (words, Tally { bytes, count }))| match (place, count) {
            (0, 0) => Some(format!("nothing {words}")),
            (0, _) => Some(format!("{} {words} in {}", Bytes(bytes), counted(count, "allocation"))),
            (_, 0) => None,
            (_, _) => Some(format!("{} {words} in {}", Bytes(bytes), Count(count))),
        });
    parts.collect::<Vec<_>>().join(", ")
}

fn manner(check: &LeakCheck) -> String {
    let bytes = Bytes(check.scanned_bytes);
    let searched = match (check.mode, check.passes) {
        (LeakCheckMode::Exact, _) => format!("{bytes} searched"),
        (LeakCheckMode::Snapshot, _) => format!("a copy of {bytes} searched"),
        (LeakCheckMode::Live | LeakCheckMode::Unknown, 1) => {
            let changed = check.rescanned_bytes.map(|bytes| format!(", and {} that changed", Bytes(bytes)));
            format!("{bytes} searched while it ran{}", changed.unwrap_or_default())
        }
        (LeakCheckMode::Live | LeakCheckMode::Unknown, passes) => {
            format!("{bytes} searched {} times while it ran", Count(passes.into()))
        }
    };
    let unread = match check.unread_bytes {
        0 => String::new(),
        bytes => format!(", {} could not be read", Bytes(bytes)),
    };
    let pause = Span(check.pause);
    let pause = match check.mode {
        _ if check.pause.is_zero() => "at its end".to_owned(),
        LeakCheckMode::Live if check.passes > 1 => format!("stopped each time for {pause} at most"),
        _ => format!("stopped for {pause}"),
    };
    format!("{searched}{unread}, {pause}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EXACT: LeakCheck = LeakCheck {
        mode: LeakCheckMode::Exact,
        pause: Duration::ZERO,
        scanned_bytes: 4096,
        unread_bytes: 0,
        passes: 1,
        rescanned_bytes: None,
    };
    const LIVE: LeakCheck =
        LeakCheck { mode: LeakCheckMode::Live, pause: Duration::from_millis(12), passes: 5, ..EXACT };

    fn tally(bytes: u64, count: u64) -> Tally {
        Tally { bytes, count }
    }

    #[test]
    fn sums_say_what_is_definitely_lost_also_if_nothing_is() {
        let verdict = Verdict { still_reachable: tally(2048, 2), ..Verdict::default() };
        assert_eq!(sums(&verdict, &EXACT), "nothing definitely lost, 2.0 KiB still reachable in 2");
        let verdict = Verdict { definitely_lost: tally(10, 1), possibly_lost: tally(1, 1), ..verdict };
        assert_eq!(
            sums(&verdict, &EXACT),
            "10 B definitely lost in 1 allocation, 1 B possibly lost in 1, 2.0 KiB still reachable in 2"
        );
    }

    #[test]
    fn what_the_program_calls_no_leak_has_a_line_whether_blocks_were_judged_or_not() {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"target":{"mode":"pid","pids":[7]},
            "processes":[{"pid":7,"comm":"a","outstanding_bytes":72,"outstanding_count":3}],
            "sites":[{"pid":7,"process":0,"outstanding_bytes":64,"outstanding_count":2,"ignored":{"bytes":32,"count":1}},
                {"pid":7,"process":0,"outstanding_bytes":8,"outstanding_count":1}]}"#;
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        assert_eq!(
            lines(&snapshot),
            ["ignored by the program: 32 B in 1 allocation (__lsan_ignore_object, __lsan_disable); no leaks"]
        );
    }

    #[test]
    fn of_a_process_that_ran_nothing_is_said_to_be_definitely_lost() {
        let verdict = Verdict { still_reachable: tally(2048, 2), ..Verdict::default() };
        assert_eq!(sums(&verdict, &LIVE), "nothing probably lost, 2.0 KiB still reachable in 2");
        let verdict = Verdict { probably_lost: tally(10, 1), ..verdict };
        assert_eq!(sums(&verdict, &LIVE), "10 B probably lost in 1 allocation, 2.0 KiB still reachable in 2");
    }

    #[test]
    fn all_that_is_shown_is_told_by_kind_with_what_was_not_judged() {
        let of = |check: &str, verdict: &str| {
            let text = format!(
                r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"target":{{"mode":"pid","pids":[7]}},
                "processes":[{{"pid":7,"comm":"a","outstanding_bytes":72,"outstanding_count":3,"leak_check":{check}}}],
                "sites":[{{"pid":7,"process":0,"outstanding_bytes":64,"outstanding_count":2,"verdict":{verdict}}},
                    {{"pid":7,"process":0,"outstanding_bytes":8,"outstanding_count":1}}]}}"#
            );
            of_all(&Snapshot::from_json(text.as_bytes()).unwrap())
        };
        let check = |mode| format!(r#"{{"mode":"{mode}","pause_ms":1,"scanned_bytes":4096,"passes":1}}"#);
        assert_eq!(of("null", "null"), None);
        let lost = r#"{"definitely_lost":{"bytes":48,"count":1},"still_reachable":{"bytes":16,"count":1}}"#;
        let words = "of these 48 B definitely lost, 16 B still reachable, 8 B not judged";
        assert_eq!(of(&check("exact"), lost).unwrap(), words);
        let held = r#"{"still_reachable":{"bytes":64,"count":2}}"#;
        let words = "of these nothing definitely lost, 64 B still reachable, 8 B not judged";
        assert_eq!(of(&check("exact"), held).unwrap(), words);
        let words = "of these nothing probably lost, 64 B still reachable, 8 B not judged";
        assert_eq!(of(&check("live"), held).unwrap(), words, "of which it can say no more");
    }

    #[test]
    fn the_manner_tells_the_pause_and_what_was_not_read() {
        assert_eq!(manner(&EXACT), "4.0 KiB searched, at its end");
        let check = LeakCheck { pause: Duration::from_millis(12), unread_bytes: 8, ..EXACT };
        assert_eq!(manner(&check), "4.0 KiB searched, 8 B could not be read, stopped for 12 ms");
        assert_eq!(manner(&LIVE), "4.0 KiB searched 5 times while it ran, stopped each time for 12 ms at most");
        let tracked = LeakCheck { rescanned_bytes: Some(1024), passes: 1, ..LIVE };
        assert_eq!(manner(&tracked), "4.0 KiB searched while it ran, and 1.0 KiB that changed, stopped for 12 ms");
    }
}
