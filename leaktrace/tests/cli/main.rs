//! The command as a user meets it: exit status, standard output, standard error. Nothing here traces, so no rights are needed.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise, its helpers too")]

mod diff;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn leaktrace(args: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_leaktrace")).args(args))
}

fn run(command: &mut Command) -> Output {
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").stdin(Stdio::null()).output().unwrap()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot.json")
}

/// `leaktrace report` on the fixture with more arguments.
fn report(args: &[&str]) -> Output {
    let fixture = fixture();
    leaktrace(&[&["report", fixture.to_str().unwrap()], args].concat())
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Exactly one line on standard error, nothing on standard output, and this exit status.
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(stdout(output), "");
    assert_eq!(message.matches('\n').count(), 1, "{message}");
    assert!(message.starts_with("leaktrace: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

fn golden(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

#[test]
fn report_renders_every_format_from_a_saved_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (svg, folded, json, lsan) = (file("o.svg"), file("o.folded"), file("o.json"), file("o.lsan"));
    let (with_file, timeline) = (format!("--lsan={lsan}"), file("t.svg"));
    let outputs = ["--flamegraph", &svg, "--folded", &folded, "--json", &json, &with_file, "--timeline", &timeline];
    let output = report(&outputs);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert_eq!(stdout(&output), golden("report.txt"));
    assert_eq!(fs::read_to_string(folded).unwrap(), golden("report.folded"));
    assert_eq!(fs::read_to_string(lsan).unwrap(), golden("report.lsan"));
    assert_eq!(fs::read_to_string(json).unwrap(), golden("report.json"));
    assert!(fs::read_to_string(svg).unwrap().contains("Cache::remember"));
    assert!(fs::read_to_string(timeline).unwrap().contains("Memory was not followed over time."));
}

#[test]
fn each_format_can_take_standard_output_and_losses_are_still_said() {
    let output = report(&["--json", "-"]);
    assert_eq!(stdout(&output), golden("report.json"));
    assert!(
        stderr(&output).starts_with(
            "leaktrace: warning: 1,200 allocations not recorded (96.0 KiB, table for at least 1,000,000 full)"
        ),
        "{}",
        stderr(&output)
    );
    let quiet = report(&["--folded", "-", "-q"]);
    assert_eq!((stdout(&quiet), stderr(&quiet)), (golden("report.folded").as_str(), ""));
    assert!(stdout(&report(&["--flamegraph", "-"])).ends_with("</svg>"));
    assert!(stdout(&report(&["--timeline", "-"])).ends_with("</svg>\n"));
    assert_eq!(stdout(&report(&["--lsan", "-q"])), golden("report.lsan"), "without a FILE");
    assert_eq!(stdout(&report(&["--lsan=-", "-q", "--show-allocs"])), golden("report-allocs.lsan"));
}

#[test]
fn a_snapshot_comes_from_standard_input_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    let output = command.args(["report", "-"]).stdin(fs::File::open(fixture()).unwrap()).output().unwrap();
    assert_eq!(stdout(&output), golden("report.txt"));
}

#[test]
fn a_command_that_was_forgotten_does_not_trace_every_process() {
    for args in [&["--"][..], &["-d", "1s", "--"]] {
        assert_fails(&leaktrace(args), 2, &["COMMAND", "--"]);
    }
}

#[test]
fn functions_of_the_user_are_understood_or_explained() {
    assert_fails(&leaktrace(&["--alloc-symbols", "pool_get"]), 2, &["pool_get=LIKE"]);
    assert_fails(&leaktrace(&["--alloc-symbols", "pool_get=pool"]), 2, &["`pool` is no allocation function"]);
}

#[test]
fn debug_information_without_a_server_to_ask_is_a_usage_error() {
    for urls in [None, Some(""), Some("file:///var/debug")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
        command.args(["--debuginfod", "--", "true"]).env_remove("DEBUGINFOD_URLS");
        let output = run(command.envs(urls.map(|urls| ("DEBUGINFOD_URLS", urls))));
        assert_fails(&output, 2, &["--debuginfod", "DEBUGINFOD_URLS", "--preserve-env"]);
    }
}

#[test]
fn suppressions_are_read_before_anything_is_done_and_what_is_wrong_with_them_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cases = [
        (
            file("mixed", b"leak:f\n{\n"),
            ["--suppressions", "mixed, line 2: a block of Valgrind's among", "file of its own"],
        ),
        (file("open", b"{\n a\n Memcheck:Leak\n fun:f\n"), ["--suppressions", "open, line 1: ", "close it with }"]),
        (file("race", b"# x\nrace:f\n"), ["--suppressions", "race, line 2: `race:f`", "write leak:PATTERN"]),
        (file("binary", b"\x7fELF\xff\n"), ["--suppressions", "binary, line 1: ", "name a file"]),
        (directory.path().to_str().unwrap().to_owned(), ["--suppressions", "Is a directory", "name a file"]),
        ("/nowhere.supp".to_owned(), ["--suppressions /nowhere.supp", "No such file", "name a file"]),
    ];
    for (path, parts) in &cases {
        assert_fails(&leaktrace(&["--suppressions", path, "--", "true"]), 2, parts);
        assert_fails(&report(&["--suppressions", path]), 2, parts);
    }
}

#[test]
fn a_report_leaves_out_what_suppressions_name() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    fs::write(&one, "leak:Cache::remember\n").unwrap();
    fs::write(&other, "leak:worker\nleak:nothing\n").unwrap();
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    let output = report(&["--suppressions", one, "--suppressions", other, "--fail-on-leak", "-v"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let text = stdout(&output);
    assert!(text.contains("10.1 KiB in 5 allocations at 2 sites, 10.0 KiB of it lost"), "{text}");
    assert!(text.contains("\n2.0 KiB in 1 allocation (16.5%), still reachable, 2 suppressed, "), "{text}");
    let said = stderr(&output);
    assert!(said.contains("suppression `leak:worker`") && said.contains("`leak:nothing`"), "{said}");
    assert!(said.contains("hid nothing"), "{said}");
    assert_eq!(report(&["--suppressions", one, "--fail-on-leak=97"]).status.code(), Some(0));
    assert_eq!(report(&["--suppressions", one, "--fail-on-leak=96"]).status.code(), Some(23));
}

#[test]
fn only_what_is_lost_can_be_shown_where_there_is_a_verdict() {
    let output = report(&["--only", "lost", "--fail-on-leak=10336"]);
    assert_eq!(output.status.code(), Some(23), "the gate counts what is not shown, too");
    assert!(stdout(&output).starts_with("10.0 KiB outstanding in 2 allocations at 1 site"), "{}", stdout(&output));
    assert!(stdout(&output).contains("only what is definitely or indirectly lost"));
    assert!(stdout(&output).contains("warning: --only lost leaves out pid 1240"), "{}", stdout(&output));
    assert_fails(
        &report(&["--only", "everything"]),
        2,
        &["'everything'", "--only", "[possible values: lost, growing]"],
    );
    for whom in [&["-d", "1s"][..], &["--leak-check=no", "--", "true"], &["--sample-bytes", "1M", "--", "true"]] {
        let output = leaktrace(&[&["--only", "lost"], whom].concat());
        assert_fails(&output, 2, &["--only lost", "--pid", "COMMAND", "--leak-check=no", "--sample-bytes"]);
    }
    let directory = tempfile::tempdir().unwrap();
    let bare = directory.path().join("bare.json");
    let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{"mode":"system"}}"#;
    fs::write(&bare, text).unwrap();
    let output = leaktrace(&["report", bare.to_str().unwrap(), "--only", "lost"]);
    assert_fails(&output, 1, &["bare.json", "no leak check", "--only lost", "record it with --pid"]);
}

#[test]
fn quiet_still_prints_the_report() {
    assert_eq!(stdout(&report(&["-q"])), golden("report.txt"));
}

#[test]
fn sites_are_chosen_ordered_and_filtered() {
    let top = report(&["--top", "1"]);
    assert!(stdout(&top).ends_with("\n2 more sites: 160 B in 5 allocations; --top all shows them\n"));
    let none = report(&["--top", "0"]);
    assert!(stdout(&none).ends_with("\n3 sites: 12.2 KiB in 8 allocations; --top all shows them\n"));
    // The fixture's oldest blocks: 8192 bytes of 11.2 s, and three of 32 bytes, 9 s.
    let old = report(&["--older-than", "9s"]);
    assert!(stdout(&old).starts_with("8.1 KiB outstanding in 4 allocations at 2 sites"), "{}", stdout(&old));
    assert!(stdout(&old).contains("only what is at least 9.0 s old"));
    let by_count = report(&["-o", "9s", "--sort", "count", "-T1"]);
    assert!(stdout(&by_count).contains("96 B in 3 allocations (1.2%), 9.0 s old"), "{}", stdout(&by_count));
    assert_eq!(stdout(&report(&["--show-allocs"])), golden("report-allocs.txt"));
}

#[test]
fn leaks_fail_from_the_given_bytes_on() {
    // The fixture holds 10,240 bytes that are lost, and 96 of a process without a leak check.
    assert_eq!(report(&["--fail-on-leak"]).status.code(), Some(23));
    assert_eq!(report(&["--fail-on-leak=10336"]).status.code(), Some(23));
    assert_eq!(report(&["--fail-on-leak=10337"]).status.code(), Some(0));
    assert_eq!(report(&["--fail-on-leak=10k", "--leak-exitcode", "7"]).status.code(), Some(7));
    assert_eq!(report(&["--fail-on-leak", "-o", "1h"]).status.code(), Some(0));
}

#[test]
fn what_is_no_snapshot_is_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(fixture()).unwrap();
    let cases = [
        ("empty", String::new(), "it is empty"),
        ("text", "main;f 12\n".to_owned(), "it is not a snapshot"),
        ("other", r#"{"schema": "speedscope"}"#.to_owned(), "names no leaktrace schema"),
        ("newer", whole.replace("leaktrace/1", "leaktrace/3"), "leaktrace/3, newer than the leaktrace/2"),
        ("half", whole[..whole.len() / 2].to_owned(), "it is truncated"),
    ];
    for (name, text, part) in cases {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        assert_fails(&leaktrace(&["report", path.to_str().unwrap()]), 1, &[name, part, "; "]);
    }
    assert_fails(&leaktrace(&["report", "/nowhere.json"]), 1, &["/nowhere.json: No such file or directory; name"]);
    assert_fails(&leaktrace(&["report", "/"]), 1, &["Is a directory"]);
}

#[test]
fn filters_that_need_blocks_ask_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no-blocks.json");
    let mut snapshot: serde_json::Value = serde_json::from_str(&fs::read_to_string(fixture()).unwrap()).unwrap();
    for site in snapshot["sites"].as_array_mut().unwrap() {
        site.as_object_mut().unwrap().remove("blocks");
    }
    fs::write(&path, snapshot.to_string()).unwrap();
    for option in ["--older-than=1s", "--show-allocs"] {
        assert_fails(&leaktrace(&["report", path.to_str().unwrap(), option]), 1, &["record it with --show-allocs"]);
    }
}

