//! A trace from its first probe to its last report.
//!
//! Waits for time, signals, events of the BPF programs and ends of processes, makes reports, and tears down in an order that
//! keeps the last report exact: first the BPF programs stop writing, then the tables are read.

mod alerts;
mod aside;
mod bursts;
mod capture;
mod checking;
mod due;
mod gaps;
mod growing;
mod heap_pages;
mod heaps;
mod history;
mod intake;
mod leak_check;
mod memory;
mod naming;
mod phases;
mod progress;
mod reading;
mod records;
mod remarks;
mod reports;
mod reproduction;
mod samples;
mod setup;
mod signals;
mod stopping;
mod untraced;
mod verdict;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use crate::config::{Config, Sampler, Whom};
use crate::holder::Holder;
use crate::host::{limits, sampler};
use crate::kernel::Kernel;
use crate::kernel::events::Events;
use crate::lives::processes::Processes;
use crate::lives::unwinding::Unwinding;
use crate::model::{Options, Sink, Target};
use crate::outcome::Outcome;
use crate::process::launch::{Event, Held, LaunchOptions, Launched};
use crate::process::pidfd::PidFd;
use crate::process::registers::StoppedThread;
use crate::sources::allocators::Prober;
use crate::sources::samples::are_drawn_by_all;
use alerts::Alerts;
use bursts::Bursting;
use due::{Due, happens};
use growing::Growth;
use history::History;
use intake::Reclaimed;
use memory::MemoryReader;
use naming::Namer;
use phases::Phases;
use progress::Progress;
use records::Records;
use reports::{Done, Reports};
use signals::{ReportSignal, Signals, interrupted};
use untraced::UntracedProcesses;
use verdict::second_look::SecondLook;
use waiting::{Ends, next_event, noting_long_turns, tick, until};

pub use signals::expect_requests;

/// Traces what `config` says, gives `sink` a snapshot at each interval until the sink breaks and one at the end, and returns
/// the last.
///
/// # Errors
/// One line each that names what stands in the way and the next step.
pub fn run(config: &Config, sink: &mut dyn Sink) -> Result<Outcome> {
    limits::require_descriptors().context("cannot start the runtime")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let namer = Namer::start(config.debuginfod, config.suppressions.clone())
        .context("cannot start the threads that name addresses")?;
    let stop = namer.stop();
    let (reports, desk) = reports::new(sink, namer);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("reports".to_owned())
            .spawn_scoped(scope, || desk.work())
            .context("cannot start the thread that makes reports")?;
        let outcome = runtime.block_on(trace(&Arc::new(config.clone()), reports, stop));
        // A cancelled set-up may still run on its thread and use the runtime. The program is about to end.
        std::mem::forget(runtime);
        outcome
    })
}

/// How often the status line is drawn.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How long the records of ended lives stay in the tables, so that one pass takes out those of many.
const RECLAIM_AFTER: Duration = Duration::from_millis(50);
/// How long the last report waits for the processes' memory use to be read.
const MEMORY_WITHIN: Duration = Duration::from_secs(2);
/// How long the last report reads mappings again: what they have become without a record.
const REREAD_AT_LAST: Duration = Duration::from_millis(500);
/// How long the last report waits for files that are being read.
const PLANNED_WITHIN: Duration = Duration::from_millis(300);
/// How long a command that was sent a signal is waited for, so that its last report sees its end.
const GRACE: Duration = Duration::from_secs(1);

