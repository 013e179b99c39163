//! The leak check of processes that run on meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::found;
use crate::harness::tracer::path_str;
use crate::harness::{Finished, Snapshot, Tracer, Victim, build, locks};

/// Programs of `tests/victims/reachability` that these tests run, all built with one level of optimisation.
pub const SOURCES: [&str; 8] =
    ["coroutines.c", "data.c", "graph.c", "hopping.c", "kernel.c", "mappings.c", "on_stacks.c", "tls.c"];

/// Whether this kernel marks pages that are written (Documentation/admin-guide/mm/soft-dirty.rst), by a page that was.
fn marks_pages() -> bool {
    let word = Box::new(7u64);
    let page = (&raw const *word).addr() as u64 / 4096;
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, page * 8).unwrap();
    assert_eq!(*word, 7);
    u64::from_le_bytes(entry) >> 55 & 1 != 0
}

/// The word for lost blocks here: on kernels that do not tell what has changed nobody can be certain.
fn lost() -> &'static str {
    if marks_pages() { "definitely_lost" } else { "probably_lost" }
}

/// Checks how a process was searched.
fn check_manner(snapshot: &Snapshot, pid: u32) {
    let check = snapshot.process(pid).leak_check.as_ref().unwrap_or_else(|| panic!("{:?}", snapshot.warnings));
    assert!(check.mode == "live" && check.scanned_bytes > 0 && check.pause_ms > 0.0, "{check:?}");
    assert_eq!(check.rescanned_bytes.is_some(), marks_pages(), "{check:?}");
    let is_right = if marks_pages() { check.passes == 1 } else { (2..=16).contains(&check.passes) };
    assert!(is_right, "{check:?}");
}

#[test]
fn what_is_lost_is_found_in_a_process_that_runs() {
    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &["--leak-check-mode=live", "--max-pause=1h"]);
    puppet.tell("a a 1003 5");
    puppet.tell("a b 2003 3");
    puppet.tell("l b 2");
    let finished = tracer.stop();
    let snapshot = finished.exact();
    check_manner(&snapshot, puppet.pid());
    let kinds = found(&snapshot, puppet.pid());
    assert_eq!(kinds[&1003], ["still_reachable"; 5]);
    let mut of_b = kinds[&2003].clone();
    of_b.sort_unstable();
    assert_eq!(of_b, [lost(), lost(), "still_reachable"]);
    let words = format!("3.9 KiB {} in 2 allocations", lost().replace('_', " "));
    assert!(finished.stdout.contains(&words) && finished.stdout.contains("while it ran"), "{}", finished.stdout);
}

/// Judges a program of 40 MB several times, 16 pointers of which move about, beside 16 blocks that are lost.
fn judged_while_pointers_hop(mode: &str) -> (Victim, Finished) {
    let program = build::reachability_victim("hopping.c", 1);
    let mut victim = Victim::spawn("hopping.c", Command::new(program).args(["wait", "40", "16", "16"]));
    victim.wait_until_ready();
    let options = ["--leak-check=summary", "--leak-check-mode", mode, "-i", "300ms", "--max-pause=1h"];
    let tracer = Tracer::attach(&victim, &options);
    victim.go();
    victim.collect_until_done();
    for _ in 0..3 {
        tracer.wait_for_output("a verdict", |line| line.contains("leak check:"));
    }
    (victim, tracer.stop())
}

/// 16 pointers that move about by the million each second: a search that reads one place after the other misses some.
#[test]
fn a_pointer_that_hops_about_makes_no_block_lost() {
    let (victim, finished) = judged_while_pointers_hop("live");
    let snapshot = finished.exact();
    check_manner(&snapshot, victim.pid());
    let kinds = found(&snapshot, victim.pid());
    for number in 0..16 {
        let hopper = kinds[&(5001 + 2 * number)][0];
        assert!(hopper != "definitely_lost" && hopper != "indirectly_lost", "{hopper}");
        assert_eq!(kinds[&(7001 + 2 * number)], [lost()]);
    }
    let verdicts = finished.stdout.lines().filter(|line| line.contains("leak check:"));
    for verdict in verdicts {
        assert!(marks_pages() || !verdict.contains("definitely"), "{verdict}");
    }
}

