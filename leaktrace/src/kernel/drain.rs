//! Reading the tables: accounts, frames and blocks, as they stand now.
//!
//! While programs write, each word read is whole but two words need not be of the same moment; the last reading is
//! made after the programs were stopped.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use aya::Pod;
use leaktrace_common::abi::{
    self, BLOCK_IGNORED, BLOCK_TIME, Block, FRAMES_PER_CHUNK, PROCESS_SLOTS, Process, SITE_FRAMELESS, SITE_GUESSED,
    SITE_STOP_SHIFT, SITE_TRUNCATED, SITE_UNREADY, Site,
};
use leaktrace_common::table::{self, BUCKET_KEYS, Bucket, Place};
use leaktrace_common::unwind::Stop;
use leaktrace_common::wide::{Name, WideBlock};

use super::Kernel;
use super::ignored_inside::Marks;
use super::mapped::MappedArray;
use crate::host::clock::monotonic_ns;
use crate::model::{Address, Counters, RawBlock, StackState};

/// Attempts to read a record that the BPF programs are changing.
const ATTEMPTS: u32 = 4;

/// An account with its frames, by process slot.
pub struct Account {
    /// Its index in the site table.
    pub index: u32,
    /// Slot of its process.
    pub slot: u32,
    /// The layout of the address space: [`leaktrace_common::abi::Process::layout`].
    pub layout: u64,
    /// Frames, innermost first; empty for the account of blocks without stacks.
    pub frames: Vec<Address>,
    /// What was allocated and freed.
    pub counters: Counters,
    /// Whether the stack was cut.
    pub truncated: bool,
    /// Whether the stack is complete.
    pub stack_state: StackState,
    /// Why the walk ended before the outermost frame, where it did.
    pub broken: Option<Stop>,
}

/// Lives that were given a slot so far, with their slots.
pub fn lives(kernel: &Kernel) -> Vec<(u32, Process)> {
    (1..PROCESS_SLOTS)
        .map_while(|slot| kernel.processes.read(slot).map(|process| (slot, process)))
        // Slots are handed out in order: the first that never was used ends the list.
        .take_while(|(_, process)| process.seen_ns != 0)
        .filter(|(_, process)| process.state != 0)
        .collect()
}

/// A table in pieces, each of which takes well less than a millisecond to read.
fn pieces<T>(table: &MappedArray<T>, buckets: usize) -> impl Iterator<Item = Range<u32>> + use<T> {
    let elements = table.elements();
    (0..elements).step_by(buckets).map(move |start| start..elements.min(start.saturating_add(buckets as u32)))
}

/// The site table in pieces, for [`accounts`].
pub fn site_pieces(kernel: &Kernel) -> impl Iterator<Item = Range<u32>> + use<> {
    pieces(&kernel.site_keys, 64)
}

/// All accounts in these buckets of the site table.
pub fn accounts(kernel: &Kernel, buckets: Range<u32>) -> impl Iterator<Item = Account> + '_ {
    sites(kernel, buckets).filter_map(|index| account(kernel, index))
}

/// The counters of all accounts, without their frames.
pub fn counters(kernel: &Kernel) -> impl Iterator<Item = Counters> + '_ {
    let sites = sites(kernel, 0..kernel.site_keys.elements());
    let tick = tick();
    sites.filter_map(|index| site(kernel, index)).map(move |site| counters_of(&site, tick))
}

/// The counters of all accounts of processes with their indices and the slots of their processes, without their frames.
pub fn placed_counters(kernel: &Kernel) -> impl Iterator<Item = (u32, u32, Counters)> + '_ {
    let sites = sites(kernel, 0..kernel.site_keys.elements());
    let tick = tick();
    sites.filter_map(move |index| {
        let site = site(kernel, index)?;
        Some((index, site.process, counters_of(&site, tick)))
    })
}

/// Frees of a life that no record explains: blocks from before the trace, mostly. The programs count what the C library frees at a
/// thread's end with the others first: only the thread's end tells them apart.
pub fn unknown_frees(life: &Process) -> u64 {
    life.untracked_frees.saturating_sub(life.thread_end_frees)
}

