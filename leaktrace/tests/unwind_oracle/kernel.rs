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

use serde_json::Value;

use crate::compare::Space;
use crate::tracee::{Go, Stop, Tracee};

/// Frames that the tracer keeps of a stack: its default.
const MAX_DEPTH: usize = 127;

/// What came of the calls of one program.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Calls at which gimli reached the outermost frame.
    pub calls: usize,
    /// Those whose frames stand in the report, every one.
    pub equal: usize,
    /// Some of the others, for the message.
    pub missing: Vec<String>,
}

/// Traces `program` and compares up to `limit` calls of its first thread.
pub fn compare(program: Command, limit: usize, dir: &Path) -> Agreement {
    let mut tracee = Tracee::spawn(program);
    let mut space = Space::default();
    let thread = tracee.pid();
    if !runs_to_malloc(&mut tracee, &mut space) {
        return Agreement::default();
    }
    let report = dir.join("report.json");
    let tracer = start_tracer(&tracee, &report);
    tracee.go(thread, Go::Continue);
    let mut called: HashMap<Vec<u64>, usize> = HashMap::new();
    let mut calls = 0;
    while calls < limit {
        match tracee.wait(Go::Continue) {
            Stop::Trap(stopped) => {
                if tracee.is_at_breakpoint(stopped)
                    && let Some(stack) = space.reference_stack(&tracee, stopped)
                {
                    calls += 1;
                    *called.entry(stack).or_default() += 1;
                }
                tracee.go(stopped, Go::Continue);
            }
            Stop::Breakpoint(stopped) => tracee.go(stopped, Go::Continue),
            Stop::Exited(_) => break,
        }
    }
    // The trace ends with the process.
    drop(tracee);
    assert!(tracer.join().unwrap());
    let reported = stacks(&serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap());
    let mut agreement = Agreement { calls, ..Agreement::default() };
    for (stack, count) in called {
        // Frame 0 is malloc itself; then its caller, unless that is a function like operator new that is probed too.
        let found = (1..=2).any(|inner| {
            let wanted = stack.get(inner..).unwrap_or_default();
            reported.contains(&wanted[..wanted.len().min(MAX_DEPTH)])
        });
        if found {
            agreement.equal += count;
        } else if agreement.missing.len() < 10 {
            agreement.missing.push(format!("{count} times {}", space.describe(&stack)));
        }
    }
    agreement
}

/// Runs the program up to its first call of an allocation function: its libraries are mapped then. False where it ends
/// without one.
fn runs_to_malloc(tracee: &mut Tracee, space: &mut Space) -> bool {
    let thread = tracee.pid();
    tracee.go(thread, Go::Syscall);
    loop {
        match tracee.wait(Go::Syscall) {
            Stop::Trap(stopped) if tracee.is_at_breakpoint(stopped) => return true,
            Stop::Trap(stopped) => {
                if stopped == thread {
                    // malloc and operator new.
                    for address in space.new_functions(tracee, &["malloc", "_Znwm"]) {
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
    let mut tracer = Command::new(env!("CARGO_BIN_EXE_leaktrace"));
    tracer
        .args(["--max-stacks", "200000", "-p", &tracee.pid().to_string(), "--json"])
        .arg(report)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (ready, when_ready) = channel();
    let handle = thread::spawn(move || {
        let mut tracer = tracer.spawn().unwrap();
        let mut said = String::new();
        for line in BufReader::new(tracer.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("leaktrace: tracing ") {
                let _ = ready.send(());
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = tracer.wait().unwrap();
        assert!(status.success(), "the tracer failed (these tests need root): {said}");
        true
    });
    when_ready.recv().expect("the tracer says that it traces");
    handle
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
