//! The samples of this process: what enters the set and what leaves it, each with a hit of a site.
//!
//! In: sampled blocks, addresses that are freed. Out: hits, and the books.

use crate::filter::{COUNTERS, Filter};
use crate::probes;
use crate::set::{BUCKETS, Inserted, Sample, Set, WAYS};
use crate::state::{STATE, add};
use core::sync::atomic::{AtomicU8, AtomicU64};

/// What frees look at: see `crate::entry`.
pub static FILTER: Filter<AtomicU8, COUNTERS> = Filter::new();
/// As many samples as the set has slots for.
pub const ROOM: u64 = (BUCKETS * WAYS) as u64;
static SET: Set<AtomicU64, BUCKETS, WAYS> = Set::new();

/// Puts a block into the set, which the program does not have yet, and then hits `alloc`.
pub fn enter(sample: Sample) {
    FILTER.add(sample.address);
    match SET.insert(sample) {
        Inserted::New => {}
        Inserted::InPlaceOf(earlier) => {
            FILTER.remove(earlier.address);
            add(&STATE.missed_frees, 1);
            add(&STATE.frees, 1);
            probes::free(earlier.address);
        }
        Inserted::NoRoom => {
            FILTER.remove(sample.address);
            // Of what nobody would have been told nothing is missing.
            if probes::alloc_is_wanted() {
                add(&STATE.full, 1);
                add(&STATE.full_bytes, sample.weight);
            }
            return;
        }
    }
    add(&STATE.samples, 1);
    probes::alloc(sample.address, sample.size, sample.weight);
}

/// Takes a block out of the set that is about to be freed, and then hits `free`. None where it is no sample.
pub fn leave(address: u64) -> Option<Sample> {
    if !FILTER.may_hold(address) {
        return None;
    }
    let sample = SET.take(address)?;
    FILTER.remove(address);
    add(&STATE.frees, 1);
    probes::free(address);
    Some(sample)
}