/// The slot of the process that a site is of; `None` where there is no complete site.
pub(super) fn owner_of(kernel: &Kernel, index: u32) -> Option<u32> {
    Some(site(kernel, index)?.process)
}

/// The indices of sites in these buckets of their table.
fn sites(kernel: &Kernel, buckets: Range<u32>) -> impl Iterator<Item = u32> + '_ {
    used(&kernel.site_keys, buckets).flat_map(move |bucket| {
        (0..BUCKET_KEYS).filter_map(move |lane| {
            let keys = kernel.site_keys.pointer(bucket)?;
            // SAFETY: in bounds; a word of the mapping.
            let key = unsafe { (&raw const (*keys).keys[lane]).read_volatile() };
            (key != 0).then_some(bucket * BUCKET_KEYS as u32 + lane as u32)
        })
    })
}

/// The site at an index, if one is complete there and has anything in it.
fn site(kernel: &Kernel, index: u32) -> Option<Site> {
    let site = kernel.sites.read(index)?;
    (site.process != 0 && (site.flags & SITE_FRAMELESS == 0 || site.alloc_count != 0)).then_some(site)
}

fn counters_of(site: &Site, tick: Duration) -> Counters {
    Counters {
        alloc_bytes: site.alloc_bytes,
        alloc_count: site.alloc_count,
        free_bytes: site.free_bytes,
        free_count: site.free_count,
        temporary_count: site.temporary_count,
        longest_life: tick * site.longest_life,
    }
}

/// The account at an index, if one is complete there and has anything in it.
pub fn account(kernel: &Kernel, index: u32) -> Option<Account> {
    let site = site(kernel, index)?;
    Some(Account {
        index,
        slot: site.process,
        layout: site.layout,
        frames: frames(kernel, index, site.depth as usize),
        counters: counters_of(&site, tick()),
        truncated: site.flags & SITE_TRUNCATED != 0,
        stack_state: stack_state(site.flags),
        broken: abi::site_stop(site.flags).filter(|stop| !stop.is_complete()),
    })
}

pub(super) fn process_of(site: *mut Site) -> u32 {
    // SAFETY: the caller's pointer is in bounds; one word.
    unsafe { (&raw const (*site).process).read_volatile() }
}

/// The frames of a site that is complete.
fn frames(kernel: &Kernel, index: u32, depth: usize) -> Vec<Address> {
    let mut frames = Vec::with_capacity(depth.min(abi::MAX_DEPTH));
    for (chunk, kept) in chunks(depth) {
        let element = match chunk {
            0 => Some(index),
            _ => outer_frames(kernel, index, chunk).map(|place| kernel.sites.elements() + place.index()),
        };
        let Some(words) = element.and_then(|element| kernel.frames.pointer(element)) else { break };
        // SAFETY: in bounds; written once, before the site was published.
        let words = unsafe { words.read_volatile() };
        frames.extend(words.iter().take(kept).copied().map(Address));
    }
    frames
}

/// The chunks of a stack of so many frames: their numbers, with how many frames are in each.
pub fn chunks(depth: usize) -> impl Iterator<Item = (u32, usize)> {
    let depth = depth.min(abi::MAX_DEPTH);
    (0..depth.div_ceil(FRAMES_PER_CHUNK))
        .map(move |chunk| (chunk as u32, (depth - chunk * FRAMES_PER_CHUNK).min(FRAMES_PER_CHUNK)))
}

/// Where a chunk of a site's frames is; the first chunk is at the site's own index.
pub fn outer_frames(kernel: &Kernel, site: u32, chunk: u32) -> Option<Place> {
    table::find(&kernel.frame_keys, abi::frames_key(site, chunk))
}

