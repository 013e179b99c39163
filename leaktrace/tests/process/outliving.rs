//! leaktrace is killed while it copies a process: the process runs on as if nothing had been, and nothing else does.

use std::fs::OpenOptions;
use std::mem;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use leaktrace::model::{Address, Pid};
use leaktrace::process::memory::{Reader, Survey};
use leaktrace::process::snapshot::{Plan, Refused};
use leaktrace::process::stop::Stopped;

use super::copying::{Program, masks};
use super::support::PATIENT;
use super::survival::{TARGET, play_and_be_killed};

/// The name of the next one.
pub const ROLE: &str = "outliving::a_role_copies_a_process_again_and_again";

/// A process of its own that copies another for ever: this test program again, with this one test, which becomes the role.
#[test]
fn a_role_copies_a_process_again_and_again() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let target = Pid(target.parse().unwrap());
    let plan = Plan::of(target).unwrap();
    eprintln!("begins");
    let copy = || loop {
        let stopped = Stopped::stop(target, PATIENT).unwrap();
        match stopped.copy(&plan) {
            Ok(copy) => return (stopped, copy),
            Err(Refused::Busy(_)) => {}
            Err(refused) => panic!("{refused}"),
        }
    };
    let (_, mut last) = copy();
    loop {
        // While the copy of one stop is there the next is made.
        let (stopped, next) = copy();
        drop(mem::replace(&mut last, next));
        drop(stopped);
    }
}

/// Every thread that waits for time, input or a lock may be the one that copies are made with.
#[test]
fn a_process_outlives_us_whenever_we_are_killed_while_we_copy_it() {
    let mut program = Program::start(&["calls", "threads", "spins", "4"]);
    let before = masks(program.pid());
    let mut left_alone = 0;
    for round in 0..100_u32 {
        play_and_be_killed(ROLE, program.pid(), Duration::from_micros(73) * round);
        program.assert_alone();
        assert_eq!(program.victim.ask("ping"), "pong", "round {round}");
        // The C library blocks signals for a moment while it creates a thread.
        let differs = || {
            masks(program.pid()).into_iter().find(|(tid, mask)| before.get(tid).is_some_and(|before| before != mask))
        };
        let begun = Instant::now();
        while let Some((tid, mask)) = differs() {
            assert!(begun.elapsed() < Duration::from_secs(30), "round {round}: {tid} has {mask}");
        }
        left_alone += u32::from(has_frame(program.pid()));
    }
    // What nobody has put back is below the stacks still, until it is overwritten.
    println!("{left_alone} of 100 times a thread found back by itself");
    assert!(left_alone > 0);
}

/// Whether the magic number of the vector registers of a signal frame lies in a stack of a program that handles no signals; taken
/// away by the way.
fn has_frame(pid: Pid) -> bool {
    const MAGIC: u64 = 0x4650_5853;
    let survey = Survey::of(pid).unwrap();
    let reader = Reader::open(pid).unwrap();
    let mut found = false;
    let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).unwrap();
    for run in survey.runs.iter().filter(|run| run.bytes() < 1 << 20) {
        let mut words = vec![0; (run.bytes() / 8) as usize];
        reader.read_at(run.start, &mut words);
        for at in (0..words.len()).filter(|at| words[*at] & 0xffff_ffff == MAGIC && words[*at] >> 32 < 1 << 14) {
            let address = Address(run.start.0 + 8 * at as u64);
            found = true;
            memory.write_all_at(&[0; 8], address.0).unwrap();
        }
    }
    found
}
