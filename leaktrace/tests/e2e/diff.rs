//! What grew between two traces, or two reports of one, by the programs' own books.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::harness::build::Recipe;
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, leaktrace};

/// The puppet as another version of it would be: the same functions, at other places.
pub const RECIPES: [Recipe; 1] = [Recipe::new("puppet-rebuilt", "puppet.c", &["-O2", "-falign-functions=64"])];

/// A difference as a reader of its documentation would parse it.
#[derive(Debug, Deserialize)]
struct Difference {
    schema: String,
    between_s: Option<f64>,
    total: Sides,
    frames: Vec<Frame>,
    sites: Vec<Site>,
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Site {
    change: String,
    matched_by: Option<String>,
    #[serde(flatten)]
    sides: Sides,
    stack: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct Sides {
    before: Side,
    after: Side,
    difference: Amounts,
    bytes_per_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Side {
    outstanding_bytes: u64,
    outstanding_count: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct Amounts {
    bytes: i64,
    count: i64,
}

#[derive(Debug, Deserialize)]
struct Frame {
    function: Option<String>,
}

impl Difference {
    /// What became of the sites that pass through a function: word, way of matching and difference, summed.
    fn of(&self, function: &str) -> Option<(String, Option<String>, Amounts)> {
        let passes =
            |site: &&Site| site.stack.iter().any(|place| self.frames[*place].function.as_deref() == Some(function));
        let sites: Vec<_> = self.sites.iter().filter(passes).collect();
        assert!(sites.len() <= 1, "{function} has {} sites", sites.len());
        let site = sites.first()?;
        Some((site.change.clone(), site.matched_by.clone(), site.sides.difference))
    }
}

/// `leaktrace diff OLD NEW`: its text and its JSON.
fn diff(old: &Path, new: &Path) -> (String, Difference) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("diff.json");
    let finished = Finished::of(&mut leaktrace(["diff", path_str(old), path_str(new), "--json", path_str(&json)]));
    finished.assert_success();
    let difference: Difference = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(difference.schema, "leaktrace-diff/1");
    (finished.stdout, difference)
}

/// What a puppet holds more by its own books, by site; a site that is not there holds nothing.
fn by_the_books(before: &Accounts, after: &Accounts) -> BTreeMap<String, Amounts> {
    let mut differences: BTreeMap<String, Amounts> = BTreeMap::new();
    for (accounts, sign) in [(before, -1), (after, 1)] {
        for site in &accounts.sites {
            let sum = differences.entry(site.site.clone()).or_default();
            sum.bytes += sign * site.bytes as i64;
            sum.count += sign * site.count as i64;
        }
    }
    differences
}

/// Traces a puppet that does what it is told, and keeps the snapshot in `directory`.
fn traced(mut puppet: Victim, orders: &[&str], directory: &Path, name: &str) -> (PathBuf, Accounts) {
    let tracer = Tracer::attach(&puppet, &[]);
    for order in orders {
        puppet.tell(order);
    }
    let accounts = puppet.report();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&accounts);
    let path = directory.join(name);
    fs::copy(finished.path("snapshot.json"), &path).unwrap();
    puppet.tell_last("q 0");
    (path, accounts)
}

/// The difference says by how much each site grew, shrank, came or went, exactly as the puppets' books do, and in words.
fn assert_exact(text: &str, difference: &Difference, matched: &str, before: &Accounts, after: &Accounts) {
    let books = by_the_books(before, after);
    for (site, word) in [("leak_a", "grew"), ("leak_b", "gone"), ("leak_c", "new")] {
        let (found, way, by) = difference.of(site).unwrap_or_else(|| panic!("{site} does not differ: {text}"));
        assert_eq!((found.as_str(), by), (word, books[site]), "{site}: {text}");
        assert!(way.is_none_or(|way| way == matched), "{site}: {text}");
    }
    assert_eq!(difference.of("leak_a").and_then(|(_, way, _)| way).as_deref(), Some(matched));
    let all = books
        .values()
        .fold(Amounts::default(), |sum, one| Amounts { bytes: sum.bytes + one.bytes, count: sum.count + one.count });
    assert_eq!(difference.total.difference, all);
    let held = |accounts: &Accounts| {
        let (outstanding_bytes, outstanding_count) = accounts.outstanding();
        Side { outstanding_bytes, outstanding_count }
    };
    assert_eq!((difference.total.before, difference.total.after), (held(before), held(after)));
    assert!(text.contains("\ngrew by 1.5 KiB, from 1000 B in 10 allocations to 2.4 KiB in 25"), "{text}");
    assert!(text.contains("\ngone: 70 B in 10 allocations"), "{text}");
    assert!(text.contains("\nnew: 22 B in 2 allocations"), "{text}");
}

const EARLIER: [&str; 2] = ["a a 100 10", "a b 7 10"];
const LATER: [&str; 2] = ["a a 100 25", "a c 11 2"];

#[test]
fn two_runs_differ_by_what_the_second_keeps_more() {
    let directory = tempfile::tempdir().unwrap();
    let (old, before) = traced(Victim::puppet(), &EARLIER, directory.path(), "old.json");
    let (new, after) = traced(Victim::puppet(), &LATER, directory.path(), "new.json");
    let (text, difference) = diff(&old, &new);
    assert_exact(&text, &difference, "code", &before, &after);
    assert_eq!(difference.between_s, None);

    let (text, back) = diff(&new, &old);
    assert!(back.warnings.iter().any(|line| line.starts_with("OLD was taken ")), "{text}");
    let Amounts { bytes, count } = difference.total.difference;
    assert_eq!(back.total.difference, Amounts { bytes: -bytes, count: -count });
    assert_eq!(back.of("leak_a").map(|(word, ..)| word), Some("shrank".to_owned()));

    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&new).unwrap()).unwrap();
    let machine = nix::sys::utsname::uname().unwrap();
    assert_eq!(json["reproduction"]["host"].as_str(), machine.nodename().to_str());
    assert_eq!(json["reproduction"]["kernel"].as_str(), machine.release().to_str());
    let command = json["reproduction"]["command"].as_array().unwrap();
    assert!(command[0].as_str().unwrap().ends_with("leaktrace") && command.iter().any(|word| word == "--json"));
    let versions = &json["reproduction"]["versions"];
    assert_eq!(versions["leaktrace"], json["leaktrace_version"]);
    let (exe, build_id) = (&versions["programs"][0]["exe"], versions["programs"][0]["build_id"].as_str().unwrap());
    assert_eq!(*exe, json["processes"][0]["exe"]);
    assert!(build_id.len() == 40 && build_id.bytes().all(|it| it.is_ascii_hexdigit()), "{versions}");

