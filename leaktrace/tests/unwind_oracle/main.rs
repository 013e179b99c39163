//! The walk by our tables against two oracles, at thousands of instructions of real processes: gimli's evaluation of
//! every register (`reference`), and framehop.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod compare;
mod kernel;
mod redis;
mod reference;
mod tracee;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use compare::{Space, Tally};
use tracee::{Go, Stop, Tracee, find_program};

/// Of each so many instructions one is sampled: a prime, so that loops are met at all their instructions.
const VICTIM_STRIDE: u32 = 7;

/// Samples of each stock program, and of how many calls of malloc one is taken: a prime as well.
const STOCK_SAMPLES: u32 = 1250;
const MALLOC_STRIDE: u32 = 3;

fn build_victim(dir: &Path) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwind_oracle/victim.cpp");
    let program = dir.join("victim");
    let status = Command::new("c++")
        .args(["-O2", "-fomit-frame-pointer", "-o"])
        .arg(&program)
        .arg(&source)
        .arg("-pthread")
        .status()
        .expect("a C++ compiler (c++) is needed to build the victim");
    assert!(status.success());
    program
}

#[test]
fn every_instruction_of_the_victim_unwinds_as_gimli_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(build_victim(dir.path()));
    // The dynamic linker's resolver of functions keeps its CFA in rbx, which rows cannot express; nothing that it calls
    // allocates, and single-stepped it would be half of all samples.
    command.env("LD_BIND_NOW", "1");
    let mut tracee = Tracee::spawn(command);
    let mut space = Space::default();
    let mut tally = Tally::default();
    let main = tracee.pid();
    tracee.go(main, Go::Continue);
    assert_eq!(tracee.wait(Go::Continue), Stop::Breakpoint(main));
    tracee.go(main, Go::Step);
    let mut steps = 0;
    loop {
        match tracee.wait(Go::Step) {
            Stop::Trap(thread) => {
                steps += 1;
                if steps % VICTIM_STRIDE == 0 {
                    space.sample(&tracee, thread, &mut tally);
                }
                tracee.go(thread, Go::Step);
            }
            Stop::Breakpoint(thread) => tracee.go(thread, Go::Continue),
            Stop::Exited(status) => {
                assert_eq!(status, 0, "the victim runs to its end under the tracer");
                break;
            }
        }
    }
    println!("victim: {steps} instructions, {tally}");
    assert!(tally.samples > 5000, "the victim does enough: {tally}");
    tally.assert_good();
}

/// Programs as distributions ship them, and what makes each allocate on many different paths: in C, in C++, and (cargo itself)
/// in Rust. `cargo xtask setup` installs what is missing.
const STOCK: [(&str, &[&str]); 7] = [
    (
        "/usr/bin/python3",
        &["-c", "import json, decimal, re; json.loads(json.dumps([{str(i): i} for i in range(3000)]))"],
    ),
    (
        "sqlite3",
        &[
            ":memory:",
            "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 9000) \
             insert into t select i, hex(i) from n; create index x on t(b); select a || b from t order by b, a;",
        ],
    ),
    ("git", &["diff", "--no-index", "--stat", "-M", "src", "tests"]),
    ("gdb", &["-batch", "-nx", "-ex", "info functions ma", "/proc/self/exe"]),
    ("perl", &["-e", "my %h; $h{$_} = [split //, $_ x 3] for 1..4000; print scalar sort keys %h"]),
    ("node", &["-e", "JSON.parse(JSON.stringify(Array.from({length: 3000}, (_, i) => ({i, s: 'x'.repeat(i % 50)}))))"]),
    (env!("CARGO"), &["--list"]),
];

#[test]
fn allocations_of_stock_programs_unwind_as_gimli_says() {
    let mut all = Tally::default();
    for (name, arguments) in STOCK {
        let tally = sample_allocations(Tracee::spawn(stock(name, arguments)));
        println!("{name}: {tally}");
        assert!(tally.samples > 100, "{name} allocates more often than that");
        all.add(tally);
    }
    println!("all: {all}");
    all.assert_good();
}

/// One of these programs, to be started.
fn stock(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(required(name));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn required(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask setup`"))
}

/// How much of each program is compared with the walk in the kernel: 10,000 calls in all where there is time, and never
/// fewer than the [`kernel::FEWEST`] of each. `LEAKTRACE_ORACLE_CALLS` asks for another number of each and takes as long as
/// they take.
fn bounds() -> kernel::Bounds {
    match std::env::var("LEAKTRACE_ORACLE_CALLS") {
        Ok(calls) => kernel::Bounds { calls: calls.parse().unwrap(), time: Duration::from_hours(1) },
        Err(_) => kernel::Bounds { calls: 1250, time: Duration::from_secs(6) },
    }
}

#[test]
fn the_kernels_walk_finds_the_frames_that_gimli_finds() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Command::new(build_victim(dir.path()));
    victim.arg("18").env("LD_BIND_NOW", "1");
    let mut programs = vec![("victim", victim)];
    programs.extend(STOCK.map(|(name, arguments)| (name, stock(name, arguments))));
    let bounds = bounds();
    let mut all = kernel::Agreement::default();
    let mut compare = |name: &str, command| {
        let agreement = kernel::compare(command, bounds, dir.path());
        println!(
            "{name}: {} of {} equal, {} before the tables were there, gimli stops early at {}",
            agreement.equal, agreement.calls, agreement.early, agreement.unreached
        );
        assert!(agreement.calls >= kernel::FEWEST, "{name} calls malloc more often than {} times", agreement.calls);
        all.add(name, agreement);
    };
    for (name, command) in programs {
        compare(name, command);
    }
    let redis = redis::Redis::new(required("redis-server"), dir.path());
    compare("redis-server", redis.command());
    let kernel::Agreement { calls, unreached, equal, early, .. } = all;
    let calls = calls - early;
    println!("all: {equal} of {calls} equal, gimli stops early at {unreached}");
    assert!(equal * 1000 >= (calls - unreached) * 999, "{equal} of {calls}\n{}", all.missing.join("\n"));
    assert!(equal * 1000 >= calls * 995, "{unreached} of {calls} stop early\n{}", all.missing.join("\n"));
}

/// Samples the program's first thread at the entry of `malloc`.
fn sample_allocations(mut tracee: Tracee) -> Tally {
    let mut space = Space::default();
    let mut tally = Tally::default();
    let mut calls = 0;
    tracee.go(tracee.pid(), Go::Syscall);
    while tally.samples < STOCK_SAMPLES {
        match tracee.wait(Go::Syscall) {
            Stop::Trap(thread) => {
                if tracee.is_at_breakpoint(thread) {
                    calls += 1;
                    if calls % MALLOC_STRIDE == 0 {
                        space.sample(&tracee, thread, &mut tally);
                    }
                } else if thread == tracee.pid() {
                    for address in space.new_functions(&tracee, &["malloc"]) {
                        tracee.break_at(thread, address);
                    }
                }
                tracee.go(thread, Go::Syscall);
            }
            Stop::Breakpoint(thread) => tracee.go(thread, Go::Continue),
            Stop::Exited(_) => break,
        }
    }
    tally
}
