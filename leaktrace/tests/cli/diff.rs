//! `leaktrace diff` as a user meets it. The snapshots are those of the golden files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{assert_fails, golden, leaktrace, stderr, stdout};

fn path(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    path.to_str().unwrap().to_owned()
}

/// `leaktrace diff` on the two runs with more arguments.
fn diff(args: &[&str]) -> Output {
    leaktrace(&[&["diff", &path("diff-old.json"), &path("diff-new.json")], args].concat())
}

#[test]
fn every_format_is_written_and_a_difference_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (svg, folded, json) = (file("o.svg"), file("o.folded"), file("o.json"));
    let output = diff(&["--flamegraph", &svg, "--folded", &folded, "--json", &json]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert_eq!(stdout(&output), golden("diff.txt"));
    assert_eq!(fs::read_to_string(folded).unwrap(), golden("diff.folded"));
    assert!(fs::read_to_string(json).unwrap().starts_with("{\"schema\":\"leaktrace-diff/1\","));
    assert!(fs::read_to_string(svg).unwrap().contains("Difference in unfreed memory"));
}

#[test]
fn a_format_on_standard_output_leaves_the_warnings_to_standard_error() {
    let output = diff(&["--folded", "-"]);
    assert_eq!(stdout(&output), golden("diff.folded"));
    assert!(
        stderr(&output).starts_with("leaktrace: warning: the commands differ: OLD ran ./server 100"),
        "{}",
        stderr(&output)
    );
    let quiet = diff(&["--folded", "-", "-q"]);
    assert_eq!((stdout(&quiet), stderr(&quiet)), (golden("diff.folded").as_str(), ""));
}

#[test]
fn sites_are_chosen_and_ordered() {
    let top = diff(&["--top", "1"]);
    assert!(
        stdout(&top).ends_with("\n4 more sites: 2.3 KiB more and 5.1 KiB less; --top all shows them\n"),
        "{}",
        stdout(&top)
    );
    let none = diff(&["-T0"]);
    assert!(
        stdout(&none).ends_with("\n5 sites: 12.3 KiB more and 5.1 KiB less; --top all shows them\n"),
        "{}",
        stdout(&none)
    );
    // The 30 allocations that one site has fewer are more than the 4 that are gone.
    let by_count = diff(&["--sort", "count"]);
    let place = |word: &str| stdout(&by_count).find(word).unwrap();
    assert!(place("\nshrank by") < place("\ngone:"), "{}", stdout(&by_count));
}

#[test]
fn one_snapshot_can_be_standard_input() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    let old = fs::File::open(path("diff-old.json")).unwrap();
    let output = command.args(["diff", "-", &path("diff-new.json")]).stdin(old).output().unwrap();
    assert_eq!(stdout(&output), golden("diff.txt"));
    assert_fails(&leaktrace(&["diff", "-", "-"]), 2, &["OLD and NEW cannot both be standard input", "name a file"]);
}

#[test]
fn both_schemas_are_compared_with_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("schema-1.json");
    let first = first.to_str().unwrap();
    let written = leaktrace(&["report", &path("diff-old.json"), "--json", first, "--json-schema", "1"]);
    assert_eq!(written.status.code(), Some(0));
    assert!(fs::read_to_string(first).unwrap().contains("\"leaktrace/1\""));
    assert_eq!(stdout(&leaktrace(&["diff", first, &path("diff-new.json")])), golden("diff.txt"));
}

#[test]
fn what_is_no_snapshot_is_said_in_one_line_whichever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(path("diff-old.json")).unwrap();
    let cases = [
        ("empty", String::new(), "it is empty"),
        ("text", "main;f 1 2\n".to_owned(), "it is not a snapshot"),
        ("difference", golden("diff.json"), "names no leaktrace schema"),
        ("newer", whole.replace("leaktrace/2", "leaktrace/3"), "leaktrace/3, newer than the leaktrace/2"),
        ("half", whole[..whole.len() / 2].to_owned(), "it is truncated"),
        ("broken", whole.replace("\"stack\":[0", "\"stack\":[4000000000"), "it breaks its own schema"),
    ];
    for (name, text, part) in cases {
        let bad = directory.path().join(name);
        fs::write(&bad, text).unwrap();
        let bad = bad.to_str().unwrap();
        assert_fails(&leaktrace(&["diff", bad, &path("diff-new.json")]), 1, &[name, part, "; "]);
        assert_fails(&leaktrace(&["diff", &path("diff-new.json"), bad]), 1, &[name, part, "; "]);
    }
    assert_fails(&leaktrace(&["diff", "/nowhere.json", "/"]), 1, &["/nowhere.json: No such file or directory; name"]);
    assert_fails(&leaktrace(&["diff", &path("diff-new.json"), "/"]), 1, &["Is a directory"]);
}

#[test]
fn a_file_beyond_all_memory_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let huge = directory.path().join("huge.json");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let huge = huge.to_str().unwrap();
    for args in [&["diff", huge, huge][..], &["report", huge]] {
        assert_fails(&leaktrace(args), 1, &["huge.json: it is larger than ", "for which there is memory; name a file"]);
    }
}

#[test]
fn usage_errors_refer_to_the_help_of_diff() {
    assert_fails(&leaktrace(&["diff"]), 2, &["<OLD>", "<NEW>", "see leaktrace diff --help"]);
    assert_fails(&leaktrace(&["diff", "a.json"]), 2, &["<NEW>", "see leaktrace diff --help"]);
    assert_fails(&diff(&["--lsan"]), 2, &["--lsan", "see leaktrace diff --help"]);
    assert_fails(&diff(&["--sort", "age"]), 2, &["'age'", "[possible values: bytes, count]"]);
    assert_fails(&diff(&["--json", "x", "--folded", "./x"]), 2, &["--folded and --json name the same file"]);
    assert_fails(&diff(&["--json", "/nowhere/at/all.json"]), 1, &["--json /nowhere/at/all.json", "create it"]);
    let help = leaktrace(&["diff", "--help"]);
    for word in ["grew", "shrank", "new", "gone", "leaktrace-diff/1", "Exit status"] {
        assert!(stdout(&help).contains(word), "{word}");
    }
}
