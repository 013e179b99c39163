//! Every format of a difference. The snapshots are those of traces: of a small server that was run twice (`diff-old`, `diff-new`),
//! of its next version (`diff-version-2`, built from more source), and two reports of another program's trace.

use std::sync::Arc;

use leaktrace::analysis::diff::compare;
use leaktrace::model::{Change, Diff, Snapshot};
use leaktrace::report::diff::{DiffFormat, doubts};
use leaktrace::report::text::TextStyle;
use leaktrace::report::{Form, Measure, folded};

use super::{PLAIN, assert_golden, golden, rendered, svg_texts};

fn snapshot(name: &str) -> Snapshot {
    Snapshot::from_json(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn runs() -> Diff {
    compare(snapshot("diff-old.json"), snapshot("diff-new.json"))
}

fn versions() -> Diff {
    compare(snapshot("diff-old.json"), snapshot("diff-version-2.json"))
}

fn text(diff: &Diff, style: TextStyle) -> String {
    rendered(|out| DiffFormat::write_text(diff, style, out))
}

#[test]
fn text_of_two_runs() {
    assert_golden("diff.txt", &text(&runs(), PLAIN));
}

#[test]
fn text_of_two_versions_on_a_narrow_colour_terminal() {
    let style = TextStyle { top: Some(2), color: true, width: Some(80), ..PLAIN };
    assert_golden("diff-terminal.txt", &text(&versions(), style));
}

#[test]
fn text_of_two_reports_of_one_trace() {
    let diff = compare(snapshot("diff-report-1.json"), snapshot("diff-report-3.json"));
    assert_golden("diff-reports.txt", &text(&diff, PLAIN));
}

#[test]
fn nothing_differs_from_itself() {
    let diff = compare(snapshot("diff-new.json"), snapshot("diff-new.json"));
    let expected = "unchanged: 20.5 KiB in 546 allocations in both; sites: 4 unchanged\n\
        OLD and NEW are one report, after 4.1 s of ./server 260 20 6 0 3900 (pid ";
    let text = text(&diff, PLAIN);
    assert!(text.starts_with(expected) && text.lines().count() == 2, "{text}");
}

#[test]
fn json_of_two_versions() {
    let diff = versions();
    let text = rendered(|out| DiffFormat::Json.write(&diff, out));
    assert_golden("diff.json", &text);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sum = |key: &str| -> i64 {
        json["sites"].as_array().unwrap().iter().map(|site| site["difference"][key].as_i64().unwrap()).sum()
    };
    for key in ["bytes", "count"] {
        assert_eq!(sum(key), json["total"]["difference"][key].as_i64().unwrap());
    }
}

#[test]
fn a_difference_is_no_snapshot() {
    let text = rendered(|out| DiffFormat::Json.write(&runs(), out));
    assert!(Snapshot::from_json(text.as_bytes()).is_err());
}

#[test]
fn folded_stacks_are_those_of_inferno_diff_folded() {
    let diff = runs();
    let ours = rendered(|out| DiffFormat::Folded.write(&diff, out));
    assert_golden("diff.folded", &ours);
    // Each process has a pid of its own, which a difference has not.
    let each = |snapshot: &Snapshot| {
        let process = format!("server-{};", snapshot.sites[0].pid);
        rendered(|out| folded::write(snapshot, out)).replace(&process, "server;")
    };
    let (before, after) = (each(&diff.snapshots.before), each(&diff.snapshots.after));
    let mut theirs = Vec::new();
    let options = inferno::differential::Options::default();
    inferno::differential::from_readers(options, before.as_bytes(), after.as_bytes(), &mut theirs).unwrap();
    let theirs = String::from_utf8(theirs).unwrap();
    let mut lines: Vec<_> = theirs.lines().collect();
    lines.sort_unstable();
    assert_eq!(ours.lines().filter(|line| !line.starts_with("# ")).collect::<Vec<_>>(), lines);
}

#[test]
fn the_flame_graph_has_both_colours_and_says_what_it_cannot_draw() {
    let svg = rendered(|out| DiffFormat::Flamegraph(Measure::Bytes).write(&runs(), out));
    assert_golden("diff-flamegraph.txt", &(svg_texts(&svg).join("\n") + "\n"));
    // inferno's colours of what has most changed: the largest increase, and the only decrease that is still there.
    assert!(svg.contains("fill=\"rgb(255,100,100)\""), "no red");
    assert!(svg.contains(",255)\""), "no blue");
    let svg = rendered(|out| DiffFormat::Flamegraph(Measure::Count).write(&runs(), out));
    assert!(svg_texts(&svg).iter().any(|text| text == "drop (6 allocations, 1.10%; +1.10%)"), "{:?}", svg_texts(&svg));
}

#[test]
fn a_picture_of_nothing_that_is_left_says_so() {
    let mut after = snapshot("diff-new.json");
    after.sites.clear();
    for process in &mut after.processes {
        (process.outstanding_bytes, process.outstanding_count) = (0, 0);
    }
    let diff = compare(snapshot("diff-old.json"), after);
    let svg = rendered(|out| DiffFormat::Flamegraph(Measure::Bytes).write(&diff, out));
    assert!(svg_texts(&svg).iter().any(|text| text == "All of it is gone."));
    let first = "shrank by 13.3 KiB, from 13.3 KiB in 254 allocations to 0 B in 0; outstanding per second traced: 6.3 KiB/s before; \
                 sites: 4 gone\n";
    assert!(text(&diff, PLAIN).starts_with(first));
}

#[test]
fn what_is_outstanding_per_second_is_said_of_traces_that_lasted_differently_long() {
    for (times, says) in [(1.0, false), (1.08, false), (0.93, false), (1.2, true), (0.8, true)] {
        let (before, mut after) = (snapshot("diff-old.json"), snapshot("diff-new.json"));
        after.elapsed = before.elapsed.mul_f64(times);
        let text = text(&compare(before, after), PLAIN);
        assert_eq!(text.contains("outstanding per second traced: "), says, "{times}:\n{text}");
        assert_eq!(text.contains("what grows steadily is larger in the longer"), says, "{times}:\n{text}");
    }
}

#[test]
fn more_than_any_machine_has_is_not_drawn() {
    let mut after = snapshot("diff-new.json");
    after.sites[0].outstanding_bytes = u64::MAX / 2;
    let diff = compare(snapshot("diff-old.json"), after);
    let mut svg = Vec::new();
    let error = DiffFormat::Flamegraph(Measure::Bytes).write(&diff, &mut svg).unwrap_err();
    assert!(error.to_string().contains("more bytes than can be drawn"), "{error}");
    assert!(text(&diff, PLAIN).starts_with("grew by 8.0 EiB, "));
}

/// The warnings on the difference of the two runs after `change`, beside those that are there anyway.
fn doubts_after(change: impl FnOnce(&mut Snapshot, &mut Snapshot)) -> Vec<String> {
    let (mut before, mut after) = (snapshot("diff-old.json"), snapshot("diff-new.json"));
    let anyway = doubts(&runs());
    change(&mut before, &mut after);
    let mut found = doubts(&compare(before, after));
    found.retain(|line| !anyway.contains(line));
    found
}

#[test]
fn each_reason_to_doubt_has_its_sentence() {
    type ToBoth = fn(&mut Snapshot, &mut Snapshot);
    let changes: [(ToBoth, &[&str]); 16] = [
        (|_, _| {}, &[]),
        (|old, new| std::mem::swap(&mut old.started, &mut new.started), &["OLD was taken "]),
        (
            |_, new| new.reproduction.as_mut().unwrap().host = Some("b\u{1b}".to_owned()),
            &["the machine build-1, NEW of b?"],
        ),
        (
            |_, new| new.target.mode = leaktrace::model::TraceMode::Pid,
            &["OLD is of a command from its start on, NEW of processes"],
        ),
        (
            |_, new| new.processes[0].comm = "other".to_owned(),
            &["server of OLD and other of NEW are taken for one program"],
        ),
        (
            |old, _| {
                old.sampled = true;
                old.options.sample_bytes = Some(1 << 19);
            },
            &["OLD is estimated from a sample, one byte in 512.0 KiB hit, NEW is exact"],
        ),
        (|old, _| old.options.min_size = 32, &["OLD has sizes from 32 B, NEW all sizes"]),
        (|_, new| new.options.older_than = std::time::Duration::from_secs(3), &["NEW what is at least 3.0 s old"]),
        (|_, new| new.options.only = Some(leaktrace::model::Only::Lost), &["OLD has everything, NEW what is lost"]),
        (|_, new| new.options.follow = false, &["NEW has not (--no-follow)"]),
        (|_, new| new.options.alloc_symbols = vec!["pool=malloc".to_owned()], &["not the same functions were probed"]),
        (|_, new| new.options.max_depth = 16, &["one site may appear as gone and as new"]),
        (|_, new| new.processes[0].exited = false, &["OLD is of processes that had ended"]),
        (
            |old, _| {
                old.processes[0].leak_check = None;
                old.sites.iter_mut().for_each(|site| site.verdict = None);
            },
            &["a leak check ran in NEW only"],
        ),
        (
            |old, new| {
                old.losses.allocs_dropped = 7;
                new.losses.stacks_truncated = 2;
            },
            &["lost in OLD: 7 allocations; ", "lost in NEW: 2 stacks cut; "],
        ),
        (
            |old, new| {
                old.warnings = vec!["both".to_owned(), "old".to_owned()];
                new.warnings = vec!["new\n".to_owned(), "both".to_owned()];
            },
            &["OLD and NEW: both", "OLD: old", "NEW: new?"],
        ),
    ];
    for (change, expected) in changes {
        let found = doubts_after(change);
        assert_eq!(found.len(), expected.len(), "{expected:?}: {found:#?}");
        for (line, part) in found.iter().zip(expected) {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}

#[test]
fn sites_that_are_not_listed_are_not_called_gone_in_any_format() {
    let mut after = snapshot("diff-new.json");
    after.sites.retain(|site| site.outstanding_bytes > 10_000);
    let diff = compare(snapshot("diff-old.json"), after);
    assert_eq!((diff.number(Change::Gone), diff.number(Change::NotListed)), (0, 3));
    let report = text(&diff, PLAIN);
    assert!(
        report.contains("warning: NEW does not list all of its sites: 4.3 KiB in 286 allocations are missing"),
        "{report}"
    );
    assert!(report.contains("\nnot listed in NEW: 4.0 KiB in 4 allocations in OLD"), "{report}");
    let json = rendered(|out| DiffFormat::Json.write(&diff, out));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let site = json["sites"].as_array().unwrap().iter().find(|site| site["change"] == "not_listed").unwrap();
    assert!(site["difference"].is_null() && site["bytes_per_s"].is_null(), "{site}");
    let folded = rendered(|out| DiffFormat::Folded.write(&diff, out));
    assert!(!folded.contains("load_config") && folded.contains("# warning: NEW does not list all"), "{folded}");
    let svg = rendered(|out| DiffFormat::Flamegraph(Measure::Bytes).write(&diff, out));
    assert!(svg.contains("3 sites not listed in one, not drawn"));
}

#[test]
fn hostile_names_leave_every_format_as_it_is() {
    let (before, mut after) = (snapshot("diff-old.json"), snapshot("diff-new.json"));
    after.processes[0].comm = "# \u{1b}[2J<&>".to_owned();
    after.target.command = vec!["\u{202e}x\n".to_owned()];
    for site in &mut after.sites {
        Arc::make_mut(&mut site.stack[0]).function = Some("]]>\u{0}<script>\n 12".to_owned());
    }
    let diff = compare(before, after);
    for format in [DiffFormat::Folded, DiffFormat::Json] {
        let text = rendered(|out| format.write(&diff, out));
        assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
    }
    let report = text(&diff, PLAIN);
    assert!(report.chars().all(|c| (!c.is_control() || c == '\n') && c != '\u{202e}'), "{report:?}");
    let svg = rendered(|out| DiffFormat::Flamegraph(Measure::Bytes).write(&diff, out));
    assert!(svg_texts(&svg).iter().any(|text| text.contains("<script>")), "escaped, not left out");
}
