//! Turns one reading of the tables into the model's terms: slots become processes, ticks become ages. In steps, so that the
//! reader can handle events in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use leaktrace_common::abi::{PROCESS_EXECED, PROCESS_EXITED};
use leaktrace_common::table;
use leaktrace_common::unwind::Stop;

use super::heap_pages::Heaps;
use super::history::History;
use super::reproduction;
use super::verdict::findings::Judged;
use super::verdict::holding::Holding;
use crate::host::clock::monotonic_ns;
use crate::kernel::Kernel;
use crate::kernel::drain::{self, Account, BlockPiece, Clock};
use crate::kernel::ignored_inside::Marks;
use crate::kernel::reclaim::DeadSite;
use crate::lives::processes::{Merged, Processes, Roster};
use crate::model::{
    Address, BlockTally, Capture, Counters, EventKind, Losses, NetFlow, Options, RawBlock, RawProcess, RawSite,
    StackState, Stacks, Tally, Target, TimelineEvent, Unwind,
};
use crate::process::maps::AddressSpace;

/// An interim report goes without the blocks' ages where the table's places and twice the outstanding blocks exceed this: some
/// 40 ms of reading (4 ns a place, 8 ns a block).
const MANY_PLACES: u64 = 8_000_000;

/// What the naming of a capture needs beside it.
#[derive(Default)]
pub struct Spaces {
    /// Address spaces by the number of their life, as they were at the capture, with the names that run-time compilers had given
    /// their code by then. Later changes leave them alone.
    spaces: HashMap<u32, AddressSpace>,
    /// What leak checks have found just before.
    pub holdings: Vec<Holding>,
}

impl Spaces {
    /// The address space of a life.
    #[must_use]
    pub fn get(&self, life: u32) -> Option<&AddressSpace> {
        self.spaces.get(&life)
    }
}

/// When and what for.
pub struct Occasion {
    /// When tracing began.
    pub started: Timestamp,
    /// How long it has lasted.
    pub elapsed: Duration,
    /// Which report this is, from 1.
    pub sequence: u64,
    /// Whether it is the last.
    pub is_final: bool,
}

/// A capture that is being made, from the moment at which all accounts have been read.
///
/// Between steps the trace may go on, except that slots and sites must not be reused.
pub struct Draft {
    /// The lives that it is about.
    pub processes: Vec<RawProcess>,
    by_slot: HashMap<u32, usize>,
    spaces: Spaces,
    now_ns: u64,
    clock: Clock,
    sites: Vec<RawSite>,
    /// By an account's index in the site table: its position in `sites`, and how long its life has been over.
    by_index: HashMap<u32, (usize, Duration)>,
    blocks: Option<BlockTally>,
    /// The pages that blocks hold.
    pub heaps: Heaps,
    /// Addresses in blocks that programs have called no leak.
    marks: Marks,
    /// What the leak check found.
    judged: Vec<Judged>,
    losses: Losses,
    stacks: Stacks,
    incomplete: Incomplete,
    /// Stacks counted so far, of processes with several layouts: there one stack may have several accounts.
    known: HashSet<(usize, Vec<Address>, bool, Option<Stop>)>,
    /// What happened to processes.
    events: Vec<TimelineEvent>,
    warnings: Vec<String>,
}

impl Draft {
    /// Begins with the lives known at this moment and the accounts' stacks. Events that precede the accounts' reading must have
    /// been applied.
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn begin(kernel: &Kernel, processes: &mut Processes, accounts: &mut [Account]) -> Result<Self> {
        for (slot, life) in drain::lives(kernel) {
            processes.observe(slot, &life);
        }
        processes.settle(accounts.iter_mut().map(|account| {
            let Account { slot, layout, frames, stack_state, .. } = account;
            (*slot, *layout, frames.as_mut_slice(), stack_state)
        }));
        let now_ns = monotonic_ns()?;
        let Roster { processes: lives, by_slot } = processes.roster();
        let spaces = lives.iter().filter_map(|life| Some((life.life, processes.space(life.life)?.as_of_now())));
        let Merged { lives: merged, without_stack } = processes.merged();
        let mut losses = losses(kernel);
        losses.stacks_dropped += without_stack;
        let mut warnings = Vec::new();
        if merged > 0 {
            warnings.push(format!("{merged} processes that have ended are summed by name and program, as pid 0"));
        }
        Ok(Self {
            spaces: Spaces { spaces: spaces.collect(), holdings: Vec::new() },
            processes: lives,
            by_slot,
            now_ns,
            clock: Clock::of(kernel, now_ns),
            sites: Vec::new(),
            by_index: HashMap::new(),
            blocks: None,
            heaps: Heaps::default(),
            marks: drain::marks(kernel),
            judged: Vec::new(),
            losses,
            stacks: Stacks::default(),
            incomplete: Incomplete::default(),
            known: HashSet::new(),
            events: Vec::new(),
            warnings,
        })
    }