/// What a site's flags say of its stack.
fn stack_state(flags: u32) -> StackState {
    let ended = Stop::from_code(flags >> SITE_STOP_SHIFT & 0xff);
    if flags & (SITE_TRUNCATED | SITE_FRAMELESS) != 0 {
        StackState::Cut
    } else if ended != Some(Stop::Outermost) {
        let has_more = matches!(ended, None | Some(Stop::TooDeep | Stop::NoRoom));
        let is_guess = flags & (SITE_UNREADY | SITE_GUESSED) != 0;
        if has_more || is_guess { StackState::Cut } else { StackState::Stopped }
    } else if flags & SITE_UNREADY != 0 {
        StackState::Gap
    } else if flags & SITE_GUESSED != 0 {
        StackState::Guessed
    } else {
        StackState::Whole
    }
}

/// Buckets of one of the tables that blocks are in.
#[derive(Debug, Clone)]
pub enum BlockPiece {
    /// Of ordinary addresses.
    Tabled(Range<u32>),
    /// Of addresses that the keys of that table cannot hold.
    Wide(Range<u32>),
    /// Of the thread table: a `realloc` in flight keeps its old block there.
    Aside(Range<u32>),
}

/// All tables that blocks are in, for [`blocks`].
pub fn block_pieces(kernel: &Kernel) -> impl Iterator<Item = BlockPiece> + use<> {
    let tabled = pieces(&kernel.block_keys, 2048).map(BlockPiece::Tabled);
    let wide = pieces(&kernel.wide_keys, 2048).map(BlockPiece::Wide);
    tabled.chain(wide).chain(pieces(&kernel.thread_keys, 2048).map(BlockPiece::Aside))
}

/// Addresses far inside of blocks that programs have called no leak, as they are now.
pub fn marks(kernel: &Kernel) -> Marks {
    monotonic_ns().map_or_else(|_| Marks::default(), |now| kernel.ignored_inside.read(Clock::of(kernel, now).now()))
}

/// The outstanding blocks in a piece. For the index of a site `wanted` returns the number to report it by and how long ago its
/// life ended, which is subtracted from the blocks' ages; blocks of other sites are left out.
pub fn blocks<'a>(
    kernel: &'a Kernel,
    piece: &BlockPiece,
    clock: Clock,
    marks: &'a Marks,
    wanted: impl Fn(u32) -> Option<(usize, Duration)> + 'a,
) -> impl Iterator<Item = RawBlock> + 'a {
    let own = |site| if marks.is_empty() { None } else { marks.of(process_of(kernel.sites.pointer(site)?)) };
    placed_blocks(kernel, piece).filter_map(move |(_, address, block)| {
        let index = block.site.checked_sub(1)?;
        let (number, ago) = wanted(index)?;
        let age = clock.age(block.time).saturating_sub(ago);
        let (size, weight) = kernel.size_of(block.size);
        let is_meant = || own(index).is_some_and(|own| own.mean(address, size, block.time));
        let (time, ignored) = (block.time, block.is_ignored() || is_meant());
        Some(RawBlock { site: number, address: Address(address), size, weight, age, time, ignored, kind: None })
    })
}

/// The outstanding blocks in a piece, of all lives, with their places in the table of ordinary addresses and their addresses.
pub(super) fn placed_blocks<'a>(
    kernel: &'a Kernel,
    piece: &BlockPiece,
) -> impl Iterator<Item = (Option<u32>, u64, Block)> + use<'a> {
    let (tabled, wide, aside) = match piece.clone() {
        BlockPiece::Tabled(buckets) => (buckets, 0..0, 0..0),
        BlockPiece::Wide(buckets) => (0..0, buckets, 0..0),
        BlockPiece::Aside(buckets) => (0..0, 0..0, buckets),
    };
    let lanes = |bucket: u32| (0..BUCKET_KEYS).map(move |lane| (bucket, lane));
    let tabled = used(&kernel.block_keys, tabled).flat_map(lanes).filter_map(|(bucket, lane)| {
        let (address, block) = tabled_block(kernel, bucket, lane)?;
        Some((Some(bucket * BUCKET_KEYS as u32 + lane as u32), address, block))
    });
    let wide =
        used(&kernel.wide_keys, wide).flat_map(lanes).filter_map(|(bucket, lane)| wide_block(kernel, bucket, lane));
    let aside =
        used(&kernel.thread_keys, aside).flat_map(lanes).filter_map(|(bucket, lane)| taken_aside(kernel, bucket, lane));
    tabled.chain(wide.chain(aside).map(|(address, block)| (None, address, block)))
}