/// A running trace.
struct Trace {
    config: Arc<Config>,
    kernel: Kernel,
    /// The process that holds the probes, to wait for its end.
    holder_ends: AsyncFd<PidFd>,
    prober: Prober,
    processes: Processes,
    unwinding: Unwinding,
    events: AsyncFd<Events>,
    discovery: Records,
    memory: MemoryReader,
    /// Mapping records that the kernel had lost at the last look, made up for or not.
    lost_records: u64,
    /// Lost records at the moment when recording stopped.
    lost_by_the_end: Option<u64>,
    /// Lost records whose content is known from a look at the processes, so that nothing is missing.
    made_up_records: u64,
    /// Ended lives of followed processes at the last look for lost records.
    ends_before: u64,
    /// When the next pass takes ended lives out of the tables, and how the last pass went.
    reclaim_at: Option<Instant>,
    reclaimed: Reclaimed,
    /// Threads of the command that were killed, by its end or by its beginning another program.
    ended_threads: Vec<StoppedThread>,
    /// Nothing is recorded any more.
    has_halted: bool,
    /// What leak checks have called lost.
    second_look: SecondLook,
    /// Processes that were recorded in part or not at all.
    untraced: UntracedProcesses,
    /// How much memory processes had when first seen, to compare where few allocations are seen.
    growth: Growth,
    /// Counters over time.
    history: History,
    /// Where processes pass the user's limits.
    alerts: Alerts,
    /// Where calls are seen in windows only.
    bursting: Option<Bursting>,
    /// Descendants of the named processes that ran and were not followed.
    left_out: usize,
    /// What a reader of the numbers must know beside what the capture says.
    warnings: Vec<String>,
    target: Target,
    options: Options,
    started: Timestamp,
    since: Instant,
    sequence: u64,
}

/// Why the trace is over.
enum Over {
    /// Time, reports or processes have run out, or the user has asked.
    Done,
    /// The command is stopped at its exit until it is released.
    Exiting(Held),
}

async fn trace(config: &Arc<Config>, reports: Reports, stop: Option<Arc<AtomicBool>>) -> Result<Outcome> {
    let signals = Signals::listen()?;
    let config = match &config.whom {
        Whom::Pids(pids) if config.sampler == Sampler::IfThere && are_drawn_by_all(pids) => {
            log::info!("what is traced draws a sample of its allocations itself: no call is probed");
            &Arc::new(config.by_sampler())
        }
        _ => config,
    };
    let launched = match &config.whom {
        Whom::Command(command) => {
            let library = if config.sampler == Sampler::Preloaded { Some(sampler::library()?) } else { None };
            Some(Launched::spawn_with(command, library.as_deref(), LaunchOptions::default())?)
        }
        Whom::Pids(_) | Whom::Filtered(_) | Whom::System => None,
    };
    // The command was started before and keeps the limit that it inherited.
    limits::allow_many_descriptors();
    let holder = match Holder::start() {
        Ok(holder) => Arc::new(holder),
        Err(error) => {
            never_to_run(launched.as_ref());
            return Err(error);
        }
    };
    let traced = Box::pin(trace_with(config, &holder, launched, signals, reports, stop)).await;
    // Where set-up was cancelled, its thread may still be attaching probes.
    holder.end();
    traced
}

async fn trace_with(
    config: &Arc<Config>,
    holder: &Arc<Holder>,
    mut launched: Option<Launched>,
    mut signals: Signals,
    mut reports: Reports,
    stop: Option<Arc<AtomicBool>>,
) -> Result<Outcome> {
    let mut report_signal = ReportSignal::listen()?;
    let mut ends = Ends::default();
    if let Whom::Pids(pids) = &config.whom {
        for pid in pids {
            ends.add(*pid)?;
        }
    }
    let mut held = None;
    let set_up = tokio::select! {
        biased;
        signal = signals.next() => Err(interrupted(signal)),
        set_up = setup::set_up(config, holder, launched.as_mut(), &mut held) => set_up,
    };
    let mut trace = match set_up {
        Ok(trace) => trace,
        Err(error) => {
            never_to_run(launched.as_ref());
            return Err(error);
        }
    };
    trace.begin(held)?;
    let follow = trace.follow(&mut signals, &mut report_signal, &mut launched, &mut ends, &mut reports);
    let over = noting_long_turns(follow).await?;
    if stop.is_none() && signals.is_taken() {
        reports.close();
    }
    let last = trace.finish(over, launched, ends, reports);
    match stop {
        None if signals.is_taken() => last.await,
        // The first may have been meant for the trace, which has just ended by itself.
        None => Box::pin(signals.one_more(last, || ())).await,
        // Fetching debug information may take minutes: one more signal asks for the report without it.
        Some(stop) => Box::pin(signals.one_more(last, || stop.store(true, Ordering::Relaxed))).await,
    }
}