    /// Sets the time that the growth of each life is judged by; the trace has lasted for `elapsed`.
    pub fn look_back(&mut self, kernel: &Kernel, history: &History, elapsed: Duration) {
        for (slot, process) in &self.by_slot {
            let Some(life) = kernel.processes.read(*slot) else { continue };
            let began = elapsed.saturating_sub(Duration::from_nanos(self.now_ns.saturating_sub(life.seen_ns)));
            let ended = elapsed.saturating_sub(ended_ago(kernel, *slot, self.now_ns));
            self.processes[*process].window = history.window(*slot, began, ended).map(Arc::new);
        }
    }

    /// Adds what windows have shown, by slot and the time at which the life in it was first seen.
    pub fn add_flows(&mut self, kernel: &Kernel, flow: impl Fn(u32, u64) -> Option<NetFlow>) {
        for (slot, process) in &self.by_slot {
            let life = kernel.processes.read(*slot);
            self.processes[*process].net_flow = life.and_then(|life| flow(*slot, life.seen_ns));
        }
    }

    /// Adds an account.
    pub fn add(&mut self, kernel: &Kernel, history: &History, account: Account) {
        let Account { index, slot, layout, frames, counters, truncated, stack_state, broken } = account;
        let Some(&process) = self.by_slot.get(&slot) else { return };
        let space = self.spaces.get(self.processes[process].life);
        let may_repeat = layout != 0 || space.is_some_and(AddressSpace::has_layouts);
        if !may_repeat || self.known.insert((process, frames.clone(), truncated, broken)) {
            if let Some(reason) = broken {
                self.incomplete.add(space, &frames, reason, 1);
            }
            count(&mut self.stacks, &mut self.losses, &frames, (truncated, stack_state, broken), 1);
        }
        self.by_index.insert(index, (self.sites.len(), ended_ago(kernel, slot, self.now_ns)));
        let window = self.processes[process].window.as_ref();
        let past = window.and_then(|window| history.past(index, slot, window, &counters));
        self.sites.push(RawSite { process, frames, counters, truncated, stack_state, past });
    }

    /// Adds the memory of processes over time, and what happened to them, once all accounts are added.
    pub fn follow(&mut self, kernel: &Kernel, history: &History, elapsed: Duration) {
        let mut sums = vec![Counters::default(); self.processes.len()];
        for site in &self.sites {
            sums[site.process].add(&site.counters);
        }
        self.events = history.events();
        for (slot, process) in &self.by_slot {
            let (process, sums) = (&mut self.processes[*process], &sums[*process]);
            if let Some(window) = &process.window {
                let index = |place| self.by_index.get(&place).map(|(index, _)| *index);
                process.timeline = history.timeline(*slot, window, (sums, process.memory), index);
            }
            let Some(life) = kernel.processes.read(*slot) else { continue };
            let kind = match life.state {
                PROCESS_EXITED => EventKind::Exit,
                PROCESS_EXECED => EventKind::Exec,
                _ => continue,
            };
            let at = elapsed.saturating_sub(ended_ago(kernel, *slot, self.now_ns));
            self.events.push(TimelineEvent { at, pid: process.pid, kind });
        }
        self.events.sort_by_key(|event| event.at);
    }

    /// Adds what the leak check found, once all accounts are added and before blocks are read.
    pub fn judge(&mut self, mut judged: Vec<Judged>) {
        for judged in &mut judged {
            judged.place(|index| self.by_index.get(&index).map(|(place, _)| *place));
            if let Some(&process) = self.by_slot.get(&judged.life.slot) {
                self.processes[process].leak_check = Some(judged.check);
            }
        }
        self.judged = judged;
    }

    /// Adds what turned out not to be lost after leak checks had said so, by slot.
    pub fn take_back(&mut self, taken_back: impl Iterator<Item = (u32, Tally)>) {
        for (slot, tally) in taken_back {
            if let Some(&process) = self.by_slot.get(&slot) {
                self.processes[process].taken_back = tally;
            }
        }
    }

