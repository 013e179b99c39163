//! What time says of processes and sites, in words.

use std::time::Duration;

use super::human::{Bytes, Rate};
use super::names;
use crate::clean::clean;
use crate::model::{Growth, GrowthVerdict, Options, Process, Site, Snapshot, SortKey};

/// Shorter traces say nothing of growth, unless it was asked for.
const NOTEWORTHY: Duration = Duration::from_secs(10);

/// A line for each process whose growth is worth one, and whether it leaks.
pub fn lines(snapshot: &Snapshot) -> Vec<(String, bool)> {
    let is_long = snapshot.elapsed >= NOTEWORTHY || is_asked_for(&snapshot.options);
    let several = snapshot.processes.len() > 1;
    let line = |process: &Process| {
        let growth = process.growth.as_ref().filter(|growth| is_long || growth.verdict == GrowthVerdict::Leak)?;
        // Of many processes those that grow are named.
        if several && growth.bytes_per_s <= 0.0 {
            return None;
        }
        let whose = if several { format!(" of {}", names::one(process)) } else { String::new() };
        Some((format!("growth{whose}: {}", words(growth, snapshot.sampled)), growth.verdict == GrowthVerdict::Leak))
    };
    let mut lines: Vec<_> = snapshot.processes.iter().filter_map(line).collect();
    if is_long {
        lines.extend(rest(snapshot, lines.is_empty()).map(|line| (line, false)));
    }
    lines
}

/// What to say of the processes that have no line: in how many nothing grows, and of how many that is not known.
fn rest(snapshot: &Snapshot, alone: bool) -> Option<String> {
    let several = snapshot.processes.len() > 1;
    let judged = || snapshot.processes.iter().filter_map(|process| process.growth.as_ref());
    let open: Vec<&Growth> = judged().filter(|growth| is_open(growth) && growth.bytes_per_s <= 0.0).collect();
    // Where nothing was followed, nothing is amiss.
    let is_followed = snapshot.timeline.is_some() || judged().next().is_some();
    let ended: Vec<&Process> =
        snapshot.processes.iter().filter(|process| is_followed && process.ended_unjudged()).collect();
    let mut parts = Vec::new();
    match open.first() {
        Some(first) if several => {
            let reason = clean(&first.reason);
            parts.push(format!("undecided of {} processes, as {reason}", open.len()));
        }
        _ if several && alone && judged().next().is_some() => {
            let which = if ended.is_empty() { "any process" } else { "those processes that go on" };
            parts.push(format!("no site of {which} keeps growing"));
        }
        _ => {}
    }
    if !ended.is_empty() {
        let bytes: u64 = ended.iter().map(|process| process.outstanding_bytes).sum();
        let whose = if ended.len() == 1 { "a process".to_owned() } else { format!("{} processes", ended.len()) };
        parts.push(format!("not judged of {whose} that ended with {} outstanding", Bytes(bytes)));
    }
    (!parts.is_empty()).then(|| format!("growth: {}", parts.join("; ")))
}

fn is_open(growth: &Growth) -> bool {
    !matches!(growth.verdict, GrowthVerdict::Leak | GrowthVerdict::Steady)
}

/// Whether an option about growth was given.
fn is_asked_for(options: &Options) -> bool {
    !options.warm_up.is_zero() || options.sort == SortKey::Growth
}

/// `leak, 1.2 KiB/s (95%: 1.1 KiB/s to 1.3 KiB/s) at leak_here: blocks stay for longer than …`
fn words(growth: &Growth, sampled: bool) -> String {
    let reason = clean(&growth.reason);
    let [least, most] = growth.ci95;
    let about = if sampled { "~" } else { "" };
    let rate = format!("{about}{} (95%: {} to {})", Rate(growth.bytes_per_s), Rate(least), Rate(most));
    match growth.verdict {
        GrowthVerdict::Leak => format!("a leak of {rate} {reason}"),
        GrowthVerdict::Steady => format!("steady, {reason}"),
        _ if growth.bytes_per_s > 0.0 => format!("undecided, {rate} {reason}"),
        _ => format!("undecided, {reason}"),
    }
}

