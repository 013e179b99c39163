//! The snapshot has every field that its documentation names, of the type it names.

use serde_json::Value;

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, trace_command};

/// What a field may hold. `Maybe` fields may be null, never absent.
#[derive(Clone, Copy)]
enum Kind {
    Count,
    Seconds,
    Number,
    Text,
    Flag,
    Hex,
    Time,
    Object,
    Array,
    Maybe(&'static Kind),
}

impl Kind {
    fn holds(self, value: &Value) -> bool {
        match self {
            Self::Count => value.is_u64(),
            Self::Seconds => value.as_f64().is_some_and(|seconds| seconds >= 0.0),
            Self::Number => value.is_number(),
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Hex => value.as_str().and_then(|text| text.strip_prefix("0x")).is_some_and(|digits| {
                !digits.is_empty()
                    && digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
            }),
            // RFC 3339 in UTC, as in 2026-01-31T12:00:00Z.
            Self::Time => value.as_str().is_some_and(|text| {
                text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T'
            }),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Maybe(kind) => value.is_null() || kind.holds(value),
        }
    }
}

fn check(what: &str, value: &Value, fields: &[(&str, Kind)]) {
    for (name, kind) in fields {
        let field = value.get(name).unwrap_or_else(|| panic!("{what} has no {name}: {value:#}"));
        assert!(kind.holds(field), "{what}.{name} is {field}");
    }
}

const ACCOUNT: [(&str, Kind); 6] = [
    ("outstanding_bytes", Kind::Count),
    ("outstanding_count", Kind::Count),
    ("alloc_bytes", Kind::Count),
    ("alloc_count", Kind::Count),
    ("free_bytes", Kind::Count),
    ("free_count", Kind::Count),
];

/// Checks every field of a snapshot; `blocks` tells whether sites carry theirs.
fn check_snapshot(snapshot: &Value, blocks: bool) {
    check(
        "the snapshot",
        snapshot,
        &[
            ("schema", Kind::Text),
            ("leaktrace_version", Kind::Text),
            ("started", Kind::Time),
            ("elapsed_s", Kind::Seconds),
            ("sequence", Kind::Count),
            ("final", Kind::Flag),
            ("target", Kind::Object),
            ("options", Kind::Object),
            ("processes", Kind::Array),
            ("sites", Kind::Array),
            ("stacks", Kind::Object),
            ("losses", Kind::Object),
        ],
    );
    check("stacks", &snapshot["stacks"], &[("recorded", Kind::Count), ("complete", Kind::Count)]);
    assert_eq!(snapshot["schema"], "leaktrace/1");
    assert_eq!(snapshot["leaktrace_version"], env!("CARGO_PKG_VERSION"));
    assert!(snapshot.get("sampled").is_none(), "nothing was sampled");
    check("target", &snapshot["target"], &[("mode", Kind::Text), ("pids", Kind::Array), ("command", Kind::Array)]);
    check(
        "losses",
        &snapshot["losses"],
        &[
            ("allocs_dropped", Kind::Count),
            ("stacks_dropped", Kind::Count),
            ("stacks_truncated", Kind::Count),
            ("unwind_failed", Kind::Count),
            ("returns_missed", Kind::Count),
            ("events_lost", Kind::Count),
        ],
    );
    for process in snapshot["processes"].as_array().unwrap() {
        check("a process", process, &ACCOUNT);
        check(
            "a process",
            process,
            &[
                ("pid", Kind::Count),
                ("start_time", Kind::Maybe(&Kind::Time)),
                ("comm", Kind::Text),
                ("exe", Kind::Maybe(&Kind::Text)),
                ("exited", Kind::Flag),
                ("exit_status", Kind::Maybe(&Kind::Number)),
                ("peak_bytes", Kind::Count),
                ("untracked_frees", Kind::Count),
                ("rss_bytes", Kind::Maybe(&Kind::Count)),
                ("pss_bytes", Kind::Maybe(&Kind::Count)),
            ],
        );
    }
    for site in snapshot["sites"].as_array().unwrap() {
        check("a site", site, &ACCOUNT);
        check(
            "a site",
            site,
            &[
                ("pid", Kind::Count),
                ("oldest_s", Kind::Maybe(&Kind::Seconds)),
                ("youngest_s", Kind::Maybe(&Kind::Seconds)),
                ("verdict", Kind::Maybe(&Kind::Object)),
                ("trend", Kind::Maybe(&Kind::Text)),
                ("growth_bytes_per_s", Kind::Number),
                ("stack_state", Kind::Text),
                ("stack", Kind::Array),
            ],
        );
        for frame in site["stack"].as_array().unwrap() {
            check(
                "a frame",
                frame,
                &[
                    ("function", Kind::Maybe(&Kind::Text)),
                    ("module", Kind::Maybe(&Kind::Text)),
                    ("file", Kind::Maybe(&Kind::Text)),
                    ("line", Kind::Maybe(&Kind::Count)),
                    ("inlined", Kind::Flag),
                    ("address", Kind::Hex),
                    ("module_offset", Kind::Maybe(&Kind::Hex)),
                ],
            );
        }
        assert_eq!(site.get("blocks").is_some(), blocks, "blocks only with --show-allocs");
        for block in site["blocks"].as_array().into_iter().flatten() {
            check("a block", block, &[("address", Kind::Hex), ("size", Kind::Count), ("age_s", Kind::Seconds)]);
        }
    }
}

#[test]
fn a_snapshot_of_a_running_process_has_every_field() {
    let mut victim = Victim::start("family.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot: Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    check_snapshot(&snapshot, true);

    assert_eq!(snapshot["target"]["mode"], "pid");
    assert_eq!(snapshot["target"]["pids"], serde_json::json!([victim.pid()]));
    assert_eq!(snapshot["final"], true);
    let process = &snapshot["processes"][0];
    assert_eq!(process["pid"], victim.pid());
    assert_eq!(process["exe"], path_str(&build::victim("family.c")));
    // The kernel's name for it: the first 15 bytes of the file's.
    let name = build::victim("family.c").file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(process["comm"], name[..name.len().min(15)]);
    assert_eq!(process["exited"], false);
    assert!(process["exit_status"].is_null());
    assert!(process["rss_bytes"].as_u64().unwrap() > accounts.outstanding().0 / 100, "{process}");
    assert!(process["pss_bytes"].as_u64().unwrap() <= process["rss_bytes"].as_u64().unwrap(), "{process}");

    let source = |frame: &Value| frame["file"].as_str().is_some_and(|file| file.ends_with("family.c"));
    let leak = snapshot["sites"].as_array().unwrap().iter().map(|site| &site["stack"][0]);
    let leak = leak.filter(|frame| frame["function"] == "leak_malloc").collect::<Vec<_>>();
    assert!(!leak.is_empty() && leak.iter().all(|frame| source(frame)), "{leak:?}");
    // The line of the call, or the one after it: a return address lies behind the call.
    let text = include_str!("../victims/family.c");
    let line = text.lines().position(|line| line.contains("void *p = malloc(size);")).unwrap() as u64 + 1;
    assert_eq!(leak[0]["line"].as_u64(), Some(line), "{}", leak[0]);
    assert_eq!(leak[0]["module"], path_str(&build::victim("family.c")));
    victim.finish();
}

#[test]
fn a_snapshot_of_a_command_has_every_field() {
    let victim = build::victim("ending.c");
    let finished = Tracer::start_unready(&["--", path_str(&victim), "run", "return", "5"]).wait();
    let snapshot: Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    check_snapshot(&snapshot, false);
    assert_eq!(snapshot["target"]["mode"], "command");
    assert_eq!(snapshot["target"]["command"], serde_json::json!([path_str(&victim), "run", "return", "5"]));
    let process = &snapshot["processes"][0];
    assert_eq!(process["exited"], true);
    assert_eq!(process["exit_status"], 5);
}

#[test]
fn the_exit_status_of_a_killed_command_is_in_the_snapshot() {
    let (finished, _) = trace_command(&[], "ending.c", &["kill"]);
    let snapshot: Value = serde_json::from_str(&finished.read("snapshot.json")).unwrap();
    assert_eq!(snapshot["processes"][0]["exited"], true);
    // 128 and the signal's number, as shells have it.
    assert_eq!(snapshot["processes"][0]["exit_status"], 128 + 9);
}

#[test]
fn options_are_recorded_as_resolved() {
    let mut puppet = Victim::start("puppet.c", &[]);
    puppet.go();
    let options = ["-z", "16", "-Z", "4096", "-o", "2s", "--max-allocs", "5000", "--max-depth", "20"];
    let tracer = Tracer::attach(&puppet, &options);
    let finished = tracer.stop();
    finished.assert_success();
    let options = finished.unchecked_snapshot().options;
    assert_eq!(options["min_size"], 16);
    assert_eq!(options["max_size"], 4096);
    assert_eq!(options["max_allocs"], 5000);
    assert_eq!(options["max_depth"], 20);
    assert_eq!(options["older_than_s"].as_f64(), Some(2.0));
    assert_eq!(options["show_allocs"], true);
    assert!(options["max_stacks"].as_u64().unwrap() > 0, "defaults are recorded as well");
}
