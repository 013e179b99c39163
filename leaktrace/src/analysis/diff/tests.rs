//! Tests of matching and summing. What is expected is worked out by hand, or follows from what a difference is.

use std::fmt::Write;
use std::time::Duration;

use super::*;
use crate::model::{Difference, Matched};

/// A site of the tests: its id's number, its stack innermost first as `function@file+offset`, and bytes and count.
#[derive(Debug, Clone)]
pub struct Given {
    pub comm: &'static str,
    pub id: Option<u8>,
    pub stack: Vec<String>,
    pub bytes: u64,
    pub count: u64,
}

fn given(id: u8, stack: &[&str], bytes: u64, count: u64) -> Given {
    Given { comm: "a", id: Some(id), stack: stack.iter().map(|&frame| frame.to_owned()).collect(), bytes, count }
}

/// A snapshot of a trace of ten seconds that began at this second.
fn snapshot(second: u8, sites: &[Given]) -> Snapshot {
    let mut comms: Vec<_> = sites.iter().map(|site| site.comm).collect();
    comms.sort_unstable();
    comms.dedup();
    let pid = |comm: &str| comms.iter().position(|other| *other == comm).unwrap_or_default() + 7;
    let (mut processes, mut forms) = (Vec::new(), Vec::new());
    for comm in &comms {
        let its = || sites.iter().filter(|site| site.comm == *comm);
        let (bytes, count) = its().fold((0, 0), |sum, site| (sum.0 + site.bytes, sum.1 + site.count));
        let pid = pid(comm);
        processes.push(format!(
            r#"{{"pid":{pid},"comm":"{comm}","outstanding_bytes":{bytes},"outstanding_count":{count}}}"#
        ));
    }
    for site in sites {
        let mut stack = String::new();
        for frame in &site.stack {
            let (function, place) = frame.split_once('@').unwrap();
            let (file, offset) = place.split_once('+').unwrap();
            let function = if function.is_empty() { "null".to_owned() } else { format!("\"{function}\"") };
            let separator = if stack.is_empty() { "" } else { "," };
            write!(
                stack,
                r#"{separator}{{"function":{function},"module":"/{file}","address":"0x{offset}","module_offset":"0x{offset}"}}"#
            )
            .unwrap();
        }
        let id = site.id.map(|id| format!(r#""id":"{id:016x}","#)).unwrap_or_default();
        let (pid, bytes, count) = (pid(site.comm), site.bytes, site.count);
        forms.push(format!(
            r#"{{"pid":{pid},{id}"outstanding_bytes":{bytes},"outstanding_count":{count},"stack":[{stack}]}}"#
        ));
    }
    let text = format!(
        r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:{second:02}Z","elapsed_s":10,"target":{{"mode":"pid"}},
        "processes":[{}],"sites":[{}]}}"#,
        processes.join(","),
        forms.join(",")
    );
    Snapshot::from_json(text.as_bytes()).unwrap()
}

pub fn compared(before: &[Given], after: &[Given]) -> Diff {
    compare(snapshot(0, before), snapshot(20, after))
}

/// What became of each site, by the innermost function of the stack that stands for it.
fn changes(diff: &Diff) -> Vec<(String, Change, Option<Matched>, i128)> {
    let change = |site: &SiteDiff| {
        let (_, shown) = diff.shown(site).unwrap();
        let name = shown.stack.first().and_then(|frame| frame.function.clone()).unwrap_or_default();
        (name, site.change, site.matched, site.amount.difference().bytes)
    };
    diff.sites.iter().map(change).collect()
}

#[test]
fn sites_of_the_same_code_are_compared_and_put_in_order() {
    let before = [
        given(1, &["f@app+10"], 60, 6),
        given(2, &["g@app+20"], 500, 5),
        given(3, &["h@app+30"], 7, 1),
        given(4, &["i@app+40"], 9, 9),
    ];
    let after = [
        given(3, &["h@app+30"], 7, 1),
        given(1, &["f@app+10"], 100, 10),
        given(5, &["j@app+50"], 30, 3),
        given(2, &["g@app+20"], 400, 4),
    ];
    let code = Some(Matched::Code);
    let expected = [
        ("f", Change::Grew, code, 40),
        ("j", Change::New, None, 30),
        ("g", Change::Shrank, code, -100),
        ("i", Change::Gone, None, -9),
        ("h", Change::Unchanged, code, 0),
    ];
    let diff = compared(&before, &after);
    assert_eq!(changes(&diff), expected.map(|(name, change, how, by)| (name.to_owned(), change, how, by)));
    let totals = diff.totals();
    assert_eq!((totals.before.outstanding.bytes, totals.after.outstanding.bytes), (576, 537));
    assert_eq!(diff.changed().count(), 4);
}

