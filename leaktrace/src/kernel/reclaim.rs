//! Takes the records of ended lives out of the tables, so that running ones find room however many come and go.
//!
//! In: slots of lives that have ended. Out: their accounts, exact to the last call, and the places and slots given back to
//! the programs.
//!
//! The BPF programs touch a life's records only on behalf of its threads, and their last act for a thread is to remove it from
//! the thread table. The exit of the last thread ends a life, but another thread may still be in its exit: the life is left
//! alone as long as any of its threads is in the table. After that nobody else reads or writes what is taken here. Each value
//! is cleared before its key, since with the key gone the place may have a new owner at once; and a slot is given back last,
//! when nothing in the tables bears its number.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use anyhow::Result;
use leaktrace_common::abi::{self, Block, PROCESS_SLOTS, Site};
use leaktrace_common::table::{self, BUCKET_KEYS, Bucket};
use leaktrace_common::unwind::Stop;
use leaktrace_common::wide::Name;

use super::Kernel;
use super::drain::{self, Account, Clock};
use super::mapped::MappedArray;
use crate::host::clock::monotonic_ns;
use crate::model::{Address, BlockTally, Counters, Options, RawBlock, SiteTally, StackState};

/// The account of one stack of a life that is over.
#[derive(Debug)]
pub struct DeadSite {
    /// The layout of the address space: [`leaktrace_common::abi::Process::layout`].
    pub layout: u64,
    /// Frames, innermost first.
    pub frames: Box<[Address]>,
    /// What was allocated and freed.
    pub counters: Counters,
    /// Whether the stack was cut.
    pub truncated: bool,
    /// Whether the stack is complete.
    pub stack_state: StackState,
    /// Why the walk ended before the outermost frame, where it did.
    pub broken: Option<Stop>,
    /// How many lives' accounts these are.
    pub stacks: u64,
    /// Blocks that were outstanding at the end of the life, with their ages at that time.
    pub blocks: SiteTally,
}

impl DeadSite {
    /// Adds the account of the same stack in another life.
    pub fn absorb(&mut self, other: Self) {
        self.counters.add(&other.counters);
        self.stack_state = self.stack_state.join(other.stack_state);
        self.stacks += other.stacks;
        self.blocks.absorb(other.blocks);
    }

    /// Counts in what the same life has allocated by the same stack in another layout.
    pub fn join(&mut self, other: Self) {
        self.counters.add(&other.counters);
        self.stack_state = self.stack_state.join(other.stack_state);
        self.blocks.join(other.blocks);
    }

    /// Keeps the sums over its blocks and drops the blocks.
    #[must_use]
    pub fn without_blocks(mut self) -> Self {
        self.blocks.absorb(SiteTally::default());
        self
    }
}

/// A key and where it lies.
struct Entry {
    key: u64,
    bucket: u32,
    lane: usize,
}

impl Entry {
    fn index(&self) -> u32 {
        self.bucket * BUCKET_KEYS as u32 + self.lane as u32
    }
}

/// The slots for which a thread may still be at work.
pub fn still_held(kernel: &Kernel, slots: &HashSet<u32>) -> HashSet<u32> {
    let slot_of = |entry: &Entry| kernel.threads.read(entry.index()).map(|thread| thread.process);
    let held =
        entries(&kernel.thread_keys).filter_map(|entry| slot_of(&entry)).filter(|slot| slots.contains(slot)).collect();
    // What was done before a thread was taken off is seen from here on.
    fence(Ordering::Acquire);
    held
}

/// Empties these slots and gives them back. Returns what they held, by slot.
///
/// # Errors
/// The clock cannot be read; then nothing is taken.
pub fn reclaim(kernel: &mut Kernel, slots: &HashSet<u32>, options: &Options) -> Result<HashMap<u32, Vec<DeadSite>>> {
    let ended = Ended::new(kernel, slots)?;
    let sites: Vec<Entry> = entries(&kernel.site_keys)
        .filter(|entry| kernel.sites.pointer(entry.index()).is_some_and(|site| ended.has(drain::process_of(site))))
        .collect();
    let accounts: Vec<Account> = sites.iter().filter_map(|entry| drain::account(kernel, entry.index())).collect();
    let outstanding = accounts.iter().any(|account| account.counters.outstanding_count() != 0);
    let blocks = if outstanding { take_blocks(kernel, &ended, &accounts) } else { Vec::new() };
    for entry in &sites {
        // Before the site itself: its next owner's frames have the same keys.
        remove_outer_frames(kernel, entry.index());
        if let Some(site) = kernel.sites.pointer(entry.index()) {
            // SAFETY: in bounds; of a life that has ended, which nobody else touches.
            unsafe { site.write_volatile(Site::default()) };
        }
        remove(&kernel.site_keys, entry);
    }
    kernel.ignored_inside.forget(slots);
    for slot in slots {
        if let Some(process) = kernel.processes.pointer(*slot) {
            // SAFETY: as above.
            unsafe { (&raw mut (*process).state).write_volatile(0) };
        }
        if let Err(error) = kernel.give_back(*slot) {
            log::warn!("{error:#}");
        }
    }

    let tallies = BlockTally::read(accounts.len(), options, blocks).into_sites();
    let mut remains: HashMap<u32, Vec<DeadSite>> = slots.iter().map(|slot| (*slot, Vec::new())).collect();
    for (account, blocks) in accounts.into_iter().zip(tallies) {
        let Account { slot, layout, frames, counters, truncated, stack_state, broken, .. } = account;
        let frames = frames.into_boxed_slice();
        remains.entry(slot).or_default().push(DeadSite {
            layout,
            frames,
            counters,
            truncated,
            stack_state,
            broken,
            stacks: 1,
            blocks,
        });
    }
    Ok(remains)
}

