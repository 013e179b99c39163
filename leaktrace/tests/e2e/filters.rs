//! Options that choose what is recorded and reported, and the exit status they ask for.

use std::time::{Duration, Instant};

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, trace_command};

#[test]
fn size_limits_are_inclusive_and_leave_the_rest_untouched() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["-z", "100", "-Z", "200"]);
    for order in ["a a 99 5", "a a 100 5", "a b 150 5", "a b 200 5", "a c 201 5", "a c 1000000 2"] {
        puppet.tell(order);
    }
    // Frees of what was filtered are nobody's business, frees of the others are booked.
    for order in ["f a 7", "f c 5", "f b 1"] {
        puppet.tell(order);
    }
    let snapshot = tracer.stop().lossless();
    let pid = puppet.pid();
    assert_eq!(snapshot.through(pid, "leak_a").outstanding(), (300, 3));
    assert_eq!(snapshot.through(pid, "leak_b").outstanding(), (4 * 150 + 5 * 200, 9));
    assert_eq!(snapshot.through(pid, "leak_c").outstanding(), (0, 0));
    assert_eq!(snapshot.all(pid).alloc_count, 15);
}

#[test]
fn a_realloc_crosses_the_size_limits_in_both_directions() {
    let mut victim = Victim::start("reallocs.c", &[]);
    // Below what leak_moving (600,001 and up) and leak_remapped make of their small blocks, above all else.
    let tracer = Tracer::attach(&victim, &["-z", "500000"]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    for name in ["leak_moving", "leak_remapped"] {
        let account = accounts.site(name);
        assert_eq!(snapshot.through(account.pid, name).outstanding(), (account.bytes, account.count), "{name}");
    }
    assert_eq!(snapshot.all(victim.pid()).outstanding_count, 20);
    victim.finish();

    let mut victim = Victim::start("reallocs.c", &[]);
    let tracer = Tracer::attach(&victim, &["-Z", "499999"]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    for name in ["leak_moving", "leak_remapped"] {
        assert_eq!(snapshot.through(victim.pid(), name).outstanding(), (0, 0), "{name}");
    }
    // The blocks that grew out of the limit are gone from where they came from.
    let origin = accounts.site("leak_origin");
    assert_eq!(snapshot.through(origin.pid, "leak_origin").outstanding(), (origin.bytes, origin.count));
    victim.finish();
}

#[test]
fn what_was_not_recorded_is_counted_once_when_it_goes_by_free_or_realloc() {
    let mut victim = Victim::start("reallocs.c", &[]);
    let tracer = Tracer::attach(&victim, &["-z", "1G"]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    // The victim's count has every realloc that succeeded as a free of the old block, and none that failed.
    assert_eq!(snapshot.process(victim.pid()).untracked_frees, accounts.totals[&victim.pid()].frees);
    assert_eq!(snapshot.all(victim.pid()).alloc_count, 0);
    victim.finish();
}

#[test]
fn only_blocks_of_the_age_asked_for_are_reported() {
    let asked = Duration::from_secs(2);
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["-o", "2s"]);
    puppet.tell("a a 100 3");
    // Age is what this is about: nothing but time makes it.
    std::thread::sleep(asked + Duration::from_millis(500));
    let young_since = Instant::now();
    puppet.tell("a b 100 3");
    let finished = tracer.stop();
    let young_for = young_since.elapsed();
    finished.assert_success();
    let snapshot = finished.unchecked_snapshot();
    let pid = puppet.pid();
    assert_eq!(snapshot.through(pid, "leak_a").outstanding(), (300, 3));
    let young = snapshot.through(pid, "leak_b").outstanding();
    // Where the end of the trace has taken that long, they may have come of age meanwhile.
    assert!(young == (0, 0) || young_for >= asked && young == (300, 3), "{young:?} after {young_for:?}");
    assert_eq!(finished.stdout.contains("leak_b"), young.1 > 0, "{}", finished.stdout);
}

#[test]
fn ages_are_those_of_the_blocks() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &[]);
    let before = Instant::now();
    puppet.tell("a a 100 2");
    std::thread::sleep(Duration::from_millis(700));
    let young = Instant::now();
    puppet.tell("a a 100 1");
    let snapshot = tracer.stop().lossless();
    let site = snapshot.sites_through(puppet.pid(), "leak_a")[0];
    let (oldest, youngest) = (site.oldest_s.unwrap(), site.youngest_s.unwrap());
    // A tick of the kernel's is at most 10 ms, and two of them are read.
    assert!(oldest - youngest >= 0.68, "{oldest} and {youngest}");
    assert!(oldest <= before.elapsed().as_secs_f64() + 0.02, "{oldest}");
    assert!(youngest <= young.elapsed().as_secs_f64() + 0.02, "{youngest}");
    let ages: Vec<_> = site.blocks.as_ref().unwrap().iter().map(|block| block.age_s).collect();
    assert_eq!(ages.iter().filter(|age| **age >= youngest + 0.6).count(), 2, "{ages:?}");
}

