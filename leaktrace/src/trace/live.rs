//! The leak check of a process that runs on.
//!
//! In: a process, stopped for a moment. Out: its threads and the tops of their stacks as they were in that moment; later, from
//! another thread, what a search of its memory found, and what several searches found together.
//!
//! One search is unsound: a pointer that moves from memory that is yet to be read to memory that was read is in neither. Where the
//! kernel marks pages that are written ([`Marks`]), those written since are read once more while the process is stopped, and the
//! verdict is as good as if all had been. As long as that would be too much for a stop, it is searched while the process runs, and
//! what has changed meanwhile is less.
//!
//! Where the kernel does not, memory is searched several times. Each search misses about a third of the pointers that move, so that
//! blocks are lost only if no search has found them, and even then at most probably. What was made since the first search began is
//! undecided.

use std::thread;
use std::time::{Duration, Instant};

use super::holding::Holding;
use super::life::Life;
use super::standstill::{Changes, Found, Searchers, Standstill};
use crate::analysis::reachability::{Heuristics, Overlay};
use crate::kernel::drain::TabledBlock;
use crate::model::{Address, LeakCheck, LeakCheckMode, Pid, Reachability};
use crate::process::launch::Held;
use crate::process::maps::AddressSpace;
use crate::process::memory::{Marks, MemoryError, Pages, Reader, Region, RegionKind, Run, Survey, regions};
use crate::process::registers::StoppedThread;
use crate::process::stop::Stopped;

/// How often memory is searched at least and at most, and how often in a row without finding any more of what was missed.
const FEWEST: u32 = 5;
const MOST: u32 = 12;
const QUIET: u32 = 2;
/// How often what has changed is searched while the process runs, at most.
const MOST_ROUNDS: u32 = 4;
/// How fast what has changed is copied at least, bytes per microsecond.
const COPIED_PER_US: u64 = 2000;
/// What is copied of one stack, from its top on, and of all stacks, bytes.
const COPIED: u64 = 1 << 20;
const COPIED_IN_ALL: u64 = 16 << 20;
/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
const RED_ZONE: u64 = 128;
const PAGE: u64 = 4096;

/// What is to be known before a process is stopped for a moment.
pub struct Ready {
    regions: Vec<Region>,
    pages: Pages,
    reader: Reader,
}

/// A process as it was when nothing of it ran.
pub struct Moment {
    threads: Vec<StoppedThread>,
    /// Of stacks, or of all that has changed.
    copies: Overlay,
    changes: Option<Changes>,
    /// All that has changed was copied.
    is_whole: bool,
    /// It went on before that was done.
    pub was_cut_short: bool,
    pause: Duration,
}

/// The pages of a process that is searched while it runs.
pub struct Tracked {
    marks: Marks,
    /// How much may be copied while it is stopped, bytes.
    most: u64,
}

impl Tracked {
    /// Begins to track the pages of a process, if the kernel does; no more may be copied at once than takes this long.
    ///
    /// # Errors
    /// The process cannot be read.
    pub fn begin(pid: Pid, room: Duration) -> Result<Option<Self>, MemoryError> {
        let (mut marks, survey) = (Marks::of(pid)?, Survey::of(pid)?);
        let most = room.as_micros() as u64 * COPIED_PER_US;
        match marks.clear(&survey) {
            Ok(true) => Ok(Some(Self { marks, most })),
            Ok(false) => Ok(None),
            Err(error) => {
                log::debug!("the pages of process {pid} cannot be tracked: {error}");
                Ok(None)
            }
        }
    }

    /// What has changed in a stopped process, and whether that is little enough to be copied. If not, it is tracked anew what changes
    /// from now on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn changes(&mut self, pid: Pid) -> Result<(Changes, bool), MemoryError> {
        let unreadable = |error| MemoryError::Unreadable { pid, what: "pagemap", error };
        let survey = Survey::of(pid)?;
        let runs = self.marks.changed(&survey).map_err(unreadable)?;
        let is_little = runs.iter().map(Run::bytes).sum::<u64>() <= self.most;
        if !is_little {
            self.marks.clear(&survey).map_err(unreadable)?;
        }
        Ok((Changes { survey, runs }, is_little))
    }
}

/// Copies what has changed in a stopped process.
fn copy(changes: &Changes, reader: &Reader) -> Overlay {
    let mut copies = Overlay::default();
    for run in &changes.runs {
        let mut words = vec![0; (run.bytes() / 8) as usize];
        // What cannot be read counts as such when it is searched.
        if reader.fill(&[*run], &mut words).unreadable == 0 {
            copies.add(run.start.0, words);
        }
    }
    copies
}

