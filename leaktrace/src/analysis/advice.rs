//! What to do about what was found, and what to do to find out more.
//!
//! In: a finished snapshot. Out: at most a handful of recommendations, the most urgent first. Each rule has a name that stays, since
//! scripts may look for it.

use std::time::Duration;

use crate::model::{
    Growth, GrowthVerdict, HeapFinding, Options, Process, Recommendation, Site, Snapshot, TraceMode, Verdict,
};

/// Recommendations that are given, at most.
const MOST: usize = 6;
/// Sites that one rule speaks of, at most.
const SITES: usize = 3;
/// So many allocations that live for no longer than until the next call are worth a word.
const TEMPORARY: u64 = 100_000;
/// Shorter traces tell little of growth.
const SHORT: Duration = Duration::from_mins(1);
/// Less than this in each second is not worth a wait, bytes.
const SLOW: f64 = 16.0;
/// Fewer stacks than this part are usually complete, per cent.
const COMPLETE: u64 = 90;

/// What to do, the most urgent first.
pub fn advise(snapshot: &Snapshot) -> Vec<Recommendation> {
    let rules = [lost, leaking, dropped, fragmented, never_freed, kept_by_allocator, too_short, incomplete, temporary];
    let mut advice: Vec<Recommendation> = rules.iter().flat_map(|rule| rule(snapshot)).collect();
    advice.sort_by_key(|one| one.priority);
    advice.truncate(MOST);
    advice
}

fn recommendation(rule: &'static str, priority: u8, message: String, site: Option<&Site>) -> Recommendation {
    Recommendation { rule: rule.into(), priority, message, site: site.and_then(|site| site.id) }
}

/// The function of a site, with the line where that is known.
fn name(site: &Site) -> String {
    let Some((frame, function)) = site.caller().and_then(|frame| Some((frame, frame.function.as_deref()?))) else {
        return "code without a name".to_owned();
    };
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => {
            let file = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
            format!("{function} ({file}:{line})")
        }
        _ => function.to_owned(),
    }
}

/// The sites with most of something, the largest first.
fn largest(snapshot: &Snapshot, amount: impl Fn(&Site) -> u64) -> Vec<(&Site, u64)> {
    let mut sites: Vec<_> = snapshot.sites.iter().map(|site| (site, amount(site))).filter(|(_, it)| *it > 0).collect();
    sites.sort_by_key(|(_, amount)| std::cmp::Reverse(*amount));
    sites.truncate(SITES);
    sites
}

/// `lost`: nothing points to its blocks any more.
fn lost(snapshot: &Snapshot) -> Vec<Recommendation> {
    let of = |site: &Site| site.shown_verdict().map_or(0, |Verdict { definitely_lost, .. }| definitely_lost.bytes);
    let advise = |(site, bytes): (&Site, u64)| {
        let message =
            format!("free what {} allocates: {bytes} bytes of it are lost, nothing points to them", name(site));
        recommendation("lost", 1, message, Some(site))
    };
    largest(snapshot, of).into_iter().map(advise).collect()
}

/// `growth`: it keeps ever more.
fn leaking(snapshot: &Snapshot) -> Vec<Recommendation> {
    let is_lost = |site: &Site| site.shown_verdict().is_some_and(|verdict| verdict.definitely_lost.bytes > 0);
    let of = |site: &Site| if site.leaks_by_growth() && !is_lost(site) { site.growth_rate().ceil() as u64 } else { 0 };
    let advise = |(site, rate): (&Site, u64)| {
        let held = if site.holders.as_ref().is_some_and(|holders| !holders.is_empty()) {
            "--holders says what holds them"
        } else {
            "a leak check with --holders says what holds them"
        };
        let message = format!("find what should free the blocks of {}: {rate} bytes/s stay; {held}", name(site));
        recommendation("growth", 1, message, Some(site))
    };
    largest(snapshot, of).into_iter().map(advise).collect()
}

/// `dropped`: there was no room for what was allocated.
fn dropped(snapshot: &Snapshot) -> Vec<Recommendation> {
    let (losses, options) = (&snapshot.losses, &snapshot.options);
    let mut advice = Vec::new();
    if losses.allocs_dropped > 0 {
        let wanted = options.max_allocs.saturating_add(losses.allocs_dropped).saturating_mul(5) / 4;
        let message = format!(
            "trace again with --max-allocs {wanted}: there was no room for {} allocations",
            losses.allocs_dropped
        );
        advice.push(recommendation("max-allocs", 1, message, None));
    }
    if losses.stacks_dropped > 0 {
        let wanted = options.max_stacks.saturating_mul(4);
        let message =
            format!("trace again with --max-stacks {wanted}: there was no room for the stacks of some allocations");
        advice.push(recommendation("max-stacks", 2, message, None));
    }
    advice
}

