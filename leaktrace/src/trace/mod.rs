//! A trace from its first probe to its last report.
//!
//! Waits for what happens (time, signals, events of the programs, ends of processes), reports, and tears down in an order in
//! which the last report is exact: first the programs stop writing, then the tables are read.

mod capture;
mod gaps;
mod intake;
mod naming;
mod phases;
mod progress;
mod records;
mod remarks;
mod reports;
mod setup;
mod signals;
mod untraced;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::config::{Config, Whom};
use crate::host::limits;
use crate::kernel::events::Events;
use crate::kernel::{Kernel, drain};
use crate::lives::processes::Processes;
use crate::lives::unwinding::Unwinding;
use crate::model::{Capture, Options, Pid, Sink, Target};
use crate::outcome::Outcome;
use crate::process::growth::Resident;
use crate::process::launch::{Event, Held, LaunchOptions, Launched};
use crate::sources::allocators::Prober;
use capture::{Occasion, Spaces};
use intake::Reclaimed;
use naming::Namer;
use phases::Phases;
use progress::Progress;
use records::Records;
use remarks::Remarks;
use reports::{Done, Reports};
use signals::Signals;
use untraced::UntracedProcesses;
use waiting::{Ends, tick, until};

/// Traces what `config` says, gives `sink` a snapshot at each interval until it breaks, and hands back the last one
/// undelivered.
///
/// # Errors
/// One line each that names what stands in the way and the next step.
pub fn run(config: &Config, sink: &mut dyn Sink) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let namer = Namer::start(config.debuginfod).context("cannot start the threads that name addresses")?;
    let stop = namer.stop();
    let (reports, desk) = reports::new(sink, namer);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("reports".to_owned())
            .spawn_scoped(scope, || desk.work())
            .context("cannot start the thread that makes reports")?;
        runtime.block_on(trace(config, reports, stop))
    })
}

/// How often the status line is drawn.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How long the records of the dead stay in the tables, so that those of many are taken out in one go.
const RECLAIM_AFTER: Duration = Duration::from_millis(50);
/// How long the last report waits for files that are being read.
const PLANNED_WITHIN: Duration = Duration::from_millis(300);
/// How long a command that was sent a signal is waited for, so that its last report sees its end.
const GRACE: Duration = Duration::from_secs(1);

/// A running trace.
struct Trace<'a> {
    config: &'a Config,
    kernel: Kernel,
    prober: Prober,
    processes: Processes,
    unwinding: Unwinding,
    events: AsyncFd<Events>,
    discovery: Records,
    /// Records of the kernel's that were lost, as far as they have been made up for.
    lost_records: u64,
    /// Those that were when nothing was recorded any more.
    lost_by_the_end: Option<u64>,
    /// Those of which nothing is missing.
    made_up_records: u64,
    /// How many lives of followed processes had ended when nothing more was lost yet.
    ends_before: u64,
    /// When to take the records of the dead out of the tables, and how that went the last time.
    reclaim_at: Option<Instant>,
    reclaimed: Reclaimed,
    /// Processes of which nothing could be recorded.
    untraced: UntracedProcesses,
    /// Resident memory of the named processes when tracing began, for the case that nothing else is seen.
    resident: Vec<(Pid, Resident)>,
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
    /// The command waits for us to let it end.
    Exiting(Held),
}

async fn trace(config: &Config, mut reports: Reports, stop: Option<Arc<AtomicBool>>) -> Result<Outcome> {
    let mut signals = Signals::listen()?;
    let mut launched = match &config.whom {
        Whom::Command(command) => Some(Launched::spawn(command, LaunchOptions::default())?),
        Whom::Pids(_) | Whom::Filtered(_) | Whom::System => None,
    };
    // After the command was started, which keeps the limit that it was given.
    limits::allow_many_descriptors();
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
        set_up = setup::set_up(config, launched.as_mut(), &mut held) => set_up,
    };
    let mut trace = match set_up {
        Ok(trace) => trace,
        Err(error) => {
            // A command that cannot be traced must not run: it has not done anything yet.
            if let Some(launched) = &launched {
                let _ = launched.signal(libc::SIGKILL);
            }
            return Err(error);
        }
    };
    trace.begin(held)?;
    let over = trace.follow(&mut signals, &mut launched, &mut ends, &mut reports).await?;
    let last = trace.finish(over, launched, ends, reports);
    match stop {
        None => last.await,
        // What is fetched for the last report may take minutes, and its reader may want it as it is.
        Some(stop) => Box::pin(signals.one_more(last, || stop.store(true, Ordering::Relaxed))).await,
    }
}

