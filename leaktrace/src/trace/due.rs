//! Reports that are due, and the leak check before each of them.
//!
//! In: the wish for a report, and the command. Out: what leak checks found, and the report ordered.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::checking::{Checking, Happened};
use super::phases::Phases;
use super::reports::Reports;
use super::verdict::findings::Findings;
use super::{Over, Trace};
use crate::config::{Config, NoChecks};
use crate::model::Pid;
use crate::process::launch::{Event, Held, Launched};

/// How long the last report waits for the other threads of a command that exits, and how often it looks for them.
const ALONE_WITHIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long a command that is held at its end waits for other processes to be judged.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// How often events are handled while the last leak check waits for searches.
const ATTEND: Duration = Duration::from_millis(20);

/// A report that is being prepared.
pub struct Due {
    /// With a leak check, or why without one where that was asked for.
    pub with_check: Result<(), Option<NoChecks>>,
    /// The leak check, once it has begun.
    pub checking: Option<Checking>,
}

impl Due {
    /// One that the user asks for.
    pub fn asked_for(config: &Config) -> Self {
        let with_check = config.leak_check.map(|_| ()).map_err(|why_not| match why_not {
            // Who knows needs no word of it.
            NoChecks::Declined => None,
            NoChecks::Sampled | NoChecks::BySampler | NoChecks::InWindows | NoChecks::Unnamed => Some(why_not),
        });
        Self { with_check, checking: None }
    }

    /// One that is due by time.
    pub fn at_interval(config: &Config) -> Self {
        let is_wanted = config.leak_check.is_ok_and(|plan| plan.at_intervals);
        Self { with_check: is_wanted.then_some(()).ok_or(None), checking: None }
    }
}

/// What comes next in the leak check of a report that is due; for ever nothing where there is none.
pub async fn happens(due: &mut Option<Due>) -> Happened {
    match due.as_mut().and_then(|due| due.checking.as_mut()) {
        Some(checking) => checking.happens().await,
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
    /// Goes on with a report that is due, and has it made as soon as its leak check is done.
    pub(super) fn go_on_with(
        &mut self,
        due: &mut Option<Due>,
        launched: Option<&Launched>,
        reports: &mut Reports,
    ) -> Result<()> {
        let Some(wanted) = due else { return Ok(()) };
        if let Err(why_not) = wanted.with_check {
            *due = None;
            let warnings = why_not.iter().map(ToString::to_string).collect();
            return self.report_by_now(Findings { warnings, ..Findings::default() }, reports);
        }
        let checking = wanted.checking.get_or_insert_with(|| self.begin_checking(false));
        if !self.go_on(checking, launched) {
            return Ok(());
        }
        let findings = due.take().and_then(|due| due.checking).map_or_else(Findings::default, |done| done.findings);
        self.report_by_now(findings, reports)
    }

    /// Has a report made of how things stand, with what leak checks found.
    fn report_by_now(&mut self, findings: Findings, reports: &mut Reports) -> Result<()> {
        let mut phases = Phases::of(format!("report {}", self.sequence + 1));
        let (capture, spaces) = self.read(false, findings)?;
        phases.done("reading the tables");
        reports.order(capture, spaces, phases);
        Ok(())
    }

    /// Judges blocks for the last report: those of a command at its end, if that has come meanwhile.
    pub(super) async fn judge_at_last(&mut self, over: &mut Over, mut launched: Option<&mut Launched>) -> Findings {
        if self.config.leak_check.is_err() {
            return Findings::default();
        }
        let mut checking = self.begin_checking(true);
        if let Over::Exiting(held) = &*over {
            self.judge_command_at_end(held, &mut checking).await;
        }
        let mut held_since = matches!(over, Over::Exiting(_)).then(Instant::now);
        let mut attend = interval(ATTEND);
        attend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.go_on(&mut checking, launched.as_deref()) {
            let runs = matches!(over, Over::Done);
            tokio::select! {
                biased;
                event = next_event(&mut launched), if runs && launched.is_some() => match event {
                    Event::Stopped(held) => self.command_stopped(&mut checking, held),
                    // Another program, of which there is no time to trace anything.
                    Event::Held(held) => held.release(),
                    Event::Exiting(held) => {
                        // What it has freed since recording ended is still among its blocks: what was begun before counts.
                        if !self.has_halted {
                            self.judge_command_at_end(&held, &mut checking).await;
                        }
                        held_since = Some(Instant::now());
                        *over = Over::Exiting(held);
                    }
                    Event::Ended(_) => {
                        if let Some(launched) = launched.take() {
                            checking.ended(launched.pid());
                        }
                    }
                },
                happened = checking.happens() => self.happened(&mut checking, happened, launched.as_deref()),
                _ = attend.tick() => self.take_in(),
            }
            if held_since.is_some_and(|since| since.elapsed() > OTHERS_WITHIN) {
                checking.give_up("COMMAND is to end, and waits for no other process");
            }
        }
        checking.findings
    }

    /// Judges the blocks of a command that is held at its end, and not as those of a process that runs.
    async fn judge_command_at_end(&mut self, held: &Held, checking: &mut Checking) {
        let Some(pid) = self.target.pids.first().copied() else { return };
        checking.leave_out(pid);
        until_alone(held, pid).await;
        let Findings { mut judged, mut warnings } = self.judge_at_end(held, pid);
        // As of an earlier moment.
        checking.findings.judged.retain(|earlier| judged.iter().all(|judged| judged.life.slot != earlier.life.slot));
        checking.findings.judged.append(&mut judged);
        checking.findings.warnings.append(&mut warnings);
    }
}

/// What happens to the command next; nothing, where there is none.
async fn next_event(launched: &mut Option<&mut Launched>) -> Event {
    match launched {
        Some(launched) => launched.next_event().await,
        None => std::future::pending().await,
    }
}