impl Trace {
    /// Waits until the trace is over, reporting on the way.
    async fn follow(
        &mut self,
        signals: &mut Signals,
        report_signal: &mut ReportSignal,
        launched: &mut Option<Launched>,
        ends: &mut Ends,
        reports: &mut Reports,
    ) -> Result<Over> {
        let config = Arc::clone(&self.config);
        let recording = &config.recording;
        let deadline = recording.duration.map(|duration| self.since + duration);
        let mut ticks = recording.interval.map(interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            // The first tick is at once.
            ticks.tick().await;
        }
        let mut show = interval(SHOW_EVERY);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::new(self.options.sample_bytes.is_some());
        let (mut leave_by, mut asked_by) = (None, 0);
        let (mut due, mut at_intervals, mut is_asked_for): (Option<Due>, u64, bool) = (None, 0, false);
        loop {
            if is_asked_for && due.is_none() && !reports.is_busy() {
                is_asked_for = false;
                due = Some(Due::asked_for(&config));
                self.memory.order(self.processes.reported_alive());
            }
            let memory_due = self.memory.due();
            let window_due = self.bursting.as_ref().map(Bursting::due);
            tokio::select! {
                biased;
                signal = signals.next(), if leave_by.is_none() => {
                    let Some(launched) = launched else { return Ok(Over::Done) };
                    asked_by = signal;
                    leave_by = Some(asked_to_end(launched, signal));
                }
                () = until(leave_by), if leave_by.is_some() => {
                    let waited = GRACE.as_secs();
                    let signal = signals::name(asked_by);
                    log::warn!("COMMAND has not ended {waited} s after {signal}; it goes on without being traced");
                    return Ok(Over::Done);
                }
                event = next_event(launched), if launched.is_some() => match event {
                    Event::Stopped(held) => match due.as_mut().and_then(|due| due.checking.as_mut()) {
                        Some(checking) => {
                            self.command_stopped(checking, held);
                            self.go_on_with(&mut due, launched.as_ref(), reports)?;
                        }
                        // Too late.
                        None => held.into_iter().for_each(Held::release),
                    },
                    Event::Held(held) => {
                        if let Some(launched) = launched {
                            tokio::select! {
                                biased;
                                signal = signals.next(), if leave_by.is_none() => {
                                    asked_by = signal;
                                    leave_by = Some(asked_to_end(launched, signal));
                                }
                                taken_up = self.take_up(launched.pid()) => taken_up?,
                            }
                        }
                        self.let_go(held, launched.as_ref().map(Launched::pid));
                    }
                    Event::Exiting(held) => return Ok(Over::Exiting(held)),
                    Event::Ended(_) => return Ok(Over::Done),
                },
                // An error would repeat for ever: it counts as an end.
                _ = self.holder_ends.readable() => return Ok(Over::Done),
                () = ends.all(), if !ends.is_empty() => return Ok(Over::Done),
                () = until(deadline), if deadline.is_some() => return Ok(Over::Done),
                () = tick(&mut ticks), if ticks.is_some() => {
                    if recording.count.is_some_and(|count| at_intervals + 1 >= count) {
                        // The last report is the N-th.
                        return Ok(Over::Done);
                    }
                    if reports.is_busy() || due.is_some() {
                        // The user expects a report now and must know why there is none.
                        log::warn!("a report is left out: the one before is still being made; raise --interval");
                        continue;
                    }
                    at_intervals += 1;
                    due = Some(Due::at_interval(&config));
                    self.memory.order(self.processes.reported_alive());
                }
                () = report_signal.next() => is_asked_for = true,
                memory = self.memory.done(), if self.memory.is_reading() => {
                    self.remember_memory(memory);
                    if !self.memory.is_reading() {
                        self.go_on_with(&mut due, launched.as_ref(), reports)?;
                    }
                }
                happened = happens(&mut due) => {
                    if let Some(checking) = due.as_mut().and_then(|due| due.checking.as_mut()) {
                        self.happened(checking, happened, launched.as_ref());
                    }
                    self.go_on_with(&mut due, launched.as_ref(), reports)?;
                }
                done = reports.done(), if reports.is_busy() => {
                    if self.is_over_after(done?) {
                        return Ok(Over::Done);
                    }
                }
                () = until(self.reclaim_at), if self.reclaim_at.is_some() => self.reclaim()?,
                () = until(window_due), if window_due.is_some() => self.turn_window()?,
                () = until(Some(self.history.due())), if window_due.is_none() => self.look_at_counters(),
                () = until(memory_due), if memory_due.is_some() => self.look_at_memory(),
                _ = show.tick() => {
                    if let Err(error) = self.make_up_for_lost_records(true) {
                        log::warn!("{error:#}");
                    }
                    self.tell_replaced();
                    self.follow_mappings();
                    self.unwinding.reclaim();
                    self.watch_growth();
                    self.look_for_alerts();
                    if reports.wants_status() {
                        let archived = self.processes.archived_counters();
                        reports.show(progress.status(&self.kernel, &archived, self.since.elapsed()));
                    }
                }
                // Last, since `select!` is biased here and these may always be ready.
                built = self.unwinding.built() => self.unwinding.take(&self.kernel, built),
                progress = self.prober.progress() => {
                    if let Err(error) = self.prober.settle(&mut self.kernel, progress) {
                        log::warn!("{error:#}");
                    }
                }
                ready = self.events.readable() => {
                    ready.context("cannot wait for the programs' events")?.clear_ready();
                    self.take_in();
                }
                ready = self.discovery.ready() => {
                    ready.context("cannot wait for the kernel's records")?;
                    self.take_in();
                }
            }
        }
    }