    /// The tables of blocks, to be read once all accounts are added; none where that would take too long.
    pub fn block_pieces(
        &mut self,
        kernel: &Kernel,
        occasion: &Occasion,
        options: &Options,
    ) -> impl Iterator<Item = BlockPiece> + use<> {
        let outstanding = recorded_blocks(&self.sites, options.sample_bytes);
        let tables = [&kernel.block_keys, &kernel.wide_keys];
        let places: u64 = tables.iter().map(|keys| u64::from(table::positions(keys.elements()))).sum();
        let places = places + 2 * outstanding;
        if occasion.is_final || options.show_allocs || !options.older_than.is_zero() || places <= MANY_PLACES {
            let mut blocks = BlockTally::new(self.sites.len(), options);
            for (index, site) in self.sites.iter().enumerate().filter(|(_, site)| site.past.is_some()) {
                if let Some(window) = &self.processes[site.process].window {
                    blocks.tell_by_epoch(index, window);
                }
            }
            if options.sample_bytes.is_none() && options.older_than.is_zero() {
                let outstanding = self.sites.iter().map(|site| site.counters.outstanding_count().min(places));
                outstanding.enumerate().for_each(|(site, count)| blocks.reserve(site, count as usize));
            }
            self.blocks = Some(blocks);
        } else {
            self.warnings.push(
                "with so much room for blocks (--max-allocs), their ages stand in the last report only".to_owned(),
            );
        }
        self.blocks.is_some().then(|| drain::block_pieces(kernel)).into_iter().flatten()
    }

    /// Whether blocks are read.
    pub fn reads_blocks(&self) -> bool {
        self.blocks.is_some()
    }

    /// The sites so far.
    pub fn sites(&self) -> &[RawSite] {
        &self.sites
    }

    /// Whether one stack may have several sites.
    pub fn may_repeat_stacks(&self) -> bool {
        !self.known.is_empty()
    }

    /// Whether some blocks could not be recorded.
    pub fn lost_blocks(&self) -> bool {
        let Losses { allocs_dropped, wide_dropped, threads_dropped, returns_missed, .. } = self.losses;
        allocs_dropped + wide_dropped + threads_dropped + returns_missed > 0
    }

    /// Reads a piece of them.
    pub fn add_blocks(&mut self, kernel: &Kernel, piece: &BlockPiece) {
        let (by_index, clock) = (&self.by_index, self.clock);
        if let Some(tally) = &mut self.blocks {
            let blocks = drain::blocks(kernel, piece, clock, &self.marks, |index| by_index.get(&index).copied());
            let found = |block: &RawBlock| self.judged.iter().find_map(|judged| judged.found(block));
            let (heaps, sites) = (&mut self.heaps, &self.sites);
            tally.extend(blocks.map(|block| {
                if !heaps.is_empty() {
                    heaps.add(sites[block.site].process, block.site, block.address.0, block.size);
                }
                match found(&block) {
                    Some((kind, ignored)) => RawBlock { kind: Some(kind), ignored, ..block },
                    None => block,
                }
            }));
        }
    }

    /// Adds a site of a life that was taken out of the tables, once all blocks are read.
    pub fn add_dead(&mut self, process: usize, site: &DeadSite) {
        if let Some(reason) = site.broken {
            self.incomplete.add(self.spaces.get(self.processes[process].life), &site.frames, reason, site.stacks);
        }
        let DeadSite { frames, counters, truncated, stack_state, .. } = site;
        let stack = (*truncated, *stack_state, site.broken);
        count(&mut self.stacks, &mut self.losses, frames, stack, site.stacks);
        let (frames, truncated, stack_state) = (frames.to_vec(), *truncated, *stack_state);
        self.sites.push(RawSite { process, frames, counters: *counters, truncated, stack_state, past: None });
        if let Some(blocks) = &mut self.blocks {
            blocks.append(site.blocks.clone());
        }
    }

    /// The capture, with the address spaces as they were when it was begun.
    pub fn finish(mut self, occasion: &Occasion, target: &Target, options: &Options) -> (Capture, Spaces) {
        self.incomplete.count(&mut self.losses);
        if occasion.is_final {
            self.incomplete.log();
        }
        for judged in self.judged {
            let process = self.by_slot.get(&judged.life.slot).copied();
            self.spaces.holdings.extend(process.map(|process| judged.into_holding(process)));
        }
        let reproduction = reproduction::of(&self.processes, &|life| self.spaces.get(life), target);
        let notes = std::mem::take(&mut self.heaps.notes);
        let pinned = self.heaps.finish(&mut self.processes);
        let capture = Capture {
            started: occasion.started,
            elapsed: occasion.elapsed,
            sequence: occasion.sequence,
            is_final: occasion.is_final,
            target: target.clone(),
            options: options.clone(),
            reproduction,
            bursts: None,
            processes: self.processes,
            untraced: Vec::new(),
            sites: self.sites,
            blocks: self.blocks,
            tells_earlier: true,
            described: HashMap::new(),
            growth: Vec::new(),
            pinned,
            // Where frame pointers end cannot be told from where they are missing.
            stacks: (options.unwind != Unwind::Fp).then_some(self.stacks),
            events: self.events,
            losses: self.losses,
            warnings: self.warnings,
            silence: Vec::new(),
            notes,
        };
        (capture, self.spaces)
    }
}

