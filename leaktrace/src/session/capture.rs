//! One reading of the tables as the model wants it: slots become processes, ticks become ages.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use leaktrace_common::unwind::Stop;

use super::drain::{self, Account};
use super::kernel::{Kernel, monotonic_ns};
use super::processes::Processes;
use crate::model::{Address, BlockTally, Capture, Losses, Options, RawSite, Stacks, Target, Unwind};
use crate::procmaps::AddressSpace;

/// Blocks above which a report in the middle of a trace goes without their ages, so that it takes milliseconds however
/// many are outstanding.
const MANY_BLOCKS: u64 = 2_000_000;

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

/// Reads everything that a report needs.
pub fn capture(
    kernel: &Kernel,
    processes: &mut Processes,
    occasion: &Occasion,
    target: &Target,
    options: &Options,
) -> Result<Capture> {
    for (slot, life) in drain::lives(kernel) {
        processes.observe(slot, &life);
    }
    let (raw_processes, by_slot) = processes.raw();
    let mut sites = Vec::new();
    let mut by_index = HashMap::new();
    let mut losses = losses(kernel);
    let mut stacks = Stacks::default();
    let mut incomplete: BTreeMap<(PathBuf, Stop), u64> = BTreeMap::new();
    for Account { index, slot, frames, counters, truncated, broken } in drain::accounts(kernel) {
        let Some(&process) = by_slot.get(&slot) else { continue };
        if let Some(reason) = broken {
            losses.unwind_failed += 1;
            *losses.unwind_failures.entry(reason.as_str().to_owned()).or_default() += 1;
            let module = module_of(processes.space(raw_processes[process].life), frames.last().copied());
            *incomplete.entry((module, reason)).or_insert(0u64) += 1;
        }
        stacks.recorded += u64::from(!frames.is_empty() || broken.is_some());
        stacks.complete += u64::from(!frames.is_empty() && broken.is_none() && !truncated);
        by_index.insert(index, sites.len());
        sites.push(RawSite { process, frames, counters, truncated });
    }
    if occasion.is_final {
        for ((module, reason), stacks) in &incomplete {
            log::info!("{stacks} incomplete stacks end in {}: {}", module.display(), reason.as_str());
        }
    }
    let outstanding = recorded_blocks(&sites, options.sample_bytes);
    let wanted =
        occasion.is_final || options.show_allocs || !options.older_than.is_zero() || outstanding <= MANY_BLOCKS;
    let mut warnings = Vec::new();
    let blocks = if wanted {
        let blocks = drain::blocks(kernel, monotonic_ns()?, |index| by_index.get(&index).copied());
        Some(BlockTally::read(sites.len(), options, blocks))
    } else {
        warnings
            .push(format!("more than {MANY_BLOCKS} blocks are outstanding; their ages stand in the last report only"));
        None
    };
    Ok(Capture {
        started: occasion.started,
        elapsed: occasion.elapsed,
        sequence: occasion.sequence,
        is_final: occasion.is_final,
        target: target.clone(),
        options: options.clone(),
        processes: raw_processes,
        sites,
        blocks,
        // Where frame pointers end cannot be told from where they are missing.
        stacks: (options.unwind != Unwind::Fp).then_some(stacks),
        losses,
        warnings,
    })
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

/// The kernel's counters under the names of the report. Stacks that could not be walked to their end are counted with the
/// sites.
pub fn losses(kernel: &Kernel) -> Losses {
    let raw = kernel.losses();
    Losses {
        // A thread without a state of its own has its calls dropped.
        allocs_dropped: raw.allocs_dropped + raw.threads_dropped,
        stacks_dropped: raw.stacks_dropped,
        stacks_truncated: raw.stacks_truncated,
        returns_missed: raw.returns_missed,
        events_lost: raw.events_lost,
        ..Losses::default()
    }
}