/// Marks that somebody else takes away tell nothing of what has changed (CRIU, a debugger, another leaktrace).
#[test]
fn when_others_take_the_marks_of_pages_away_nothing_is_lost_for_certain() {
    let program = build::reachability_victim("hopping.c", 1);
    let mut victim = Victim::spawn("hopping.c", Command::new(program).args(["wait", "40", "16", "16"]));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["--leak-check-mode=live", "--max-pause=1h"]);
    victim.go();
    victim.collect_until_done();
    let marks = format!("/proc/{}/clear_refs", victim.pid());
    let is_over = AtomicBool::new(false);
    let finished = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fs::write(&marks, "4").unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let finished = tracer.stop();
        is_over.store(true, Ordering::Relaxed);
        finished
    });
    let snapshot = finished.exact();
    let check = snapshot.process(victim.pid()).leak_check.as_ref().unwrap_or_else(|| panic!("{}", finished.stdout));
    assert!(check.mode == "live" && check.rescanned_bytes.is_none() && check.passes > 1, "{check:?}");
    let kinds = found(&snapshot, victim.pid());
    assert!(kinds.values().flatten().all(|kind| !kind.starts_with("definitely")), "{kinds:?}");
    for number in 0..16 {
        assert_eq!(kinds[&(7001 + 2 * number)], ["probably_lost"]);
    }
}

/// Of a program at rest both ways say the same.
#[test]
fn without_changes_all_that_exact_searches_find_is_found() {
    for source in ["graph.c", "data.c", "on_stacks.c"] {
        let program = build::reachability_victim(source, 1);
        let mut victim = Victim::spawn(source, Command::new(program).arg("wait"));
        victim.wait_until_ready();
        let attach = |mode| Tracer::attach(&victim, &["--leak-check-mode", mode, "--max-pause=1h"]);
        let (live, exact) = (attach("live"), attach("exact"));
        victim.go();
        victim.collect_until_done();
        let (live, exact) = (live.stop(), exact.stop());
        let (live, exact) = (live.exact(), exact.exact());
        let (live, exact) = (found(&live, victim.pid()), found(&exact, victim.pid()));
        for (size, kinds) in &exact {
            let expected: Vec<&str> = kinds
                .iter()
                .map(|kind| match *kind {
                    "definitely_lost" | "indirectly_lost" if !marks_pages() => "probably_lost",
                    other => other,
                })
                .collect();
            assert_eq!(live[size], expected, "{source}: blocks of {size} bytes");
        }
        victim.finish();
    }
}

#[test]
fn a_process_that_is_searched_time_and_again_goes_on_unharmed() {
    let losing = build::victim("losing.c");
    let options =
        ["--leak-check=summary", "--leak-check-mode=live", "-i", "500ms", "-n", "2", "--max-pause", "1h", "--"];
    // leaktrace ends before the command, which shares its standard output.
    let finished = Tracer::start(&[&options[..], &[path_str(&losing), "run", "800"]].concat()).wait();
    let snapshot = finished.exact();
    let pid = snapshot.processes[0].pid;
    check_manner(&snapshot, pid);
    let kept = snapshot.sites_through(pid, "leak_kept")[0];
    let verdict = kept.verdict.as_ref().unwrap();
    for kind in ["definitely_lost", "indirectly_lost", "probably_lost"] {
        assert_eq!(verdict.get(kind).map_or(0, |tally| tally.count), 0, "{kind}: {kept:?}");
    }
    let all_lost = snapshot.sites_through(pid, "leak_lost")[0];
    let lost = all_lost.verdict.as_ref().unwrap().get(lost()).map_or(0, |tally| tally.count);
    assert!(lost > 10, "{all_lost:?}");
    assert!(finished.stdout.contains("800 rounds, 0 interrupted"), "{}", finished.stdout);
}