#[test]
fn as_many_bytes_in_more_allocations_have_grown() {
    let diff = compared(&[given(1, &["f@app+10"], 60, 6)], &[given(1, &["f@app+10"], 60, 7)]);
    assert_eq!(
        (diff.sites[0].change, diff.sites[0].amount.difference()),
        (Change::Grew, Difference { bytes: 0, count: 1 })
    );
}

#[test]
fn another_build_is_matched_by_names_whatever_compilers_add_to_them() {
    let before =
        [given(1, &["grow.constprop.0@app+10", "main@app+90"], 60, 6), given(2, &["f@app+20", "main@app+91"], 5, 1)];
    let after = [given(8, &["f@app+24", "main@app+99"], 5, 1), given(9, &["grow@app+14", "main@app+98"], 100, 10)];
    let names = Some(Matched::Names);
    let expected = [("grow".to_owned(), Change::Grew, names, 40), ("f".to_owned(), Change::Unchanged, names, 0)];
    assert_eq!(changes(&compared(&before, &after)), expected);
}

#[test]
fn two_calls_of_one_function_are_two_sites_in_one_build_and_one_sum_in_another() {
    let before = [given(1, &["f@app+10"], 60, 6), given(7, &["main@app+90"], 1, 1)];
    let same_build = [given(2, &["f@app+20"], 60, 6), given(7, &["main@app+90"], 1, 1)];
    let found = changes(&compared(&before, &same_build));
    let of_f: Vec<_> = found.iter().filter(|(name, ..)| name == "f").map(|(_, change, ..)| *change).collect();
    assert_eq!(of_f, [Change::New, Change::Gone], "main shows that the file is the same");

    let other_build =
        [given(3, &["f@app+14"], 10, 1), given(4, &["f@app+24"], 80, 8), given(8, &["main@app+94"], 1, 1)];
    let found = changes(&compared(&before, &other_build));
    assert_eq!(found[0], ("f".to_owned(), Change::Grew, Some(Matched::Names), 30));
    assert_eq!(found.len(), 2);
}

#[test]
fn names_are_compared_only_of_what_has_a_name() {
    let before = [given(1, &["@app+10", "main@app+90"], 60, 6)];
    let after = [given(2, &["@app+10", "main@app+90"], 60, 6)];
    let found = changes(&compared(&before, &after));
    assert_eq!(found.iter().map(|(_, change, ..)| *change).collect::<Vec<_>>(), [Change::New, Change::Gone]);
    // In a library that is the same in both, an offset is as good as a name.
    let library = given(9, &["@lib+10"], 1, 1);
    let before = [given(1, &["@lib+20", "main@app+90"], 60, 6), library.clone()];
    let after = [given(2, &["@lib+20", "main@app+94"], 70, 7), library];
    let found = changes(&compared(&before, &after));
    assert_eq!((found[0].1, found[0].2, found[0].3), (Change::Grew, Some(Matched::Names), 10));
}

#[test]
fn snapshots_without_ids_are_compared_by_place_and_function() {
    let without = |stack: &[&str], bytes| Given { id: None, ..given(0, stack, bytes, 1) };
    let before = [without(&["f@app+10", "main@app+90"], 60), without(&["g@app+20"], 5)];
    // The second moved in a new build, where another function lies at its place.
    let after = [without(&["f@app+10", "main@app+90"], 70), without(&["h@app+20"], 9), given(1, &["g@app+30"], 6, 1)];
    let diff = compared(&before, &after);
    assert!(diff.without_ids);
    let expected = [
        ("f".to_owned(), Change::Grew, Some(Matched::Code), 10),
        ("h".to_owned(), Change::New, None, 9),
        ("g".to_owned(), Change::Grew, Some(Matched::Names), 1),
    ];
    let mut found = changes(&diff);
    found.sort_by_key(|(.., by)| std::cmp::Reverse(*by));
    assert_eq!(found, expected);
}

#[test]
fn processes_of_one_name_are_summed_and_others_are_apart() {
    let of = |comm, bytes| Given { comm, ..given(1, &["f@lib+10"], bytes, 1) };
    let diff = compared(&[of("a", 10), of("a", 20), of("b", 5)], &[of("b", 5), of("a", 90)]);
    let found = changes(&diff);
    assert_eq!(
        found.iter().map(|(_, change, _, by)| (*change, *by)).collect::<Vec<_>>(),
        [(Change::Grew, 60), (Change::Unchanged, 0)]
    );
    assert_eq!(diff.sites[0].sites.before.len(), 2);
}

