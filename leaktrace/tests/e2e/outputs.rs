//! The outputs of one trace agree with one another, and go where they are told to.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, build, leaktrace, require_privileges};

/// A trace of the family with every output into files; the options come first.
fn traced(options: &[&str]) -> (Finished, Accounts) {
    let victim = build::victim("family.c");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| path_str(&directory.path().join(name)).to_owned();
    let (json, folded, svg) = (file("snapshot.json"), file("out.folded"), file("out.svg"));
    let mut arguments = vec!["--json", &json, "--folded", &folded, "--flamegraph", &svg];
    arguments.extend(options);
    arguments.extend(["--", path_str(&victim), "run"]);
    require_privileges();
    let finished = Tracer::spawn(&mut leaktrace(&arguments), directory).wait();
    let accounts = Accounts::parse(&finished.stdout);
    (finished, accounts)
}

/// Folded lines as stack and value; what is to be said of them stands in comments.
fn parse_folded(text: &str) -> Vec<(Vec<&str>, u64)> {
    let parse = |line| {
        let (stack, value) = str::rsplit_once(line, ' ').expect("a stack, a space and a value");
        (stack.split(';').collect(), value.parse().expect("the value is a number"))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

#[test]
fn folded_stacks_hold_the_outstanding_bytes_of_each_function() {
    let (finished, accounts) = traced(&[]);
    finished.lossless().assert_equals(&accounts);
    let text = finished.read("out.folded");
    let folded = parse_folded(&text);
    let comm = {
        let snapshot = finished.snapshot();
        let process = snapshot.process(accounts.sites[0].pid);
        format!("{}-{}", process.comm, process.pid)
    };
    for account in accounts.sites.iter().filter(|account| account.bytes > 0) {
        let through = folded.iter().filter(|(stack, _)| stack.contains(&account.site.as_str()));
        assert_eq!(through.clone().map(|(_, bytes)| bytes).sum::<u64>(), account.bytes, "{}", account.site);
        for (stack, _) in through {
            assert_eq!(stack[0], comm, "the root of {stack:?}");
            let main = stack.iter().position(|frame| *frame == "main").expect("main is in the stack");
            assert!(main < stack.iter().position(|frame| *frame == account.site).unwrap(), "not outermost first");
        }
    }
    let (bytes, _) = accounts.outstanding();
    assert_eq!(folded.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes);
}

/// Element names of a well-formed XML document, and its texts and titles.
fn parse_svg(text: &str) -> (BTreeMap<String, usize>, Vec<String>) {
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut elements, mut texts) = (BTreeMap::new(), Vec::new());
    loop {
        match reader.read_event().unwrap_or_else(|e| panic!("the SVG is not well-formed: {e}")) {
            quick_xml::events::Event::Start(tag) | quick_xml::events::Event::Empty(tag) => {
                let name = String::from_utf8_lossy(tag.name().as_ref()).into_owned();
                *elements.entry(name).or_default() += 1;
            }
            quick_xml::events::Event::Text(text) => texts.push(text.decode().unwrap().into_owned()),
            quick_xml::events::Event::Eof => return (elements, texts),
            _ => {}
        }
    }
}

#[test]
fn the_flame_graph_is_well_formed_and_names_the_leaking_functions() {
    let (finished, accounts) = traced(&[]);
    let text = finished.read("out.svg");
    let (elements, texts) = parse_svg(&text);
    assert!(elements.contains_key("svg"));
    for account in accounts.sites.iter().filter(|account| account.bytes > 0) {
        let titles = texts.iter().filter(|text| text.contains(&account.site)).count();
        assert!(titles > 0, "{} is not in the flame graph", account.site);
    }
    // Its largest function with its exact bytes, digits grouped or not.
    let largest = accounts.sites.iter().max_by_key(|account| account.bytes).unwrap();
    let digits = |text: &String| text.replace([',', '_'], "");
    assert!(
        texts.iter().any(|text| text.contains(&largest.site) && digits(text).contains(&largest.bytes.to_string())),
        "{} bytes of {}",
        largest.bytes,
        largest.site
    );
    assert!(texts.iter().any(|text| text.contains("family")), "the title does not name the target");
}

#[test]
fn a_flame_graph_by_count_has_counts() {
    let (finished, accounts) = traced(&["--flamegraph-by", "count"]);
    finished.assert_success();
    let (_, texts) = parse_svg(&finished.read("out.svg"));
    // Eight blocks stay at each of the twelve sites.
    assert_eq!(accounts.outstanding().1, 96);
    let of_malloc = texts.iter().find(|text| text.contains("leak_malloc")).expect("leak_malloc is in the flame graph");
    assert!(of_malloc.contains('8'), "{of_malloc}");
    assert!(texts.iter().any(|text| text.contains("96")), "the whole is not 96 allocations");
}

#[test]
fn the_text_report_names_functions_lines_bytes_and_counts() {
    let (finished, accounts) = traced(&["-T", "100"]);
    let text = &finished.stdout;
    for account in &accounts.sites {
        assert!(text.contains(&account.site), "{} is missing:\n{text}", account.site);
    }
    assert!(text.contains("family.c:"), "no file and line:\n{text}");
}

#[test]
fn the_share_of_whole_stacks_is_in_every_report() {
    let (finished, _) = traced(&["-v"]);
    let snapshot: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    let recorded = snapshot["stacks"]["recorded"].as_u64().unwrap();
    // Twelve functions of the victim's allocate, each from one place at least.
    assert!(recorded >= 12, "{recorded}");
    assert_eq!(snapshot["stacks"]["complete"], recorded);
    let said = format!("all {recorded} stacks are complete");
    assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    assert!(finished.read("out.svg").contains(&said));
    for line in ["unwind tables of process ", "unwind tables in all: "] {
        assert!(finished.stderr.contains(line), "-v does not say {line}:\n{}", finished.stderr);
    }

    // main and what it calls: no stack has only one frame.
    let (finished, _) = traced(&["--max-depth", "1"]);
    let snapshot: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    assert_eq!(snapshot["stacks"]["complete"], 0);
    let said = format!("0 of {} stacks complete (0.0%)", snapshot["stacks"]["recorded"]);
    assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    assert!(finished.read("out.svg").contains(&said));

    let (finished, _) = traced(&["--unwind", "fp"]);
    let snapshot: serde_json::Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    assert!(snapshot.get("stacks").is_none(), "frame pointers do not tell where a stack ends");
}

#[test]
fn losses_are_said_in_every_output() {
    let victim = build::victim("outstanding.c");
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("out.svg");
    let json = directory.path().join("snapshot.json");
    require_privileges();
    let outputs = ["--flamegraph", path_str(&svg), "--json", path_str(&json), "--max-allocs", "1000"];
    let command = ["--", path_str(&victim), "run", "20000"];
    let finished = Tracer::spawn(&mut leaktrace([&outputs[..], &command].concat()), directory).wait();
    let dropped = finished.snapshot().loss("allocs_dropped");
    assert!(dropped > 0);
    let digits = |text: &str| text.replace([',', '_'], "").contains(&dropped.to_string());
    assert!(digits(&finished.stdout), "the text report:\n{}", finished.stdout);
    let (_, texts) = parse_svg(&finished.read("out.svg"));
    assert!(texts.iter().any(|text| digits(text)), "the flame graph does not say that {dropped} were lost");
}

#[test]
fn the_picture_of_memory_over_time_ends_with_what_is_outstanding() {
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("memory.svg");
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let tracer = Tracer::attach(&puppet, &["-i", "1s", "--timeline", path_str(&svg)]);
    puppet.tell("a a 1024 512");
    puppet.tell("a b 1024 100");
    tracer.wait_for_output("a third report", |line| line.contains("report 3,"));
    puppet.tell("f a 12");
    let accounts = puppet.report();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&accounts);
    let (elements, texts) = parse_svg(&fs::read_to_string(&svg).unwrap());
    let says = |words: &str| assert!(texts.iter().any(|text| text.contains(words)), "{words}: {texts:#?}");
    says(&format!("(pid {}): 600.0 KiB outstanding at the end", puppet.pid()));
    for words in ["leak_a", "500.0 KiB", "leak_b", "100.0 KiB", "peak 612.0 KiB at ", "RSS", "0 B", "1 s", "2 s"] {
        says(words);
    }
    assert!(elements["path"] >= 5, "two bands, their edge, the resident set and what was allocated");
}

