//! Every format of one rich snapshot against the files in `golden/`, which were read and approved by eye.
//!
//! After a change that is meant to alter a format, run with `LEAKTRACE_BLESS=1` and review the difference in git.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise, its helpers too")]

mod diff;
mod timeline;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leaktrace::analysis::suppressions::Rules;
use leaktrace::model::{Address, Pid, Schema, Snapshot, TraceMode, Written};
use leaktrace::report::text::{GroupBy, TextStyle};
use leaktrace::report::{Measure, flamegraph, folded, json, lsan, text};
use quick_xml::Reader;
use quick_xml::events::Event;

const PLAIN: TextStyle = TextStyle {
    top: Some(10),
    show_allocs: false,
    holders: false,
    group_by: GroupBy::Stack,
    color: false,
    width: None,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn fixture() -> Snapshot {
    Snapshot::from_json(&std::fs::read(golden("snapshot.json")).unwrap()).unwrap()
}

fn rendered(render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    render(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Fails with the first line that differs.
fn assert_golden(name: &str, actual: &str) {
    let path = golden(name);
    if std::env::var_os("LEAKTRACE_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (number, (expected, actual)) in expected.lines().zip(actual.lines()).enumerate() {
        assert_eq!(expected, actual, "{name} line {}", number + 1);
    }
    assert_eq!(expected, actual, "{name}: one is longer");
}

#[test]
fn reading_gives_each_field_its_meaning() {
    let snapshot = fixture();
    assert_eq!(snapshot.elapsed, Duration::from_millis(12_345));
    assert_eq!((snapshot.sequence, snapshot.is_final), (3, true));
    assert_eq!(snapshot.target.mode, TraceMode::Pid);
    assert_eq!(snapshot.target.pids, [Pid(1234), Pid(1240)]);
    assert_eq!(snapshot.options.max_size, Some(1 << 20));
    let site = &snapshot.sites[0];
    assert_eq!(site.oldest, Some(Duration::from_millis(11_200)));
    assert_eq!(site.stack[1].line, Some(137));
    assert!(site.stack[1].inlined && !site.stack[2].inlined);
    assert_eq!(site.stack[4].address, Address(0x5555_5555_5a00));
    assert_eq!(site.stack[4].module_offset, Some(0x1a00));
    assert_eq!(site.blocks.as_ref().unwrap()[1].size, 2048);
    assert_eq!(snapshot.processes[1].rss_bytes, None);
    assert_eq!(snapshot.losses.unwind_failures["no mapping"], 3);
    let others = snapshot.stacks.map(|stacks| stacks.recorded - stacks.complete - stacks.guessed);
    assert_eq!(others, Some(5 + 4), "cut or incomplete");
    snapshot.check_sums().unwrap();
}

#[test]
fn json_written_equals_the_json_of_the_contract() {
    let snapshot = fixture();
    let old = Written { snapshot: &snapshot, schema: Schema::V1, all_sites: true };
    let text = rendered(|out| json::write(&old, out));
    assert_eq!(text.matches('\n').count(), 1, "one line, so that reports on one stream are JSON Lines");
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    let contract: serde_json::Value = serde_json::from_slice(&std::fs::read(golden("snapshot.json")).unwrap()).unwrap();
    assert_eq!(written, contract);
    assert_golden("report-schema-1.json", &text);
}

#[test]
fn json_with_a_table_of_frames() {
    let snapshot = fixture();
    let written = |all_sites| {
        let written = Written { snapshot: &snapshot, schema: Schema::V2, all_sites };
        rendered(|out| json::write(&written, out))
    };
    assert_golden("report.json", &written(false));
    let all = written(true);
    assert_eq!(Snapshot::from_json(all.as_bytes()).unwrap(), snapshot, "both forms say the same");
    let short = Snapshot::from_json(written(false).as_bytes()).unwrap();
    assert_eq!(short.sites.len() as u64 + short.sites_left_out, snapshot.sites.len() as u64);
    assert_eq!(rendered(|out| text::write(&short, PLAIN, out)), rendered(|out| text::write(&snapshot, PLAIN, out)));
}

#[test]
fn text_report() {
    assert_golden("report.txt", &rendered(|out| text::write(&fixture(), PLAIN, out)));
}

#[test]
fn text_report_with_blocks() {
    let style = TextStyle { show_allocs: true, ..PLAIN };
    assert_golden("report-allocs.txt", &rendered(|out| text::write(&fixture(), style, out)));
}

#[test]
fn text_report_with_holders() {
    let style = TextStyle { holders: true, ..PLAIN };
    assert_golden("report-holders.txt", &rendered(|out| text::write(&fixture(), style, out)));
}

#[test]
fn text_report_by_type() {
    let style = TextStyle { group_by: GroupBy::Type, ..PLAIN };
    assert_golden("report-types.txt", &rendered(|out| text::write(&fixture(), style, out)));
}

#[test]
fn text_report_of_the_largest_site_on_a_narrow_colour_terminal() {
    let style = TextStyle { top: Some(1), color: true, width: Some(80), ..PLAIN };
    assert_golden("report-terminal.txt", &rendered(|out| text::write(&fixture(), style, out)));
}

#[test]
fn folded_stacks() {
    assert_golden("report.folded", &rendered(|out| folded::write(&fixture(), out)));
}

#[test]
fn text_of_leak_sanitizer() {
    assert_golden("report.lsan", &rendered(|out| lsan::write(&fixture(), false, out)));
    assert_golden("report-allocs.lsan", &rendered(|out| lsan::write(&fixture(), true, out)));
}

#[test]
fn folded_stacks_of_a_lossless_snapshot_have_no_comments() {
    let mut snapshot = fixture();
    snapshot.losses = leaktrace::model::Losses::default();
    snapshot.stacks = None;
    snapshot.warnings.clear();
    let text = rendered(|out| folded::write(&snapshot, out));
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|line| line.contains("-12") && !line.starts_with('#')), "{text}");
}

/// The fixture with suppressions: one of memcheck's hides the lost blocks of the largest site, a line of LeakSanitizer's the second.
fn suppressed() -> Snapshot {
    let memcheck = "{\n   vectors of the cache\n   Memcheck:Leak\n   match-leak-kinds: definite,indirect\n   fun:_Znwm\n   ...\n   \
        src:cache.cpp:88\n}\n";
    let mut rules = Rules::default();
    rules.add(memcheck.as_bytes(), "/etc/server.supp").unwrap();
    rules.add(b"leak:worker\nleak:nowhere\n", "ci/worker.supp").unwrap();
    let mut snapshot = fixture();
    let hid: Vec<_> = rules.apply(&mut snapshot).rules.iter().map(|used| used.hidden.bytes).collect();
    assert_eq!(hid, [10240, 96, 0]);
    snapshot
}

#[test]
fn text_report_without_what_is_suppressed() {
    let style = TextStyle { show_allocs: true, ..PLAIN };
    assert_golden("suppressed.txt", &rendered(|out| text::write(&suppressed(), style, out)));
}

#[test]
fn folded_stacks_and_flame_graph_without_what_is_suppressed() {
    assert_golden("suppressed.folded", &rendered(|out| folded::write(&suppressed(), out)));
    let svg = rendered(|out| flamegraph::write(&suppressed(), Measure::Bytes, out));
    assert_golden("suppressed-flamegraph.txt", &(svg_texts(&svg).join("\n") + "\n"));
}

#[test]
fn json_has_marks_on_what_is_suppressed() {
    let snapshot = suppressed();
    let written = Written { snapshot: &snapshot, schema: Schema::V2, all_sites: true };
    let text = rendered(|out| json::write(&written, out));
    assert_golden("suppressed.json", &text);
    assert_eq!(Snapshot::from_json(text.as_bytes()).unwrap(), snapshot);
}

#[test]
fn reports_of_what_is_lost_alone() {
    let lost = fixture().only_lost();
    let style = TextStyle { show_allocs: true, ..PLAIN };
    assert_golden("lost.txt", &rendered(|out| text::write(&lost, style, out)));
    assert_golden("lost.folded", &rendered(|out| folded::write(&lost, out)));
    let svg = rendered(|out| flamegraph::write(&lost, Measure::Count, out));
    assert_golden("lost-flamegraph.txt", &(svg_texts(&svg).join("\n") + "\n"));
}

/// The texts of an SVG in order; fails where it is not well-formed.
fn svg_texts(svg: &str) -> Vec<String> {
    let mut reader = Reader::from_str(svg);
    reader.config_mut().check_end_names = true;
    let mut texts = Vec::new();
    let (mut depth, mut in_text, mut text) = (0usize, false, String::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                depth += 1;
                in_text = matches!(start.name().as_ref(), b"title" | b"text");
                for attribute in start.attributes() {
                    attribute.unwrap().unescape_value().unwrap();
                }
            }
            Event::Text(content) if in_text => text += &content.decode().unwrap(),
            Event::GeneralRef(reference) if in_text => match reference.as_ref() {
                b"lt" => text.push('<'),
                b"gt" => text.push('>'),
                b"amp" => text.push('&'),
                b"quot" => text.push('"'),
                b"apos" => text.push('\''),
                other => panic!("unknown entity {other:?}"),
            },
            Event::End(_) => {
                depth -= 1;
                in_text = false;
                if !text.is_empty() {
                    texts.push(std::mem::take(&mut text));
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "an element is left open");
    texts
}

#[test]
fn flame_graph_is_well_formed_and_names_title_losses_and_frames() {
    for (measure, name) in [(Measure::Bytes, "flamegraph-bytes.txt"), (Measure::Count, "flamegraph-count.txt")] {
        let svg = rendered(|out| flamegraph::write(&fixture(), measure, out));
        assert_golden(name, &(svg_texts(&svg).join("\n") + "\n"));
    }
}

#[test]
fn flame_graphs_of_one_snapshot_are_equal() {
    let render = || rendered(|out| flamegraph::write(&fixture(), Measure::Bytes, out));
    assert_eq!(render(), render());
}

#[test]
fn one_process_is_not_a_frame() {
    let mut snapshot = fixture();
    snapshot.processes.truncate(1);
    snapshot.sites.retain(|site| site.pid == Pid(1234));
    let svg = rendered(|out| flamegraph::write(&snapshot, Measure::Bytes, out));
    assert!(!svg.contains("server-1234"));
    assert!(svg.contains("Cache::remember"));
    assert!(rendered(|out| folded::write(&snapshot, out)).contains("server-1234;main;"));
}

#[test]
fn an_empty_snapshot_says_so_in_every_format() {
    let mut snapshot = fixture();
    snapshot.sites.clear();
    for process in &mut snapshot.processes {
        process.alloc_count = 0;
        process.untracked_frees = 0;
        process.thread_end_frees = 0;
    }
    snapshot.warnings = vec!["not one allocation was seen".to_owned()];
    let texts = svg_texts(&rendered(|out| flamegraph::write(&snapshot, Measure::Bytes, out)));
    assert!(texts.iter().any(|text| text == "Nothing is outstanding."), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("not one allocation was seen")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("lost: 1,200 allocations")), "{texts:?}");
    let report = rendered(|out| text::write(&snapshot, PLAIN, out));
    assert!(report.starts_with("nothing outstanding after 12.3 s of server (pid 1234)"), "{report}");
    assert!(report.contains("warning: not one allocation was seen"), "{report}");
    let folded = rendered(|out| folded::write(&snapshot, out));
    assert!(folded.lines().all(|line| line.starts_with("# ")) && folded.contains("not one"), "{folded}");
}

#[test]
fn hostile_names_leave_the_svg_well_formed_and_the_terminal_alone() {
    let mut snapshot = fixture();
    snapshot.processes[0].comm = "# \u{1b}[2J<&>".to_owned();
    Arc::make_mut(&mut snapshot.sites[0].stack[0]).function = Some("]]>--\u{0}<script>\n\"'&amp;".to_owned());
    Arc::make_mut(&mut snapshot.sites[0].stack[4]).file = Some("/tmp/\u{7}.c".into());
    let texts = svg_texts(&rendered(|out| flamegraph::write(&snapshot, Measure::Bytes, out)));
    assert!(texts.iter().any(|text| text.starts_with("]]>--?<script>?\"'&amp: (")), "{texts:?}");
    let report = rendered(|out| text::write(&snapshot, PLAIN, out));
    assert!(report.chars().all(|c| !c.is_control() || c == '\n'), "{report:?}");
    let lsan = rendered(|out| lsan::write(&snapshot, false, out));
    assert!(lsan.contains("#0 ") && lsan.chars().all(|c| !c.is_control() || c == '\n'), "{lsan:?}");
    let folded = rendered(|out| folded::write(&snapshot, out));
    assert!(folded.contains("_ ?[2J<&>-1234;main;"), "{folded}");
}