#[test]
fn a_process_too_large_for_the_pause_is_searched_while_it_runs() {
    let program = build::reachability_victim("hopping.c", 1);
    let mut victim = Victim::spawn("hopping.c", Command::new(program).args(["wait", "150", "1", "3"]));
    victim.wait_until_ready();
    let exact = Tracer::attach(&victim, &["--leak-check-mode=exact"]);
    let auto = Tracer::attach(&victim, &[]);
    victim.go();
    victim.collect_until_done();
    let exact = exact.stop();
    assert!(exact.exact().process(victim.pid()).leak_check.is_none());
    let words = ["no verdict", "longer than --max-pause 50 ms; raise that, or give --leak-check-mode live"];
    assert!(words.iter().all(|word| exact.stdout.contains(word)), "{}", exact.stdout);
    let auto = auto.stop().exact();
    let check = auto.process(victim.pid()).leak_check.as_ref().unwrap();
    let expected = if marks_pages() { "live" } else { "snapshot" };
    assert!(check.mode == expected && check.pause_ms < 2000.0, "{check:?}");
    let kinds = found(&auto, victim.pid());
    for number in 0..3 {
        assert_eq!(kinds[&(7001 + 2 * number)], ["definitely_lost"]);
    }
}

#[test]
fn a_copy_says_what_is_lost_for_certain() {
    let (victim, finished) = judged_while_pointers_hop("snapshot");
    let snapshot = finished.exact();
    let check = snapshot.process(victim.pid()).leak_check.as_ref().unwrap_or_else(|| panic!("{}", finished.stdout));
    assert!(check.mode == "snapshot" && check.passes == 1 && check.pause_ms > 0.0, "{check:?}");
    let kinds = found(&snapshot, victim.pid());
    for number in 0..16 {
        assert_eq!(kinds[&(5001 + 2 * number)], ["still_reachable"]);
        assert_eq!(kinds[&(7001 + 2 * number)], ["definitely_lost"]);
    }
    let verdicts = finished.stdout.lines().filter(|line| line.contains("leak check:"));
    for verdict in verdicts.filter(|verdict| verdict.contains("a copy of")) {
        assert!(verdict.contains("definitely lost in 16 allocations"), "{verdict}");
    }
}

#[test]
fn a_process_that_is_copied_time_and_again_goes_on_unharmed() {
    let losing = build::victim("losing.c");
    let mut victim = Victim::spawn("losing.c", Command::new(losing).args(["wait", "1000"]));
    victim.wait_until_ready();
    let options = ["--leak-check=summary", "--leak-check-mode=snapshot", "-i", "100ms", "--max-pause=1h"];
    let tracer = Tracer::attach(&victim, &options);
    victim.go();
    for _ in 0..2 {
        tracer.wait_for_output("a verdict", |line| line.contains("a copy of") && line.contains("definitely lost"));
    }
    let finished = tracer.stop();
    let snapshot = finished.exact();
    let kept = snapshot.sites_through(victim.pid(), "leak_kept")[0];
    let verdict = kept.verdict.as_ref().unwrap_or_else(|| panic!("{}", finished.stdout));
    assert_eq!(verdict["still_reachable"].count, kept.outstanding_count);
    victim.wait_for_line("its end, undisturbed", |line| line == "1000 rounds, 0 interrupted");
    assert!(victim.wait().0.success());
}

