//! Which processes are judged, and what stands in the way of that.
//!
//! In: a process that is about to end, or that is stopped for it. Out: its blocks with what was found of each.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use leaktrace_common::abi::PROCESS_ALIVE;
use procfs::ProcError;
use procfs::WithCurrentSystemInfo;
use procfs::process::Process;

use super::Trace;
use super::holding::Holding;
use super::standstill::Standstill;
use crate::config::{CheckPlan, Whom};
use crate::kernel::drain::{self, TabledBlock};
use crate::kernel::inventory::{self, Inventory};
use crate::model::{LeakCheck, Pid, RawBlock, Reachability};
use crate::process::launch::Held;
use crate::process::registers::StoppedThread;
use crate::process::stop::{Limits, Stopped};

/// What was found of the blocks of one life.
#[derive(Debug)]
pub struct Judged {
    /// The life's slot.
    pub slot: u32,
    /// How they were judged.
    pub check: LeakCheck,
    /// By address.
    blocks: Vec<TabledBlock>,
    /// What was found of them, and of who holds them.
    holding: Holding,
}

impl Judged {
    /// Replaces the index of each block's site in the programs' table by its place among a capture's sites.
    pub fn place(&mut self, place: impl Fn(u32) -> Option<usize>) {
        // What has no place is in no report.
        self.blocks.iter_mut().for_each(|block| block.site = place(block.site).map_or(u32::MAX, |place| place as u32));
    }

    /// Who holds the blocks, to be told of the process at this index of a capture.
    #[must_use]
    pub fn into_holding(self, process: usize) -> Holding {
        // In the order of addresses, as the search has them.
        Holding { sites: self.blocks.iter().map(|block| block.site).collect(), process, ..self.holding }
    }

    /// What was found of a block of a capture.
    #[must_use]
    pub fn kind(&self, block: &RawBlock) -> Option<Reachability> {
        let place = self.holding.blocks.find(block.address.0).filter(|(_, offset)| *offset == 0)?.0 as usize;
        let known = self.blocks[place];
        let is_same = known.site as usize == block.site && known.size == block.size && known.time == block.time;
        is_same.then(|| self.holding.judgement.kinds[place])
    }
}

/// What leak checks found, and why some of them found nothing, a sentence each.
#[derive(Debug, Default)]
pub struct Findings {
    /// By life.
    pub judged: Vec<Judged>,
    /// What the report must say.
    pub warnings: Vec<String>,
}

/// A held thread that goes on when this is dropped, whatever came in between.
struct GoesOn(Option<Held>);

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Held::release);
    }
}

impl Findings {
    /// None of a process, for a reason.
    fn none(pid: Pid, why_not: &dyn Display) -> Self {
        Self { judged: Vec::new(), warnings: vec![no_verdict(pid, why_not)] }
    }

    /// Those of a command that ended unseen.
    pub fn none_for_ended(pid: Pid) -> Self {
        Self::none(pid, &ENDED)
    }

    /// Those of a command that was asked to stop and did not.
    pub fn none_for_late(pid: Pid, within: Duration) -> Self {
        Self::none(pid, &format!("it did not stop within {} ms", within.as_millis()))
    }

    fn add(&mut self, found: Result<Judged, String>) {
        match found {
            Ok(found) => self.judged.push(found),
            Err(why_not) => self.warnings.push(why_not),
        }
    }
}

impl Trace {
    /// Judges the blocks of a command that is held at its end.
    pub(super) fn judge_at_end(&mut self, held: &Held, pid: Pid) -> Findings {
        let mut findings = Findings::default();
        if self.config.leak_check.is_some() {
            // Threads that ended with the command are told by events.
            self.take_in();
            let ended = self.ended_threads.clone();
            let threads: Vec<StoppedThread> = held.thread().into_iter().cloned().chain(ended).collect();
            let judged = self.life(pid).and_then(|life| {
                let blocks = inventory::blocks(&self.kernel, life.slot);
                self.judge(&life, blocks, &threads, || Duration::ZERO)
            });
            findings.add(judged.map_err(|why_not| no_verdict(pid, &why_not)));
        }
        findings
    }