#[test]
fn interval_reports_stop_after_the_count() {
    let puppet = Victim::puppet();
    let begun = Instant::now();
    let tracer = Tracer::attach(&puppet, &["-i", "200ms", "-n", "3"]);
    let finished = tracer.wait();
    let snapshot = finished.lossless();
    // The third is the last report, and not one before it.
    assert_eq!(snapshot.sequence, 3);
    assert_eq!(finished.stdout.matches(" outstanding").count(), 3, "{}", finished.stdout);
    assert!((0.5..begun.elapsed().as_secs_f64()).contains(&snapshot.elapsed_s), "{}", snapshot.elapsed_s);
}

#[test]
fn a_duration_ends_the_trace() {
    let duration = Duration::from_secs(2);
    let mut puppet = Victim::puppet();
    let begun = Instant::now();
    let tracer = Tracer::attach(&puppet, &["-d", "2s"]);
    puppet.tell("a a 10 1");
    let told = begun.elapsed();
    let snapshot = tracer.wait().lossless();
    assert!((2.0..begun.elapsed().as_secs_f64()).contains(&snapshot.elapsed_s), "{}", snapshot.elapsed_s);
    let found = snapshot.all(puppet.pid()).outstanding();
    // On a machine so slow that the order came late, the trace may have been over.
    assert!(found == (10, 1) || told >= duration && found == (0, 0), "{found:?}, told after {told:?}");
    assert!(puppet.lives());
}

#[test]
fn a_duration_ends_the_trace_of_a_command_but_not_the_command() {
    let puppet_path = build::victim("puppet.c");
    let tracer = Tracer::start_unready(&["-d", "500ms", "--", path_str(&puppet_path), "run"]);
    // Its standard input is /dev/null: it ends by itself, the trace with it or after the time.
    tracer.wait().lossless();
}

