//! The walk in the kernel against gimli: what the tracer reports of a process that stands still at each call of `malloc`,
//! just before the probe there runs.
//!
//! Needs root, as tracing does.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compare::{Reference, Space};
use crate::tracee::{Go, Stop, Tracee};

/// Frames that the tracer keeps of a stack: its default.
const MAX_DEPTH: usize = 127;

/// Calls of a program that are compared however long they take.
pub const FEWEST: usize = 25;

/// How much of a program is compared.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Calls of `malloc`.
    pub calls: usize,
    /// Time for them, after which those that were seen must do, if they are [`FEWEST`].
    pub time: Duration,
}

/// What came of the calls of one program.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Calls that were compared.
    pub calls: usize,
    /// Those at which gimli did not reach the outermost frame.
    pub unreached: usize,
    /// Those whose frames, all of gimli's to the outermost one, stand in the report.
    pub equal: usize,
    /// Those whose innermost frames do, in a report that says of stacks that they end at code which it did not know yet.
    pub early: usize,
    /// Some of the others, for the message.
    pub missing: Vec<String>,
}

impl Agreement {
    /// Adds what came of another program.
    pub fn add(&mut self, name: &str, other: Self) {
        self.calls += other.calls;
        self.unreached += other.unreached;
        self.equal += other.equal;
        self.early += other.early;
        self.missing.extend(other.missing.into_iter().map(|stack| format!("{name}: {stack}")));
    }
}

/// Traces `program` and compares the first calls of its first thread within the bounds.
pub fn compare(program: Command, bounds: Bounds, dir: &Path) -> Agreement {
    let mut tracee = Tracee::spawn(program);
    let mut space = Space::default();
    let thread = tracee.pid();
    if !runs_to_malloc(&mut tracee, &mut space) {
        return Agreement::default();
    }
    let report = dir.join("report.json");
    let end = start_tracer(&tracee, &report);
    tracee.go(thread, Go::Continue);
    let until = Instant::now() + bounds.time;
    let mut agreement = Agreement::default();
    let mut called: HashMap<Vec<u64>, usize> = HashMap::new();
    loop {
        match tracee.wait(Go::Continue) {
            Stop::Trap(stopped) => {
                if tracee.is_at_breakpoint(stopped) {
                    // Nothing of this call: the one before it has run by now.
                    let is_late = agreement.calls >= FEWEST && Instant::now() >= until;
                    if agreement.calls >= bounds.calls || is_late {
                        break;
                    }
                    match space.reference_stack(&tracee, stopped) {
                        Reference::Whole(stack) => {
                            agreement.calls += 1;
                            *called.entry(stack).or_default() += 1;
                        }
                        Reference::Cut(stack) => {
                            agreement.calls += 1;
                            agreement.unreached += 1;
                            agreement.note(format!("cut {}", space.describe(&stack)));
                        }
                        Reference::Hidden => {}
                    }
                }
                tracee.go(stopped, Go::Continue);
            }
            Stop::Breakpoint(stopped) => tracee.go(stopped, Go::Continue),
            Stop::Exited(_) => break,
        }
    }
    // The trace ends with the process.
    drop(tracee);
    assert!(end.join().unwrap());
    let report = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let (reported, some_early) = (stacks(&report), has_early(&report));
    for (stack, count) in called {
        // Frame 0 is malloc itself; then its caller, unless that is a function like operator new that is probed too.
        let found = (1..=2).any(|inner| {
            let wanted = stack.get(inner..).unwrap_or_default();
            reported.contains(&wanted[..wanted.len().min(MAX_DEPTH)])
        });
        // Nothing waits for the tables of what a running program loads.
        let found_cut =
            || (1..=2).any(|inner| (inner + 1..stack.len()).any(|end| reported.contains(&stack[inner..end])));
        if found {
            agreement.equal += count;
        } else if some_early && found_cut() {
            agreement.early += count;
        } else {
            agreement.note(format!("{count} times {}", space.describe(&stack)));
        }
    }
    agreement
}

impl Agreement {
    fn note(&mut self, stack: String) {
        if self.missing.len() < 10 {
            self.missing.push(stack);
        }
    }
}

/// Runs the program up to its first call of `malloc`: its libraries are mapped then. False where it ends without one.
fn runs_to_malloc(tracee: &mut Tracee, space: &mut Space) -> bool {
    let thread = tracee.pid();
    tracee.go(thread, Go::Syscall);
    loop {
        match tracee.wait(Go::Syscall) {
            Stop::Trap(stopped) if tracee.is_at_breakpoint(stopped) => return true,
            Stop::Trap(stopped) => {
                if stopped == thread {
                    for address in space.new_functions(tracee, &["malloc"]) {
                        tracee.break_at(thread, address);
                    }
                }
                tracee.go(stopped, Go::Syscall);
            }
            Stop::Breakpoint(stopped) => tracee.go(stopped, Go::Continue),
            Stop::Exited(_) => return false,
        }
    }
}

/// Starts the tracer on a process that stands still, and waits until it traces. The handle's thread waits for its end:
/// this one waits for the traced process.
fn start_tracer(tracee: &Tracee, report: &Path) -> JoinHandle<bool> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    command
        .env("LEAKTRACE_TABLES_WITHIN", "600")
        .args(["--max-stacks", "200000", "-p", &tracee.pid().to_string(), "--json-schema", "1", "--json"])
        .arg(report)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (ready, when_ready) = channel();
    let handle = thread::spawn(move || {
        let mut running = command.spawn().unwrap();
        let mut said = String::new();
        for line in BufReader::new(running.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("leaktrace: tracing ") {
                let _ = ready.send(());
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = running.wait().unwrap();
        assert!(status.success(), "the tracer failed (these tests need root): {said}");
        true
    });
    when_ready.recv().expect("the tracer says that it traces");
    handle
}

/// Whether the report says of some stacks that what was mapped last was not known yet.
fn has_early(report: &Value) -> bool {
    let reasons = &report["losses"]["unwind_failures"];
    ["unwind table not ready yet", "address in no known mapping"]
        .iter()
        .any(|reason| reasons[reason].as_u64() > Some(0))
}

/// The stacks of a report as addresses. Inlined frames share the address of the function that holds their code.
fn stacks(report: &Value) -> HashSet<Vec<u64>> {
    let address = |frame: &Value| u64::from_str_radix(frame["address"].as_str()?.strip_prefix("0x")?, 16).ok();
    let stack = |site: &Value| {
        let frames = site["stack"].as_array().unwrap().iter();
        frames.filter(|frame| frame["inlined"] == false).filter_map(address).collect()
    };
    report["sites"].as_array().unwrap().iter().map(stack).collect()
}