impl Ready {
    /// Finds out where stacks are.
    ///
    /// # Errors
    /// The process cannot be read.
    pub fn of(pid: Pid) -> Result<Self, MemoryError> {
        Ok(Self { regions: regions(pid)?, pages: Pages::of(pid)?, reader: Reader::open(pid)? })
    }

    /// Copies what is to be known of a stopped process, and lets it go on, `held` as well if that is its first thread.
    pub fn look(
        mut self,
        stopped: Stopped,
        changes: Option<(Changes, bool)>,
        held: Option<Held>,
        began: Option<Instant>,
    ) -> Moment {
        let threads = stopped.threads().to_vec();
        let (changes, is_whole) = changes.map_or((None, false), |(changes, is_little)| (Some(changes), is_little));
        let copies = match &changes {
            Some(changes) if is_whole => copy(changes, &self.reader),
            _ => self.copy_stacks(&threads),
        };
        let pause = stopped.release();
        held.into_iter().for_each(Held::release);
        let (was_cut_short, length) = (pause.cut_short, pause.length);
        let pause = began.map_or(length, |began| began.elapsed());
        Moment { threads, copies, changes, is_whole, was_cut_short, pause }
    }

    fn copy_stacks(&mut self, threads: &[StoppedThread]) -> Overlay {
        let mut stacks = Overlay::default();
        let mut left = COPIED_IN_ALL;
        for thread in threads {
            left = left.saturating_sub(self.copy_stack(thread, left, &mut stacks));
        }
        stacks
    }

    /// Copies the top of a thread's stack, as far as it is there; gives the number of bytes.
    fn copy_stack(&mut self, thread: &StoppedThread, most: u64, stacks: &mut Overlay) -> u64 {
        let top = thread.registers.stack_pointer().0.saturating_sub(RED_ZONE) / PAGE * PAGE;
        let behind = self.regions.partition_point(|region| region.end.0 <= top);
        let is_stack =
            |region: &&Region| matches!(region.kind, RegionKind::Stack | RegionKind::Anonymous | RegionKind::Heap);
        let Some(region) = self.regions.get(behind).filter(|region| region.start.0 <= top).filter(is_stack) else {
            return 0;
        };
        let end = region.end.0.min(top.saturating_add(COPIED.min(most)));
        let part = Region { start: Address(top), end: Address(end), ..region.clone() };
        let mut runs = Vec::new();
        if self.pages.runs(&part, &mut runs).is_err() {
            return 0;
        }
        let mut copied = 0;
        for run in runs.iter().filter(|run| !run.swapped && run.end.0 <= end) {
            let mut words = vec![0; (run.bytes() / 8) as usize];
            if self.reader.fill(&[*run], &mut words).unreadable == 0 {
                copied += run.bytes();
                stacks.add(run.start.0, words);
            }
        }
        copied
    }
}

/// What one search found.
pub enum Searched {
    /// What is to be joined with later searches.
    Layer(Box<Found>),
    /// A verdict.
    Judged(Box<Pass>),
}

/// What was found of blocks, given by address.
pub struct Pass {
    check: LeakCheck,
    holding: Holding,
    blocks: Vec<TabledBlock>,
}

/// A search that goes on in a thread of its own.
pub struct Search(async_channel::Receiver<Result<Searched, String>>);

/// What is searched, and how.
pub struct Task {
    /// The process.
    pub life: Life,
    /// As it was in that moment.
    pub moment: Moment,
    /// Its blocks, by address.
    pub blocks: Vec<TabledBlock>,
    /// Where its code is.
    pub space: Option<AddressSpace>,
    /// Which pointers into blocks are as good as to their start.
    pub heuristics: Heuristics,
    /// Its pages are tracked.
    pub is_tracked: bool,
    /// What was found before it was tracked what has changed.
    pub earlier: Option<Box<Found>>,
}

impl Search {
    /// Searches the memory of a process, which may run meanwhile, for pointers to its blocks.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn begin(task: Task) -> std::io::Result<Self> {
        let (sender, result) = async_channel::bounded(1);
        // Nobody may wait any more.
        let work = move || drop(sender.send_blocking(task.search()));
        thread::Builder::new().name("leak check".to_owned()).spawn(work)?;
        Ok(Self(result))
    }

    /// What it found. May be cancelled and called again.
    ///
    /// # Errors
    /// Why it found nothing, a part of a sentence.
    pub async fn done(&mut self) -> Result<Searched, String> {
        let failed = |_| Err("the thread that searched its memory has ended; please report this".to_owned());
        self.0.recv().await.unwrap_or_else(failed)
    }
}