/// What stands in a site's line: `leaks 1.2 KiB/s`, `grows 640.0 B/s`.
pub fn of_site(site: &Site) -> Option<String> {
    let growth = site.growth.as_ref()?;
    let about = if site.sampled { "~" } else { "" };
    match growth.verdict {
        GrowthVerdict::Leak => Some(format!("leaks {about}{}", Rate(growth.bytes_per_s))),
        GrowthVerdict::Undecided if growth.bytes_per_s > 0.0 => {
            Some(format!("grows {about}{}", Rate(growth.bytes_per_s)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeline;

    fn snapshot(elapsed: u64, growths: &[&str]) -> Snapshot {
        let process = |(pid, growth): (usize, &&str)| {
            format!(r#"{{"pid":{},"comm":"a","outstanding_bytes":9,"outstanding_count":1,"growth":{growth}}}"#, pid + 7)
        };
        let processes: Vec<_> = growths.iter().enumerate().map(process).collect();
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":{elapsed},"target":{{"mode":"pid","pids":[7]}},
            "processes":[{}]}}"#,
            processes.join(",")
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    const LEAK: &str = r#"{"verdict":"leak","bytes_per_s":2048.0,"ci95":[1024.0,3072.0],"reason":"at f: blocks stay"}"#;
    const STEADY: &str = r#"{"verdict":"steady","reason":"no site keeps growing"}"#;
    const OPEN: &str = r#"{"verdict":"undecided","bytes_per_s":10.0,"ci95":[5.0,15.0],"reason":"at g: never freed"}"#;

    #[test]
    fn a_process_has_one_sentence() {
        let leak = "growth: a leak of 2.0 KiB/s (95%: 1.0 KiB/s to 3.0 KiB/s) at f: blocks stay".to_owned();
        assert_eq!(lines(&snapshot(60, &[LEAK])), [(leak.clone(), true)]);
        assert_eq!(lines(&snapshot(5, &[LEAK])), [(leak, true)], "that is worth a line at any time");
        assert_eq!(lines(&snapshot(60, &[STEADY])), [("growth: steady, no site keeps growing".to_owned(), false)]);
        let open = "growth: undecided, 10.0 B/s (95%: 5.0 B/s to 15.0 B/s) at g: never freed".to_owned();
        assert_eq!(lines(&snapshot(60, &[OPEN])), [(open, false)]);
        assert!(lines(&snapshot(5, &[OPEN])).is_empty() && lines(&snapshot(60, &["null"])).is_empty());
    }

    #[test]
    fn of_many_processes_those_are_named_that_grow() {
        let several = lines(&snapshot(60, &[STEADY, LEAK, STEADY]));
        assert_eq!(several.len(), 1);
        assert!(several[0].0.starts_with("growth of a (pid 8): a leak of "), "{}", several[0].0);
        let none = lines(&snapshot(60, &[STEADY, STEADY]));
        assert_eq!(none, [("growth: no site of any process keeps growing".to_owned(), false)]);
        let short = r#"{"verdict":"undecided","reason":"1.0 s are too short to tell"}"#;
        let open = lines(&snapshot(60, &[short, STEADY, short]));
        assert_eq!(open, [("growth: undecided of 2 processes, as 1.0 s are too short to tell".to_owned(), false)]);
    }

    #[test]
    fn those_that_have_ended_are_not_said_to_be_steady() {
        let mut ended = snapshot(60, &[STEADY, "null"]);
        ended.processes[1].exited = true;
        let line = "growth: no site of those processes that go on keeps growing; not judged of a process that ended with 9 B outstanding";
        assert_eq!(lines(&ended), [(line.to_owned(), false)]);
        let mut alone = snapshot(60, &["null"]);
        alone.processes[0].exited = true;
        assert!(lines(&alone).is_empty(), "growth was not followed at all");
        alone.timeline = Some(Timeline::default());
        let line = "growth: not judged of a process that ended with 9 B outstanding";
        assert_eq!(lines(&alone), [(line.to_owned(), false)]);
        alone.processes[0].outstanding_bytes = 0;
        assert!(lines(&alone).is_empty());
    }
}
