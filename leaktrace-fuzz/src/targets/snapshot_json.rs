//! What `leaktrace report SNAPSHOT` and `leaktrace diff` do: reads, filters, sorts, compares, and writes every format.

use leaktrace::analysis::diff::compare;
use leaktrace::model::{Change, Diff, Difference, Schema, Snapshot, SortKey, Written};
use leaktrace::report::diff::DiffFormat;
use leaktrace::report::text::{GroupBy, TextStyle};
use leaktrace::report::{Form, Measure, flamegraph, folded, json, text, timeline};
use std::io;
use std::time::Duration;

pub const WORDS: &[&str] = &[
    "schema",
    "leaktrace/1",
    "leaktrace/2",
    "sampled",
    "outstanding_bytes_ci95",
    "sites",
    "processes",
    "process",
    "stack",
    "frames",
    "sites_left_out",
    "all_sites",
    "id",
    "blocks",
    "verdict",
    "trend",
    "stack_state",
    "stacks",
    "losses",
    "options",
    "sample_bytes",
    "sort",
    "growth_bytes_per_s",
    "oldest_s",
    "age_s",
    "elapsed_s",
    "pid",
    "merged",
    "inlined",
    "address",
    "untraced",
    "notes",
    "warnings",
    "function",
    "alloc_count",
    "alloc_bytes",
    "free_bytes",
    "outstanding_bytes",
    "outstanding_count",
];
const PLAIN: TextStyle =
    TextStyle { top: None, show_allocs: true, holders: true, group_by: GroupBy::Stack, color: false, width: None };
const KEYS: [SortKey; 5] = [SortKey::Bytes, SortKey::Count, SortKey::Age, SortKey::Growth, SortKey::Unknown];

pub fn run(input: &[u8]) {
    let mut snapshot = match Snapshot::from_json(input) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for schema in [Schema::V1, Schema::V2] {
        reads_back(&snapshot, schema);
    }

    render(&snapshot);
    let same = compare(snapshot.clone(), snapshot.clone());
    assert!(same.sites.iter().all(|site| site.change == Change::Unchanged), "it differs from itself");
    let original = snapshot.clone();
    for key in KEYS {
        snapshot.sort_sites(key);
    }
    let had_blocks = snapshot.has_blocks();
    let filtered = snapshot.retain_older_than(Duration::from_secs(5));
    assert_eq!(filtered.is_ok(), had_blocks);
    if had_blocks {
        let mut blocks = snapshot.sites.iter().flat_map(|site| site.blocks.iter().flatten());
        assert!(blocks.all(|block| block.age >= Duration::from_secs(5)));
    }
    render(&snapshot);
    let (there, back) = (compare(original.clone(), snapshot.clone()), compare(snapshot, original));
    let Difference { bytes, count } = there.totals().difference();
    assert_eq!(back.totals().difference(), Difference { bytes: -bytes, count: -count });
    render_difference(&there);
    render_difference(&back);
}

/// Every format of a difference.
fn render_difference(diff: &Diff) {
    let style = TextStyle { top: None, ..PLAIN };
    let report = write(|out| DiffFormat::write_text(diff, style, out));
    let controls = report.iter().filter(|byte| byte.is_ascii_control() && **byte != b'\n').count();
    assert_eq!(controls, 0, "a difference acts on the terminal");
    write(|out| DiffFormat::Folded.write(diff, out));
    let written = write(|out| DiffFormat::Json.write(diff, out));
    assert_eq!(written.iter().position(|&byte| byte == b'\n'), Some(written.len() - 1), "a difference is one line");
    // Numbers that no machine produces are refused.
    let _ = DiffFormat::Flamegraph(Measure::Bytes).write(diff, &mut Vec::new());
}

/// What is written is a line that is read, and written again alike.
fn reads_back(snapshot: &Snapshot, schema: Schema) {
    let json = |snapshot: &Snapshot| write(|out| json::write(&Written { snapshot, schema, all_sites: true }, out));
    let written = json(snapshot);
    assert_eq!(written.iter().position(|&byte| byte == b'\n'), Some(written.len() - 1), "a snapshot is one line");
    let again = Snapshot::from_json(&written);
    assert!(again.is_ok(), "not read back: {:?}", again.err());
    // Once: durations are written to the microsecond.
    if let Ok(again) = again {
        let rewritten = json(&again);
        let differs = written.iter().zip(&rewritten).position(|(one, other)| one != other);
        let around = differs.map_or(0, |at| at.saturating_sub(40));
        let part = |text: &[u8]| {
            String::from_utf8_lossy(&text[around.min(text.len())..(around + 80).min(text.len())]).into_owned()
        };
        assert!(written == rewritten, "{:?} is read as {:?}", part(&written), part(&rewritten));
    }
}

/// Every format, and what is said beside it.
fn render(snapshot: &Snapshot) {
    let narrow = TextStyle { top: Some(1), show_allocs: false, color: true, width: Some(20), ..PLAIN };
    let by_type = TextStyle { group_by: GroupBy::Type, ..PLAIN };
    let report = write(|out| text::write(snapshot, PLAIN, out));
    let controls = report.iter().filter(|byte| byte.is_ascii_control() && **byte != b'\n').count();
    assert_eq!(controls, 0, "a report acts on the terminal");
    write(|out| text::write(snapshot, narrow, out));
    write(|out| text::write(snapshot, by_type, out));
    write(|out| folded::write(snapshot, out));
    write(|out| flamegraph::write(snapshot, Measure::Bytes, out));
    write(|out| flamegraph::write(snapshot, Measure::Count, out));
    write(|out| timeline::write(snapshot, out));
    let _ = (snapshot.totals(), snapshot.leaked_bytes(), snapshot.check_sums(), snapshot.saw_nothing());
    for notice in leaktrace::report::notices(snapshot) {
        assert!(!notice.line().contains('\n'));
    }
}

fn write(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Vec<u8> {
    let mut out = Vec::new();
    let done = render(&mut out);
    assert!(done.is_ok(), "not written: {:?}", done.err());
    out
}
