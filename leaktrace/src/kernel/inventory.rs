//! The outstanding blocks of one life, in the order of their addresses, brought up to date while the process is stopped.
//!
//! In: the tables. Out: blocks. Reading and ordering a million of them takes tenths of a second, for which a process must not be
//! stopped. So they are read and put in order before; in the stop, the tables are read once more, and what has not moved within
//! them has its position already.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use leaktrace_common::abi::BLOCK_IGNORED;
use leaktrace_common::table::BUCKET_KEYS;

use super::Kernel;
use super::drain::{self, BlockPiece, TabledBlock};

/// The position of a block that has none.
const NOWHERE: u32 = u32::MAX;

/// The blocks of one life as they were at some moment.
#[derive(Debug)]
pub struct Inventory {
    slot: u32,
    /// For each place of the table of ordinary addresses the position in `blocks`.
    positions: Vec<u32>,
    /// By address.
    blocks: Vec<TabledBlock>,
    /// Room for what is found when this is brought up to date.
    room: Vec<Found>,
}

/// Blocks of one piece of a table, with their places if that is the table of ordinary addresses.
type Found = Vec<(u32, TabledBlock)>;

impl Inventory {
    /// Reads the blocks of the life in a slot, of a process that will run on.
    #[must_use]
    pub fn of(kernel: &Kernel, slot: u32) -> Self {
        let found = read(kernel, slot, Vec::new());
        let all = in_order(&found);
        let mut positions = vec![NOWHERE; kernel.block_keys.elements() as usize * BUCKET_KEYS];
        for (position, (place, _)) in all.iter().enumerate() {
            if let Some(entry) = positions.get_mut(*place as usize) {
                *entry = position as u32;
            }
        }
        Self { slot, positions, blocks: all.into_iter().map(|(_, block)| block).collect(), room: found }
    }

    /// The blocks by now, as [`blocks`] gives them.
    #[must_use]
    pub fn up_to_date(self, kernel: &Kernel) -> Vec<TabledBlock> {
        let found = read(kernel, self.slot, self.room);
        let mut kept = self.blocks;
        for block in &mut kept {
            block.size = GONE;
        }
        let mut new = Vec::new();
        for (place, block) in found.into_iter().flatten() {
            let position = self.positions.get(place as usize).copied().unwrap_or(NOWHERE);
            match kept.get_mut(position as usize) {
                Some(known) if known.address == block.address => *known = block,
                _ => new.push(block),
            }
        }
        kept.retain(|block| block.size != GONE);
        if !new.is_empty() {
            new.sort_unstable_by_key(|block| block.address);
            kept.append(&mut new);
            // Of two ascending runs, which this merges.
            kept.sort_by_key(|block| block.address);
        }
        kept.dedup_by_key(|block| block.address);
        mark(kernel, self.slot, &mut kept);
        kept
    }
}

/// The blocks of the life in a slot, of a process that does not run, by address. What a `realloc` in flight has set aside may stand
/// in the table again: of several blocks at one address one is given.
#[must_use]
pub fn blocks(kernel: &Kernel, slot: u32) -> Vec<TabledBlock> {
    let mut blocks: Vec<_> = in_order(&read(kernel, slot, Vec::new())).into_iter().map(|(_, block)| block).collect();
    blocks.dedup_by_key(|block| block.address);
    mark(kernel, slot, &mut blocks);
    blocks
}

/// Marks those that the program has ignored by an address far inside of them.
fn mark(kernel: &Kernel, slot: u32, blocks: &mut [TabledBlock]) {
    let marks = drain::marks(kernel);
    let Some(own) = marks.of(slot) else { return };
    for block in blocks.iter_mut().filter(|block| own.mean(block.address, block.size, block.time)) {
        block.time |= BLOCK_IGNORED;
    }
}

/// All that was found, by address.
fn in_order(found: &[Found]) -> Found {
    let mut all = found.concat();
    all.sort_unstable_by_key(|(_, block)| block.address);
    all
}

/// Reads the tables, with as many threads as there are processors.
fn read(kernel: &Kernel, slot: u32, room: Vec<Found>) -> Vec<Found> {
    let pieces: Vec<BlockPiece> = drain::block_pieces(kernel).collect();
    let (room, done) = (Mutex::new(room), Mutex::new(Vec::new()));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut owners = Owners::of(kernel, slot);
        let mut found = room.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        found.clear();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.extend(drain::placed_blocks(kernel, piece).filter_map(|(place, address, block)| {
                let block = TabledBlock::of(address, block)?;
                owners.is_its(block.site).then_some((place.unwrap_or(NOWHERE), block))
            }));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Marks a block that is no longer there; no allocator gives so many bytes.
const GONE: u64 = u64::MAX;

/// Which sites are those of one life. Asked for when the first block of a site is met.
struct Owners<'a> {
    kernel: &'a Kernel,
    slot: u32,
    known: Vec<Option<bool>>,
}

impl<'a> Owners<'a> {
    fn of(kernel: &'a Kernel, slot: u32) -> Self {
        Self { kernel, slot, known: vec![None; kernel.sites.elements() as usize] }
    }

    fn is_its(&mut self, site: u32) -> bool {
        let Some(known) = self.known.get_mut(site as usize) else { return false };
        *known.get_or_insert_with(|| drain::owner_of(self.kernel, site) == Some(self.slot))
    }
}