    /// Stops the named processes, one after the other, and judges their blocks. If this is the last time, nothing is recorded any
    /// more from the moment when the last of them is stopped.
    pub(super) fn judge_running(&mut self, is_last: bool) -> Findings {
        let mut findings = Findings::default();
        if self.config.leak_check.is_none() {
            return findings;
        }
        let pids = self.target.pids.clone();
        for (place, pid) in pids.iter().enumerate() {
            let halts = is_last && place + 1 == pids.len();
            let prepared = self.prepare_to_stop(*pid);
            let judged = prepared.and_then(|prepared| self.stop_and_judge(prepared, None, halts));
            findings.add(judged.map_err(|why_not| no_verdict(*pid, &why_not)));
        }
        findings
    }

    /// Judges the blocks of the command, which was prepared; `held` is its thread that was stopped meanwhile, where one is traced,
    /// and goes on as soon as its memory was read.
    pub(super) fn judge_command(&mut self, prepared: Prepared, held: Option<Held>, is_last: bool) -> Findings {
        let mut findings = Findings::default();
        let pid = prepared.life.pid;
        let judged = self.stop_and_judge(prepared, held, is_last);
        findings.add(judged.map_err(|why_not| no_verdict(pid, &why_not)));
        findings
    }

    /// Finds out and reads what need not be read while a process is stopped, if its stop will not take too long.
    ///
    /// # Errors
    /// Why it is not to be stopped, as findings.
    pub(super) fn prepare_command(&mut self, pid: Pid) -> Result<Prepared, Findings> {
        self.prepare_to_stop(pid).map_err(|why_not| Findings::none(pid, &why_not))
    }

    fn prepare_to_stop(&mut self, pid: Pid) -> Result<Prepared, Box<dyn Error>> {
        let Some(CheckPlan { max_pause, .. }) = self.config.leak_check else { return Err("none was asked for".into()) };
        let estimate = Estimate::of(pid).map_err(|error| match error {
            ProcError::NotFound(_) => ENDED.to_owned(),
            other => other.to_string(),
        });
        let expected = estimate?.pause();
        if expected > max_pause {
            return Err(TooLong { expected, max_pause }.into());
        }
        let life = self.life(pid)?;
        let inventory = Inventory::of(&self.kernel, life.slot);
        Ok(Prepared { life, inventory, hold_at_most: longest_stop(max_pause) })
    }

    fn stop_and_judge(
        &mut self,
        Prepared { life, inventory, hold_at_most }: Prepared,
        held: Option<Held>,
        halts: bool,
    ) -> Result<Judged, Box<dyn Error>> {
        let (pid, held) = (life.pid, held.map(|held| GoesOn(Some(held))));
        let command = held.as_ref().and_then(|held| held.0.as_ref());
        let began = command.map(Held::since);
        let limits = Limits { hold_at_most, ..Limits::default() };
        let stopped = match command.and_then(Held::thread) {
            Some(thread) => Stopped::stop_beside(thread.clone(), pid, limits)?,
            None => Stopped::stop(pid, limits)?,
        };
        if halts && let Err(error) = self.kernel.halt() {
            // What it does afterwards is recorded, and not judged.
            log::debug!("{error:#}");
        }
        let threads = stopped.threads().to_vec();
        let mut was_cut_short = false;
        let blocks = inventory.up_to_date(&self.kernel);
        let judged = self.judge(&life, blocks, &threads, || {
            let pause = stopped.release();
            drop(held);
            was_cut_short = pause.cut_short;
            began.map_or(pause.length, |began| began.elapsed())
        })?;
        if was_cut_short {
            let ms = hold_at_most.as_millis();
            return Err(
                format!("it went on after {ms} ms, before all of its memory was read; raise --max-pause").into()
            );
        }
        Ok(judged)
    }