    /// Notes how an interim report went; whether the trace is to end with it.
    fn is_over_after(&mut self, done: Done) -> bool {
        match done {
            Done::Report { over } => over,
            Done::Failed { sequence, message } => {
                let warning = format!("report {sequence} could not be made ({message}); please report this");
                log::error!("{warning}");
                self.warnings.push(warning);
                false
            }
            Done::Last(_) => true,
        }
    }

    /// Stops, reads, names, and lets the command end.
    async fn finish(
        mut self,
        mut over: Over,
        mut launched: Option<Launched>,
        ends: Ends,
        reports: Reports,
    ) -> Result<Outcome> {
        let mut phases = Phases::of("last report");
        // What is being read may turn out to need probes, and then not all blocks are known.
        self.take_in();
        self.look_for_alerts();
        self.until_planned().await;
        let findings = self.judge_at_last(&mut over, launched.as_mut()).await;
        phases.done("judging blocks");
        // The holder may have ended as well, whatever ended the trace.
        let cut_short = self.kernel.holder.ended().map(|how| self.is_unprobed(&how));
        // A CPU that came online a moment ago may have been missed.
        if let Err(error) = self.discovery.follow_cpus() {
            log::warn!("{error:#}");
        }
        self.end_windows()?;
        self.kernel.stop()?;
        // Before `take_in` learns of ended processes, whose unwind tables go with them.
        self.unwinding.tell();
        self.take_in();
        // Records lost from now on, while tables are read and the command ends, do not concern the report.
        self.lost_by_the_end = Some(self.discovery.lost());
        let left_out = self.refresh(REREAD_AT_LAST);
        if left_out > 0 {
            let whose = if left_out == 1 { "one process".to_owned() } else { format!("{left_out} processes") };
            self.warnings.push(format!(
                "the mappings of {whose} were not read again at the end, for want of time: code that they moved without \
                 a record (mremap) may be called after what lay there before"
            ));
        }
        // A process may hold the lock that this needs; then the report has the values read before.
        let memory = self.memory.read(self.processes.reported_alive());
        if let Ok(memory) = timeout(MEMORY_WITHIN, memory).await {
            self.remember_memory(memory);
        }
        // An ended process stays in /proc until its parent reaps it.
        for pid in ends.ended() {
            self.processes.exited(pid, None);
        }
        phases.done("stopping the programs");
        self.until_planned().await;
        phases.done("waiting for files that are being read");
        let (mut capture, spaces) = self.read(true, findings)?;
        phases.done("reading the tables");
        // From here on no traced process is needed: the command goes on with its exit first.
        let exits = matches!(over, Over::Exiting(_));
        if let Over::Exiting(held) = over {
            held.release();
        }
        // Naming and rendering take seconds, in which probes would only slow the traced processes.
        self.prober.detach();
        phases.done("taking the probes away");
        let command = match (exits, launched) {
            (true, Some(mut launched)) => {
                let pid = launched.pid();
                let ending = loop {
                    match launched.next_event().await {
                        Event::Held(held) | Event::Exiting(held) | Event::Stopped(Some(held)) => held.release(),
                        Event::Stopped(None) => {}
                        Event::Ended(ending) => break ending,
                    }
                };
                capture.exited(pid, ending.code());
                Some(ending)
            }
            (_, Some(mut launched)) => {
                let pid = launched.pid();
                let ended = timeout(Duration::ZERO, launched.next_event()).await;
                match ended {
                    Ok(Event::Ended(ending)) => {
                        capture.exited(pid, ending.code());
                        Some(ending)
                    }
                    Ok(Event::Held(held) | Event::Exiting(held) | Event::Stopped(Some(held))) => {
                        held.release();
                        None
                    }
                    Ok(Event::Stopped(None)) | Err(_) => None,
                }
            }
            (_, None) => None,
        };
        if command.is_some() {
            phases.done("the command's end");
        }
        let snapshot = reports.last(capture, spaces, phases).await?;
        self.alerts.part().await;
        Ok(Outcome { snapshot, command, cut_short })
    }

