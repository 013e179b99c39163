//! Tests of what a command line resolves to, without a terminal and without tracing.

use std::ffi::OsString;

use super::checks::Heuristics;
use super::*;
use crate::cli::{Parsed, parse};
use crate::model::Pid;

fn resolve_with(words: &[&str], surroundings: Surroundings) -> Result<Invocation, UsageError> {
    let words = std::iter::once("leaktrace").chain(words.iter().copied()).map(OsString::from);
    match parse(words)? {
        Parsed::Cli(cli) => Invocation::resolve(*cli, surroundings),
        Parsed::Text(text) => panic!("help: {text}"),
    }
}

fn config(words: &[&str]) -> Config {
    match resolve_with(words, Surroundings::default()).unwrap() {
        Invocation::Trace(config) => *config,
        other => panic!("{other:?}"),
    }
}

fn refused(words: &[&str]) -> String {
    let message = resolve_with(words, Surroundings::default()).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn nothing_said_is_the_whole_system_with_the_documented_defaults() {
    let config = config(&[]);
    assert_eq!(config.whom, Whom::System);
    assert_eq!(config.target().mode, TraceMode::System);
    assert_eq!(config.options(), Options::default());
    assert_eq!((config.recording.max_allocs, config.recording.max_stacks), (1_000_000, 16_384));
    assert_eq!(config.recording.max_depth, 256);
    assert_eq!(config.outputs.text.top, Some(10));
    assert_eq!(config.gate, Gate { fail_from: None, grows_from: None, exitcode: 23 });
}

#[test]
fn traces_of_many_processes_take_room_by_the_memory_there_is_unless_the_user_says_otherwise() {
    let room = |words: &[&str], gibibytes: u64| {
        let surroundings = Surroundings { available_memory: Some(gibibytes << 30), ..Surroundings::default() };
        match resolve_with(words, surroundings).unwrap() {
            Invocation::Trace(config) => (config.recording.max_allocs, config.recording.max_stacks),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(room(&[], 1), (1_000_000, 16_384));
    assert_eq!(room(&[], 4), (1_398_101, 39_475));
    assert_eq!(room(&["--comm", "cc1"], 64), (4_000_000, 131_072));
    assert_eq!(room(&["--max-stacks", "500"], 64), (4_000_000, 500));
    assert_eq!(room(&["-p", "1"], 64), (1_000_000, 16_384));
    assert_eq!(room(&["--", "make"], 64), (4_000_000, 131_072));
    assert_eq!(room(&["--no-follow", "--", "true"], 64), (1_000_000, 16_384));
}

#[test]
fn debug_information_is_fetched_where_it_is_asked_for_and_there_is_a_server() {
    let surroundings = Surroundings { debuginfod: true, ..Surroundings::default() };
    let fetches = |words: &[&str]| match resolve_with(words, surroundings).unwrap() {
        Invocation::Trace(config) => config.debuginfod,
        other => panic!("{other:?}"),
    };
    assert!(fetches(&["--debuginfod"]));
    assert!(!fetches(&[]), "a server that is there is not asked unasked");
    let message = refused(&["--debuginfod"]);
    assert!(message.contains("DEBUGINFOD_URLS") && message.contains("--preserve-env"), "{message}");
}

#[test]
fn pids_come_once_each_in_the_order_given() {
    assert_eq!(config(&["-p", "30,10", "--pid", "10,20"]).whom, Whom::Pids(vec![Pid(30), Pid(10), Pid(20)]));
    assert_eq!(config(&["-p", "30 10"]).whom, Whom::Pids(vec![Pid(30), Pid(10)]));
}

#[test]
fn filters_choose_among_all_processes() {
    let words =
        ["--comm", "nginx", "--comm", "a-name-beyond-fifteen", "--uid", "root", "--uid", "33", "--cgroup", "a/b"];
    let config = config(&words);
    let filters = Filters {
        comms: vec!["nginx".to_owned(), "a-name-beyond-fifteen".to_owned()],
        cgroups: vec![PathBuf::from("a/b")],
        uids: vec![0, 33],
    };
    assert_eq!(config.whom, Whom::Filtered(filters));
    let target = config.target();
    assert_eq!((target.mode, target.uids), (TraceMode::Filter, vec![0, 33]));
}

#[test]
fn filters_do_not_go_with_named_processes_nor_with_a_command() {
    assert!(refused(&["--uid", "0", "-p", "1"]).contains("--uid"));
    assert!(refused(&["--comm", "x", "--", "true"]).contains("--comm"));
    assert!(refused(&["--cgroup", "x", "-p", "1"]).contains("--cgroup"));
    assert!(refused(&["--uid", "no such user"]).contains("no user"));
}

#[test]
fn children_are_followed_unless_told_otherwise() {
    assert!(config(&["-p", "1"]).follow && config(&["--", "true"]).follow);
    let alone = config(&["-p", "1", "--no-follow"]);
    assert!(!alone.follow && !alone.options().follow);
    assert!(refused(&["--no-follow"]).contains("--no-follow"), "of every process there are no others");
    assert!(refused(&["--no-follow", "--comm", "x"]).contains("--no-follow"));
}

#[test]
fn a_command_keeps_its_own_options_and_may_be_called_like_a_subcommand() {
    let words = |words: &[&str]| Whom::Command(words.iter().map(OsString::from).collect());
    assert_eq!(config(&["-q", "--", "ls", "-q", "--json", "-"]).whom, words(&["ls", "-q", "--json", "-"]));
    assert_eq!(config(&["--", "doctor"]).whom, words(&["doctor"]));
    assert_eq!(config(&["--", "report", "x"]).whom, words(&["report", "x"]));
    assert_eq!(config(&["--", "env", "--", "true"]).whom, words(&["env", "--", "true"]));
}

#[test]
fn options_reach_the_snapshot_as_resolved() {
    let words = "-d 1m -i 5s -n 3 -z 4k -Z 1MiB -o 10 --sample-bytes 512k --unwind fp --max-allocs 3000000 --max-stacks 5 --max-depth 20 \
                 --object /lib/x \
                 --object y --symbols-prefix je_ --sort age --show-allocs";
    let options = config(&words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>()).options();
    let expected = Options {
        duration: Some(Duration::from_mins(1)),
        interval: Some(Duration::from_secs(5)),
        count: Some(3),
        min_size: 4096,
        max_size: Some(1_048_576),
        older_than: Duration::from_secs(10),
        max_allocs: 3_000_000,
        max_stacks: 5,
        max_depth: 20,
        objects: vec!["/lib/x".to_owned(), "y".to_owned()],
        symbols_prefixes: vec!["je_".to_owned()],
        alloc_symbols: vec![],
        sample_bytes: Some(524_288),
        sampler: false,
        unwind: Unwind::Fp,
        sort: SortKey::Age,
        show_allocs: true,
        all_sites: false,
        warm_up: Duration::ZERO,
        only: None,
        follow: true,
    };
    assert_eq!(options, expected);
}

#[test]
fn equal_sizes_are_a_range_and_a_failure_threshold_may_be_given_or_not() {
    assert_eq!(config(&["-z", "64", "-Z", "64"]).recording.max_size, Some(64));
    assert_eq!(
        config(&["--fail-on-leak", "--", "true"]).gate,
        Gate { fail_from: Some(1), grows_from: None, exitcode: 23 }
    );
    let gate = config(&["--fail-on-leak=1M", "--leak-exitcode", "9", "--", "true"]).gate;
    assert_eq!(gate, Gate { fail_from: Some(1 << 20), grows_from: None, exitcode: 9 });
}

#[test]
fn a_sample_that_is_too_coarse_for_the_threshold_is_warned_of() {
    let warned = |arguments: &[&str]| {
        let all = [arguments, &["--", "true"]].concat();
        config(&all).unseen_leaks()
    };
    let warning = warned(&["--fail-on-leak=100k", "--sample-bytes", "10M"]).unwrap();
    assert!(warning.contains("may overlook, 31457280 bytes"), "{warning}");
    assert_eq!(warned(&["--fail-on-leak=100M", "--sample-bytes", "10M"]), None);
    assert_eq!(warned(&["--fail-on-leak=100k"]), None);
    assert_eq!(warned(&["--sample-bytes", "10M"]), None);
}

#[test]
fn contradictions_are_one_line_with_the_next_step() {
    let cases: [(&[&str], &str); 26] = [
        (&["--fail-on-growth", "--sample-bytes", "1M"], "--fail-on-growth needs every allocation"),
        (&["--warmup", "1m", "-d", "1m"], "leaves nothing of --duration"),
        (&["-z", "2k", "-Z", "1k"], "--min-size 2048 is above --max-size 1024"),
        (&["-p", "1", "--", "ls"], "--pid and a COMMAND cannot be traced together; leave one"),
        (&["-n", "3"], "give --interval too, such as -i 10s"),
        (&["-d", "2s", "--older-than", "30s"], "none could be that old; trace for longer"),
        (&["-p", "0"], "0 is no process; name one"),
        (&["-p", "x"], "\"x\" is no pid; pidof finds"),
        (&["-p", ""], "is the program running?"),
        (&["-p", "12", "34"], "join pids by commas, -p 12,34"),
        (&["ls"], "a command to trace comes after --: leaktrace -- ls"),
        (&["docter"], "a similar subcommand exists: doctor"),
        (&["--fail-on-leak", "1M", "--", "ls"], "write optional values with =, --fail-on-leak=1M"),
        (&["-d", "soon"], "write it as 500ms, 30s"),
        (&["-d", "0"], "above zero"),
        (&["--sample-bytes", "0"], "it must be at least 1"),
        (&["--sample-bytes", "64.5G"], "it must be at most 64G"),
        (&["--sample-bytes", "often"], "write it as 4096, 4k"),
        (&["--max-depth", "1025"], "1025 is not in 1..=1024"),
        (&["--max-allocs", "0"], "0 is not in 1..="),
        (&["--leak-exitcode", "3"], "--fail-on-leak"),
        (&["--flamegraph-by", "count"], "--flamegraph"),
        (&["-q", "-v"], "cannot be used with"),
        (&["--fail-on-leak", "5"], "--fail-on-leak=5"),
        (&["--pidd", "5"], "a similar argument exists: '--pid'"),
        (&["--nonsense"], "unexpected argument '--nonsense' found; see leaktrace --help"),
    ];
    for (words, part) in cases {
        let message = refused(words);
        assert!(message.contains(part), "{words:?}: {message}");
    }
}

#[test]
fn options_of_later_versions_are_not_taken_silently() {
    for option in ["--kernel", "--grow=brk", "--pprof=x", "--html=x"] {
        assert!(refused(&[option]).contains("unexpected argument"), "{option}");
    }
}

#[test]
fn named_processes_are_checked_for_lost_blocks_unless_that_cannot_be() {
    let plan = CheckPlan {
        mode: None,
        max_pause: Duration::from_millis(50),
        at_intervals: false,
        most_others: 5,
        heuristics: Heuristics::ALL,
    };
    assert_eq!(config(&["-p", "1"]).leak_check, Ok(plan));
    assert_eq!(config(&["--", "true"]).leak_check, Ok(plan));
    let longer = CheckPlan { max_pause: Duration::from_secs(2), ..plan };
    assert_eq!(config(&["--leak-check", "--max-pause", "2s", "--", "true"]).leak_check, Ok(longer));
    let always = CheckPlan { at_intervals: true, ..plan };
    assert_eq!(config(&["--leak-check=summary", "-p", "1"]).leak_check, Ok(always));
    assert_eq!(config(&["--leak-check", "no", "-p", "1"]).leak_check, Err(NoChecks::Declined));
    assert_eq!(config(&[]).leak_check, Err(NoChecks::Unnamed));
    assert_eq!(config(&["--sample-bytes", "512k", "-p", "1"]).leak_check, Err(NoChecks::Sampled));
    assert_eq!(config(&["--leak-check"]).leak_check, Ok(plan), "on demand for the whole machine");
    let live = CheckPlan { mode: Some(CheckMode::Live), most_others: 0, ..plan };
    let words = ["-p", "1", "--leak-check-mode=live", "--leak-check-processes", "0"];
    assert_eq!(config(&words).leak_check, Ok(live));
    let heuristics = Heuristics { stdstring: true, length64: true, ..Heuristics::NONE };
    let some = CheckPlan { heuristics, ..plan };
    assert_eq!(config(&["-p", "1", "--leak-check-heuristics=length64,stdstring"]).leak_check, Ok(some));
    let none = CheckPlan { heuristics: Heuristics::NONE, ..plan };
    assert_eq!(config(&["-p", "1", "--leak-check-heuristics", "none"]).leak_check, Ok(none));
    assert!(refused(&["-p", "1", "--leak-check-heuristics=all,length64"]).contains("stand alone"));
    assert!(refused(&["--leak-check=full", "--sample-bytes", "512k", "-p", "1"]).contains("give one of them"));
}

#[test]
fn reports_do_not_share_a_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x");
    let link = directory.path().join("link");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (file, link) = (file.to_str().unwrap(), link.to_str().unwrap());
    assert!(refused(&["--json", "-", "--folded", "/dev/stdout"]).contains("cannot both be on standard output"));
    assert!(refused(&["--lsan", "--folded", "-"]).contains("--folded and --lsan cannot both be on standard output"));
    assert!(refused(&["--json", file, "--folded", link]).contains("name the same file"));
    assert!(
        refused(&["--json", "new", "--flamegraph", "./new"]).contains("--flamegraph and --json name the same file")
    );
    config(&["--json", "/dev/null", "--folded", "/dev/null"]);
}

#[test]
fn surroundings_decide_colours_width_and_progress() {
    let terminal = Surroundings { color: true, columns: Some(100), interactive: true, ..Surroundings::default() };
    let resolved = |words: &[&str]| match resolve_with(words, terminal).unwrap() {
        Invocation::Trace(config) => (config.outputs.text.color, config.outputs.text.width, config.messages.progress),
        other => panic!("{other:?}"),
    };
    assert_eq!(resolved(&[]), (true, Some(100), true));
    assert_eq!(resolved(&["--color", "never", "-q"]), (false, Some(100), false));
    assert_eq!(resolved(&["--no-progress"]), (true, Some(100), false));
    assert_eq!(resolved(&["--", "true"]), (true, Some(100), false), "the command writes to the same terminal");
    let piped = config(&["--color", "always"]);
    assert!(piped.outputs.text.color && !piped.messages.progress);
}

#[test]
fn report_takes_a_snapshot_and_outputs() {
    let words = ["report", "a.json", "-T", "all", "--sort", "count", "-o", "5s", "--folded", "-"];
    let Invocation::Report(config) = resolve_with(&words, Surroundings::default()).unwrap() else { panic!() };
    assert_eq!(config.snapshot.as_deref(), Some(Path::new("a.json")));
    assert_eq!((config.outputs.text.top, config.sort), (None, Some(SortKey::Count)));
    assert_eq!(config.older_than, Some(Duration::from_secs(5)));
    assert_eq!(format!("{:?}", config.outputs.files), "[(Folded, Stdout)]");
    assert!(refused(&["report"]).contains("<SNAPSHOT>"));
    assert!(refused(&["report", "a", "-p", "1"]).contains("unexpected argument '-p'"));
}

#[test]
fn alerts_have_a_limit_and_perhaps_a_command() {
    assert_eq!(config(&["-p", "1"]).alerts, AlertPlan::default());
    let alerts = config(&["--alert-bytes", "2G", "--alert-rate", "1.5M/s", "--on-alert", "'my tool' -x"]).alerts;
    assert_eq!((alerts.bytes, alerts.rate), (Some(2 << 30), Some(3 << 19)));
    assert_eq!(alerts.command, Some(vec![OsString::from("my tool"), OsString::from("-x")]));
    assert!(refused(&["-p", "1", "--on-alert", "x"]).contains("give --alert-bytes or --alert-rate too"));
}
