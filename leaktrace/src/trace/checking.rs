//! A leak check of several processes, one after the other, which waits in between for the command to stop and for searches.
//!
//! In: the wish for one. Out: what was found, when it is done. Meanwhile the trace goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Trace;
use super::stopping::{Looked, Prepared};
use super::verdict::findings::Findings;
use super::verdict::life::{ENDED, Life};
use super::verdict::passes::Passes;
use super::verdict::search::{Search, Searched};
use super::waiting::until;
use crate::model::Pid;
use crate::process::launch::{Held, Launched};

/// How long the command may take to stop: as long as a process that is named.
const STOPPED_WITHIN: Duration = Duration::from_millis(500);

/// How long one search may take: memory that runs may have to be asked for (userfaultfd), and not come.
const SEARCHED_WITHIN: Duration = Duration::from_mins(5);

/// A leak check that goes on.
pub struct Checking {
    /// Nothing is recorded any more when it is done.
    is_last: bool,
    /// Who is still to be judged.
    pids: VecDeque<(Pid, Passes)>,
    /// Who is judged now.
    current: Option<Current>,
    /// What was found so far.
    pub findings: Findings,
}

/// A process that is judged.
struct Current {
    pid: Pid,
    passes: Passes,
    waits: Waits,
}

/// What is waited for.
enum Waits {
    /// The command is to stop by then.
    Stop { prepared: Prepared, by: Instant },
    /// Memory is searched, until then at most.
    Search { life: Life, search: Search, by: Instant },
}

/// What has happened.
pub enum Happened {
    /// The command has not stopped in time.
    Late,
    /// A search is over.
    Searched(Box<Result<Searched, String>>),
}

impl Checking {
    /// Waits for what comes next, other than the command's stop; for ever where nothing is to come. May be cancelled.
    pub async fn happens(&mut self) -> Happened {
        match self.current.as_mut().map(|current| &mut current.waits) {
            Some(Waits::Stop { by, .. }) => {
                until(Some(*by)).await;
                Happened::Late
            }
            Some(Waits::Search { search, by, .. }) => tokio::select! {
                searched = search.done() => Happened::Searched(Box::new(searched)),
                () = until(Some(*by)) => Happened::Late,
            },
            None => std::future::pending().await,
        }
    }

    /// Leaves a process out, since what was found will be found otherwise.
    pub fn leave_out(&mut self, pid: Pid) {
        self.pids.retain(|(other, _)| *other != pid);
        self.current.take_if(|current| current.pid == pid);
    }

    /// Leaves out whoever is not judged yet, for a reason.
    pub fn give_up(&mut self, why_not: &str) {
        let current = self.current.take().map(|current| current.pid);
        let waiting = std::mem::take(&mut self.pids).into_iter().map(|(pid, _)| pid);
        for pid in current.into_iter().chain(waiting) {
            self.findings.add_none(pid, &why_not);
        }
    }

    /// Notes that a process has ended.
    pub fn ended(&mut self, pid: Pid) {
        let is_waiting = self.pids.iter().any(|(other, _)| *other == pid);
        if is_waiting || self.current.as_ref().is_some_and(|current| current.pid == pid) {
            self.leave_out(pid);
            self.findings.add_none(pid, &ENDED);
        }
    }
}

impl Trace {
    /// A leak check of the named processes and of those that hold most, none of which has begun.
    pub(super) fn begin_checking(&self, is_last: bool) -> Checking {
        let named = self.target.pids.clone();
        let mut findings = Findings::default();
        let pids = match self.config.leak_check {
            Ok(_) => named.iter().copied().chain(self.others_to_judge(&named, &mut findings)).collect(),
            Err(_) => Vec::new(),
        };
        let pids = pids.into_iter().map(|pid| (pid, Passes::default())).collect();
        Checking { is_last, pids, current: None, findings }
    }

    /// Goes on until there is something to wait for; whether all is done.
    pub(super) fn go_on(&mut self, checking: &mut Checking, launched: Option<&Launched>) -> bool {
        while checking.current.is_none() {
            let Some((pid, passes)) = checking.pids.pop_front() else { return true };
            self.stop_next(checking, pid, passes, launched);
        }
        false
    }

    /// Takes in that the command is stopped; `held` is its first thread, if that has not ended.
    pub(super) fn command_stopped(&mut self, checking: &mut Checking, held: Option<Held>) {
        match checking.current.take() {
            Some(Current { pid, passes, waits: Waits::Stop { prepared, .. } }) => {
                self.look(checking, pid, passes, prepared, held);
            }
            // Too late.
            other => {
                checking.current = other;
                held.into_iter().for_each(Held::release);
            }
        }
    }

    /// Takes in what has happened.
    pub(super) fn happened(&mut self, checking: &mut Checking, happened: Happened, launched: Option<&Launched>) {
        let Some(Current { pid, mut passes, waits }) = checking.current.take() else { return };
        let findings = &mut checking.findings;
        match (happened, waits) {
            (Happened::Late, Waits::Search { .. }) => {
                let within = SEARCHED_WITHIN.as_secs();
                findings.add_none(pid, &format!("its memory could not be searched within {within} s"));
            }
            (Happened::Late, Waits::Stop { .. }) => {
                if let Some(launched) = launched {
                    launched.call_stop_off();
                }
                findings.add_none(pid, &format!("it did not stop within {} ms", STOPPED_WITHIN.as_millis()));
            }
            (Happened::Searched(searched), Waits::Search { life, .. }) => match *searched {
                Err(why_not) => findings.add_none(pid, &why_not),
                Ok(searched) => match passes.add(searched) {
                    Some(pass) => findings.add(pid, self.judge_by(&life, pass)),
                    None => self.stop_next(checking, pid, passes, launched),
                },
            },
            // Nothing is searched then.
            (Happened::Searched(_), Waits::Stop { .. }) => {}
        }
    }

    /// Stops a process, or asks for that where another thread of ours must.
    fn stop_next(&mut self, checking: &mut Checking, pid: Pid, mut passes: Passes, launched: Option<&Launched>) {
        match self.prepare_to_stop(pid, &mut passes) {
            Err(why_not) => checking.findings.add_none(pid, &why_not),
            Ok(None) => {}
            Ok(Some(prepared)) => match launched.filter(|launched| launched.pid() == pid) {
                Some(launched) => {
                    launched.ask_to_stop();
                    let by = Instant::now() + STOPPED_WITHIN;
                    checking.current = Some(Current { pid, passes, waits: Waits::Stop { prepared, by } });
                }
                None => self.look(checking, pid, passes, prepared, None),
            },
        }
    }

    fn look(&mut self, checking: &mut Checking, pid: Pid, mut passes: Passes, prepared: Prepared, held: Option<Held>) {
        let halts = checking.is_last && checking.pids.is_empty();
        match self.stop_and_look(prepared, &mut passes, held, halts) {
            Ok(Looked::Judged(judged)) => checking.findings.add(pid, *judged),
            Ok(Looked::ToSearch(life, moment, blocks, in_flight)) => {
                passes.stopped_for(moment.pause);
                match self.begin_search(life, *moment, (blocks, in_flight), &mut passes) {
                    Ok(search) => {
                        let by = Instant::now() + SEARCHED_WITHIN;
                        checking.current = Some(Current { pid, passes, waits: Waits::Search { life, search, by } });
                    }
                    Err(why_not) => checking.findings.add_none(pid, &why_not),
                }
            }
            Ok(Looked::Untracked) => checking.pids.push_front((pid, passes)),
            Err(why_not) => checking.findings.add_none(pid, &why_not),
        }
    }
}
