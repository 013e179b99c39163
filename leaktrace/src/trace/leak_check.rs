//! Which processes are judged, and what stands in the way of that.
//!
//! In: a process that is about to end, or that is stopped for it. Out: its blocks with what was found of each.

use std::error::Error;
use std::io;
use std::time::Duration;

use leaktrace_common::abi::{PROCESS_ALIVE, PROCESS_EXITED, Process};

use super::Trace;
use super::untraced::hides_blocks;
use super::verdict::findings::{Findings, Judged, Pass};
use super::verdict::life::{ENDED, Life};
use super::verdict::moment::Moment;
use super::verdict::passes::Passes;
use super::verdict::search::{Search, Task};
use super::verdict::standstill::{Searchers, Standstill};
use crate::analysis::reachability::{Heuristics, Overlay};
use crate::config::Whom;
use crate::kernel::drain::{self, TabledBlock};
use crate::kernel::in_flight::InFlight;
use crate::kernel::inventory;
use crate::model::Pid;
use crate::process::facts;
use crate::process::launch::Held;
use crate::process::registers::StoppedThread;

impl Trace {
    /// Judges the blocks of a command that is held at its end.
    pub(super) fn judge_at_end(&mut self, held: &Held, pid: Pid) -> Findings {
        let mut findings = Findings::default();
        if self.config.leak_check.is_ok() {
            // Threads that ended with the command are told by events.
            self.take_in();
            let ended = self.ended_threads.clone();
            let threads: Vec<StoppedThread> = held.thread().into_iter().cloned().chain(ended).collect();
            let life = match self.life(pid) {
                Ok(Some(life)) => life,
                Ok(None) => return findings,
                Err(why_not) => {
                    findings.add_none(pid, &why_not);
                    return findings;
                }
            };
            let blocks = inventory::blocks(&self.kernel, life.slot);
            let in_flight = self.in_flight_at_end(&life, &threads);
            match self.judge(&life, (blocks, in_flight), &threads, || Duration::ZERO) {
                Ok(judged) => findings.add(pid, judged),
                Err(why_not) => findings.add_none(pid, &why_not),
            }
        }
        findings
    }

    /// Begins to search the memory of a process that goes on.
    ///
    /// # Errors
    /// There is no thread for that.
    pub(super) fn begin_search(
        &self,
        life: Life,
        moment: Moment,
        (blocks, in_flight): (Vec<TabledBlock>, InFlight),
        passes: &mut Passes,
    ) -> io::Result<Search> {
        Search::begin(Task {
            life: Life { since_start: life.since_start && !self.has_lost_blocks(), ..life },
            moment,
            blocks,
            space: self.processes.space_in(life.slot).cloned(),
            heuristics: self.heuristics(),
            is_tracked: passes.tracked.is_some(),
            in_flight,
            earlier: passes.take_layer(),
        })
    }

    /// What searches of a process that ran have found.
    pub(super) fn judge_by(&mut self, life: &Life, pass: Pass) -> Judged {
        let Pass { check, blocks, mut holding } = pass;
        self.second_look.at_check((life.slot, life.first_seen), check.mode, &blocks, &mut holding.judgement.kinds);
        Judged { life: *life, check, blocks, holding }
    }

    /// The traced processes beside the named ones that are judged, those that hold most first.
    ///
    /// Another leaktrace is not among them, which `findings` then says. It may have a process stopped, which would wait for us, too. And
    /// it may be about to stop us: then each would wait for the other, and both for ever.
    pub(super) fn others_to_judge(&self, named: &[Pid], findings: &mut Findings) -> Vec<Pid> {
        let Ok(plan) = self.config.leak_check else { return Vec::new() };
        let reported: Vec<Pid> = self.processes.reported_alive().into_iter().map(|(_, pid)| pid).collect();
        let is_wanted = |life: &Process| {
            let pid = Pid(life.tgid);
            life.state == PROCESS_ALIVE && life.live_bytes > 0 && reported.contains(&pid) && !named.contains(&pid)
        };
        let lives = drain::lives(&self.kernel).into_iter().map(|(_, life)| life);
        let mut others: Vec<_> = lives.filter(is_wanted).collect();
        others.sort_by_key(|life| std::cmp::Reverse(life.live_bytes));
        let mut chosen = Vec::new();
        for pid in others.iter().map(|life| Pid(life.tgid)) {
            if chosen.len() == plan.most_others as usize {
                break;
            }
            if facts::is_leaktrace(pid) {
                findings.add_none(pid, &"it is another leaktrace; name it by --pid to have it judged all the same");
            } else {
                chosen.push(pid);
            }
        }
        chosen
    }