#[test]
fn the_text_report_is_sorted_and_cut_as_asked() {
    let orders = ["a a 1000 2", "a b 100 50", "a c 4000 1"];
    let report = |options: &[&str]| {
        let mut puppet = Victim::start("puppet.c", &[]);
        puppet.go();
        let tracer = Tracer::attach(&puppet, options);
        for order in orders {
            puppet.tell(order);
            // Ages tell blocks apart by the millisecond.
            std::thread::sleep(Duration::from_millis(10));
        }
        let finished = tracer.stop();
        // Whatever the text leaves out, the snapshot has it all.
        assert_eq!(finished.lossless().all(puppet.pid()).outstanding(), (11_000, 53));
        finished.stdout
    };
    let order = |text: &str| {
        let mut found: Vec<_> =
            ["leak_a", "leak_b", "leak_c"].into_iter().filter_map(|name| Some((text.find(name)?, name))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(order(&report(&[])), ["leak_b", "leak_c", "leak_a"]);
    assert_eq!(order(&report(&["--sort", "count"])), ["leak_b", "leak_a", "leak_c"]);
    assert_eq!(order(&report(&["--sort", "age"])), ["leak_a", "leak_b", "leak_c"]);
    assert_eq!(order(&report(&["-T", "1"])), ["leak_b"]);
    assert_eq!(order(&report(&["-T", "2", "--sort", "count"])), ["leak_b", "leak_a"]);
}

#[test]
fn fail_on_leak_sets_the_exit_status() {
    let cases: [(&[&str], i32); 6] = [
        (&["--fail-on-leak"], 23),
        (&["--fail-on-leak=8960"], 23),
        (&["--fail-on-leak=20000000"], 7),
        (&["--fail-on-leak", "--leak-exitcode", "99"], 99),
        (&["--fail-on-leak=20000000", "--leak-exitcode", "99"], 7),
        (&[], 7),
    ];
    for (options, status) in cases {
        let options = &[options, &["--leak-check=no"]].concat();
        // Keeps 13,440 - 2,880 = 10,560 bytes and returns 7.
        let (finished, accounts) = trace_command(options, "ending.c", &["return", "7"]);
        assert_eq!(accounts.outstanding(), (10_560, 15));
        assert_eq!(finished.status.code(), Some(status), "{options:?}: {}", finished.stderr);
    }
}

#[test]
fn fail_on_leak_counts_from_exactly_the_bytes_given() {
    for (bytes, status) in [("--fail-on-leak=10560", 23), ("--fail-on-leak=10561", 0)] {
        let (finished, _) = trace_command(&[bytes, "--leak-check=no"], "ending.c", &["return"]);
        assert_eq!(finished.status.code(), Some(status), "{bytes}: {}", finished.stderr);
    }
    let (finished, _) = trace_command(&["--fail-on-leak", "--leak-check=no"], "idle.c", &[]);
    assert_eq!(finished.status.code(), Some(0), "nothing leaked: {}", finished.stderr);
}

#[test]
fn what_can_still_be_reached_is_no_leak_to_fail_on() {
    // Its blocks are in an array.
    let (finished, accounts) = trace_command(&["--fail-on-leak"], "ending.c", &["return", "7"]);
    assert_eq!(accounts.outstanding(), (10_560, 15));
    assert_eq!(finished.status.code(), Some(7), "{}", finished.stderr);
}

#[test]
fn what_a_program_held_when_it_executed_another_is_no_leak_to_fail_on() {
    let finished = Tracer::start(&["--fail-on-leak", "--", "env", "A=b", "true"]).wait();
    let snapshot = finished.exact();
    let of_env = snapshot.processes.iter().find(|process| process.comm == "env").unwrap();
    assert!(of_env.outstanding_bytes > 0, "{of_env:?}");
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
}

#[test]
fn a_failure_by_what_nobody_has_judged_is_explained() {
    let victim = build::victim("ending.c");
    let script = format!("{} run return; exit 0", path_str(&victim));
    let finished = Tracer::start(&["--fail-on-leak", "--", "sh", "-c", &script]).wait();
    assert_eq!(finished.status.code(), Some(23), "{}", finished.stderr);
    let of_child = |text: &str| -> u64 {
        let (_, behind) = text.split_once("--fail-on-leak counts all ").unwrap_or_else(|| panic!("{text}"));
        behind.split_once(" bytes that process ").unwrap_or_else(|| panic!("{text}")).0.parse().unwrap()
    };
    // And what the C library has for its output.
    assert!((10_560..16_000).contains(&of_child(&finished.stderr)), "{}", finished.stderr);
}

#[test]
fn what_size_limits_do_to_a_verdict_is_said() {
    let words = "what only blocks point to that --min-size or --max-size leaves out may be undecided";
    for (options, is_said) in [(&["-z", "8"][..], true), (&[], false)] {
        let (finished, _) = trace_command(options, "ending.c", &["return"]);
        assert_eq!(finished.stdout.matches(words).count(), usize::from(is_said), "{}", finished.stdout);
    }
}

#[test]
fn fail_on_leak_works_for_a_running_process() {
    let mut puppet = Victim::puppet();
    for (orders, options, status) in [
        (&["a a 1000 1"][..], &["--leak-check=no"][..], 23),
        (&["a b 999 1"], &["--leak-check=no"], 0),
        // All that was lost before is not known, and what is kept is not lost.
        (&["a c 2000 1"], &["--max-pause", "1h"], 0),
        (&["l c 1", "a c 1000 1", "l c 1"], &["--max-pause", "1h"], 23),
        (&["a c 999 1", "l c 1"], &["--max-pause", "1h"], 0),
    ] {
        let tracer = Tracer::attach(&puppet, &[&["--fail-on-leak=1000"], options].concat());
        for order in orders {
            puppet.tell(order);
        }
        let finished = tracer.stop();
        assert_eq!(finished.status.code(), Some(status), "{orders:?}: {}{}", finished.stdout, finished.stderr);
    }
}
