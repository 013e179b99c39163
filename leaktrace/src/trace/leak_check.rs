//! Which processes are judged at the last report, and what stands in the way of that.
//!
//! In: a process that is about to end, or that is stopped for it. Out: its blocks with what was found of each.

use std::fmt::Display;
use std::time::Duration;

use leaktrace_common::abi::PROCESS_ALIVE;
use procfs::ProcError;
use procfs::WithCurrentSystemInfo;
use procfs::process::Process;

use super::holding::Holding;
use super::standstill::{KnownBlock, Standstill};
use super::{Over, Trace};
use crate::config::Whom;
use crate::kernel::drain::{self, Clock};
use crate::model::{LeakCheck, Pid, RawBlock, Reachability};
use crate::process::launch::Launched;
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
    blocks: Vec<KnownBlock>,
    /// What was found of who holds them.
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
        // Faster than a search in ten million blocks.
        let (place, _) = self.holding.blocks.find(block.address.0).filter(|(_, offset)| *offset == 0)?;
        let known = self.blocks[place as usize];
        (known.site as usize == block.site && known.size == block.size).then_some(known.kind)
    }
}

impl Trace {
    /// Judges the blocks of the processes that were named, at the last report. Those that run are stopped meanwhile, and nothing
    /// is recorded any more from then on.
    pub(super) fn judge_at_end(&mut self, over: &Over, launched: Option<&Launched>) -> Vec<Judged> {
        let Some(max_pause) = self.config.leak_check else { return Vec::new() };
        // Threads that ended with the command are told by events.
        self.take_in();
        let found = match (over, launched) {
            (Over::Exiting(held), Some(launched)) => {
                let ended = self.ended_threads.clone();
                let threads: Vec<StoppedThread> = held.exiting().into_iter().cloned().chain(ended).collect();
                vec![self.judge(launched.pid(), &threads, || Duration::ZERO)]
            }
            _ => self.judge_running(max_pause),
        };
        let mut judged = Vec::new();
        for found in found {
            match found {
                Ok(found) => judged.push(found),
                Err(why_not) => self.warnings.push(why_not),
            }
        }
        judged
    }

    /// Stops the named processes and judges their blocks.
    fn judge_running(&mut self, max_pause: Duration) -> Vec<Result<Judged, String>> {
        let pids = self.target.pids.clone();
        let stop = |pid: &Pid| {
            let expected = Estimate::of(*pid).map_err(|error| no_verdict(*pid, &error))?.pause();
            if expected > max_pause {
                return Err(no_verdict(*pid, &TooLong { expected, max_pause }));
            }
            Stopped::stop(*pid, Limits::default()).map_err(|error| no_verdict(*pid, &error))
        };
        let stopped: Vec<_> = pids.iter().map(stop).collect();
        // What they do afterwards is in no report.
        if let Err(error) = self.kernel.halt() {
            log::debug!("{error:#}");
        }
        let judge = |(pid, stopped): (Pid, Result<Stopped, String>)| {
            let stopped = stopped?;
            let threads = stopped.threads().to_vec();
            let mut was_cut_short = false;
            let judged = self.judge(pid, &threads, || {
                let pause = stopped.release();
                was_cut_short = pause.cut_short;
                pause.length
            })?;
            if was_cut_short {
                return Err(no_verdict(pid, &"it went on before all of its memory was read"));
            }
            Ok(judged)
        };
        pids.into_iter().zip(stopped).map(judge).collect()
    }

    /// Judges the blocks of a process of which nothing runs, given those of its threads that are there; one of them has not
    /// ended. `read` is called as soon as the process may run again.
    ///
    /// # Errors
    /// Why it could not, a sentence.
    pub(super) fn judge(
        &mut self,
        pid: Pid,
        threads: &[StoppedThread],
        read: impl FnOnce() -> Duration,
    ) -> Result<Judged, String> {
        let Some(thread) = threads.first() else { return Err(no_verdict(pid, &"it has no thread any more")) };
        let lives = drain::lives(&self.kernel);
        let life = lives.iter().rev().find(|(_, life)| life.tgid == pid.0 && life.state == PROCESS_ALIVE);
        let Some((slot, life)) = life else { return Err(no_verdict(pid, &"nothing of it was recorded")) };
        let mut blocks = self.blocks_of(*slot);
        let since_start = life.untracked_frees <= life.thread_end_frees && self.knows_all_blocks(pid);
        let still = Standstill { pid, tid: thread.tid, threads, space: self.processes.space_in(*slot), since_start };
        log::debug!("process {pid}: {} blocks, since its start {since_start}, {} threads", blocks.len(), threads.len());
        let (check, holding) = still.check(&mut blocks, read).map_err(|obstacle| no_verdict(pid, &obstacle))?;
        Ok(Judged { slot: *slot, check, blocks, holding })
    }

    /// Whether every block that a process has made must stand in the tables.
    fn knows_all_blocks(&mut self, pid: Pid) -> bool {
        let lost = self.kernel.losses();
        let lost =
            lost.allocs_dropped + lost.wide_dropped + lost.returns_missed + lost.threads_dropped + lost.events_lost;
        let is_launched = matches!(self.config.whom, Whom::Command(_)) && self.target.pids.first() == Some(&pid);
        let is_partly = self.list_untraced().iter().any(|process| process.pid == pid);
        let is_blind = self.options.filters_sizes() || self.lost_records > self.made_up_records;
        is_launched && lost == 0 && !is_partly && !is_blind
    }

    /// All blocks of the life in a slot.
    fn blocks_of(&self, slot: u32) -> Vec<KnownBlock> {
        let (kernel, is_its) = (&self.kernel, drain::sites_of(&self.kernel, slot));
        // Ages do not matter here.
        let clock = Clock::of(kernel, 0);
        let wanted = |site: u32| is_its.get(site as usize)?.then_some((site as usize, Duration::ZERO));
        let blocks = drain::block_pieces(kernel).flat_map(|piece| drain::blocks(kernel, piece, clock, wanted));
        let known = |RawBlock { site, address, size, .. }| KnownBlock {
            address,
            size,
            site: site as u32,
            kind: Reachability::Unknown,
        };
        blocks.map(known).collect()
    }
}

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

    /// On two cores 5 GB are searched in a second, at worst half as much. A thread is stopped in 23 us, and twice that is allowed.
    fn pause(self) -> Duration {
        let searching = Duration::from_nanos(self.resident_bytes * 2 / 5);
        let stopping = Duration::from_micros(self.threads * 50);
        Duration::from_millis(5) + searching + stopping
    }
}

fn no_verdict(pid: Pid, why: &dyn Display) -> String {
    format!("no verdict on the blocks of process {pid}: {why}")
}
