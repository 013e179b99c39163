//! Memory for calls that come while the dynamic linker looks the real functions up: it may allocate for that itself.
//!
//! In: sizes. Out: blocks of a small static area, which are never given back. A free or realloc of one is recognised by its address,
//! for which every such block is in the filter for ever.

use crate::samples::FILTER;
use crate::state::{STATE, add};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// glibc asks for less than a hundred bytes.
const AREA: usize = 16 << 10;
/// In front of each block, for its size; keeps blocks aligned as malloc's are.
const HEADER: usize = 16;

#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; AREA]>);

// SAFETY: its bytes belong to whoever was given them.
unsafe impl Sync for Area {}

static MEMORY: Area = Area(UnsafeCell::new([0; AREA]));
static USED: AtomicUsize = AtomicUsize::new(0);

fn start() -> usize {
    MEMORY.0.get() as usize
}

/// A block of zeros; 0 where there is no room.
pub fn allocate(size: usize) -> usize {
    let Some(length) = size.checked_next_multiple_of(HEADER).and_then(|size| size.checked_add(HEADER)) else {
        return 0;
    };
    let taken = USED.fetch_update(Relaxed, Relaxed, |used| used.checked_add(length).filter(|end| *end <= AREA));
    let Ok(offset) = taken else { return 0 };
    let header = (start() + offset) as *mut usize;
    // SAFETY: these bytes are in the area and nobody else's, and aligned.
    unsafe { header.write(size) };
    let address = start() + offset + HEADER;
    FILTER.stick(address as u64);
    add(&STATE.early_bytes, length as u64);
    address
}

/// Whether the address is one of these blocks.
pub fn holds(address: usize) -> bool {
    address.wrapping_sub(start()) < AREA
}

/// The size that such a block was asked for with.
pub fn size(address: usize) -> usize {
    // SAFETY: the header of a block of the area, by the caller's word; within the area in any case.
    unsafe { ((address & !(HEADER - 1)).wrapping_sub(HEADER).max(start()) as *const usize).read() }
}
