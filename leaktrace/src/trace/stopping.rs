//! Stopping a process for its leak check, and what is done while it stands still.
//!
//! In: a process that is to be judged. Out: a verdict, or what a search needs that goes on while the process runs again.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use super::Trace;
use super::verdict::findings::Judged;
use super::verdict::life::Life;
use super::verdict::moment::{Copied, Moment, NoCopy, Ready, Tracked, plan_copy};
use super::verdict::passes::Passes;
use super::verdict::pause::{self, Ways};
use crate::config::CheckMode;
use crate::kernel::Kernel;
use crate::kernel::drain::TabledBlock;
use crate::kernel::in_flight::InFlight;
use crate::kernel::inventory::Inventory;
use crate::model::Pid;
use crate::process::launch::Held;
use crate::process::snapshot::{self, Refused};
use crate::process::stop::{Limits, StopError, Stopped};

/// How long threads may take to stop, at least: more than on a busy machine.
const SHORTEST_STOP: Duration = Duration::from_millis(100);
/// How often a process is stopped for a copy, at most, and how long it runs in between.
const COPY_ATTEMPTS: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(3);

/// Why there is no verdict on one that was searched in part.
const REPLACED: &str = "it executed another program meanwhile";

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

/// A process that is stopped, and goes on when this is dropped, whatever came in between.
struct Still {
    life: Life,
    stopped: Stopped,
    held: GoesOn,
    /// When `held` was stopped, if it was.
    began: Option<Instant>,
    limits: Limits,
}

impl Still {
    /// Stops a process, beside its first thread if that is held already.
    fn stop(life: Life, held: Option<Held>, limits: Limits) -> Result<Self, StopError> {
        let held = GoesOn(held);
        let began = held.0.as_ref().map(Held::since);
        let stopped = stop(life.pid, &held, limits)?;
        Ok(Self { life, stopped, held, began, limits })
    }

    /// Lets all go on but the held thread for some milliseconds.
    fn stop_again(self) -> Result<Self, StopError> {
        let Self { life, stopped, held, began, limits } = self;
        let _ = stopped.release();
        thread::sleep(TRY_AGAIN);
        let stopped = stop(life.pid, &held, limits)?;
        Ok(Self { life, stopped, held, began, limits })
    }

    /// Whether nothing but the held thread is stopped.
    fn is_held_alone(&self) -> bool {
        self.held.0.is_some() && self.stopped.threads().len() == 1
    }

    /// Lets it go on with what `look` takes of it, to be searched.
    fn go_on_with(
        self,
        blocks: Vec<TabledBlock>,
        in_flight: InFlight,
        look: impl FnOnce(Stopped, Option<Held>, Option<Instant>) -> Moment,
    ) -> Result<Looked, Box<dyn Error>> {
        let Self { life, stopped, mut held, began, limits } = self;
        let moment = look(stopped, held.0.take(), began);
        if moment.was_cut_short {
            return Err(CutShort(limits.hold_at_most).into());
        }
        Ok(Looked::ToSearch(life, Box::new(moment), blocks, in_flight))
    }
}

fn stop(pid: Pid, held: &GoesOn, limits: Limits) -> Result<Stopped, StopError> {
    match held.0.as_ref().and_then(Held::thread) {
        Some(thread) => Stopped::stop_beside(thread.clone(), pid, limits),
        None => Stopped::stop(pid, limits),
    }
}

/// Copies a stopped process. If that cannot be done just now, since all of its threads compute, it is stopped again some times. No copy
/// if it is to be searched in another way.
fn try_to_copy(mut still: Still, copying: &Copying, ready: &Ready) -> Result<(Still, Option<Copied>), Box<dyn Error>> {
    let mut attempts = 1;
    loop {
        let refused = match ready.copy(&still.stopped, &copying.plan) {
            Ok(copied) => return Ok((still, Some(copied))),
            Err(refused) => refused,
        };
        let may_differ = matches!(refused, NoCopy::Refused(Refused::Busy(_) | Refused::Disturbed(_)));
        if may_differ && attempts < COPY_ATTEMPTS && !still.is_held_alone() {
            // Whoever computes waits for something now and then.
            still = still.stop_again()?;
            attempts += 1;
        } else if copying.is_only_way {
            return Err(refused.into());
        } else {
            log::debug!("process {} is searched while it runs: {refused}", still.life.pid);
            return Ok((still, None));
        }
    }
}

/// A held thread that goes on when this is dropped, whatever came in between.
struct GoesOn(Option<Held>);

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Held::release);
    }
}

