//! The outstanding blocks of one life, in the order of their addresses, brought up to date while the process is stopped.
//!
//! In: the tables. Out: blocks. Reading and ordering a million of them takes tenths of a second, for which a process must not be
//! stopped. So they are read and put in order before; in the stop, the tables are read once more, and what has not moved within
//! them has its position already.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

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
    /// Reads the blocks of the life in a slot.
    #[must_use]
    pub fn of(kernel: &Kernel, slot: u32) -> Self {
        let mut inventory = Self { slot, positions: Vec::new(), blocks: Vec::new(), room: Vec::new() };
        let found = inventory.read(kernel);
        let mut all: Found = Vec::with_capacity(found.iter().map(Vec::len).sum());
        for found in &found {
            all.extend_from_slice(found);
        }
        all.sort_unstable_by_key(|(_, block)| block.address);
        let places = kernel.block_keys.elements() as usize * BUCKET_KEYS;
        inventory.positions = vec![NOWHERE; places];
        for (position, (place, _)) in all.iter().enumerate() {
            if let Some(entry) = inventory.positions.get_mut(*place as usize) {
                *entry = position as u32;
            }
        }
        inventory.blocks = all.into_iter().map(|(_, block)| block).collect();
        inventory.room = found;
        inventory
    }

    /// The blocks by now, by address. What a `realloc` in flight has set aside may stand in the table again: of several blocks at
    /// one address one is given.
    #[must_use]
    pub fn up_to_date(mut self, kernel: &Kernel) -> Vec<TabledBlock> {
        let found = self.read(kernel);
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
        kept
    }

    /// The blocks as they were read, as [`Inventory::up_to_date`] gives them.
    #[must_use]
    pub fn into_blocks(mut self) -> Vec<TabledBlock> {
        self.blocks.dedup_by_key(|block| block.address);
        self.blocks
    }

    /// Reads the tables, with as many threads as there are processors.
    fn read(&mut self, kernel: &Kernel) -> Vec<Found> {
        let pieces: Vec<BlockPiece> = drain::block_pieces(kernel).collect();
        let room = Mutex::new(std::mem::take(&mut self.room));
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let slot = self.slot;
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
