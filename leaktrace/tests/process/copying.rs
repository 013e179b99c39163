//! Copies of running processes: they hold what the process had in memory, and the process notices nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use leaktrace::model::{Address, Pid};
use leaktrace::process::memory::{Reader, Survey};
use leaktrace::process::snapshot::{Fork, Plan, Refused};
use leaktrace::process::stop::Stopped;

use super::support::{PATIENCE, PATIENT, Victim, await_state, status, threads};

/// The program of these tests, and what it says of itself.
pub struct Program {
    pub victim: Victim,
    array: Address,
    words: usize,
    kept: u64,
    wiped: u64,
}

impl Program {
    /// Starts it with these threads.
    pub fn start(arguments: &[&str]) -> Self {
        let (victim, line) = Victim::start("copying.c", arguments);
        let mut numbers = line.split(' ').skip(1).map(|number| u64::from_str_radix(number, 16).unwrap());
        let [array, words, kept, wiped] = std::array::from_fn(|_| numbers.next().unwrap());
        Self { victim, array: Address(array), words: words as usize, kept, wiped }
    }

    pub fn pid(&self) -> Pid {
        self.victim.pid()
    }

    fn array_of(&self, pid: Pid) -> Vec<u64> {
        let mut words = vec![0; self.words];
        assert_eq!(Reader::open(pid).unwrap().read_at(self.array, &mut words).unreadable, 0);
        words
    }

    /// Processes that run its program or ran it, beside itself.
    pub fn others(&self) -> Vec<Pid> {
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid);
        pids.filter(|pid| *pid != self.pid() && (exe(*pid).as_ref() == Some(&program) || is_child(*pid, self.pid())))
            .collect()
    }

    pub fn assert_alone(&self) {
        let begun = Instant::now();
        // Whoever adopts orphans has to reap them.
        while !self.others().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{:?} are left", self.others());
            std::thread::yield_now();
        }
    }

    pub fn copy(&self) -> Fork {
        let plan = Plan::of(self.pid()).unwrap();
        Stopped::stop(self.pid(), PATIENT).unwrap().copy(&plan).unwrap()
    }
}

fn exe(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn is_child(pid: Pid, of: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&of.to_string())
}

/// What each thread blocks, of those that are there for longer.
pub fn masks(pid: Pid) -> HashMap<u32, String> {
    let mask = |tid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        assert!(status.contains("\nTracerPid:\t0\n"), "{tid} is traced");
        Some(status.lines().find(|line| line.starts_with("SigBlk:"))?.to_owned())
    };
    threads(pid).into_iter().filter_map(|tid| Some((tid, mask(tid)?))).collect()
}

#[test]
fn a_copy_is_what_the_process_was_at_the_stop() {
    let mut program = Program::start(&["calls", "16"]);
    let plan = Plan::of(program.pid()).unwrap();
    for _ in 0..20 {
        let stopped = Stopped::stop(program.pid(), PATIENT).unwrap();
        let copy = stopped.copy(&plan).unwrap();
        let before = program.array_of(program.pid());
        assert_eq!(program.array_of(copy.pid()), before);
        drop(stopped);
        assert_eq!(program.victim.ask("ping"), "pong");
        assert_ne!(program.array_of(program.pid()), before, "it has gone on");
        let later = program.array_of(copy.pid());
        assert!(later == before, "the copy has not");
        let (first, last) = (later[0], later[later.len() - 1]);
        assert!(later.is_sorted_by(|one, next| one >= next) && first - last <= 1, "{first} {last}");
        assert_eq!(status(copy.pid(), copy.pid().0, "State"), "t (tracing stop)");
        assert_eq!(std::fs::read_dir(format!("/proc/{}/fd", copy.pid())).unwrap().count(), 0, "no open files");
        drop(copy);
        program.assert_alone();
    }
}