/// `fragmentation`: few small blocks hold many pages.
fn fragmented(snapshot: &Snapshot) -> Vec<Recommendation> {
    let is_thin = |process: &Process| {
        process.heap_pages.is_some_and(|heap| heap.finding == Some(HeapFinding::Fragmented) && !heap.blocks_missing)
    };
    let of = |site: &Site| {
        let is_thin = site.process.and_then(|process| snapshot.processes.get(process)).is_some_and(is_thin);
        if is_thin { site.pinned_bytes.unwrap_or(0) } else { 0 }
    };
    let advise = |(site, bytes): (&Site, u64)| {
        let message = format!(
            "allocate what {} keeps apart from what lives shorter, as from a pool of its own: its {} bytes hold {bytes} bytes of pages",
            name(site),
            site.outstanding_bytes
        );
        recommendation("fragmentation", 2, message, Some(site))
    };
    largest(snapshot, of).into_iter().take(1).map(advise).collect()
}

/// `malloc-trim`: pages that the allocator could give back.
fn kept_by_allocator(snapshot: &Snapshot) -> Vec<Recommendation> {
    let is_empty = |process: &&Process| {
        let heap = process.heap_pages;
        heap.is_some_and(|heap| heap.finding == Some(HeapFinding::Empty) && heap.malloc_trim && !heap.blocks_missing)
    };
    let most =
        snapshot.processes.iter().filter(is_empty).max_by_key(|process| process.heap_pages.map(|it| it.empty_bytes));
    let advise = |process: &Process| {
        let bytes = process.heap_pages.map_or(0, |heap| heap.empty_bytes);
        let message =
            format!("have the program call malloc_trim(0) after its peaks: glibc keeps {bytes} bytes of free pages");
        recommendation("malloc-trim", 2, message, None)
    };
    most.into_iter().map(advise).collect()
}

/// `never-freed`: time has not told.
fn never_freed(snapshot: &Snapshot) -> Vec<Recommendation> {
    let is_open = |growth: &Growth| {
        growth.verdict == GrowthVerdict::Undecided && growth.lifetime_max.is_none() && growth.bytes_per_s >= SLOW
    };
    let of = |site: &Site| if site.growth.as_ref().is_some_and(is_open) { site.growth_rate().ceil() as u64 } else { 0 };
    let advise = |(site, rate): (&Site, u64)| {
        let message = format!(
            "see whether {} fills a cache that has a limit, or trace until it would be full: {rate} bytes/s stay, and none was ever \
             freed",
            name(site)
        );
        recommendation("never-freed", 2, message, Some(site))
    };
    largest(snapshot, of).into_iter().take(1).map(advise).collect()
}

/// `duration`: the trace of a service was too short for growth.
fn too_short(snapshot: &Snapshot) -> Vec<Recommendation> {
    let is_open = |process: &Process| {
        let growth = process.growth.as_ref();
        !process.exited
            && growth.is_some_and(|growth| growth.verdict == GrowthVerdict::Undecided && growth.bytes_per_s <= 0.0)
    };
    let is_service = matches!(snapshot.target.mode, TraceMode::Pid | TraceMode::Filter);
    if !is_service || snapshot.elapsed >= SHORT || !snapshot.processes.iter().any(is_open) {
        return Vec::new();
    }
    let message = "trace for longer, as with -d 10m: whether something grows shows only then".to_owned();
    vec![recommendation("duration", 3, message, None)]
}

/// `stacks`: many of them end early.
fn incomplete(snapshot: &Snapshot) -> Vec<Recommendation> {
    let Some(stacks) = snapshot.stacks.filter(|stacks| stacks.recorded >= 10) else { return Vec::new() };
    if (stacks.complete + stacks.guessed) * 100 >= stacks.recorded * COMPLETE {
        return Vec::new();
    }
    let missing = stacks.recorded - stacks.complete - stacks.guessed;
    let how = match snapshot.options {
        Options { max_depth, .. } if snapshot.losses.stacks_truncated * 2 > missing => {
            format!("trace with --max-depth {}", (max_depth * 4).min(Options::DEEPEST))
        }
        _ => "have compilers at run time keep frame pointers (java: -XX:+PreserveFramePointer)".to_owned(),
    };
    vec![recommendation("stacks", 3, format!("{how}: {missing} of {} stacks end early", stacks.recorded), None)]
}