impl Trace<'_> {
    /// Waits until the trace is over, reporting on the way.
    async fn follow(
        &mut self,
        signals: &mut Signals,
        launched: &mut Option<Launched>,
        ends: &mut Ends,
        reports: &mut Reports,
    ) -> Result<Over> {
        let recording = &self.config.recording;
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
        let mut leave_by = None;
        loop {
            tokio::select! {
                biased;
                signal = signals.next(), if leave_by.is_none() => {
                    let Some(launched) = launched else { return Ok(Over::Done) };
                    if signal == libc::SIGTERM {
                        // What was sent to us alone is meant for the command as well.
                        let _ = launched.signal(signal);
                    }
                    leave_by = Some(Instant::now() + GRACE);
                }
                () = until(leave_by), if leave_by.is_some() => return Ok(Over::Done),
                event = next_event(launched), if launched.is_some() => match event {
                    Event::Held(held) => {
                        // The command has become another program: its mappings are others, its files may be.
                        if let Some(pid) = launched.as_ref().map(Launched::pid) {
                            self.take_in();
                            if let Err(error) = self.probe_process(pid).await {
                                log::warn!("{error:#}");
                            }
                        }
                        self.follow_mappings();
                        self.until_tables_are_built().await?;
                        self.let_go(held, launched.as_ref().map(Launched::pid));
                    }
                    Event::Exiting(held) => return Ok(Over::Exiting(held)),
                    Event::Ended(_) => return Ok(Over::Done),
                },
                () = ends.all(), if !ends.is_empty() => return Ok(Over::Done),
                () = until(deadline), if deadline.is_some() => return Ok(Over::Done),
                () = tick(&mut ticks), if ticks.is_some() => {
                    if reports.is_busy() {
                        // It comes later than the user has asked for, and is said to.
                        log::warn!("a report is left out: the one before is still being made; raise --interval");
                        continue;
                    }
                    let mut phases = Phases::of(format!("report {}", self.sequence + 1));
                    let capture = self.read(false)?;
                    let spaces = self.spaces(&capture);
                    phases.done("reading the tables");
                    reports.order(capture, spaces, phases);
                }
                done = reports.done(), if reports.is_busy() => {
                    if let Done::Report { sequence, over } = done?
                        && (over || recording.count.is_some_and(|count| sequence >= count))
                    {
                        return Ok(Over::Done);
                    }
                }
                () = until(self.reclaim_at), if self.reclaim_at.is_some() => self.reclaim()?,
                _ = show.tick() => {
                    if let Err(error) = self.make_up_for_lost_records(true) {
                        log::warn!("{error:#}");
                    }
                    self.tell_replaced();
                    self.follow_mappings();
                    self.unwinding.reclaim();
                    if reports.wants_status() {
                        let buried = self.processes.buried_counters();
                        reports.show(progress.status(&self.kernel, &buried, self.since.elapsed()));
                    }
                }
                // Last: there may always be more of these.
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

    /// Stops, reads, names, and lets the command end.
    async fn finish(mut self, over: Over, launched: Option<Launched>, ends: Ends, reports: Reports) -> Result<Outcome> {
        let mut phases = Phases::of("last report");
        // A CPU that came online a moment ago may have been missed.
        if let Err(error) = self.discovery.follow_cpus() {
            log::warn!("{error:#}");
        }
        self.kernel.stop()?;
        // Before it is learnt that processes have ended, and their tables with them.
        self.unwinding.tell();
        self.take_in();
        // What is lost from now on, while tables are read and the command ends, is nothing that the report would hold.
        self.lost_by_the_end = Some(self.discovery.lost());
        self.refresh();
        // A process that has ended is gone from /proc only when its parent has asked for its status.
        for pid in ends.ended() {
            self.processes.exited(pid, None);
        }
        phases.done("stopping the programs");
        self.until_planned().await;
        phases.done("waiting for files that are being read");
        let mut capture = self.read(true)?;
        phases.done("reading the tables");
        // Nothing more is asked of the traced processes, the command at its exit first.
        let exits = matches!(over, Over::Exiting(_));
        if let Over::Exiting(held) = over {
            held.release();
        }
        // Naming and rendering allocate millions of times, and at each the
        // probes in our own libc would take a microsecond.
        self.prober.detach();
        phases.done("taking the probes away");
        let command = match (exits, launched) {
            (true, Some(mut launched)) => {
                let pid = launched.pid();
                let ending = loop {
                    match launched.next_event().await {
                        Event::Held(held) | Event::Exiting(held) => held.release(),
                        Event::Ended(ending) => break ending,
                    }
                };
                capture.exited(pid, ending.code());
                Some(ending)
            }
            (_, Some(mut launched)) => {
                let pid = launched.pid();
                let ended = tokio::time::timeout(Duration::ZERO, launched.next_event()).await;
                match ended {
                    Ok(Event::Ended(ending)) => {
                        capture.exited(pid, ending.code());
                        Some(ending)
                    }
                    _ => None,
                }
            }
            (_, None) => None,
        };
        if command.is_some() {
            phases.done("the command's end");
        }
        let spaces = self.spaces(&capture);
        let snapshot = reports.last(capture, spaces, phases).await?;
        Ok(Outcome { snapshot, command })
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

    /// The address spaces of the lives in a capture, as they are now.
    fn spaces(&self, capture: &Capture) -> Spaces {
        let lives = capture.processes.iter().map(|process| process.life);
        lives.filter_map(|life| Some((life, self.processes.space(life)?.clone()))).collect()
    }

    /// Reads the tables, and what else a report says of the traced processes.
    fn read(&mut self, is_final: bool) -> Result<Capture> {
        self.sequence += 1;
        if !is_final {
            self.refresh();
        }
        self.reclaim()?;
        self.make_up_for_lost_records(!is_final)?;
        let occasion =
            Occasion { started: self.started, elapsed: self.since.elapsed(), sequence: self.sequence, is_final };
        let accounts = drain::accounts(&self.kernel);
        // What lay where when they were booked.
        self.take_in();
        let (kernel, processes) = (&self.kernel, &mut self.processes);
        let mut capture = capture::capture(kernel, accounts, processes, &occasion, &self.target, &self.options)?;
        let Remarks { notes, warnings } = remarks::of(&capture.processes, &self.processes, &self.prober);
        capture.untraced = self.untraced.list(self.processes.unreported(), &self.prober);
        if let Whom::Filtered(filters) = &self.config.whom {
            // Of those that did not pass the filters nothing was to be recorded. Users and control groups are not known here.
            let by_name_alone = filters.uids.is_empty() && filters.cgroups.is_empty();
            capture.untraced.retain(|process| by_name_alone && filters.comms.contains(&process.comm));
        }
        if capture.saw_nothing() {
            capture.silence = remarks::of_silence(&self.resident, self.left_out);
        } else if is_final && self.options.sample_bytes.is_none() {
            capture.warnings.extend(remarks::of_growth(&self.resident, &capture.processes));
        }
        capture.notes.extend(notes);
        capture.warnings.extend(self.warnings.iter().cloned().chain(warnings));
        capture.losses.events_lost += self.lost_records - self.made_up_records;
        Ok(capture)
    }
}

fn interrupted(signal: libc::c_int) -> anyhow::Error {
    let name = nix::sys::signal::Signal::try_from(signal).map_or("a signal", nix::sys::signal::Signal::as_str);
    anyhow::anyhow!("ended by {name} before tracing began: nothing was recorded")
}

async fn next_event(launched: &mut Option<Launched>) -> Event {
    match launched {
        Some(launched) => launched.next_event().await,
        None => std::future::pending().await,
    }
}