    /// The life that a process leads now.
    ///
    /// # Errors
    /// Why it cannot be judged, a part of a sentence.
    fn life(&mut self, pid: Pid) -> Result<Life, Box<dyn Error>> {
        self.take_in();
        let lives = drain::lives(&self.kernel);
        let life = lives.iter().rev().find(|(_, life)| life.tgid == pid.0 && life.state == PROCESS_ALIVE);
        let Some((slot, life)) = life else { return Err("nothing of it was recorded".into()) };
        let since_start = life.untracked_frees <= life.thread_end_frees && self.knows_all_blocks(pid);
        Ok(Life { pid, slot: *slot, first_seen: life.seen_ns, since_start })
    }

    /// Judges the blocks, given by address, of a process of which nothing runs, and those of its threads that are there; one of them
    /// has not ended. `read` is called as soon as the process may run again.
    ///
    /// # Errors
    /// Why it could not, a part of a sentence.
    fn judge(
        &mut self,
        life: &Life,
        blocks: Vec<TabledBlock>,
        threads: &[StoppedThread],
        read: impl FnOnce() -> Duration,
    ) -> Result<Judged, Box<dyn Error>> {
        let Life { pid, slot, first_seen, since_start } = *life;
        let Some(thread) = threads.first() else { return Err("it has no thread any more".into()) };
        let since_start = since_start && !self.has_lost_blocks();
        let still = Standstill { pid, tid: thread.tid, threads, space: self.processes.space_in(slot), since_start };
        log::debug!("process {pid}: {} blocks, since its start {since_start}, {} threads", blocks.len(), threads.len());
        let (check, mut holding) = still.check(&blocks, read)?;
        self.second_look.at_check((slot, first_seen), &blocks, &mut holding.judgement.kinds);
        Ok(Judged { slot, check, blocks, holding })
    }

    /// Whether every block that a process has made must stand in the tables, if none was lost.
    fn knows_all_blocks(&mut self, pid: Pid) -> bool {
        let is_launched = matches!(self.config.whom, Whom::Command(_)) && self.target.pids.first() == Some(&pid);
        let is_partly = self.list_untraced().iter().any(|process| process.pid == pid);
        let is_blind = self.options.filters_sizes() || self.lost_records > self.made_up_records;
        is_launched && !is_partly && !is_blind
    }

    fn has_lost_blocks(&self) -> bool {
        let lost = self.kernel.losses();
        lost.allocs_dropped + lost.wide_dropped + lost.returns_missed + lost.threads_dropped + lost.events_lost > 0
    }
}

/// A process that is about to be judged, and its blocks before it was stopped.
pub struct Prepared {
    life: Life,
    inventory: Inventory,
    /// After this time it runs again, judged or not.
    hold_at_most: Duration,
}

/// How long a stop may last at worst: no estimate knows how many of a heap's words are pointers.
fn longest_stop(max_pause: Duration) -> Duration {
    max_pause.saturating_mul(10).max(Duration::from_secs(2))
}

/// A life that is judged.
struct Life {
    pid: Pid,
    slot: u32,
    first_seen: u64,
    /// Every block that it has was recorded, if none was lost.
    since_start: bool,
}

/// Why there is no verdict on one that is gone.
const ENDED: &str = "it ended before it could be stopped";

/// A stop that takes longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("it would be stopped for about {} ms, longer than --max-pause {} ms; raise that", .expected.as_millis(), .max_pause.as_millis())]
struct TooLong {
    expected: Duration,
    max_pause: Duration,
}

/// What the length of a stop depends on.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    resident_bytes: u64,
    threads: u64,
}

impl Estimate {
    fn of(pid: Pid) -> Result<Self, ProcError> {
        let stat = Process::new(pid.0.cast_signed())?.stat()?;
        Ok(Self { resident_bytes: stat.rss_bytes().get(), threads: stat.num_threads.unsigned_abs() })
    }

    /// On two cores 1 GB in a million blocks with four pointers each is searched in 0.55 s; fewer pointers take less. A thread is
    /// stopped in 23 us, and twice that is allowed.
    fn pause(self) -> Duration {
        let searching = Duration::from_nanos(self.resident_bytes * 3 / 5);
        let stopping = Duration::from_micros(self.threads * 50);
        Duration::from_millis(5) + searching + stopping
    }
}

fn no_verdict(pid: Pid, why: &dyn Display) -> String {
    format!("no verdict on the blocks of process {pid}: {why}")
}
