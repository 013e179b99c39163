//! The thread that names what was captured and hands it to the sink: reading debug information may take seconds, writing a
//! report to a pipe as long as its reader likes, and meanwhile the trace must go on.
//!
//! In: captures, each with the address spaces as they were then. Out: snapshots to the sink, the last one to the trace as well.
//! One report is made at a time; one that is due before the previous is done is left out with a warning. A panic costs only the
//! report that it happens in.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Result, anyhow};

use super::capture::Spaces;
use super::naming::Namer;
use super::phases::Phases;
use crate::model::{Capture, Sink, Snapshot, Status};
use crate::workers;

/// What the thread is to do.
enum Job {
    Report(Box<Capture>, Spaces, Phases),
    Last(Box<Capture>, Spaces, Phases),
    Status(Status),
    Close,
}

/// What it has done.
pub enum Done {
    /// A report on the way.
    Report {
        /// Whether the trace is to end, since nobody reads any more.
        over: bool,
    },
    /// Making a report on the way panicked.
    Failed {
        /// Its number.
        sequence: u64,
        /// What the panic said.
        message: String,
    },
    /// The last report, or the message of the panic that prevented it.
    Last(Result<Box<Snapshot>, String>),
}

/// The trace's end of it.
pub struct Reports {
    jobs: Sender<Job>,
    done: async_channel::Receiver<Done>,
    busy: bool,
    wants_status: bool,
}

/// The thread's end of it.
pub struct Desk<'a> {
    jobs: Receiver<Job>,
    done: async_channel::Sender<Done>,
    sink: &'a mut dyn Sink,
    namer: Namer,
}

/// Both ends.
pub fn new(sink: &mut dyn Sink, namer: Namer) -> (Reports, Desk<'_>) {
    let ((jobs, orders), (results, done)) = (channel(), async_channel::unbounded());
    let reports = Reports { jobs, done, busy: false, wants_status: sink.wants_status() };
    (reports, Desk { jobs: orders, done: results, sink, namer })
}

impl Reports {
    /// Whether a report is being made.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Has a report made and handed to the sink.
    pub fn order(&mut self, capture: Capture, spaces: Spaces, phases: Phases) {
        // The thread is there as long as we are.
        self.busy = self.jobs.send(Job::Report(Box::new(capture), spaces, phases)).is_ok();
    }

    /// Whether the sink wants a status line and no report is being made.
    pub fn wants_status(&self) -> bool {
        self.wants_status && !self.busy
    }

    /// Shows how the trace stands.
    pub fn show(&self, status: Status) {
        let _ = self.jobs.send(Job::Status(status));
    }

    /// Has the sink say that the last report is being made.
    pub fn close(&self) {
        let _ = self.jobs.send(Job::Close);
    }

    /// Waits for the report that was ordered. May be cancelled.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn done(&mut self) -> Result<Done> {
        let done = self.done.recv().await;
        self.busy = false;
        done.map_err(|_| anyhow!("the thread that makes reports has ended; please report this"))
    }

    /// Has the last report made, after any that is being made. If [`Namer::stop`]'s flag is set meanwhile, it is made without
    /// what is still being fetched.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn last(mut self, capture: Capture, spaces: Spaces, phases: Phases) -> Result<Snapshot> {
        let _ = self.jobs.send(Job::Last(Box::new(capture), spaces, phases));
        loop {
            match self.done().await? {
                Done::Last(snapshot) => {
                    let failed = |message| anyhow!("the report could not be made ({message}); please report this");
                    return snapshot.map(|snapshot| *snapshot).map_err(failed);
                }
                Done::Failed { sequence, message } => {
                    log::error!("report {sequence} could not be made ({message}); please report this");
                }
                Done::Report { .. } => {}
            }
        }
    }
}

impl Desk<'_> {
    /// Works until the trace is over.
    pub fn work(mut self) {
        let mut shows = true;
        while let Ok(job) = self.jobs.recv() {
            let done = match job {
                Job::Status(status) => {
                    // After one panic status lines stop: each later one would panic, too.
                    shows = shows && guarded(|| self.sink.show(&status)).is_ok();
                    continue;
                }
                Job::Close => {
                    shows = shows && guarded(|| self.sink.close()).is_ok();
                    continue;
                }
                Job::Report(capture, mut spaces, phases) => {
                    let sequence = capture.sequence;
                    guarded(|| self.report(*capture, &mut spaces, phases))
                        .unwrap_or_else(|message| Done::Failed { sequence, message })
                }
                Job::Last(capture, mut spaces, phases) => {
                    Done::Last(guarded(|| self.last(*capture, &mut spaces, phases)))
                }
            };
            // Nobody waits any more: the trace has failed.
            if self.done.send_blocking(done).is_err() {
                return;
            }
        }
    }

    fn report(&mut self, capture: Capture, spaces: &mut Spaces, mut phases: Phases) -> Done {
        let snapshot = self.name(capture, spaces, &mut phases);
        let over = matches!(self.sink.take(&snapshot), ControlFlow::Break(()));
        phases.done("writing");
        phases.over();
        Done::Report { over }
    }

    fn last(&mut self, capture: Capture, spaces: &mut Spaces, mut phases: Phases) -> Box<Snapshot> {
        let snapshot = self.name(capture, spaces, &mut phases);
        for note in self.namer.notes() {
            log::info!("{note}");
        }
        // The trace is over: a break changes nothing.
        let _ = self.sink.take(&snapshot);
        phases.done("writing");
        phases.over();
        Box::new(snapshot)
    }

    fn name(&mut self, capture: Capture, spaces: &mut Spaces, phases: &mut Phases) -> Snapshot {
        #[cfg(debug_assertions)]
        misbehave(capture.sequence);
        self.namer.name(capture, spaces, phases)
    }
}

/// Does the work; what the panic said, where it panics.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| workers::message(panic.as_ref()))
}

/// Panics where `LEAKTRACE_REPORT_PANICS` is this report's number: so that tests see what becomes of the trace then.
#[cfg(debug_assertions)]
fn misbehave(sequence: u64) {
    let named = std::env::var("LEAKTRACE_REPORT_PANICS").is_ok_and(|named| named == sequence.to_string());
    assert!(!named, "a test wants it");
}
