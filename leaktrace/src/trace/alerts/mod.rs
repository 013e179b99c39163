//! Alerts: says, and runs a command, where a process passes a limit that the user has set.
//!
//! In: the programs' counters of each life, once a second and at its end. Out: warnings on standard error and in reports, and
//! commands in the background. Without limits none of it costs anything. Never blocks the trace.

mod before;
mod commands;
mod cooldown;
mod course;
mod said;

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use leaktrace_common::abi::{PROCESS_ALIVE, Process};
use leaktrace_common::sampling::BYTES_SHIFT;

use super::Trace;
use crate::clean::clean;
use crate::config::{AlertPlan, Recording};
use crate::kernel::{Kernel, drain};
use crate::lives::life::Life;
use crate::lives::mmap_records::{Record, What};
use crate::lives::processes::Processes;
use crate::model::{Pid, sampling};
use crate::process::facts;
use before::Before;
use commands::{Commands, NotRun};
use cooldown::Cooldown;
use course::{Course, Kind, LEAST, Limits, Look, Passed};
use said::{Said, Subject};

/// Counting blocks takes at most one part in so many of the time.
const SHARE: u32 = 50;

/// Watches what processes have outstanding.
pub(super) struct Alerts {
    limits: Limits,
    /// The counters are those of a sample.
    sampled: bool,
    /// Every block is recorded, so that one that is freed and in no account is from before the trace.
    all_blocks: bool,
    /// When blocks may be counted again.
    counts_from: Instant,
    /// By slot and by when the life was first seen.
    courses: HashMap<(u32, u64), Course>,
    cooldown: Cooldown,
    commands: Commands,
    said: Said,
}

impl Alerts {
    /// As the user wants them.
    pub(super) fn new(plan: &AlertPlan, recording: &Recording) -> Self {
        if plan.rate.is_some() && recording.duration.is_some_and(|duration| duration < LEAST) {
            let least = LEAST.as_secs();
            log::warn!(
                "--alert-rate looks at {least} s at least, and --duration ends the trace before: there will be no such alert"
            );
        }
        Self {
            limits: Limits { bytes: plan.bytes, rate: plan.rate },
            sampled: recording.sample_bytes.is_some(),
            all_blocks: recording.sample_bytes.is_none() && recording.min_size == 0 && recording.max_size.is_none(),
            counts_from: Instant::now(),
            courses: HashMap::new(),
            cooldown: Cooldown::default(),
            commands: Commands::new(plan.command.clone()),
            said: Said::default(),
        }
    }

    fn are_wanted(&self) -> bool {
        self.limits.bytes.is_some() || self.limits.rate.is_some()
    }

    /// Takes note of what a record says of the commands' processes.
    pub(super) fn note(&mut self, record: &Record) {
        if let What::Forked { pid, parent } = &record.what {
            self.commands.forked(*pid, *parent);
        }
    }

    /// What a report says of them.
    pub(super) fn for_report(&mut self, is_final: bool, at: Duration) -> Vec<String> {
        for (about, text) in self.commands.failures() {
            self.said.add(Subject::Failure(about), text, at);
        }
        self.said.for_report(is_final)
    }

    /// At the end of the trace: waits a little for commands that run.
    pub(super) async fn part(&self) {
        self.commands.part().await;
    }

    /// Of lives that free blocks from before the trace, by their slots, what is needed to tell how they grow.
    fn before(&mut self, kernel: &Kernel, lives: &[(u32, Process)]) -> HashMap<u32, Before> {
        if self.limits.rate.is_none() || !self.all_blocks {
            return HashMap::new();
        }
        let of = |process: &Process| Before { freed: drain::unknown_frees(process), resident: None, blocks: None };
        let lives = lives.iter().filter(|(_, process)| process.state == PROCESS_ALIVE);
        let mut all: HashMap<u32, Before> =
            lives.map(|(slot, process)| (*slot, of(process))).filter(|(_, before)| before.freed > 0).collect();
        let began = Instant::now();
        if all.is_empty() || began < self.counts_from {
            return all;
        }
        for before in all.values_mut() {
            before.blocks = Some(0);
        }
        for (_, slot, counters) in drain::placed_counters(kernel) {
            if let Some(blocks) = all.get_mut(&slot).and_then(|before| before.blocks.as_mut()) {
                *blocks = blocks.saturating_add(counters.outstanding_count());
            }
        }
        self.counts_from = began + began.elapsed() * SHARE;
        all
    }

    fn look(
        &mut self,
        (slot, process): (u32, &Process),
        before: Before,
        mut course: Course,
        processes: &Processes,
        at: Duration,
    ) {
        let ended = process.state != PROCESS_ALIVE;
        let (live, peak) = (self.bytes(process.live_bytes), self.bytes(process.peak_bytes));
        for passed in course.take(Look { at, live, peak, ended, before }, self.limits) {
            self.alert(&passed, slot, process, processes, at);
        }
        if !ended {
            self.courses.insert((slot, process.seen_ns), course);
        }
    }

    /// A counter in bytes. One that several threads are changing may be below zero for a moment.
    fn bytes(&self, counter: u64) -> u64 {
        let counter = if counter > i64::MAX as u64 { 0 } else { counter };
        if self.sampled { sampling::whole(counter, BYTES_SHIFT) } else { counter }
    }