/// A block as the tables have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TabledBlock {
    /// Where it lies in the process; 0 is none.
    pub address: u64,
    /// Bytes asked for.
    pub size: u64,
    /// The index of its site.
    pub site: u32,
    /// When it was allocated, and whether the program wants no leak reported of it: as [`Block::time`].
    pub time: u32,
}

impl TabledBlock {
    /// The site of a block that stands in no table: it is from before the trace, and was found in the allocator's own records.
    pub const UNRECORDED: u32 = u32::MAX - 1;

    /// A block that nobody has recorded.
    pub fn unrecorded(address: u64, size: u64) -> Self {
        Self { address, size, site: Self::UNRECORDED, time: 0 }
    }

    /// Whether nobody has recorded it.
    pub fn is_unrecorded(&self) -> bool {
        self.site == Self::UNRECORDED
    }

    /// Whether the program wants no leak reported of it.
    pub fn is_ignored(&self) -> bool {
        self.time & BLOCK_IGNORED != 0
    }

    /// Whether it was allocated at the same time as a block with this [`Block::time`].
    pub fn is_of(&self, time: u32) -> bool {
        (self.time ^ time) & BLOCK_TIME == 0
    }

    /// `None` where the record is being written or taken back.
    pub(super) fn of(address: u64, block: Block) -> Option<Self> {
        Some(Self { address, size: block.size, site: block.site.checked_sub(1)?, time: block.time })
    }
}

/// Whether a block of the life in a slot still stands in the tables.
pub fn is_there(kernel: &Kernel, slot: u32, block: &TabledBlock) -> bool {
    let is_it = |record: Block| {
        record.size == block.size && record.site == block.site.wrapping_add(1) && record.time == block.time
    };
    if let Some(key) = abi::block_key(slot, block.address) {
        let place = table::find(&kernel.block_keys, key);
        return place.and_then(|place| kernel.blocks.read(place.index())).is_some_and(is_it);
    }
    let key = Name::of_allocator(slot, block.address).key();
    let is_named = |index| {
        let wide = kernel.wide_blocks.read(index);
        wide.is_some_and(|wide| wide.process == slot && wide.address == block.address && is_it(wide.block))
    };
    table::find_where(&kernel.wide_keys, key, is_named).is_some()
}

/// How long a jiffy is.
fn tick() -> Duration {
    static TICK: OnceLock<Duration> = OnceLock::new();
    *TICK.get_or_init(|| {
        nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)
            .map_or(Duration::from_millis(4), Duration::from)
            .max(Duration::from_micros(100))
    })
}

/// Turns jiffies into ages.
#[derive(Clone, Copy)]
pub struct Clock {
    now: u32,
    tick: Duration,
}

impl Clock {
    /// The first life tells how jiffies stand to `CLOCK_MONOTONIC`, by which the kernel advances them. The length of one is the
    /// resolution of the coarse clock.
    pub fn of(kernel: &Kernel, now_ns: u64) -> Self {
        let tick = tick();
        let now = kernel.clocks().map_or(0, |(then_ns, then_jiffies)| {
            let since = Duration::from_nanos(now_ns.saturating_sub(then_ns));
            then_jiffies.wrapping_add((since.as_nanos() / tick.as_nanos()) as u64) as u32
        });
        Self { now, tick }
    }

    /// Now, in jiffies.
    pub fn now(self) -> u32 {
        self.now
    }

    /// The age of a block that was allocated at this time, in jiffies.
    pub fn age(self, time: u32) -> Duration {
        self.tick * abi::jiffies_since(time, self.now)
    }
}