#[test]
fn every_private_page_is_in_the_copy() {
    let program = Program::start(&["calls", "64"]);
    let plan = Plan::of(program.pid()).unwrap();
    let stopped = Stopped::stop(program.pid(), PATIENT).unwrap();
    let copy = stopped.copy(&plan).unwrap();
    let (own, copied) = (Survey::of(program.pid()).unwrap(), Survey::of(copy.pid()).unwrap());
    let reader = [Reader::open(program.pid()).unwrap(), Reader::open(copy.pid()).unwrap()];
    let unread = copy.unread().unwrap();
    assert_eq!(unread.len(), 2, "{unread:x?}");
    for page in [program.kept, program.wiped] {
        assert!(unread.contains(&(page..page + 4096)), "{page:x} of {unread:x?}");
    }
    let mut compared = 0;
    for region in &own.regions {
        let is_shared = region.permissions.shared;
        for run in own.runs.iter().filter(|run| (region.start.0..region.end.0).contains(&run.start.0)) {
            for page in (run.start.0..run.end.0).step_by(4096) {
                let is_there = copied.runs.iter().any(|run| (run.start.0..run.end.0).contains(&page));
                if unread.iter().any(|range| range.contains(&page)) || is_shared {
                    assert!(!is_there, "{page:x}");
                    continue;
                }
                assert!(is_there, "{page:x}");
                let words = reader.each_ref().map(|reader| {
                    let mut words = vec![0; 512];
                    assert_eq!(reader.read_at(Address(page), &mut words).unreadable, 0);
                    words
                });
                let others: Vec<usize> =
                    (0..words[0].len()).filter(|word| words[0][*word] != words[1][*word]).collect();
                // Whenever a thread returns to its program the kernel writes there on which processor it runs: `struct rseq`, 32 bytes at a
                // multiple of that, may differ.
                assert!(others.iter().all(|word| word / 4 == others[0] / 4), "{page:x}: words {others:?}");
                compared += 4096;
            }
        }
    }
    assert!(compared >= 64 << 20, "{compared}");
    drop(stopped);
}

#[test]
fn a_process_notices_nothing_of_a_hundred_copies() {
    let mut program = Program::start(&["calls", "forks", "threads", "spins", "4"]);
    let mut pauses = Vec::new();
    for _ in 0..100 {
        let plan = Plan::of(program.pid()).unwrap();
        let stopped = Stopped::stop(program.pid(), PATIENT).unwrap();
        let copy = stopped.copy(&plan).unwrap();
        pauses.push(stopped.release().length);
        assert_eq!(program.victim.ask("ping"), "pong");
        drop(copy);
        assert_eq!(program.victim.ask("ping"), "pong");
    }
    pauses.sort_unstable();
    println!("median {:?}, longest {:?}", pauses[50], pauses[99]);
}

#[test]
fn each_way_of_waiting_can_be_copied_from() {
    for way in ["sleeps", "polls", "events", "futex", "reads"] {
        let mut program = Program::start(&["hides", way]);
        let before = masks(program.pid());
        let plan = Plan::of(program.pid()).unwrap();
        let mut copies = 0;
        while copies < 30 {
            match Stopped::stop(program.pid(), PATIENT).unwrap().copy(&plan) {
                Ok(copy) => {
                    copies += 1;
                    drop(copy);
                }
                // It has just been woken.
                Err(Refused::Busy(_)) => {}
                Err(refused) => panic!("{way}: {refused}"),
            }
            assert_eq!(program.victim.ask("ping"), "pong", "{way}");
            assert_eq!(masks(program.pid()), before);
        }
        program.assert_alone();
    }
}

#[test]
fn the_stack_is_what_it_was() {
    let program = Program::start(&[]);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.pid())).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap().split(' ').next().unwrap();
    let (start, end) = stack.split_once('-').unwrap();
    let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
    let read = |pid| {
        let mut words = vec![0; ((end - start) / 8) as usize];
        Reader::open(pid).unwrap().read_at(Address(start), &mut words);
        words
    };
    // For a line.
    await_state(program.pid(), "S");
    let before = read(program.pid());
    let copy = program.copy();
    assert!(read(program.pid()) == before);
    assert!(read(copy.pid()) == before);
}

#[test]
fn the_time_of_a_stop_grows_with_the_memory() {
    for size in ["16", "1024"] {
        let mut program = Program::start(&["calls", size]);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let plan = Plan::of(program.pid()).unwrap();
            let stopped = Stopped::stop(program.pid(), PATIENT).unwrap();
            let copy = stopped.copy(&plan).unwrap();
            pauses.push(stopped.release().length);
            drop(copy);
            assert_eq!(program.victim.ask("ping"), "pong");
        }
        println!("{size} MiB: {pauses:?}");
        assert!(pauses.iter().min().unwrap() < &Duration::from_millis(500));
    }
}

#[test]
fn a_copy_ends_with_the_thread_that_has_it_and_outlives_the_process() {
    let program = Program::start(&["calls"]);
    let copy = program.copy();
    let pid = copy.pid();
    let before = program.array_of(pid);
    drop(program.victim);
    let mut words = vec![0; before.len()];
    assert_eq!(Reader::open(pid).unwrap().read_at(program.array, &mut words).unreadable, 0);
    assert!(words == before);
    drop(copy);
    let begun = Instant::now();
    while exe(pid).is_some() {
        assert!(begun.elapsed() < PATIENCE);
    }
}