/// How long the life in a slot has been over; zero for one that is not.
fn ended_ago(kernel: &Kernel, slot: u32, now_ns: u64) -> Duration {
    let ended_ns = kernel.processes.read(slot).map_or(0, |life| life.ended_ns);
    if ended_ns == 0 { Duration::ZERO } else { Duration::from_nanos(now_ns.saturating_sub(ended_ns)) }
}

/// Counts a stack that `times` lives have each.
fn count(
    stacks: &mut Stacks,
    losses: &mut Losses,
    frames: &[Address],
    (truncated, state, broken): (bool, StackState, Option<Stop>),
    times: u64,
) {
    let is_unsure = state == StackState::Unsure;
    let is_walked = !frames.is_empty() && broken.is_none() && !truncated && !is_unsure;
    let is_guess = is_walked && state == StackState::Guessed;
    stacks.recorded += u64::from(!frames.is_empty() || broken.is_some()) * times;
    stacks.complete += u64::from(is_walked && !is_guess) * times;
    stacks.guessed += u64::from(is_guess) * times;
    losses.stacks_unsure += u64::from(is_unsure) * times;
}

/// How many blocks the table holds, by what the counters say. Of a sample it is no more than one in each mean distance,
/// give or take.
fn recorded_blocks(sites: &[RawSite], sample_bytes: Option<u64>) -> u64 {
    let Some(mean) = sample_bytes else {
        return sites.iter().map(|site| site.counters.outstanding_count()).sum();
    };
    let counters = sites.iter().map(|site| site.counters.whole());
    let (bytes, count) = counters.fold((0u64, 0u64), |(bytes, count), site| {
        (bytes.saturating_add(site.outstanding_bytes()), count.saturating_add(site.outstanding_count()))
    });
    count.min(bytes / mean.max(1))
}

/// Where an address lies, for messages.
fn module_of(space: Option<&AddressSpace>, address: Option<Address>) -> PathBuf {
    match address.and_then(|address| space?.locate(address)) {
        Some(location) => location.module.to_path_buf(),
        None => PathBuf::from("unknown code"),
    }
}

/// Stacks that could not be walked to their end, by where and why.
#[derive(Default)]
struct Incomplete(BTreeMap<(PathBuf, Stop), u64>);

impl Incomplete {
    fn add(&mut self, space: Option<&AddressSpace>, frames: &[Address], reason: Stop, stacks: u64) {
        *self.0.entry((module_of(space, frames.last().copied()), reason)).or_default() += stacks;
    }

    fn count(&self, losses: &mut Losses) {
        for ((_, reason), stacks) in &self.0 {
            losses.unwind_failed += stacks;
            *losses.unwind_failures.entry(reason.as_str().to_owned()).or_default() += stacks;
        }
    }

    fn log(&self) {
        for ((module, reason), stacks) in &self.0 {
            log::info!("{stacks} incomplete stacks end in {}: {}", module.display(), reason.as_str());
        }
    }
}

/// The kernel's counters under the names of the report. Stacks that could not be walked to their end are counted with the
/// sites.
pub fn losses(kernel: &Kernel) -> Losses {
    let raw = kernel.losses();
    Losses {
        allocs_dropped: raw.allocs_dropped,
        bytes_dropped: raw.bytes_dropped,
        threads_dropped: raw.threads_dropped,
        stacks_dropped: raw.stacks_dropped,
        stacks_truncated: raw.stacks_truncated,
        returns_missed: raw.returns_missed,
        events_lost: raw.events_lost,
        wide_dropped: raw.wide_dropped,
        wide_bytes_dropped: raw.wide_bytes_dropped,
        marks_lost: raw.marks_lost,
        samples_lost: raw.samples_lost,
        ..Losses::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_walked_by_frame_pointers_are_counted_apart_from_complete_ones() {
        let (mut stacks, mut losses) = (Stacks::default(), Losses::default());
        let mut add = |stack| count(&mut stacks, &mut losses, &[Address(0x10)], stack, 1);
        add((false, StackState::Whole, None));
        add((false, StackState::Guessed, None));
        add((false, StackState::Guessed, None));
        add((true, StackState::Cut, None));
        add((false, StackState::Gap, Some(Stop::TablePending)));
        add((false, StackState::Stopped, Some(Stop::BadRead)));
        add((false, StackState::Unsure, None));
        assert_eq!(stacks, Stacks { recorded: 7, complete: 1, guessed: 2 });
        assert_eq!(losses.stacks_unsure, 1);
    }
}
