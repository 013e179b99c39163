//! One reading of the tables as the model wants it: slots become processes, ticks become ages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use leaktrace_common::table;
use leaktrace_common::unwind::Stop;

use crate::host::clock::monotonic_ns;
use crate::kernel::Kernel;
use crate::kernel::drain::{self, Account};
use crate::kernel::reclaim::DeadSite;
use crate::lives::processes::{Merged, Processes, Roster};
use crate::model::{Address, BlockTally, Capture, Losses, Options, RawSite, StackState, Stacks, Target, Unwind};
use crate::process::maps::AddressSpace;

/// A report in the middle of a trace goes without the blocks' ages where this is exceeded by the places there are for
/// blocks and twice the blocks outstanding: some 40 ms of looking. (4 ns a place, 8 a block.)
const MANY_PLACES: u64 = 8_000_000;

/// Address spaces by the number of their life, as they were at a capture, with the names that code made at run time had then. Later
/// changes leave them alone.
pub type Spaces = HashMap<u32, AddressSpace>;

/// The address spaces of the lives in a capture, as they are now.
pub fn spaces(capture: &Capture, processes: &Processes) -> Spaces {
    let lives = capture.processes.iter().map(|process| process.life);
    lives.filter_map(|life| Some((life, processes.space(life)?.as_of_now()))).collect()
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

/// Reads everything that a report needs beside the accounts. Whatever was told before these were read must have been taken in.
pub fn capture(
    kernel: &Kernel,
    mut accounts: Vec<Account>,
    processes: &mut Processes,
    occasion: &Occasion,
    target: &Target,
    options: &Options,
) -> Result<Capture> {
    for (slot, life) in drain::lives(kernel) {
        processes.observe(slot, &life);
    }
    processes.settle(accounts.iter_mut().map(|account| {
        let Account { slot, layout, frames, stack_state, .. } = account;
        (*slot, *layout, frames.as_mut_slice(), stack_state)
    }));
    let Roster { processes: raw_processes, by_slot, by_number } = processes.roster();
    let now_ns = monotonic_ns()?;
    let mut sites = Vec::new();
    let mut by_index = HashMap::new();
    let mut losses = losses(kernel);
    let mut stacks = Stacks::default();
    let mut incomplete = Incomplete::default();
    // Of processes that had several layouts the same stack may have several accounts.
    let mut known = HashSet::new();
    for Account { index, slot, layout, frames, counters, truncated, stack_state, broken } in accounts {
        let Some(&process) = by_slot.get(&slot) else { continue };
        let space = processes.space(raw_processes[process].life);
        let may_repeat = layout != 0 || space.is_some_and(AddressSpace::has_layouts);
        if !may_repeat || known.insert((process, frames.clone(), truncated, broken)) {
            if let Some(reason) = broken {
                incomplete.add(space, &frames, reason, 1);
            }
            count(&mut stacks, &mut losses, &frames, (truncated, stack_state, broken), 1);
        }
        by_index.insert(index, (sites.len(), ended_ago(kernel, slot, now_ns)));
        sites.push(RawSite { process, frames, counters, truncated, stack_state });
    }
    let outstanding = recorded_blocks(&sites, options.sample_bytes);
    let tables = [&kernel.block_keys, &kernel.wide_keys];
    let places: u64 = tables.iter().map(|keys| u64::from(table::positions(keys.elements()))).sum();
    let places = places + 2 * outstanding;
    let wanted = occasion.is_final || options.show_allocs || !options.older_than.is_zero() || places <= MANY_PLACES;
    let mut warnings = Vec::new();
    let mut blocks = if wanted {
        let blocks = drain::blocks(kernel, now_ns, |index| by_index.get(&index).copied());
        Some(BlockTally::read(sites.len(), options, blocks))
    } else {
        warnings
            .push("with so much room for blocks (--max-allocs), their ages stand in the last report only".to_owned());
        None
    };
    for (process, site) in processes.remains(&by_number) {
        if let Some(reason) = site.broken {
            incomplete.add(processes.space(raw_processes[process].life), &site.frames, reason, site.stacks);
        }
        let DeadSite { frames, counters, truncated, stack_state, .. } = site;
        count(&mut stacks, &mut losses, frames, (*truncated, *stack_state, site.broken), site.stacks);
        let (frames, truncated, stack_state) = (frames.to_vec(), *truncated, *stack_state);
        sites.push(RawSite { process, frames, counters: *counters, truncated, stack_state });
        if let Some(blocks) = &mut blocks {
            blocks.append(site.blocks.clone());
        }
    }
    incomplete.count(&mut losses);
    if occasion.is_final {
        incomplete.log();
    }
    let Merged { lives, without_stack } = processes.merged();
    if lives > 0 {
        warnings.push(format!("{lives} processes that have ended are summed by name and program, as pid 0"));
    }
    losses.stacks_dropped += without_stack;
    Ok(Capture {
        started: occasion.started,
        elapsed: occasion.elapsed,
        sequence: occasion.sequence,
        is_final: occasion.is_final,
        target: target.clone(),
        options: options.clone(),
        processes: raw_processes,
        untraced: Vec::new(),
        sites,
        blocks,
        // Where frame pointers end cannot be told from where they are missing.
        stacks: (options.unwind != Unwind::Fp).then_some(stacks),
        losses,
        warnings,
        silence: Vec::new(),
        notes: Vec::new(),
    })
}

/// How long the life in a slot has been over; zero for one that is not.
fn ended_ago(kernel: &Kernel, slot: u32, now_ns: u64) -> Duration {
    let ended_ns = kernel.processes.read(slot).map_or(0, |life| life.ended_ns);
    if ended_ns == 0 { Duration::ZERO } else { Duration::from_nanos(now_ns.saturating_sub(ended_ns)) }
}

/// Counts a stack that so many lives have each.
fn count(
    stacks: &mut Stacks,
    losses: &mut Losses,
    frames: &[Address],
    (truncated, state, broken): (bool, StackState, Option<Stop>),
    times: u64,
) {
    let is_unsure = state == StackState::Unsure;
    stacks.recorded += u64::from(!frames.is_empty() || broken.is_some()) * times;
    stacks.complete += u64::from(!frames.is_empty() && broken.is_none() && !truncated && !is_unsure) * times;
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
        ..Losses::default()
    }
}
