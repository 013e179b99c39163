//! What is outstanding: by site, and by process with its peak.

use leaktrace_common::abi::Block;
use leaktrace_common::atomic;

use crate::maps::PROCESSES;
use crate::sampling;
use crate::sites::{self, End};

/// Counts a block that was taken off the table as freed.
#[inline(always)]
pub fn settle(process: u32, record: &Block, end: End) {
    lower(process, settle_site(record, end));
}

/// The site's part of [`settle`]. The bytes that are left for [`lower`], or for [`raise`] to do both at once.
#[inline(always)]
pub fn settle_site(record: &Block, end: End) -> u64 {
    let weight = sampling::weight(record.size);
    sites::count_free(record.site, weight, end);
    weight.0
}

/// Lowers the process' outstanding bytes.
#[inline(always)]
pub fn lower(process: u32, bytes: u64) {
    if bytes != 0
        && let Some(process) = PROCESSES.get_ptr_mut(process)
    {
        // SAFETY: an element of the map; the counter is written by atomics alone.
        unsafe { atomic::add(&raw mut (*process).live_bytes, bytes.wrapping_neg()) };
    }
}

/// Changes the process' outstanding bytes (in two's complement), and raises their peak with them.
#[inline(always)]
pub fn raise(process: u32, bytes: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(process) else { return };
    // SAFETY: an element of the map; both counters are written by atomics alone.
    unsafe {
        let live = atomic::fetch_add(&raw mut (*process).live_bytes, bytes).wrapping_add(bytes);
        let peak = &raw mut (*process).peak_bytes;
        let mut seen = atomic::load(peak);
        // Each failure means that another thread raised it meanwhile; as many in a row as CPUs can race.
        let mut attempt = 0;
        while live > seen && attempt < 16 {
            let held = atomic::compare_exchange(peak, seen, live);
            if held == seen {
                break;
            }
            seen = held;
            attempt += 1;
        }
    }
}