/// Those of these buckets that have a key. Most have none where there is much room: so they are passed over in a plain loop, which
/// matters to a debug build.
pub(super) fn used(keys: &MappedArray<Bucket>, buckets: Range<u32>) -> impl Iterator<Item = u32> + '_ {
    let mut next = buckets.start;
    std::iter::from_fn(move || {
        while next < buckets.end {
            let bucket = keys.pointer(next)?;
            next += 1;
            let (mut any, mut lane) = (0, 0);
            while lane < BUCKET_KEYS {
                // SAFETY: in bounds; a word of the mapping.
                any |= unsafe { (&raw const (*bucket).keys[lane]).read_volatile() };
                lane += 1;
            }
            if any != 0 {
                return Some(next - 1);
            }
        }
        None
    })
}

fn tabled_block(kernel: &Kernel, bucket: u32, lane: usize) -> Option<(u64, Block)> {
    let (key, block) = keyed(&kernel.block_keys, &kernel.blocks, bucket, lane, |block| block.site)?;
    Some((abi::split_block_key(key).1, block))
}

/// The same at an address that no key of the block table holds.
fn wide_block(kernel: &Kernel, bucket: u32, lane: usize) -> Option<(u64, Block)> {
    let site = |wide: &WideBlock| wide.block.site;
    let (_, wide) = keyed(&kernel.wide_keys, &kernel.wide_blocks, bucket, lane, site)?;
    Some((wide.address, wide.block))
}

/// A key in a table of blocks, with the record that belongs to it, if it is complete and has a site.
fn keyed<T: Pod>(
    keys: &MappedArray<Bucket>,
    records: &MappedArray<T>,
    bucket: u32,
    lane: usize,
    site: impl Fn(&T) -> u32,
) -> Option<(u64, T)> {
    let keys = keys.pointer(bucket)?;
    // SAFETY: in bounds; a word of the mapping.
    let key = || unsafe { (&raw const (*keys).keys[lane]).read_volatile() };
    let index = bucket * BUCKET_KEYS as u32 + lane as u32;
    for _ in 0..ATTEMPTS {
        let before = key();
        if before == 0 {
            return None;
        }
        let record = records.read(index)?;
        // Site 0: the record is being written or taken back at this moment.
        if site(&record) != 0 && key() == before {
            return Some((before, record));
        }
    }
    None
}

/// The old block of a `realloc` in flight: it is outstanding until the call succeeds.
fn taken_aside(kernel: &Kernel, bucket: u32, lane: usize) -> Option<(u64, Block)> {
    let keys = kernel.thread_keys.pointer(bucket)?;
    // SAFETY: in bounds; a word of the mapping.
    let key = unsafe { (&raw const (*keys).keys[lane]).read_volatile() };
    // The key comes first: the record is much longer.
    let thread = (key != 0).then(|| kernel.threads.read(bucket * BUCKET_KEYS as u32 + lane as u32))??;
    (thread.sp != 0 && thread.old_address != 0 && thread.old.site != 0).then_some((thread.old_address, thread.old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_stopped_early_is_told_from_a_stack_that_is_known_to_go_on() {
        let state = |stop: Stop, flags| stack_state((stop as u32) << SITE_STOP_SHIFT | flags);
        assert_eq!(state(Stop::Outermost, 0), StackState::Whole);
        assert_eq!(state(Stop::Outermost, SITE_GUESSED), StackState::Guessed);
        assert_eq!(state(Stop::Outermost, SITE_GUESSED | SITE_UNREADY), StackState::Gap);
        for stop in [Stop::TablePending, Stop::BadRead, Stop::NoMapping, Stop::NoRow] {
            assert_eq!(state(stop, 0), StackState::Stopped, "{stop:?}");
            assert_eq!(state(stop, SITE_GUESSED), StackState::Cut, "{stop:?}: callers may have been skipped");
        }
        for (stop, flags) in
            [(Stop::TooDeep, 0), (Stop::NoRoom, 0), (Stop::BadRead, SITE_TRUNCATED), (Stop::BadRead, SITE_FRAMELESS)]
        {
            assert_eq!(state(stop, flags), StackState::Cut, "{stop:?} {flags}");
        }
    }
}