#[test]
fn a_dash_is_standard_output() {
    require_privileges();
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let pid = puppet.pid().to_string();
    for option in ["--json", "--folded", "--flamegraph", "--timeline"] {
        let directory = tempfile::tempdir().unwrap();
        let tracer = Tracer::spawn(&mut leaktrace(["-q", option, "-", "-p", &pid, "-d", "1s"]), directory);
        let finished = tracer.wait();
        finished.assert_success();
        match option {
            "--json" => drop(Snapshot::parse(finished.stdout.as_bytes())),
            "--folded" => drop(parse_folded(&finished.stdout)),
            _ => drop(parse_svg(&finished.stdout)),
        }
    }
}

#[test]
fn report_renders_a_saved_snapshot_as_the_trace_did() {
    let (finished, _) = traced(&[]);
    let (json, again) = (finished.path("snapshot.json"), finished.path("again.folded"));
    let json_again = finished.path("again.json");
    let rendered = Finished::of(&mut leaktrace([
        "report",
        path_str(&json),
        "--folded",
        path_str(&again),
        "--json",
        path_str(&json_again),
    ]));
    rendered.assert_success();
    assert_eq!(fs::read_to_string(&again).unwrap(), finished.read("out.folded"));
    let value = |path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    assert_eq!(value(&json_again), value(&json));
    // The trace's standard output ends with the same report, after what the victim said.
    assert!(
        finished.stdout.trim_end().ends_with(rendered.stdout.trim_end()),
        "the trace:\n{}\nthe report:\n{}",
        finished.stdout,
        rendered.stdout
    );
}

#[test]
fn a_broken_pipe_on_standard_output_ends_quietly() {
    require_privileges();
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let mut child = leaktrace(["-p", &puppet.pid().to_string(), "-i", "100ms", "--show-allocs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    puppet.tell("a a 100 1000");
    // As `| head` does: reads a little and goes.
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    for word in ["panicked", "Broken pipe", "os error"] {
        assert!(!stderr.contains(word), "{stderr}");
    }
    puppet.tell("a b 1 1");
}

#[test]
fn quiet_leaves_standard_error_empty() {
    require_privileges();
    let victim = build::victim("family.c");
    let finished = Finished::of(&mut leaktrace(["-q", "--", path_str(&victim), "run"]));
    finished.assert_success();
    assert_eq!(finished.stderr, "");
}

#[test]
fn standard_output_carries_reports_only() {
    require_privileges();
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let pid = puppet.pid().to_string();
    // With -v, everything that is not a report is on standard error.
    let tracer = Tracer::start(&["-v", "-p", &pid]);
    puppet.tell("a a 100 1");
    let finished = tracer.stop();
    finished.lossless();
    for word in ["INFO", "DEBUG", "WARN", "leaktrace: tracing"] {
        assert!(!finished.stdout.contains(word), "{}", finished.stdout);
    }
    assert!(finished.stderr.contains("malloc"), "-v does not list what is probed:\n{}", finished.stderr);
}