impl Trace {
    /// Finds out and reads what need not be read while a process is stopped. `passes` are the searches of it so far. `None` if there
    /// is nothing to judge.
    ///
    /// # Errors
    /// Why it is not to be stopped, a part of a sentence.
    pub(super) fn prepare_to_stop(
        &mut self,
        pid: Pid,
        passes: &mut Passes,
    ) -> Result<Option<Prepared>, Box<dyn Error>> {
        let plan = self.config.leak_check?;
        let life = match self.life(pid)? {
            Some(life) => life,
            None if passes.is_first() => return Ok(None),
            None => return Err(REPLACED.into()),
        };
        let inventory = |kernel: &Kernel| Box::new(Inventory::of(kernel, life.slot));
        let how = if passes.is_first() {
            match choose(pid, Ways::of(pid, &plan)?, passes)? {
                Chosen::Exact => How::Exact(inventory(&self.kernel)),
                Chosen::Snapshot(copying) => How::Snapshot(copying, inventory(&self.kernel), Box::new(Ready::of(pid)?)),
                Chosen::Live => How::Live(inventory(&self.kernel), Box::new(Ready::of(pid)?)),
            }
        } else if !passes.are_of(&life) {
            return Err(REPLACED.into());
        } else if passes.has_layer() {
            How::Changed(inventory(&self.kernel), Box::new(Ready::of(pid)?))
        } else {
            How::Live(inventory(&self.kernel), Box::new(Ready::of(pid)?))
        };
        passes.life = Some(life);
        Ok(Some(Prepared { life, how, max_pause: plan.max_pause }))
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
        let limits = Limits {
            stop_within: max_pause.clamp(SHORTEST_STOP, Limits::default().stop_within),
            hold_at_most: pause::longest(max_pause),
        };
        let still = Still::stop(life, held, limits)?;
        match how {
            How::Exact(inventory) => {
                if halts {
                    self.halt();
                }
                self.judge_stopped(still, *inventory)
            }
            How::Live(inventory, ready) => {
                if halts && passes.last_is_next() {
                    self.halt();
                }
                Ok(self.look_at_stacks(still, *inventory, *ready, passes))
            }
            How::Snapshot(copying, inventory, ready) => {
                let (still, copied) = try_to_copy(still, &copying, &ready)?;
                passes.is_copied = copied.is_some();
                let Some(copied) = copied else { return Ok(self.look_at_stacks(still, *inventory, *ready, passes)) };
                if halts {
                    self.halt();
                }
                let (in_flight, blocks) = self.blocks_now(life, *inventory);
                still.go_on_with(blocks, in_flight, |stopped, held, began| copied.look(stopped, held, began))
            }
            How::Changed(inventory, ready) => {
                let (in_flight, blocks) = self.blocks_now(life, *inventory);
                let changes = match &mut passes.tracked {
                    Some(tracked) => tracked.changes(life.pid, &blocks)?,
                    None => None,
                };
                let Some((_, is_little)) = &changes else {
                    log::debug!("others track the pages of process {}, too: nobody knows which have changed", life.pid);
                    passes.give_tracking_up();
                    return Ok(Looked::Untracked);
                };
                if halts && *is_little {
                    self.halt();
                }
                still.go_on_with(blocks, in_flight, |stopped, held, began| ready.look(stopped, changes, held, began))
            }
        }
    }

    /// Judges the blocks of a process that is stopped until all of its memory was read.
    fn judge_stopped(&mut self, still: Still, inventory: Inventory) -> Result<Looked, Box<dyn Error>> {
        let Still { life, stopped, held, began, limits } = still;
        let (in_flight, blocks) = self.blocks_now(life, inventory);
        let threads = stopped.threads().to_vec();
        let mut was_cut_short = false;
        let judged = self.judge(&life, (blocks, in_flight), &threads, || {
            let pause = stopped.release();
            drop(held);
            was_cut_short = pause.cut_short;
            began.map_or(pause.length, |began| began.elapsed())
        })?;
        if was_cut_short { Err(CutShort(limits.hold_at_most).into()) } else { Ok(Looked::Judged(Box::new(judged))) }
    }

    /// Lets a process go on as soon as its stacks were copied, and looks up its blocks after that, so that the stop is short. Where
    /// its pages are tracked they come first: what is not among them is found by later searches only where it has changed.
    fn look_at_stacks(&self, still: Still, inventory: Inventory, ready: Ready, passes: &mut Passes) -> Looked {
        let Still { life, stopped, mut held, began, .. } = still;
        let in_flight = InFlight::of(&self.kernel, life.pid);
        let (moment, blocks) = if let Some(tracked) = &mut passes.tracked {
            let blocks = inventory.up_to_date(&self.kernel);
            tracked.begin_with(&blocks);
            (ready.look(stopped, None, held.0.take(), began), blocks)
        } else {
            let moment = ready.look(stopped, None, held.0.take(), began);
            (moment, inventory.up_to_date(&self.kernel))
        };
        Looked::ToSearch(life, Box::new(moment), blocks, in_flight)
    }

    /// What a stopped process is in the midst of, and its blocks.
    fn blocks_now(&self, life: Life, inventory: Inventory) -> (InFlight, Vec<TabledBlock>) {
        (InFlight::of(&self.kernel, life.pid), inventory.up_to_date(&self.kernel))
    }

    /// Ends the recording while a process is stopped, so that the report's blocks are those that are judged.
    fn halt(&mut self) {
        self.has_halted = true;
        if let Err(error) = self.kernel.halt() {
            // What it does afterwards is recorded, and not judged.
            log::debug!("{error:#}");
        }
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