    fn alert(&mut self, passed: &Passed, slot: u32, process: &Process, processes: &Processes, at: Duration) {
        let pid = Pid(process.tgid);
        let about = (pid, passed.kind);
        let life = processes.in_slot(slot).filter(|life| life.pid == pid);
        if passed.is_untold {
            let name = clean(&comm(life, process)).into_owned();
            log::warn!(
                "{name} (pid {pid}): --alert-rate cannot tell how it grows while it frees blocks from before the trace, whose sizes are \
                 unknown; an alert is given if its resident memory grows as well"
            );
            return;
        }
        if self.commands.have(pid) || !self.cooldown.allows(about, life.and_then(|life| life.start_time), at) {
            return;
        }
        let comm = comm(life, process);
        let name = format!("{} (pid {pid})", clean(&comm));
        let variables = || variables(passed, pid, &comm, life, at);
        let run = self.commands.run(about, &name, variables);
        let text = format!("{name} {}{}", self.sentence(passed, process), of_run(run));
        log::warn!("{text}");
        self.said.add(Subject::Alert(about), text, at);
    }

    /// What a process has passed, without the process.
    fn sentence(&self, passed: &Passed, process: &Process) -> String {
        let about = if self.sampled { "an estimated " } else { "" };
        let (outstanding, limit) = (sized(passed.outstanding), sized(passed.limit));
        match (passed.kind, passed.growth) {
            (Kind::Rate, Some((growth, over))) => format!(
                "has grown by {about}{}/s for {} s, which passes --alert-rate {limit}/s; {outstanding} outstanding",
                sized(growth.unsigned_abs()),
                over.as_secs()
            ),
            _ if passed.is_over => {
                let since = if process.state == PROCESS_ALIVE { "which it has no more" } else { "and is over" };
                format!("had {about}{outstanding} outstanding, which passed --alert-bytes {limit}, {since}")
            }
            _ => format!("has {about}{outstanding} outstanding, which passes --alert-bytes {limit}"),
        }
    }
}

impl Trace {
    /// Looks at what each process has outstanding.
    pub(super) fn look_for_alerts(&mut self) {
        if !self.alerts.are_wanted() {
            return;
        }
        let lives = drain::lives(&self.kernel);
        let mut before = self.alerts.before(&self.kernel, &lives);
        // After the look: by whom these were made, and what they are called, is in the records by now.
        self.take_in();
        let at = self.since.elapsed();
        let mut courses = std::mem::take(&mut self.alerts.courses);
        for (slot, process) in lives {
            let course = courses.remove(&(slot, process.seen_ns)).unwrap_or_default();
            let mut before = before.remove(&slot).unwrap_or_default();
            if before.freed > 0 {
                before.resident = facts::resident(Pid(process.tgid));
            }
            self.alerts.look((slot, &process), before, course, &self.processes, at);
        }
    }

    /// Looks at lives that have ended and are about to leave the tables: some were shorter than the time between two looks.
    pub(super) fn look_for_alerts_of_ended(&mut self, last: &HashMap<u32, Process>) {
        if !self.alerts.are_wanted() {
            return;
        }
        let at = self.since.elapsed();
        for (slot, process) in last {
            let course = self.alerts.courses.remove(&(*slot, process.seen_ns)).unwrap_or_default();
            self.alerts.look((*slot, process), Before::default(), course, &self.processes, at);
        }
    }
}

/// What a process is called now, or was at its first allocation.
fn comm(life: Option<&Life>, process: &Process) -> String {
    let first = process.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let known = life.map(|life| &life.comm).filter(|comm| !comm.is_empty());
    known.cloned().unwrap_or_else(|| String::from_utf8_lossy(first).into_owned())
}

/// What a command finds in its environment.
fn variables(
    passed: &Passed,
    pid: Pid,
    comm: &str,
    life: Option<&Life>,
    at: Duration,
) -> Vec<(&'static str, OsString)> {
    let kind = match passed.kind {
        Kind::Bytes => "bytes",
        Kind::Rate => "rate",
    };
    let growth = passed.growth.filter(|(_, over)| *over >= Duration::from_secs(1));
    let exe = life.and_then(|life| life.exe.clone());
    vec![
        ("LEAKTRACE_ALERT", kind.into()),
        ("LEAKTRACE_PID", pid.to_string().into()),
        ("LEAKTRACE_COMM", clean(comm).into_owned().into()),
        ("LEAKTRACE_EXE", exe.unwrap_or_default().into_os_string()),
        ("LEAKTRACE_OUTSTANDING_BYTES", passed.outstanding.to_string().into()),
        ("LEAKTRACE_RATE_BYTES_PER_S", growth.map_or_else(String::new, |(growth, _)| growth.to_string()).into()),
        ("LEAKTRACE_LIMIT", passed.limit.to_string().into()),
        ("LEAKTRACE_ELAPSED_S", at.as_secs().to_string().into()),
    ]
}

/// What to say of a command that is not run.
fn of_run(run: Result<(), NotRun>) -> String {
    run.err().map_or_else(String::new, |why_not| format!("; its command is not run: {why_not}"))
}

fn sized(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}