#[test]
fn usage_errors_exit_2_with_one_line() {
    assert_fails(&leaktrace(&["-z", "2", "-Z", "1"]), 2, &["--min-size 2 is above --max-size 1"]);
    assert_fails(&leaktrace(&["--json", "-", "--folded", "-"]), 2, &["standard output"]);
    assert_fails(&leaktrace(&["./a.out"]), 2, &["comes after --"]);
    assert_fails(&leaktrace(&["--lsan", "out.txt"]), 2, &["--lsan=out.txt"]);
    assert_fails(&leaktrace(&["report", "a.json", "--lsan", "out.txt"]), 2, &["--lsan=out.txt"]);
    assert_fails(&leaktrace(&["--lsan=/no/such/directory/out", "--", "true"]), 1, &["--lsan", "create it"]);
    assert_fails(&leaktrace(&["-p", "1", "--", "ls"]), 2, &["leave one of them out"]);
    assert_fails(&leaktrace(&["report"]), 2, &["SNAPSHOT"]);
    let no_process = "it names no process; is the program running?";
    for args in [&["-p", ""][..], &["-p", "-d", "10s"], &["-d", "10s", "--pid"]] {
        assert_fails(&leaktrace(args), 2, &["'--pid <PID[,PID...]>'", no_process]);
    }
    assert_fails(&leaktrace(&["-i", "1", "-n", "0"]), 2, &["'--count <N>': it must be at least 1\n"]);
}

