//! Programs that draw samples of their own allocations and tell of them at places for tracers (`otel_memory`): what they tell is taken
//! as it is, and no call is probed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Finished, Tracer, Victim, leaktrace, techniques};

/// The kernel raises the counters of tracers in every process that has the file: these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program with places that systemtap's header made, which has begun.
fn drawing() -> Victim {
    let mut victim = Victim::start("drawing.c", &[]);
    victim.go();
    victim
}

fn snapshot(finished: &Finished) -> Value {
    finished.assert_success();
    serde_json::from_str(&finished.read("snapshot.json")).unwrap()
}

/// The one site with something outstanding whose innermost function is this; its outstanding bytes and allocations.
fn site<'a>(snapshot: &'a Value, function: &str, size: u64) -> &'a Value {
    let begins = |site: &&Value| {
        let innermost = site["stack"][0].as_u64().map(|place| &snapshot["frames"][place as usize]["function"]);
        innermost.is_some_and(|name| name == function) && site["blocks"][0]["size"] == size
    };
    let found: Vec<_> = snapshot["sites"].as_array().unwrap().iter().filter(begins).collect();
    assert_eq!(found.len(), 1, "sites of {size} bytes in {function}: {snapshot:#}");
    found[0]
}

fn semaphores(victim: &mut Victim) -> [u32; 2] {
    let said = victim.tell("s");
    let line = said.iter().find_map(|line| line.strip_prefix("semaphores ")).unwrap();
    let numbers: Vec<u32> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// Attaches to it in this way, and has it allocate what a sample would tell of: blocks that stand for many, that stand for themselves,
/// and others.
fn traced(victim: &mut Victim, technique: &str) -> Finished {
    assert_eq!(semaphores(victim), [0, 0]);
    victim.tell("a 64 5 524320");
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut command = leaktrace(["-p", &victim.pid().to_string(), "--show-allocs", "--json"]);
    let tracer = Tracer::spawn(command.arg(&json).env("LEAKTRACE_ATTACH", technique), directory);
    tracer.wait_until_tracing();
    let [alloc, free] = semaphores(victim);
    assert!(alloc > 0 && free > 0, "{technique}: {alloc} {free}");
    for order in ["a 64 100 524320", "a 77 3 77", "a 5000000 2 5000009", "u 64 1000"] {
        victim.tell(order);
    }
    // Five that nobody was told of, and forty.
    victim.tell("f 45");
    let finished = tracer.stop();
    assert_eq!(semaphores(victim), [0, 0], "{technique}");
    finished
}

/// What a weight was rounded to: at most 2e-6 of it is gone.
fn assert_near(value: &Value, truth: u64) {
    let found = value.as_u64().unwrap();
    assert!(found.abs_diff(truth) <= truth >> 18, "{found}, not {truth}");
}

#[test]
fn what_a_program_draws_stands_for_what_it_says() {
    let _turn = turn();
    for technique in techniques() {
        let mut victim = drawing();
        let finished = traced(&mut victim, technique);
        let snapshot = snapshot(&finished);
        assert_eq!((&snapshot["sampled"], &snapshot["options"]["sampler"]), (&true.into(), &true.into()));
        assert_near(&snapshot["options"]["sample_bytes"], 524_320);
        let process = &snapshot["processes"][0];
        assert_eq!((&process["untracked_frees"], &process["leak_check"]), (&5.into(), &Value::Null));

        let small = site(&snapshot, "draw", 64);
        assert_near(&small["outstanding_bytes"], 60 * 524_320);
        assert_near(&small["alloc_bytes"], 100 * 524_320);
        assert_near(&small["free_bytes"], 40 * 524_320);
        // Each stands for 8192.5 of its size.
        assert_near(&small["outstanding_count"], 60 * 524_320 / 64);
        assert_eq!(small["blocks"].as_array().unwrap().len(), 60);
        assert_near(&small["blocks"][0]["weighted_bytes"], 524_320);
        let caller = &snapshot["frames"][small["stack"][1].as_u64().unwrap() as usize];
        assert_eq!(caller["function"], "main");
        let [low, high]: [u64; 2] = serde_json::from_value(small["outstanding_bytes_ci95"].clone()).unwrap();
        assert!(low < 25 << 20 && high > 38 << 20 && high < 50 << 20, "{low} to {high}");

        let exact = site(&snapshot, "draw", 77);
        assert_eq!((&exact["outstanding_bytes"], &exact["outstanding_count"]), (&231.into(), &3.into()));
        assert_eq!(exact["blocks"][0].get("weighted_bytes"), None);
        let large = site(&snapshot, "draw", 5_000_000);
        assert_near(&large["outstanding_bytes"], 10_000_018);
        let said = "estimated from a sample that the programs draw themselves, one byte in 512.0 KiB hit or more";
        assert!(finished.stdout.contains(said) && finished.stdout.starts_with('~'), "{}", finished.stdout);
        victim.finish();
    }
}

#[test]
fn a_saved_sample_keeps_its_weights() {
    let _turn = turn();
    let mut victim = drawing();
    let finished = traced(&mut victim, techniques().next().unwrap());
    let before = snapshot(&finished);
    let path = finished.path("again.json");
    let saved = finished.path("snapshot.json");
    let words = ["report", saved.to_str().unwrap(), "-o", "1ms", "--show-allocs", "--json", path.to_str().unwrap()];
    Finished::of(&mut leaktrace(words)).assert_success();
    let again: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for name in ["outstanding_bytes_ci95", "sampled"] {
        assert_eq!(again[name], before[name]);
    }
    for size in [64, 77, 5_000_000] {
        for name in ["outstanding_bytes", "outstanding_count", "outstanding_bytes_ci95"] {
            assert_eq!(site(&again, "draw", size)[name], site(&before, "draw", size)[name], "{size} {name}");
        }
    }
    victim.finish();
}

#[test]
fn a_leak_check_that_is_asked_for_has_every_call_traced() {
    let _turn = turn();
    let mut victim = drawing();
    let tracer = Tracer::attach(&victim, &["--leak-check=full"]);
    assert_eq!(semaphores(&mut victim), [0, 0]);
    victim.tell("a 64 100 524320");
    victim.tell("u 64 10");
    let snapshot = snapshot(&tracer.stop());
    assert_eq!(snapshot["options"].get("sampler"), None);
    assert_eq!(snapshot["processes"][0]["outstanding_bytes"], 6400 + 640);
    assert_eq!(snapshot["processes"][0]["leak_check"]["mode"].as_str().map(str::is_empty), Some(false));
    victim.finish();
}

#[test]
fn beside_a_process_that_draws_none_every_call_of_both_is_traced() {
    let _turn = turn();
    let (mut drawing, mut other) = (drawing(), Victim::puppet());
    let pids = format!("{},{}", drawing.pid(), other.pid());
    let tracer = Tracer::start(&["-p", &pids, "--leak-check=no"]);
    drawing.tell("a 64 100 524320");
    other.tell("a a 100 10");
    let snapshot = snapshot(&tracer.stop());
    assert_eq!(snapshot["options"].get("sampler"), None);
    let outstanding = |pid: u32| {
        let processes = snapshot["processes"].as_array().unwrap();
        processes.iter().find(|process| process["pid"] == pid).unwrap()["outstanding_bytes"].as_u64().unwrap()
    };
    assert_eq!((outstanding(drawing.pid()), outstanding(other.pid())), (6400, 1000));
}

#[test]
fn weights_that_nothing_can_have_are_lost_and_said() {
    let _turn = turn();
    let mut victim = drawing();
    let tracer = Tracer::attach(&victim, &[]);
    victim.tell("a 64 3 63");
    victim.tell("a 64 4 18446744073709551615");
    victim.tell("a 64 1 64");
    let finished = tracer.stop();
    let snapshot = snapshot(&finished);
    assert_eq!((&snapshot["losses"]["samples_lost"], &snapshot["losses"]["allocs_dropped"]), (&7.into(), &0.into()));
    assert!(finished.stdout.contains("7 samples of the programs' own not recorded"), "{}", finished.stdout);
    assert_eq!(snapshot["processes"][0]["outstanding_bytes"], 64);
    victim.finish();
}

#[test]
fn nothing_is_left_of_a_tracer_that_is_killed() {
    let _turn = turn();
    let mut victim = drawing();
    let mut tracer = Tracer::attach(&victim, &[]);
    assert_ne!(semaphores(&mut victim), [0, 0]);
    tracer.signal(Signal::SIGKILL);
    tracer.wait_status();
    let until = Instant::now() + Duration::from_secs(5);
    while semaphores(&mut victim) != [0, 0] {
        assert!(Instant::now() < until, "the counters of tracers are still raised");
        std::thread::sleep(Duration::from_millis(20));
    }
    victim.tell("a 64 100 524320");
    victim.finish();
}