/// Everything else that a copy of a program at rest shows is as in the program itself.
#[test]
fn what_a_copy_shows_is_what_the_process_has() {
    for source in ["data.c", "kernel.c", "tls.c", "coroutines.c"] {
        let program = build::reachability_victim(source, 1);
        let mut victim = Victim::spawn(source, Command::new(program).arg("wait"));
        victim.wait_until_ready();
        let attach = |mode| Tracer::attach(&victim, &["--leak-check-mode", mode, "--max-pause=1h"]);
        let (copied, exact) = (attach("snapshot"), attach("exact"));
        victim.go();
        victim.collect_until_done();
        let (copied, exact) = (copied.stop(), exact.stop());
        let (copied, exact) = (copied.exact(), exact.exact());
        let check = copied.process(victim.pid()).leak_check.as_ref();
        assert_eq!(check.unwrap_or_else(|| panic!("{source}: {:?}", copied.warnings)).mode, "snapshot");
        assert_eq!(found(&copied, victim.pid()), found(&exact, victim.pid()), "{source}");
        victim.finish();
    }
}

/// Children of named processes, and on demand any process: those that hold most.
#[test]
fn those_that_hold_most_are_judged_beside_the_named_ones() {
    let _machine = locks::whole_machine();
    let size = "1000033";
    let mut puppets = [Victim::puppet(), Victim::puppet(), Victim::puppet()];
    let options = ["-z", size, "-Z", size, "--leak-check", "--leak-check-processes=2", "--max-pause=1h"];
    let tracer = Tracer::start(&options);
    for (number, puppet) in puppets.iter_mut().enumerate() {
        puppet.tell(&format!("a a {size} {}", number + 2));
        puppet.tell("l a 1");
    }
    let snapshot = tracer.stop().exact();
    let judged = puppets.each_ref().map(|puppet| snapshot.process(puppet.pid()).leak_check.is_some());
    assert_eq!(judged, [false, true, true]);
    for puppet in &puppets[1..] {
        let lost = snapshot.sites_through(puppet.pid(), "leak_a")[0];
        assert_eq!(lost.verdict.as_ref().unwrap()["definitely_lost"].count, 1);
    }
}

#[test]
fn memory_that_no_child_gets_is_in_no_copy_and_then_none_is_made() {
    let program = build::reachability_victim("mappings.c", 1);
    let mut victim = Victim::spawn("mappings.c", Command::new(program).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["--leak-check-mode=snapshot", "--max-pause=1h"]);
    victim.go();
    victim.collect_until_done();
    let finished = tracer.stop();
    assert!(finished.exact().process(victim.pid()).leak_check.is_none());
    let words = ["no verdict", "MADV_DONTFORK", "which a copy does not have"];
    assert!(words.iter().all(|word| finished.stdout.contains(word)), "{}", finished.stdout);
    victim.finish();
}

/// Whenever it is killed: what cannot be read any more is not lost.
#[test]
fn a_process_that_is_killed_while_it_is_judged_has_lost_nothing_by_that() {
    let program = build::reachability_victim("hopping.c", 1);
    for (mode, milliseconds) in [("exact", 100), ("exact", 250), ("live", 250), ("snapshot", 250)] {
        let mut victim = Victim::spawn("hopping.c", Command::new(&program).args(["wait", "60", "16", "16"]));
        victim.wait_until_ready();
        let tracer = Tracer::attach(&victim, &["--leak-check-mode", mode, "--max-pause=1h"]);
        victim.go();
        victim.collect_until_done();
        tracer.signal(Signal::SIGINT);
        thread::sleep(Duration::from_millis(milliseconds));
        kill(Pid::from_raw(victim.pid() as i32), Signal::SIGKILL).unwrap();
        let finished = tracer.wait();
        let snapshot = finished.snapshot();
        let kinds = found(&snapshot, victim.pid());
        let hoppers = (0..16).map(|number| kinds[&(5001 + 2 * number)][0]);
        for kind in hoppers {
            assert!(!kind.contains("definitely") && !kind.contains("indirectly"), "{mode}: {}", finished.stdout);
        }
        assert_eq!(kinds[&(1 << 20)].iter().filter(|kind| kind.contains("_lost")).count(), 0, "{mode}");
    }
}