impl Task {
    fn search(self) -> Result<Searched, String> {
        let Self { life, moment, blocks, space, heuristics, is_tracked, earlier } = self;
        let Moment { threads, copies, changes, is_whole, pause, .. } = moment;
        let still = Standstill {
            pid: life.pid,
            tid: life.pid,
            threads: &threads,
            space: space.as_ref(),
            since_start: life.since_start,
            overlay: &copies,
            heuristics,
            searchers: Searchers::Half,
        };
        let earlier = earlier.map(|found| *found).zip(changes);
        let found = still.search(&blocks, earlier, || pause).map_err(|error| error.to_string())?;
        Ok(if is_tracked && !is_whole {
            Searched::Layer(Box::new(found))
        } else {
            let (check, holding) = found.judge(space.as_ref());
            let check = LeakCheck { mode: LeakCheckMode::Live, ..check };
            Searched::Judged(Box::new(Pass { check, holding, blocks }))
        })
    }
}

/// Several searches of one process.
#[derive(Default)]
pub struct Passes {
    /// Its pages, while they are tracked.
    pub tracked: Option<Tracked>,
    /// What was found while they were.
    layer: Option<Box<Found>>,
    /// How often what had changed was searched while the process ran.
    rounds: u32,
    /// What no search has found, by address.
    missing: Vec<TabledBlock>,
    done: u32,
    /// How many in a row have found nothing of what was missing.
    quiet: u32,
    scanned_bytes: u64,
    longest_pause: Duration,
}

impl Passes {
    /// Whether nothing was searched yet.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.done == 0 && self.rounds == 0
    }

    /// What was found while pages were tracked, to be joined with what has changed since.
    pub fn take_layer(&mut self) -> Option<Box<Found>> {
        self.layer.take()
    }

    /// Whether there is something that is to be joined with what has changed since.
    #[must_use]
    pub fn has_layer(&self) -> bool {
        self.layer.is_some()
    }

    /// Whether the next search is the last, if pages are not tracked.
    #[must_use]
    pub fn last_is_next(&self) -> bool {
        let is_settled = self.done + 1 >= FEWEST && self.quiet + 1 >= QUIET || self.done + 1 >= MOST;
        self.tracked.is_none() && self.done > 0 && (self.missing.is_empty() || is_settled)
    }

    /// Takes in what one more search found; a verdict if it was the last.
    pub fn add(&mut self, searched: Searched) -> Option<Pass> {
        let mut pass = match searched {
            Searched::Layer(found) => {
                self.rounds += 1;
                if self.rounds > MOST_ROUNDS {
                    // Too much changes all the time.
                    self.tracked = None;
                } else {
                    self.layer = Some(found);
                }
                return None;
            }
            Searched::Judged(pass) if self.tracked.is_some() => return Some(*pass),
            Searched::Judged(pass) => *pass,
        };
        let was_last = self.last_is_next();
        self.take_in(&pass);
        if !was_last {
            return None;
        }
        for (block, kind) in pass.blocks.iter().zip(&mut pass.holding.judgement.kinds) {
            if kind.is_lost() {
                let is_missing = self.missing.binary_search_by_key(&block.address, |block| block.address).is_ok();
                *kind = if is_missing { Reachability::ProbablyLost } else { Reachability::Undecided };
            }
        }
        let (scanned_bytes, pause) = (self.scanned_bytes, self.longest_pause);
        Some(Pass { check: LeakCheck { scanned_bytes, pause, passes: self.done, ..pass.check }, ..pass })
    }

    fn take_in(&mut self, Pass { check, holding, blocks }: &Pass) {
        let kinds = &holding.judgement.kinds;
        if self.done == 0 {
            let lost = blocks.iter().zip(kinds).filter(|(_, kind)| kind.is_lost());
            self.missing = lost.map(|(block, _)| *block).collect();
        } else {
            let before = self.missing.len();
            self.missing.retain(|block| {
                let place = blocks.binary_search_by_key(&block.address, |block| block.address);
                place.is_ok_and(|place| blocks[place] == *block && kinds[place].is_lost())
            });
            self.quiet = if self.missing.len() < before { 0 } else { self.quiet + 1 };
        }
        self.done += 1;
        self.scanned_bytes = self.scanned_bytes.max(check.scanned_bytes);
        self.longest_pause = self.longest_pause.max(check.pause);
    }
}

impl Pass {
    /// Its parts.
    #[must_use]
    pub fn into_parts(self) -> (LeakCheck, Vec<TabledBlock>, Holding) {
        (self.check, self.blocks, self.holding)
    }
}