    /// What to say of probes that are gone.
    fn is_unprobed(&mut self, how: &str) -> String {
        let (pid, after) = (self.kernel.holder.pid(), self.since.elapsed().as_secs_f64());
        let reason =
            format!("process {pid}, which held the probes, has ended {how}: the trace is over after {after:.1} s");
        self.warnings.push(format!("{reason}, and what happened shortly before may be missing"));
        reason
    }

    /// Waits a little for files that are being read: whether there was anything to trace in processes that have just ended.
    async fn until_planned(&mut self) {
        let deadline = Instant::now() + PLANNED_WITHIN;
        while self.prober.being_planned().next().is_some() {
            tokio::select! {
                progress = self.prober.progress() => {
                    if let Err(error) = self.prober.settle(&mut self.kernel, progress) {
                        log::debug!("{error:#}");
                    }
                }
                () = sleep_until(deadline.into()) => return,
            }
        }
    }
}

/// A command that cannot be traced must not run: it has not done anything yet.
fn never_to_run(launched: Option<&Launched>) {
    if let Some(launched) = launched {
        let _ = launched.signal(libc::SIGKILL);
    }
}

/// Until when the command may run on after the user has asked for the end.
fn asked_to_end(launched: &Launched, signal: libc::c_int) -> Instant {
    if signal == libc::SIGTERM {
        // A terminal sends SIGINT and SIGHUP to the command as well, but SIGTERM came to this process alone.
        let _ = launched.signal(signal);
    }
    Instant::now() + GRACE
}
