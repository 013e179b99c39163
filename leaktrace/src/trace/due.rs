//! Reports that are due: before one with a leak check, the command has to be stopped, which a thread of ours does.
//!
//! In: the wish for a report, and the command. Out: what leak checks found, and the report ordered.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::{sleep, timeout, timeout_at};

use super::leak_check::{Findings, Prepared};
use super::phases::Phases;
use super::reports::Reports;
use super::waiting::until;
use super::{Over, Trace};
use crate::model::Pid;
use crate::process::launch::{Event, Held, Launched};

/// How long the command may take to stop for the last leak check: as long as a process that is named.
pub const STOPPED_WITHIN: Duration = Duration::from_millis(500);
/// How long the last report waits for the other threads of a command that exits, and how often it looks for them.
const ALONE_WITHIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A report that is being prepared.
pub struct Due {
    /// With a leak check.
    pub with_check: bool,
    /// The command was asked to stop for that.
    pub stopping: Option<Stopping>,
}

/// A command that was asked to stop.
pub struct Stopping {
    /// Its id.
    pub pid: Pid,
    /// What was read before.
    pub prepared: Prepared,
    /// When it must have stopped.
    pub by: Instant,
}

/// Waits until a command that was asked to stop should have, and gives up the report that is due for that; for ever where none was.
pub async fn late_to_stop(due: &mut Option<Due>) -> Pid {
    let by = due.as_ref().and_then(|due| due.stopping.as_ref()).map(|stopping| stopping.by);
    until(by).await;
    match due.take().and_then(|due| due.stopping) {
        Some(stopping) => stopping.pid,
        None => std::future::pending().await,
    }
}

/// Waits until the other threads of a process that exits have ended, so that their registers are known.
async fn until_alone(held: &Held, pid: Pid) {
    let waited = timeout(ALONE_WITHIN, async {
        while !held.is_alone(pid) {
            sleep(LOOK_AGAIN).await;
        }
    });
    if waited.await.is_err() {
        log::warn!("threads of process {pid} have not ended {} ms after it began to exit", ALONE_WITHIN.as_millis());
    }
}

impl Trace {
    /// Has a report made of how things stand, with what leak checks found.
    pub(super) fn report_by_now(&mut self, findings: Findings, reports: &mut Reports) -> Result<()> {
        let mut phases = Phases::of(format!("report {}", self.sequence + 1));
        let (capture, spaces) = self.read(false, findings)?;
        phases.done("reading the tables");
        reports.order(capture, spaces, phases);
        Ok(())
    }

    /// Judges blocks for the last report: those of a command at its end, if that has come meanwhile.
    pub(super) async fn judge_at_last(&mut self, over: &mut Over, launched: Option<&mut Launched>) -> Findings {
        let Some(launched) = launched.filter(|_| self.config.leak_check.is_some()) else {
            return self.judge_running(true);
        };
        let pid = launched.pid();
        if let Over::Done = over {
            let prepared = match self.prepare_command(pid) {
                Ok(prepared) => prepared,
                Err(none) => return none,
            };
            launched.ask_to_stop();
            let deadline = Instant::now() + STOPPED_WITHIN;
            loop {
                match timeout_at(deadline.into(), launched.next_event()).await {
                    Ok(Event::Stopped(held)) => return self.judge_command(prepared, held, true),
                    // Another program, of which there is no time to trace anything.
                    Ok(Event::Held(held)) => held.release(),
                    Ok(Event::Exiting(held)) => {
                        *over = Over::Exiting(held);
                        break;
                    }
                    Ok(Event::Ended(_)) => return Findings::none_for_ended(pid),
                    Err(_) => return Findings::none_for_late(pid, STOPPED_WITHIN),
                }
            }
        }
        let Over::Exiting(held) = over else { return Findings::default() };
        until_alone(held, pid).await;
        self.judge_at_end(held, pid)
    }
}