    fn heuristics(&self) -> Heuristics {
        self.config.leak_check.map_or(Heuristics::ALL, |plan| plan.heuristics)
    }

    /// The life that a process leads now; `None` if it has not allocated anything in it.
    ///
    /// # Errors
    /// Why it cannot be judged, a part of a sentence.
    pub(super) fn life(&mut self, pid: Pid) -> Result<Option<Life>, Box<dyn Error>> {
        self.take_in();
        let lives = drain::lives(&self.kernel);
        let mut of_process = lives.iter().rev().filter(|(_, life)| life.tgid == pid.0);
        let Some((slot, life)) = of_process.clone().find(|(_, life)| life.state == PROCESS_ALIVE) else {
            return if of_process.any(|(_, life)| life.state == PROCESS_EXITED) { Err(ENDED.into()) } else { Ok(None) };
        };
        let since_start = life.untracked_frees <= life.thread_end_frees && self.knows_all_blocks(pid);
        Ok(Some(Life { pid, slot: *slot, first_seen: life.seen_ns, since_start }))
    }

    /// Judges the blocks, given by address, of a process of which nothing runs, and those of its threads that are there; one of them
    /// has not ended. `read` is called as soon as the process may run again.
    ///
    /// # Errors
    /// Why it could not, a part of a sentence.
    pub(super) fn judge(
        &mut self,
        life: &Life,
        (blocks, in_flight): (Vec<TabledBlock>, InFlight),
        threads: &[StoppedThread],
        read: impl FnOnce() -> Duration,
    ) -> Result<Judged, Box<dyn Error>> {
        let Life { pid, slot, first_seen, since_start } = *life;
        let Some(thread) = threads.first() else { return Err("it has no thread any more".into()) };
        let since_start = since_start && !self.has_lost_blocks();
        let still = Standstill {
            pid,
            memory: thread.tid,
            threads,
            space: self.processes.space_in(slot),
            since_start,
            is_at_rest: true,
            in_flight: &in_flight,
            overlay: &Overlay::default(),
            then: None,
            heuristics: self.heuristics(),
            searchers: Searchers::All,
        };
        log::debug!("process {pid}: {} blocks, since its start {since_start}, {} threads", blocks.len(), threads.len());
        let Pass { check, mut holding, blocks } = still.search(blocks, None, read)?.judge(still.space);
        self.second_look.at_check((slot, first_seen), check.mode, &blocks, &mut holding.judgement.kinds);
        Ok(Judged { life: *life, check, blocks, holding })
    }

    /// What the threads of a command were in the midst of that is held at its end.
    fn in_flight_at_end(&self, life: &Life, threads: &[StoppedThread]) -> InFlight {
        let has_left = self.kernel.processes.read(life.slot).is_some_and(|process| process.abandoned_calls > 0);
        let ended: Vec<Pid> = threads.iter().map(|thread| thread.tid).collect();
        if has_left { InFlight::at_end(&self.kernel, life.pid, &ended) } else { InFlight::of(&self.kernel, life.pid) }
    }

    /// Whether every block that a process has made must stand in the tables, if none was lost.
    fn knows_all_blocks(&mut self, pid: Pid) -> bool {
        let is_launched = matches!(self.config.whom, Whom::Command(_)) && self.target.pids.first() == Some(&pid);
        let is_partly = self.list_untraced().iter().any(|process| process.pid == pid && hides_blocks(process));
        let is_blind = self.options.filters_sizes() || self.lost_records > self.made_up_records;
        is_launched && !is_partly && !is_blind
    }

    fn has_lost_blocks(&self) -> bool {
        let lost = self.kernel.losses();
        lost.allocs_dropped + lost.wide_dropped + lost.returns_missed + lost.threads_dropped + lost.events_lost > 0
    }
}
