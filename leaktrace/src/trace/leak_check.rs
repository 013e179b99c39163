//! Which processes are judged, and what stands in the way of that.
//!
//! In: a process that is about to end, or that is stopped for it. Out: its blocks with what was found of each.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::thread;
use std::time::Duration;

use leaktrace_common::abi::{PROCESS_ALIVE, Process};

use super::Trace;
use super::untraced::hides_blocks;
use super::verdict::holding::Holding;
use super::verdict::life::Life;
use super::verdict::moment::{Moment, NoCopy, Ready, Tracked, plan_copy};
use super::verdict::passes::Passes;
use super::verdict::pause::{self, Ways};
use super::verdict::search::{Pass, Search, Task};
use super::verdict::standstill::{Searchers, Standstill};
use crate::analysis::reachability::{Heuristics, Overlay};
use crate::config::{CheckMode, Whom};
use crate::kernel::Kernel;
use crate::kernel::drain::{self, TabledBlock};
use crate::kernel::in_flight::InFlight;
use crate::kernel::inventory::{self, Inventory};
use crate::model::{LeakCheck, Pid, RawBlock, Reachability};
use crate::process::launch::Held;
use crate::process::registers::StoppedThread;
use crate::process::snapshot::{self, Refused};
use crate::process::stop::{Limits, Stopped};

/// How long threads may take to stop, at least: more than on a busy machine.
const SHORTEST_STOP: Duration = Duration::from_millis(100);
/// How often a process is stopped for a copy, at most, and how long it runs in between.
const COPY_ATTEMPTS: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(3);

/// What was found of the blocks of one life.
#[derive(Debug)]
pub struct Judged {
    /// Which one, since its slot may be another's by the time of the report.
    pub life: Life,
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