#[test]
fn alerts_without_a_limit_or_with_a_command_that_is_none_are_refused() {
    assert_fails(&leaktrace(&["--on-alert", "true"]), 2, &["--on-alert", "give --alert-bytes or --alert-rate too"]);
    for command in ["say 'x", "say \"x", "say \\"] {
        let output = leaktrace(&["--alert-bytes", "1M", "--on-alert", command]);
        assert_fails(&output, 2, &["--on-alert <COMMAND>", "a quote is not closed"]);
    }
    assert_fails(&leaktrace(&["--alert-bytes", "1M", "--on-alert", ""]), 2, &["--on-alert", "it names no program"]);
    for option in ["--alert-bytes", "--alert-rate"] {
        assert_fails(&leaktrace(&[option, "0"]), 2, &[option, "it must be at least 1\n"]);
        assert_fails(&leaktrace(&[option, "much"]), 2, &[option, "write it as 4096, 4k"]);
        assert_fails(&report(&[option, "1M"]), 2, &[option, "see leaktrace report --help"]);
        assert_fails(&leaktrace(&["diff", "a", "b", option, "1M"]), 2, &[option, "see leaktrace diff --help"]);
    }
}

#[test]
fn usage_errors_of_subcommands_refer_to_their_own_help() {
    let cases: [(&[&str], &str); 6] = [
        (&["report", "a.json", "b.json"], "'b.json' found; see leaktrace report --help"),
        (&["doctor", "extra"], "'extra' found; see leaktrace doctor --help"),
        (&["report"], "see leaktrace report --help"),
        (&["completions"], "see leaktrace completions --help"),
        (&["man", "7"], "see leaktrace man --help"),
        (&["help"], "; see leaktrace --help"),
    ];
    for (args, part) in cases {
        assert_fails(&leaktrace(args), 2, &[part]);
    }
}