    let (text, same) = diff(&new, &new);
    assert!(same.sites.is_empty() && text.starts_with("unchanged: "), "{text}");
}

#[test]
fn two_versions_are_compared_by_the_names_of_functions() {
    let directory = tempfile::tempdir().unwrap();
    let (old, before) = traced(Victim::puppet(), &EARLIER, directory.path(), "old.json");
    let mut rebuilt = Command::new(RECIPES[0].built());
    let mut puppet = Victim::spawn("puppet-rebuilt", rebuilt.arg("wait"));
    puppet.wait_until_ready();
    puppet.go();
    let (new, after) = traced(puppet, &LATER, directory.path(), "new.json");
    let (text, difference) = diff(&old, &new);
    assert_exact(&text, &difference, "names", &before, &after);
    assert!(text.contains(" site matched by the names of functions"), "{text}");
}

#[test]
fn two_reports_of_one_trace_tell_how_fast_it_grew() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["--leak-check=no"]);
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old.json");
    for order in EARLIER {
        puppet.tell(order);
    }
    let before = puppet.report();
    tracer.signal(Signal::SIGUSR1);
    tracer.wait_for_output("a report on the way", |line| line.contains("report 1, tracing goes on"));
    // The text comes before the file; once there is a second text, the first file is whole. Both say the same.
    tracer.signal(Signal::SIGUSR1);
    tracer.wait_for_output("a second report", |line| line.contains("report 2, tracing goes on"));
    let json = tracer.path("snapshot.json");
    fs::copy(json, &old).unwrap();
    puppet.tell("f b 10");
    for order in LATER {
        puppet.tell(order);
    }
    puppet.tell("f a 10");
    let after = puppet.report();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&after);
    let new = directory.path().join("new.json");
    fs::copy(finished.path("snapshot.json"), &new).unwrap();
    let (text, difference) = diff(&old, &new);
    assert_exact(&text, &difference, "code", &before, &after);

    let elapsed = |path: &Path| Snapshot::parse(&fs::read(path).unwrap()).elapsed_s;
    let between = elapsed(&new) - elapsed(&old);
    assert!((difference.between_s.unwrap() - between).abs() < 1e-5, "{between} s");
    let rate = difference.total.difference.bytes as f64 / between;
    assert!((difference.total.bytes_per_s.unwrap() / rate - 1.0).abs() < 1e-3, "{rate} B/s");
    assert!(text.contains("OLD and NEW: reports "), "{text}");
}