#[test]
fn the_only_program_without_a_namesake_is_taken_for_the_other_where_processes_were_named() {
    let of = |comm, bytes| Given { comm, ..given(1, &["f@lib+10"], bytes, 1) };
    let diff = compared(&[of("server-1", 10), of("sh", 1)], &[of("server-2", 30), of("sh", 1)]);
    assert_eq!(changes(&diff)[0].1, Change::Grew);
    let two = compared(&[of("server-1", 10), of("x", 1)], &[of("server-2", 30), of("y", 1)]);
    assert_eq!(two.number(Change::New) + two.number(Change::Gone), 4, "any may be any");
    let mut everything = snapshot(0, &[of("server-1", 10)]);
    everything.target.mode = crate::model::TraceMode::System;
    let diff = compare(everything, snapshot(20, &[of("server-2", 30)]));
    assert_eq!(diff.number(Change::New) + diff.number(Change::Gone), 2);
}

#[test]
fn what_is_not_listed_is_not_called_gone() {
    let sites = [given(1, &["f@app+10"], 60, 6), given(2, &["g@app+20"], 50, 5)];
    let before = snapshot(0, &sites);
    let mut after = snapshot(20, &[given(1, &["f@app+10"], 100, 10)]);
    after.processes[0].outstanding_bytes += 30;
    after.processes[0].outstanding_count += 3;
    let diff = compare(before, after);
    let found = changes(&diff);
    assert_eq!((found[0].1, found[1].1), (Change::Grew, Change::NotListed));
    assert_eq!(diff.totals().difference().bytes, 130 - 110, "the processes' own sums");
    assert_eq!(diff.programs[0].unlisted.after, Tally { bytes: 30, count: 3 });
}

#[test]
fn rates_are_of_the_time_between_reports_of_one_trace_and_else_of_each() {
    let (mut before, mut after) =
        (snapshot(0, &[given(1, &["f@app+10"], 60, 6)]), snapshot(0, &[given(1, &["f@app+10"], 100, 10)]));
    after.elapsed = Duration::from_secs(14);
    let bytes = Pair { before: 60, after: 100 };
    let one_trace = compare(before.clone(), after.clone());
    assert_eq!(one_trace.lapse, Lapse::Between(Duration::from_secs(4)));
    assert_eq!(one_trace.rate(bytes), Some(10.0));
    before.started += Duration::from_mins(1);
    after.elapsed = Duration::from_secs(20);
    let two = compare(before.clone(), after.clone());
    assert_eq!(two.rates(bytes), Pair { before: Some(6.0), after: Some(5.0) });
    assert_eq!(two.rate(bytes), Some(-1.0));
    after.elapsed = Duration::ZERO;
    assert_eq!(compare(before, after).rate(bytes), None);
}

#[test]
fn estimates_have_bounds_also_where_nothing_was_hit() {
    let mut before = snapshot(0, &[given(1, &["f@app+10"], 1000, 10)]);
    before.sampled = true;
    before.options.sample_bytes = Some(100);
    before.sites[0].outstanding_bytes_ci95 = Some([700, 1400]);
    let exact = snapshot(20, &[given(1, &["f@app+10"], 900, 9), given(2, &["g@app+20"], 250, 1)]);
    let diff = compare(before, exact);
    let bounds: Vec<_> = diff.sites.iter().map(|site| site.amount.difference_ci95().unwrap()).collect();
    // Of g up to 300 bytes may have been there before: three times the mean.
    assert_eq!(bounds, [[250 - 300, 250], [900 - 1400, 900 - 700]]);
}

#[test]
fn what_suppressions_hide_everywhere_is_hidden() {
    let rule = |sites: &str| {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{{"mode":"pid"}},
            "suppressions":[{{"name":"pool","source":"a.supp"}}],"sites":[{sites}]}}"#
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    };
    let site = |bytes: u64, mark: &str| {
        format!(r#"{{"pid":7,"id":"{:016x}","outstanding_bytes":{bytes},"outstanding_count":1{mark}}}"#, 1)
    };
    let mark = r#","suppressed_by":[{"rule":0}]"#;
    let both = compare(rule(&site(10, mark)), rule(&site(20, mark)));
    assert!(both.sites[0].suppressed && both.changed().next().is_none());
    let one = compare(rule(&site(10, "")), rule(&site(20, mark)));
    assert!(!one.sites[0].suppressed, "compared by what is outstanding");
    assert_eq!(one.sites[0].amount.difference().bytes, 10);
}