#[test]
fn an_unwritable_output_is_found_before_anything_else() {
    let name = "/nowhere/at/all.svg";
    assert_fails(&report(&["--flamegraph", name]), 1, &["--flamegraph", name, "/nowhere/at does not exist; create it"]);
    // Tracing would need rights or fail otherwise; the output is looked at first.
    assert_fails(&leaktrace(&["--json", "/", "--", "true"]), 1, &["--json /: it is a directory; name a file"]);
}

#[test]
fn a_full_disk_costs_neither_the_text_nor_honesty() {
    let output = report(&["--json", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), golden("report.txt"));
    assert_eq!(
        stderr(&output),
        "leaktrace: cannot write --json /dev/full: No space left on device; make room there or name another file\n"
    );
}

#[test]
fn a_disk_too_full_for_a_report_is_found_before_tracing() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().to_str().unwrap();
    let script = format!("mount -t tmpfs -o size=64k tmpfs {disk} && exec \"$0\" --json {disk}/o.json -- true");
    let mut command = Command::new("unshare");
    // A mount namespace of its own; who is not root becomes it within a user namespace.
    command.args(["--mount", "--map-root-user", "sh", "-c", &script, env!("CARGO_BIN_EXE_leaktrace")]);
    assert_fails(&run(&mut command), 1, &["/o.json: No space left on device; make room there or name another file"]);
}

#[test]
fn standard_output_that_cannot_be_written_is_an_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.arg("report").arg(fixture()).stdout(full).output().unwrap();
    assert_fails(&output, 1, &["cannot write to standard output: No space left on device; "]);
}

#[test]
fn standard_output_redirected_to_the_same_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    command.arg("report").arg(fixture()).arg("--json").arg(&path).stdout(fs::File::create(&path).unwrap());
    assert_fails(&command.output().unwrap(), 1, &["standard output goes to the same file"]);
}

/// A pipe whose reader has gone before the first byte.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_broken_pipe_ends_quietly() {
    let fixture = fixture();
    for args in [&["report", fixture.to_str().unwrap()][..], &["--help"], &["man"], &["completions", "bash"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
        let output = command.args(args).stdout(broken_pipe()).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn colours_come_when_asked_for() {
    assert!(!stdout(&report(&[])).contains('\u{1b}'), "a pipe is no terminal");
    assert!(stdout(&report(&["--color", "always"])).contains("\u{1b}[1m12.2 KiB outstanding"));
    assert!(!stdout(&report(&["--color", "never"])).contains('\u{1b}'));
}

#[test]
fn help_says_what_capacities_users_and_costs_mean() {
    let help = leaktrace(&["--help"]);
    let words = stdout(&help).split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [
        "Make room for at least N outstanding allocations at a time",
        "Make room for at least N different stacks",
        "compared with the real user id",
        "a pair of malloc and free takes a microsecond or two longer there",
    ] {
        assert!(words.contains(said), "{said}");
    }
    assert!(!words.contains("Record at most N outstanding") && !words.contains("Record at most N different"));
}

#[test]
fn help_has_its_groups_and_ends_with_examples() {
    let help = leaktrace(&["--help"]);
    assert_eq!((help.status.code(), stderr(&help)), (Some(0), ""));
    let headings =
        ["Whom to trace", "What to record", "What to report", "Failing on leaks", "Alerts", "Messages", "Exit status:"];
    let places: Vec<usize> = headings.iter().map(|heading| stdout(&help).find(heading).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    let examples = stdout(&help).rfind("\nExamples:\n").unwrap();
    let statuses = &stdout(&help)[*places.last().unwrap()..examples];
    assert!(statuses.contains("with --fail-on-leak: ") && statuses.contains("with --fail-on-growth: "), "{statuses}");
    assert!(*places.last().unwrap() < examples);
    assert!(stdout(&help)[examples..].contains("sudo leaktrace -p $(pidof -s redis-server)"));
    let version = leaktrace(&["--version"]);
    assert_eq!(stdout(&version), format!("leaktrace {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_know_the_options() {
    for shell in ["bash", "zsh", "fish"] {
        let output = leaktrace(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        for option in ["older-than", "flamegraph-by", "fail-on-leak", "on-alert"] {
            assert!(stdout(&output).contains(option), "{shell} {option}");
        }
    }
    let manual = leaktrace(&["man"]);
    assert!(stdout(&manual).starts_with(".ie") || stdout(&manual).starts_with(".TH leaktrace 1"));
    for part in
        ["\\-\\-older\\-than", ".SH EXAMPLES", ".SH EXIT STATUS", "with \\-\\-fail\\-on\\-growth: ", "leaktrace report"]
    {
        assert!(stdout(&manual).contains(part), "{part} is not in {}", stdout(&manual));
    }
}