/// `temporary`: allocated and freed at once, again and again.
fn temporary(snapshot: &Snapshot) -> Vec<Recommendation> {
    let of = |site: &Site| {
        let is_much = site.temporary_count >= TEMPORARY && site.temporary_count * 2 > site.alloc_count;
        if is_much { site.temporary_count } else { 0 }
    };
    let advise = |(site, count): (&Site, u64)| {
        let message =
            format!("keep a buffer or use the stack in {}: {count} of its allocations were freed at once", name(site));
        recommendation("temporary", 3, message, Some(site))
    };
    largest(snapshot, of).into_iter().take(1).map(advise).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the rules that fire for a snapshot with these parts.
    fn fires(elapsed: u64, mode: &str, process: &str, site: &str, rest: &str) -> Vec<String> {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":{elapsed},"final":true,
            "target":{{"mode":"{mode}","pids":[7]}},"options":{{"max_allocs":1000}},
            "processes":[{{"pid":7,"outstanding_bytes":640,"outstanding_count":10{process}}}],
            "sites":[{{"pid":7,"process":0,"outstanding_bytes":640,"outstanding_count":10{site},
              "stack":[{{"function":"f","file":"/src/a.c","line":7,"address":"0x1"}}]}}]{rest}}}"#
        );
        let advice = advise(&Snapshot::from_json(text.as_bytes()).unwrap());
        for one in &advice {
            assert!(!one.message.contains('\n') && one.message.len() < 200, "{}", one.message);
        }
        advice.iter().map(|one| one.rule.clone().into_owned()).collect()
    }

    fn of_site(site: &str) -> Vec<String> {
        fires(100, "command", "", site, "")
    }

    #[test]
    fn a_quiet_snapshot_gets_no_advice() {
        assert!(of_site("").is_empty());
    }

    #[test]
    fn what_is_lost_is_to_be_freed() {
        let verdict = |lost: u64| format!(r#","verdict":{{"definitely_lost":{{"bytes":{lost},"count":{lost}}}}}"#);
        assert_eq!(of_site(&verdict(8)), ["lost"]);
        assert!(of_site(&verdict(0)).is_empty());
    }

    #[test]
    fn what_grows_is_to_be_looked_for_unless_it_is_lost() {
        let growth =
            |verdict: &str| format!(r#","growth":{{"verdict":"{verdict}","bytes_per_s":64.0,"lifetime_max_s":1.0}}"#);
        assert_eq!(of_site(&growth("leak")), ["growth"]);
        assert!(of_site(&growth("steady")).is_empty());
        let lost = r#","verdict":{"definitely_lost":{"bytes":8,"count":1}}"#;
        assert_eq!(of_site(&format!("{}{lost}", growth("leak"))), ["lost"], "one word about it is enough");
    }

    #[test]
    fn what_was_never_freed_may_be_a_cache() {
        let growth = |rate: f64, life: &str| {
            format!(r#","growth":{{"verdict":"undecided","bytes_per_s":{rate},"lifetime_max_s":{life}}}"#)
        };
        assert_eq!(of_site(&growth(64.0, "null")), ["never-freed"]);
        assert!(of_site(&growth(1.0, "null")).is_empty() && of_site(&growth(64.0, "2.0")).is_empty());
    }

    #[test]
    fn losses_name_the_option_that_makes_room() {
        let losses = |of: &str| fires(100, "command", "", "", &format!(r#","losses":{{"{of}":10}}"#));
        assert_eq!(losses("allocs_dropped"), ["max-allocs"]);
        assert_eq!(losses("stacks_dropped"), ["max-stacks"]);
        assert!(losses("returns_missed").is_empty());
    }

    #[test]
    fn pages_that_are_held_thinly_or_not_at_all_have_their_remedies() {
        let heap = |finding: &str, more: &str| {
            let process = format!(
                r#","heap_pages":{{"resident_bytes":9000000,"held_bytes":8000000,"empty_bytes":1000000,"occupancy":0.01,
                "finding":"{finding}"{more}}}"#
            );
            fires(100, "command", &process, r#","pinned_bytes":7000000"#, "")
        };
        assert_eq!(heap("fragmented", ""), ["fragmentation"]);
        assert!(heap("fragmented", r#","blocks_missing":true"#).is_empty() && heap("retained", "").is_empty());
        assert_eq!(heap("empty", r#","malloc_trim":true"#), ["malloc-trim"]);
        assert!(heap("empty", "").is_empty(), "another allocator's");
    }

    #[test]
    fn a_service_that_was_traced_for_seconds_is_to_be_traced_for_longer() {
        let growth = r#","growth":{"verdict":"undecided","reason":"3.0 s are too short to tell"}"#;
        assert_eq!(fires(5, "pid", growth, "", ""), ["duration"]);
        assert!(fires(100, "pid", growth, "", "").is_empty() && fires(5, "command", growth, "", "").is_empty());
        assert!(fires(5, "pid", r#","growth":{"verdict":"steady"}"#, "", "").is_empty());
    }

    #[test]
    fn stacks_that_end_early_have_a_remedy() {
        let stacks = |complete: u64, cut: u64| {
            let rest = format!(
                r#","stacks":{{"recorded":100,"complete":{complete},"guessed":0}},"losses":{{"stacks_truncated":{cut}}}"#
            );
            fires(100, "command", "", "", &rest)
        };
        assert_eq!(stacks(50, 0), ["stacks"]);
        assert_eq!(stacks(50, 50), ["stacks"]);
        assert!(stacks(95, 5).is_empty());
    }

    #[test]
    fn what_is_freed_at_once_could_be_kept() {
        let site =
            |temporary: u64| format!(r#","alloc_count":1000000,"free_count":1000000,"temporary_count":{temporary}"#);
        assert_eq!(of_site(&site(900_000)), ["temporary"]);
        assert!(of_site(&site(90_000)).is_empty());
    }
}