    /// What was found of a block of a capture, and whether the program wants no leak reported of it.
    #[must_use]
    pub fn found(&self, block: &RawBlock) -> Option<(Reachability, bool)> {
        let place = self.holding.blocks.find(block.address.0).filter(|(_, offset)| *offset == 0)?.0 as usize;
        let known = self.blocks[place];
        let is_same = known.site as usize == block.site && known.size == block.size && known.is_of(block.time);
        is_same.then(|| (self.holding.judgement.kinds[place], known.is_ignored()))
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
    /// Adds what was found of a process, and what that lacks.
    pub fn add(&mut self, pid: Pid, judged: Judged) {
        if !judged.holding.missing.is_empty() {
            let missing = judged.holding.missing.join(" and ");
            self.warnings.push(format!(
                "blocks of process {pid} that only {missing} point to are called lost: the kernel did not tell these"
            ));
        }
        if judged.holding.unsearched > 0 {
            let mib = judged.holding.unsearched.div_ceil(1 << 20);
            self.warnings.push(format!(
                "what nothing is found to point to in process {pid} is undecided: {mib} MiB of the memory that it shares with others, \
                 which it has not used itself, were not searched"
            ));
        }
        self.judged.push(judged);
    }

    /// Leaves out what was found of lives that are none of these, given by slot and by when they were first seen: the records of what
    /// they held are no longer in the tables.
    pub fn retain(&mut self, lives: &[(u32, u64)]) {
        let (kept, gone): (Vec<_>, _) = std::mem::take(&mut self.judged)
            .into_iter()
            .partition(|judged| lives.contains(&(judged.life.slot, judged.life.first_seen)));
        self.judged = kept;
        for judged in gone {
            self.add_none(judged.life.pid, &"it ended before the report");
        }
    }

    /// Adds that there is no verdict on a process, for a reason.
    pub fn add_none(&mut self, pid: Pid, why_not: &dyn Display) {
        self.warnings.push(no_verdict(pid, why_not));
    }
}

/// How a process is to be copied.
struct Copying {
    plan: snapshot::Plan,
    /// There is no other way.
    is_only_way: bool,
}

/// The way that was chosen to read a process' memory.
enum Chosen {
    Exact,
    Snapshot(Copying),
    Live,
}

/// Chooses one of these ways, and begins to track a process' pages where that serves it. What a stop of a process whose pages are
/// tracked finds is as good as a copy, and nothing is written to the process for it: it comes before that.
fn choose(pid: Pid, Ways { modes, room }: Ways, passes: &mut Passes) -> Result<Chosen, Box<dyn Error>> {
    if modes.first() == Some(&CheckMode::Exact) {
        return Ok(Chosen::Exact);
    }
    if let Some(room) = room.filter(|_| modes.contains(&CheckMode::Live) && passes.may_track()) {
        passes.tracked = Tracked::begin(pid, room)?;
        if passes.tracked.is_some() {
            return Ok(Chosen::Live);
        }
    }
    if modes.contains(&CheckMode::Snapshot) {
        let is_only_way = modes.len() == 1;
        match plan_copy(pid) {
            Ok(plan) => return Ok(Chosen::Snapshot(Copying { plan, is_only_way })),
            Err(refused) if is_only_way => return Err(refused.into()),
            Err(refused) => log::debug!("process {pid} is searched while it runs: {refused}"),
        }
    }
    Ok(Chosen::Live)
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
                let in_flight = self.in_flight_at_end(&life, &threads);
                self.judge(&life, (blocks, in_flight), &threads, || Duration::ZERO)
            });
            match judged {
                Ok(judged) => findings.add(pid, judged),
                Err(why_not) => findings.add_none(pid, &why_not),
            }
        }
        findings
    }

    /// Finds out and reads what need not be read while a process is stopped. `passes` are the searches of it so far.
    ///
    /// # Errors
    /// Why it is not to be stopped, a part of a sentence.
    pub(super) fn prepare_to_stop(&mut self, pid: Pid, passes: &mut Passes) -> Result<Prepared, Box<dyn Error>> {
        let Some(plan) = self.config.leak_check else { return Err("none was asked for".into()) };
        let life = self.life(pid)?;
        let inventory = |kernel: &Kernel| Box::new(Inventory::of(kernel, life.slot));
        let how = if passes.is_first() {
            match choose(pid, Ways::of(pid, &plan)?, passes)? {
                Chosen::Exact => How::Exact(inventory(&self.kernel)),
                Chosen::Snapshot(copying) => How::Snapshot(copying, inventory(&self.kernel), Box::new(Ready::of(pid)?)),
                Chosen::Live => How::Live(inventory(&self.kernel), Box::new(Ready::of(pid)?)),
            }
        } else if !passes.are_of(&life) {
            return Err("it executed another program meanwhile".into());
        } else if passes.has_layer() {
            How::Changed(inventory(&self.kernel), Box::new(Ready::of(pid)?))
        } else {
            How::Live(inventory(&self.kernel), Box::new(Ready::of(pid)?))
        };
        passes.life = Some(life);
        Ok(Prepared { life, how, max_pause: plan.max_pause })
    }

    /// Stops a process, and judges its blocks, or takes note of what a search needs while it goes on. `held` is its first thread, if
    /// that is stopped already, and goes on with the others. If it `halts`, nothing is recorded any more from then on, unless
    /// it has to be stopped again.
    ///
    /// # Errors
    /// Why not, a part of a sentence.
    pub(super) fn stop_and_look(
        &mut self,
        Prepared { life, how, max_pause }: Prepared,
        passes: &mut Passes,
        held: Option<Held>,
        halts: bool,
    ) -> Result<Looked, Box<dyn Error>> {
        let (pid, mut held, hold_at_most) = (life.pid, GoesOn(held), pause::longest(max_pause));
        let began = held.0.as_ref().map(Held::since);
        let stop_within = max_pause.clamp(SHORTEST_STOP, Limits::default().stop_within);
        let limits = Limits { stop_within, hold_at_most };
        let stop = |held: &GoesOn| match held.0.as_ref().and_then(Held::thread) {
            Some(thread) => Stopped::stop_beside(thread.clone(), pid, limits),
            None => Stopped::stop(pid, limits),
        };
        let (mut stopped, mut attempts) = (stop(&held)?, 0);
        let inventory = match how {
            How::Exact(inventory) => inventory,
            How::Live(inventory, ready) => {
                if halts && passes.last_is_next() {
                    self.halt();
                }
                let in_flight = InFlight::of(&self.kernel, pid);
                if let Some(tracked) = &mut passes.tracked {
                    // What is not among the blocks of the first search is not found by later ones where it has not changed.
                    let blocks = inventory.up_to_date(&self.kernel);
                    tracked.begin_with(&blocks);
                    let moment = ready.look(stopped, None, held.0.take(), began);
                    return Ok(Looked::ToSearch(life, Box::new(moment), blocks, in_flight));
                }
                let moment = ready.look(stopped, None, held.0.take(), began);
                let blocks = inventory.up_to_date(&self.kernel);
                return Ok(Looked::ToSearch(life, Box::new(moment), blocks, in_flight));
            }
            How::Snapshot(copying, inventory, ready) => {
                let copied = loop {
                    let copied = ready.copy(&stopped, &copying.plan);
                    attempts += 1;
                    let is_alone = held.0.is_some() && stopped.threads().len() == 1;
                    let may_differ = matches!(copied, Err(NoCopy::Refused(Refused::Busy(_) | Refused::Disturbed(_))));
                    if is_alone || !may_differ || attempts == COPY_ATTEMPTS {
                        break copied;
                    }
                    // Whoever computes waits for something now and then.
                    let _ = stopped.release();
                    thread::sleep(TRY_AGAIN);
                    stopped = stop(&held)?;
                };
                let copied = match copied {
                    Err(refused) if copying.is_only_way => return Err(refused.into()),
                    Err(refused) => {
                        log::debug!("process {pid} is searched while it runs: {refused}");
                        None
                    }
                    copied => copied.ok(),
                };
                if halts && copied.is_some() {
                    self.halt();
                }
                passes.is_copied = copied.is_some();
                let in_flight = InFlight::of(&self.kernel, pid);
                let blocks = inventory.up_to_date(&self.kernel);
                let moment = match copied {
                    Some(copied) => copied.look(stopped, held.0.take(), began),
                    None => ready.look(stopped, None, held.0.take(), began),
                };
                if passes.is_copied && moment.was_cut_short {
                    return Err(CutShort(hold_at_most).into());
                }
                return Ok(Looked::ToSearch(life, Box::new(moment), blocks, in_flight));
            }
            How::Changed(inventory, ready) => {
                let in_flight = InFlight::of(&self.kernel, pid);
                let blocks = inventory.up_to_date(&self.kernel);
                let changes = match &mut passes.tracked {
                    Some(tracked) => tracked.changes(pid, &blocks)?,
                    None => None,
                };
                if changes.is_none() {
                    log::debug!(
                        "the pages of process {pid} are tracked by others, too: nobody knows which have changed"
                    );
                    passes.give_tracking_up();
                    return Ok(Looked::Untracked);
                }
                if halts && changes.as_ref().is_some_and(|(_, is_little)| *is_little) {
                    self.halt();
                }
                let moment = ready.look(stopped, changes, held.0.take(), began);
                if moment.was_cut_short {
                    return Err(CutShort(hold_at_most).into());
                }
                return Ok(Looked::ToSearch(life, Box::new(moment), blocks, in_flight));
            }
        };
        if halts {
            self.halt();
        }
        let threads = stopped.threads().to_vec();
        let mut was_cut_short = false;
        let found = (inventory.up_to_date(&self.kernel), InFlight::of(&self.kernel, pid));
        let judged = self.judge(&life, found, &threads, || {
            let pause = stopped.release();
            drop(held);
            was_cut_short = pause.cut_short;
            began.map_or(pause.length, |began| began.elapsed())
        })?;
        if was_cut_short {
            return Err(CutShort(hold_at_most).into());
        }
        Ok(Looked::Judged(Box::new(judged)))
    }

    /// Ends the recording while a process is stopped, so that the report's blocks are those that are judged.
    fn halt(&mut self) {
        self.has_halted = true;
        if let Err(error) = self.kernel.halt() {
            // What it does afterwards is recorded, and not judged.
            log::debug!("{error:#}");
        }
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

    /// The traced processes beside the named ones, those that hold most first.
    pub(super) fn others_to_judge(&self, named: &[Pid]) -> Vec<Pid> {
        let Some(plan) = self.config.leak_check else { return Vec::new() };
        let reported: Vec<Pid> = self.processes.reported_alive().into_iter().map(|(_, pid)| pid).collect();
        let is_wanted = |life: &Process| {
            let pid = Pid(life.tgid);
            life.state == PROCESS_ALIVE && life.live_bytes > 0 && reported.contains(&pid) && !named.contains(&pid)
        };
        let lives = drain::lives(&self.kernel).into_iter().map(|(_, life)| life);
        let mut others: Vec<_> = lives.filter(is_wanted).collect();
        others.sort_by_key(|life| std::cmp::Reverse(life.live_bytes));
        others.iter().take(plan.most_others as usize).map(|life| Pid(life.tgid)).collect()
    }

    fn heuristics(&self) -> Heuristics {
        self.config.leak_check.map_or(Heuristics::ALL, |plan| plan.heuristics)
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
        let (check, mut holding) = still.check(&blocks, read)?;
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

/// A process that is about to be stopped.
pub struct Prepared {
    /// What it is.
    pub life: Life,
    how: How,
    /// How long it may be stopped.
    max_pause: Duration,
}

/// How its memory will be read, with what was read before.
enum How {
    /// While it is stopped.
    Exact(Box<Inventory>),
    /// While it goes on.
    Live(Box<Inventory>, Box<Ready>),
    /// A copy of it.
    Snapshot(Copying, Box<Inventory>, Box<Ready>),
    /// What has changed, while it is stopped if that is little.
    Changed(Box<Inventory>, Box<Ready>),
}

/// What became of a stop.
pub enum Looked {
    /// A verdict.
    Judged(Box<Judged>),
    /// Its memory and these blocks are still to be searched.
    ToSearch(Life, Box<Moment>, Vec<TabledBlock>, InFlight),
    /// Its memory is to be searched in another way, since it is not known what has changed.
    Untracked,
}

/// A stop that was over too early.
#[derive(Debug, thiserror::Error)]
#[error("it went on after {} ms, before all of its memory was read; raise --max-pause", .0.as_millis())]
struct CutShort(Duration);

fn no_verdict(pid: Pid, why: &dyn Display) -> String {
    format!("no verdict on the blocks of process {pid}: {why}")
}
