//! Windows in time: what flows in and out while one is open, and that nothing is in the process while none is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use leaktrace::probes::plan::{PlanOptions, plan};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::build::Recipe;
use crate::harness::{Accounts, Finished, Tracer, Victim, leaktrace, locks, techniques};

/// Windows that are short and many, to which little is left that is no window.
const BURST: &str = "200ms/450ms";

/// How long windows are looked at; for longer where the kernel is emulated, and takes long to set probes.
fn time() -> &'static str {
    if std::env::var_os("LEAKTRACE_VICTIMS").is_some() { "40s" } else { "7s" }
}

/// A victim at its work, in this way, and what windows show of it.
fn traced(mode: &str, options: &[&str]) -> (Value, Finished, Accounts) {
    let mut victim = Victim::start("windows.c", &[mode]);
    victim.go();
    let pid = victim.pid().to_string();
    let finished = Tracer::start(&[&["-p", &pid, "--burst", BURST, "-d", time()], options].concat()).wait();
    let accounts = victim.work();
    victim.finish();
    (snapshot(&finished), finished, accounts)
}

fn snapshot(finished: &Finished) -> Value {
    finished.assert_success();
    serde_json::from_str(&finished.read("snapshot.json")).unwrap()
}

/// What is said of the blocks of this size in the allocator.
fn class(process: &Value, size: u64) -> &Value {
    let classes = process["net_flow"]["classes"].as_array().unwrap();
    let has_size = |class: &&Value| class["sizes"][0].as_u64() == Some(size) && class["sizes"][1] == size;
    classes.iter().find(has_size).unwrap_or_else(|| panic!("no blocks of {size} bytes in {process:#}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The blocks that a window shows of this size are as many as are freed, but for those that a window cuts in two.
fn assert_balanced(process: &Value, size: u64) {
    let class = class(process, size);
    let (allocs, net) = (number(&class["allocs_per_s"]), number(&class["net_per_s"]));
    // A window has 80 steps, and cuts one.
    assert!(allocs > 100.0 && net.abs() < 0.03 * allocs, "{size} bytes: {class:#}");
    assert_eq!(class["finding"], "undecided", "{size} bytes: {class:#}");
}

#[test]
fn a_leak_has_net_flow_and_a_full_cache_has_none() {
    if techniques().eq(["perf"]) {
        let refused = Finished::of(&mut leaktrace(["-p", &std::process::id().to_string(), "--burst", BURST]));
        return refused.assert_failed_with_line(1, &["--burst", "Linux 6.10"]);
    }
    let (snapshot, finished, accounts) = traced("", &[]);
    let (process, bursts) = (&snapshot["processes"][0], &snapshot["bursts"]);
    let windows = bursts["windows"].as_u64().unwrap();
    assert!(windows >= 6, "{bursts:#}");
    assert_eq!((&bursts["frees_lost"], &bursts["window_s"]), (&0.into(), &0.2.into()));
    assert!(number(&bursts["overhead"]) > 0.0, "{bursts:#}");
    let leak = class(process, 96);
    let rate = accounts.fact("steps_per_1000s") as f64 / 1e3;
    assert!((number(&leak["net_per_s"]) / rate - 1.0).abs() < 0.05, "{rate} in truth: {leak:#}");
    assert_eq!(
        (&leak["finding"], &leak["frees_per_s"], &leak["recorded"]),
        (&"grows".into(), &0.0.into(), &true.into())
    );
    assert!((number(&leak["net_bytes_per_s"]) / number(&leak["net_per_s"]) - 96.0).abs() < 1e-6, "{leak:#}");
    for size in [160, 208, 48, 320, 80] {
        // What comes and goes, as it is and by realloc.
        let class = class(process, size);
        assert_ne!(class["finding"], "grows", "{class:#}");
        assert!((number(&class["net_per_s"]) / rate).abs() < 0.05, "{rate} steps a second: {class:#}");
    }
    // The stacks of what leaks, and of nothing else.
    let innermost: Vec<&Value> = snapshot["sites"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|site| site["alloc_count"] != 0)
        .map(|site| &snapshot["frames"][site["stack"][0].as_u64().unwrap() as usize]["function"])
        .collect();
    assert_eq!(innermost, ["leak_here"]);
    for said in
        ["net flow of blocks of 96 B: +", "allocated where it says below", "not seen to be freed", " one in 450 ms"]
    {
        assert!(finished.stdout.contains(said), "{said}: {}", finished.stdout);
    }
    for silent in ["traced in part", "growth:", "lost"] {
        assert!(!finished.stdout.contains(silent), "{silent}: {}", finished.stdout);
    }
}

#[test]
fn what_the_c_library_frees_at_threads_ends_is_no_flow() {
    let (snapshot, ..) = traced("threads", &[]);
    assert_balanced(&snapshot["processes"][0], 64);
    assert_eq!(snapshot["bursts"]["frees_lost"], 0);
}

#[test]
fn a_window_cuts_frees_and_allocations_in_the_same_way() {
    let _flood = locks::flood();
    let (snapshot, ..) = traced("pairs", &[]);
    let class = class(&snapshot["processes"][0], 64);
    let windows = number(&snapshot["bursts"]["windows"]);
    let open = number(&snapshot["processes"][0]["net_flow"]["open_s"]);
    let (allocs, net) = (number(&class["allocs_per_s"]) * open, number(&class["net_per_s"]) * open);
    // Each of four threads has at most one block, at either end of each window.
    assert!(allocs > 100_000.0 && net.abs() <= 4.0 * windows + 0.5, "{windows} windows: {class:#}");
    assert!(net.abs() < 0.001 * allocs, "{class:#}");
}

#[test]
fn children_are_seen_from_the_next_window_on() {
    let (snapshot, _, accounts) = traced("forks", &[]);
    let rate = accounts.fact("steps_per_1000s") as f64 / 1e3;
    let flows = |process: &&Value| process["net_flow"]["windows"].as_u64().is_some_and(|windows| windows > 5);
    let child = snapshot["processes"].as_array().unwrap().iter().find(flows);
    let child = child.unwrap_or_else(|| panic!("nothing flows: {snapshot:#}"));
    assert_ne!(child["pid"], snapshot["target"]["pids"][0]);
    assert!((number(&class(child, 96)["net_per_s"]) / rate - 1.0).abs() < 0.05, "{rate}: {child:#}");
}

#[test]
fn of_other_allocators_the_number_of_blocks_is_known() {
    const JEMALLOC: Recipe = Recipe { libraries: &["-ljemalloc"], ..Recipe::new("windows_jemalloc", "windows.c", &[]) };
    let mut command = std::process::Command::new(JEMALLOC.built());
    let mut victim = Victim::spawn("windows_jemalloc", command.arg("wait"));
    victim.wait_until_ready();
    victim.go();
    let pid = victim.pid().to_string();
    let finished = Tracer::start(&["-p", &pid, "--burst", BURST, "-d", time()]).wait();
    let rate = victim.work().fact("steps_per_1000s") as f64 / 1e3;
    let snapshot = snapshot(&finished);
    let flow = &snapshot["processes"][0]["net_flow"];
    let [class] = &flow["classes"].as_array().unwrap()[..] else { panic!("{flow:#}") };
    assert_eq!((&class["sizes"], &class["net_bytes_per_s"]), (&Value::Null, &Value::Null));
    assert!((number(&class["net_per_s"]) / rate - 1.0).abs() < 0.1, "{rate}: {flow:#}");
    assert!(finished.stdout.contains("whose sizes are not known when they are freed"), "{}", finished.stdout);
    victim.finish();
}

/// Whether the places of malloc's and free's probes are as in the file.
fn has_own_text(victim: &Victim) -> bool {
    let pid = victim.pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with("/libc.so.6")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (start, offset) = (hexadecimal(fields[0].split('-').next().unwrap()), hexadecimal(fields[2]));
    let libc = fs::read(fields[5]).unwrap();
    let plan = plan(&libc, &PlanOptions { at_once: true, ..PlanOptions::default() }).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let points = plan.probes.iter().flat_map(|probe| probe.at_once.iter().flatten().map(|point| point.offset));
    let places: Vec<u64> = points.chain(plan.probes.iter().map(|probe| probe.offset)).collect();
    assert!(places.len() > 8, "{places:?}");
    places.into_iter().all(|place| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, start + place - offset).unwrap();
        byte[0] == libc[usize::try_from(place).unwrap()]
    })
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn between_windows_and_after_our_death_nothing_is_in_the_process() {
    let _machine = locks::no_system_wide_trace();
    // Its own: nobody else's trace puts probes there.
    let mut victim = Victim::start_with_own_libc("windows.c", &[]);
    victim.go();
    let pid = victim.pid().to_string();
    let mut tracer = Tracer::start(&["-p", &pid, "--burst", "400ms/1s"]);
    for _ in 0..3 {
        eventually("a window", || !has_own_text(&victim));
        eventually("the end of a window", || has_own_text(&victim));
    }
    eventually("a window", || !has_own_text(&victim));
    tracer.signal(Signal::SIGKILL);
    tracer.wait_status();
    eventually("the end of all windows", || has_own_text(&victim));
    assert!(victim.lives());
}

#[test]
fn a_process_that_does_not_grow_is_left_alone() {
    let mut victim = Victim::puppet();
    victim.tell("a a 100 10");
    let pid = victim.pid().to_string();
    let finished = Tracer::start(&["-p", &pid, "--burst", BURST, "-d", "4s"]).wait();
    let snapshot = snapshot(&finished);
    let bursts = &snapshot["bursts"];
    // Three in any case; of the rest few, since the kernel's running count of pages may be off by some.
    let (windows, left_out) = (number(&bursts["windows"]), number(&bursts["left_out"]));
    assert!((3.0..6.0).contains(&windows) && left_out > 1.0, "{bursts:#}");
    assert!(finished.stdout.contains("not one allocation was seen"), "{}", finished.stdout);
}

#[test]
fn a_limit_of_what_it_costs_puts_windows_apart() {
    let (snapshot, ..) = traced("pairs", &["--max-overhead", "10%"]);
    let bursts = &snapshot["bursts"];
    // Four threads at full speed: each window costs most of its time.
    assert!(number(&bursts["windows"]) < 10.0 && number(&bursts["period_s"]) > 0.45, "{bursts:#}");
    assert!(number(&bursts["overhead"]) < 0.2, "{bursts:#}");
}

#[test]
fn a_saved_flow_is_reported_again() {
    let (_, finished, _) = traced("", &[]);
    let saved = finished.path("snapshot.json");
    let again = Finished::of(&mut leaktrace(["report", saved.to_str().unwrap()]));
    again.assert_success();
    assert_eq!(again.stdout, finished.stdout);
}

#[test]
fn windows_are_no_option_for_what_needs_every_call() {
    for (options, names) in [
        (&["--burst", "1s/10s"][..], ["--burst", "--pid"]),
        (&["--max-overhead", "1%", "--", "true"], ["--max-overhead", "--pid"]),
        (&["-p", "1", "--burst", "1s/10s", "--leak-check=full"], ["--burst", "--leak-check"]),
        (&["-p", "1", "--burst", "1s/10s", "--sample-bytes", "4k"], ["--burst", "--sample-bytes"]),
        (&["-p", "1", "--burst", "1s/10s", "--fail-on-growth"], ["--burst", "--fail-on-growth"]),
        (&["-p", "1", "--burst", "1s"], ["--burst", "1s/100s"]),
        (&["-p", "1", "--max-overhead", "200%"], ["--max-overhead", "1%"]),
    ] {
        Finished::of(&mut leaktrace(options)).assert_refused(2, &names);
    }
}
