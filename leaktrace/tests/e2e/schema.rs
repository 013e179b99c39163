//! The snapshot has every field that its documentation names, of the type it names.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::harness::tracer::path_str;
use crate::harness::{Finished, Tracer, Victim, build, leaktrace, require_privileges, trace_command};

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
            ("frames", Kind::Array),
            ("sites", Kind::Array),
            ("stacks", Kind::Object),
            ("losses", Kind::Object),
        ],
    );
    let fields = [("recorded", Kind::Count), ("complete", Kind::Count), ("guessed", Kind::Count)];
    check("stacks", &snapshot["stacks"], &fields);
    assert_eq!(snapshot["schema"], "leaktrace/2");
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
                ("thread_end_frees", Kind::Count),
                ("rss_bytes", Kind::Maybe(&Kind::Count)),
                ("pss_bytes", Kind::Maybe(&Kind::Count)),
                ("uss_bytes", Kind::Maybe(&Kind::Count)),
                ("swap_bytes", Kind::Maybe(&Kind::Count)),
                ("heap_pages", Kind::Maybe(&Kind::Object)),
            ],
        );
    }
    for frame in snapshot["frames"].as_array().unwrap() {
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
    for site in snapshot["sites"].as_array().unwrap() {
        check("a site", site, &ACCOUNT);
        check(
            "a site",
            site,
            &[
                ("pid", Kind::Count),
                ("id", Kind::Text),
                ("oldest_s", Kind::Maybe(&Kind::Seconds)),
                ("youngest_s", Kind::Maybe(&Kind::Seconds)),
                ("verdict", Kind::Maybe(&Kind::Object)),
                ("trend", Kind::Maybe(&Kind::Text)),
                ("growth_bytes_per_s", Kind::Number),
                ("growth", Kind::Maybe(&Kind::Object)),
                ("stack_state", Kind::Text),
                ("stack", Kind::Array),
            ],
        );
        let frames = snapshot["frames"].as_array().unwrap().len() as u64;
        assert!(site["stack"].as_array().unwrap().iter().all(|place| place.as_u64().unwrap() < frames), "{site}");
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
    assert!(process["uss_bytes"].as_u64().unwrap() <= process["pss_bytes"].as_u64().unwrap(), "{process}");
    assert!(process["pss_bytes"].as_u64().unwrap() <= process["rss_bytes"].as_u64().unwrap(), "{process}");

    let source = |frame: &Value| frame["file"].as_str().is_some_and(|file| file.ends_with("family.c"));
    let innermost = |site: &Value| site["stack"][0].as_u64().map(|place| &snapshot["frames"][place as usize]);
    let leak = snapshot["sites"].as_array().unwrap().iter().filter_map(innermost);
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

/// A program that frees again some of what it allocates.
const LIST: [&str; 2] = ["ls", "/"];

/// A command in two runs.
fn traced_twice(options: &[&str], command: &[&str]) -> [Value; 2] {
    require_privileges();
    [(); 2].map(|()| {
        let words = [options, &["--"], command].concat();
        let directory = tempfile::tempdir().unwrap();
        let json = directory.path().join("out.json");
        Finished::of(leaktrace(["--json", path_str(&json)]).args(words)).assert_success();
        serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
    })
}

#[test]
fn sites_have_the_same_ids_in_two_runs_of_a_program() {
    let [one, other] = traced_twice(&["--all-sites"], &[path_str(&build::victim("family.c")), "run"]).map(|snapshot| {
        let sites = snapshot["sites"].as_array().unwrap();
        let site = |site: &Value| (site["id"].as_str().unwrap().to_owned(), site["alloc_bytes"].as_u64().unwrap());
        let ids: BTreeMap<_, _> = sites.iter().map(site).collect();
        assert_eq!(ids.len(), sites.len(), "ids tell the sites of a process apart");
        assert!(ids.len() > 10, "{ids:?}");
        ids
    });
    assert_eq!(one, other, "ids, and what was allocated there");
}

#[test]
fn sites_with_nothing_outstanding_are_counted_and_left_out() {
    let [all, _] = traced_twice(&["--all-sites"], &LIST);
    let [short, _] = traced_twice(&[], &LIST);
    let outstanding = |site: &&Value| site["outstanding_count"].as_u64().unwrap() > 0;
    let sites = |snapshot: &Value| snapshot["sites"].as_array().unwrap().clone();
    assert!(sites(&short).iter().all(|site| outstanding(&site)));
    assert_eq!(sites(&short).len(), sites(&all).iter().filter(outstanding).count());
    assert!(sites(&short).len() < sites(&all).len(), "the program frees something for good");
    assert_eq!(short["sites_left_out"].as_u64().unwrap() as usize, sites(&all).len() - sites(&short).len());
    assert!(all.get("sites_left_out").is_none());
    for sum in ["alloc_bytes", "alloc_count", "free_bytes", "free_count", "outstanding_bytes"] {
        assert_eq!(short["processes"][0][sum], all["processes"][0][sum], "{sum}");
    }
}

#[test]
fn the_first_schema_is_still_written_and_both_are_read() {
    let [old, _] = traced_twice(&["--json-schema", "1", "--show-allocs"], &LIST);
    assert_eq!(old["schema"], "leaktrace/1");
    assert!(old.get("frames").is_none());
    let sites = old["sites"].as_array().unwrap();
    assert!(sites.iter().any(|site| site["outstanding_count"] == 0), "it has every site");
    assert!(sites.iter().any(|site| site["stack"][0]["address"].is_string()));
    // From the first schema to the second and back nothing is lost.
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let convert = |from: &str, to: &str, options: &[&str]| {
        let (from, to) = (file(from), file(to));
        let words = ["report", path_str(&from), "--json", path_str(&to)];
        Finished::of(leaktrace(words).args(options)).assert_success();
    };
    fs::write(file("one"), old.to_string()).unwrap();
    convert("one", "two", &["--all-sites"]);
    convert("two", "three", &["--json-schema", "1"]);
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(file(name)).unwrap()).unwrap();
    assert_eq!(read("two")["schema"], "leaktrace/2");
    assert_eq!(read("three"), old);
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
