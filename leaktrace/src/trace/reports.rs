//! The thread that names what was captured and hands it to the sink: reading debug information may take seconds, writing a
//! report to a pipe as long as its reader likes, and meanwhile the trace must go on.
//!
//! In: captures, each with the address spaces as they were then. Out: snapshots to the sink, the last one to the trace as well.
//! One is made at a time: where the next is due before the last one is done, it is left out, and that is said.

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
}

/// What it has done.
pub enum Done {
    /// A report on the way.
    Report {
        /// Its number.
        sequence: u64,
        /// Whether the trace is to end, since nobody reads any more.
        over: bool,
    },
    /// How the trace stands was shown.
    Shown,
    /// The last one.
    Last(Box<Snapshot>),
    /// Making a report panicked, with this message.
    Failed(String),
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

    /// Whether anybody wants to see how the trace stands, and can now.
    pub fn wants_status(&self) -> bool {
        self.wants_status && !self.busy
    }

    /// Shows how the trace stands.
    pub fn show(&self, status: Status) {
        let _ = self.jobs.send(Job::Status(status));
    }

    /// Waits for the report that was ordered. May be cancelled.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn done(&mut self) -> Result<Done> {
        match self.done.recv().await {
            Ok(Done::Failed(message)) => Err(anyhow!("a report could not be made ({message}); please report this")),
            Ok(done) => {
                self.busy = false;
                Ok(done)
            }
            Err(_) => Err(anyhow!("the thread that makes reports has ended; please report this")),
        }
    }

    /// Has the last report made, after whatever is being made. Where `stop` is set meanwhile, it is made of what is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn last(mut self, capture: Capture, spaces: Spaces, phases: Phases) -> Result<Snapshot> {
        let _ = self.jobs.send(Job::Last(Box::new(capture), spaces, phases));
        loop {
            if let Done::Last(snapshot) = self.done().await? {
                return Ok(*snapshot);
            }
        }
    }
}

impl Desk<'_> {
    /// Works until the trace is over.
    pub fn work(mut self) {
        while let Ok(job) = self.jobs.recv() {
            let done = match job {
                Job::Status(status) => {
                    let shown = self.guarded(|desk| {
                        desk.sink.show(&status);
                        Done::Shown
                    });
                    match shown {
                        Done::Shown => continue,
                        failed => failed,
                    }
                }
                Job::Report(capture, spaces, phases) => self.guarded(|desk| desk.report(*capture, &spaces, phases)),
                Job::Last(capture, spaces, mut phases) => self.guarded(|desk| {
                    let snapshot = desk.namer.name(*capture, &spaces, &mut phases);
                    for note in desk.namer.notes() {
                        log::info!("{note}");
                    }
                    // Nothing is left to break off.
                    let _ = desk.sink.take(&snapshot);
                    phases.done("writing");
                    phases.over();
                    Done::Last(Box::new(snapshot))
                }),
            };
            // Nobody waits any more: the trace has failed.
            if self.done.send_blocking(done).is_err() {
                return;
            }
        }
    }

    fn report(&mut self, capture: Capture, spaces: &Spaces, mut phases: Phases) -> Done {
        let snapshot = self.namer.name(capture, spaces, &mut phases);
        let over = matches!(self.sink.take(&snapshot), ControlFlow::Break(()));
        phases.done("writing");
        phases.over();
        Done::Report { sequence: snapshot.sequence, over }
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Done) -> Done {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|panic| Done::Failed(workers::message(panic.as_ref())))
    }
}