/// Lives that have ended, by slot, with how long ago.
struct Ended {
    since: Vec<Option<Duration>>,
    clock: Clock,
}

impl Ended {
    fn new(kernel: &Kernel, slots: &HashSet<u32>) -> Result<Self> {
        let now = monotonic_ns()?;
        let mut since = vec![None; PROCESS_SLOTS as usize];
        for slot in slots {
            let ended_ns = kernel.processes.read(*slot).map_or(now, |process| process.ended_ns);
            if let Some(since) = since.get_mut(*slot as usize) {
                *since = Some(Duration::from_nanos(now.saturating_sub(ended_ns)));
            }
        }
        Ok(Self { since, clock: Clock::of(kernel, now) })
    }

    fn has(&self, slot: u32) -> bool {
        self.since.get(slot as usize).is_some_and(Option::is_some)
    }

    /// How old a block was when its life ended.
    fn age(&self, slot: u32, block: &Block) -> Duration {
        let since = self.since.get(slot as usize).copied().flatten().unwrap_or_default();
        self.clock.age(block.time).saturating_sub(since)
    }
}

/// Takes all blocks of ended lives off the table, and names the accounts that they belong to.
fn take_blocks(kernel: &Kernel, ended: &Ended, accounts: &[Account]) -> Vec<RawBlock> {
    let by_index: HashMap<u32, usize> =
        accounts.iter().enumerate().map(|(position, account)| (account.index, position)).collect();
    let marks = drain::marks(kernel);
    let mut taken = Vec::new();
    let mut keep = |slot: u32, address: u64, block: &Block| {
        if let Some(&site) = block.site.checked_sub(1).and_then(|index| by_index.get(&index)) {
            let age = ended.age(slot, block);
            let (size, weight) = kernel.size_of(block.size);
            let is_meant = || marks.of(slot).is_some_and(|own| own.mean(address, size, block.time));
            taken.push(RawBlock {
                site,
                address: Address(address),
                size,
                weight,
                age,
                time: block.time,
                ignored: block.is_ignored() || is_meant(),
                kind: None,
            });
        }
    };
    for entry in entries(&kernel.block_keys) {
        let (slot, address) = abi::split_block_key(entry.key);
        if !ended.has(slot) {
            continue;
        }
        let Some(pointer) = kernel.blocks.pointer(entry.index()) else { continue };
        // SAFETY: in bounds; of a life that has ended, which nobody else touches.
        let block = unsafe {
            let block = pointer.read_volatile();
            (&raw mut (*pointer).site).write_volatile(0);
            block
        };
        remove(&kernel.block_keys, &entry);
        keep(slot, address, &block);
    }
    for entry in entries(&kernel.wide_keys) {
        // Of a life that has ended every record is complete: others' may be seen half written, but not with its slot.
        let Some(wide) = kernel.wide_blocks.read(entry.index()).filter(|wide| ended.has(wide.process)) else {
            continue;
        };
        if let Some(pointer) = kernel.wide_blocks.pointer(entry.index()) {
            // SAFETY: as above.
            unsafe { Name::erase(pointer) };
        }
        remove(&kernel.wide_keys, &entry);
        keep(wide.process, wide.address, &wide.block);
    }
    taken
}

/// All keys of a table.
fn entries(keys: &MappedArray<Bucket>) -> impl Iterator<Item = Entry> + '_ {
    // Most buckets are empty, and there are many: none of them costs more than its reading.
    let filled = (0..keys.elements()).filter_map(|bucket| {
        let pointer = keys.pointer(bucket)?;
        // SAFETY: in bounds; words of the mapping, each of which is read whole.
        let words = unsafe { (&raw const (*pointer).keys).read_volatile() };
        (words != [0; BUCKET_KEYS]).then_some((bucket, words))
    });
    filled.flat_map(|(bucket, words)| {
        let lanes = words.into_iter().enumerate().filter(|(_, key)| *key != 0);
        lanes.map(move |(lane, key)| Entry { key, bucket, lane })
    })
}

fn remove(keys: &MappedArray<Bucket>, entry: &Entry) {
    if let Some(place) = table::place_at(keys, entry.key, entry.bucket, entry.lane) {
        table::remove(keys, entry.key, place);
    }
}

/// Takes the frames of a deep stack out of their table.
fn remove_outer_frames(kernel: &Kernel, site: u32) {
    let depth = kernel.sites.read(site).map_or(0, |account| account.depth as usize);
    for (chunk, _) in drain::chunks(depth).skip(1) {
        if let Some(place) = drain::outer_frames(kernel, site, chunk) {
            table::remove(&kernel.frame_keys, abi::frames_key(site, chunk), place);
        }
    }
}
