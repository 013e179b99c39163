//! Net flow in windows (`--burst`): what is allocated and freed by size class while a window is open, with no record of any block
//! but of the classes that userspace wants stacks of.
//!
//! A block counts when its address is handed out and when it is given up, at one moment each, so that a window cuts both in the same
//! way. What was in flight when another window was open is over.

use aya_ebpf::helpers::bpf_probe_read_user;
use leaktrace_common::abi::Thread;
use leaktrace_common::atomic;
use leaktrace_common::flow::{self, CLASSES, FLOW_SLOTS, Flow, FlowThread, KEPT_BACK, Windows};

use crate::maps::{FLOW_THREADS, FLOWS, WINDOWS, unknown};

#[inline(always)]
fn windows() -> Option<*mut Windows> {
    WINDOWS.get_ptr_mut(0)
}

/// The number of the window that is open; 0 for none.
#[inline(always)]
pub fn open() -> u64 {
    // SAFETY: the map's only element.
    windows().map_or(0, |windows| unsafe { (&raw const (*windows).open).read_volatile() })
}

#[inline(always)]
fn state(thread: *mut Thread) -> Option<*mut FlowThread> {
    // SAFETY: the thread's own state.
    FLOW_THREADS.get_ptr_mut(unsafe { (*thread).place })
}

/// Whether what a thread has in flight began in the window that is open.
#[inline(always)]
pub fn is_current(thread: *mut Thread) -> bool {
    // SAFETY: the thread's own state.
    state(thread).is_some_and(|state| unsafe { (*state).window } == open())
}

/// A thread begins with a window; true where that is not the one in which it was seen last.
#[inline(always)]
pub fn renew(thread: *mut Thread) -> bool {
    let Some(state) = state(thread) else { return false };
    let open = open();
    // SAFETY: the thread's own state. Words one by one, so that no memset call is made of it.
    unsafe {
        if (*state).window == open {
            return false;
        }
        (*state).window = open;
        (*state).resized = 0;
        (*state).kept_back = 0;
        (*state).kept_back_count = 0;
    }
    true
}

/// A thread's state is another thread's from now on.
#[inline(always)]
pub fn forget(place: u32) {
    if let Some(state) = FLOW_THREADS.get_ptr_mut(place) {
        // SAFETY: an element of the map. No window has this number.
        unsafe { (*state).window = 0 };
    }
}

/// Whether blocks of this size are to be recorded with their stacks: of the class that glibc may give them, or the next, which it gives
/// where it would leave too little of what it cuts them from.
#[inline(always)]
pub fn is_recorded(size: u64) -> bool {
    let class = if has_headers() { flow::class(flow::chunk_for(size)) } else { 0 };
    is_class_recorded(class) || class != 0 && is_class_recorded(class + 1)
}

/// Whether any are.
#[inline(always)]
pub fn records_any() -> bool {
    windows().is_some_and(|windows| {
        // SAFETY: the map's only element.
        let recorded = unsafe { (&raw const (*windows).recorded).read_volatile() };
        recorded[0] | recorded[1] | recorded[2] | recorded[3] != 0
    })
}

#[inline(always)]
fn is_class_recorded(class: u32) -> bool {
    let class = unknown(u64::from(class));
    windows().is_some_and(|windows| {
        // SAFETY: the map's only element; the index is in bounds.
        let word = unsafe {
            let recorded = (&raw const (*windows).recorded).cast::<u64>();
            recorded.add((class >> 6) as usize & (CLASSES as usize / 64 - 1)).read_volatile()
        };
        word >> (class & 63) & 1 != 0
    })
}

#[inline(always)]
fn has_headers() -> bool {
    // SAFETY: the map's only element.
    windows().is_some_and(|windows| unsafe { (&raw const (*windows).headers).read_volatile() } != 0)
}

/// The size of a block in the allocator; `None` where that is not known.
#[inline(always)]
fn size_of(address: u64) -> Option<u64> {
    if !has_headers() {
        return None;
    }
    // SAFETY: the helper checks the address.
    let header = unsafe { bpf_probe_read_user(address.wrapping_sub(8) as *const u64) };
    flow::chunk_size(header.ok()?)
}

#[inline(always)]
fn class_of(address: u64) -> u32 {
    size_of(address).map_or(0, flow::class)
}

#[inline(always)]
fn flow_of(process: u32, class: u32) -> Option<*mut Flow> {
    if process < FLOW_SLOTS { FLOWS.get_ptr_mut(process * CLASSES + (class & (CLASSES - 1))) } else { None }
}

/// A block is handed out for which `size` bytes were asked. Whether it is to be recorded, now that its class is known.
#[inline(always)]
pub fn allocated(process: u32, address: u64, size: u64) -> bool {
    let chunk = size_of(address);
    let class = chunk.map_or(0, flow::class);
    if let Some(flow) = flow_of(process, class) {
        // SAFETY: an element of the map, written by atomics alone.
        unsafe {
            atomic::add(&raw mut (*flow).alloc_count, 1);
            atomic::add(&raw mut (*flow).alloc_bytes, chunk.unwrap_or(size));
        }
    }
    is_class_recorded(class)
}

#[inline(always)]
fn count_freed(process: u32, class: u32) {
    if let Some(flow) = flow_of(process, class) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*flow).free_count, 1) };
    }
}

/// A block is given up. `may_be_cache` if the allocator does that itself, perhaps at the thread's end for blocks that the program had
/// freed before: it counts as soon as the thread goes on.
#[inline(always)]
pub fn freed(thread: *mut Thread, address: u64, may_be_cache: bool) {
    let class = class_of(address);
    if may_be_cache && class != 0 {
        if let Some(state) = state(thread) {
            // SAFETY: the thread's own state.
            unsafe {
                (*state).kept_back = (*state).kept_back << 8 | u64::from(class & 0xff);
                (*state).kept_back_count += 1;
            }
        }
        return;
    }
    go_on(thread);
    // SAFETY: as above.
    count_freed(unsafe { (*thread).process }, class);
}

/// The thread goes on, so that what was kept back was not its cache.
#[inline(always)]
pub fn go_on(thread: *mut Thread) {
    let Some(state) = state(thread) else { return };
    // SAFETY: the thread's own state, and the map's only element.
    unsafe {
        let count = (*state).kept_back_count;
        if count == 0 {
            return;
        }
        (*state).kept_back_count = 0;
        if count > KEPT_BACK {
            if let Some(windows) = windows() {
                atomic::add(&raw mut (*windows).frees_lost, count);
            }
            return;
        }
        let mut kept_back = (*state).kept_back;
        (*state).kept_back = 0;
        for _ in 0..KEPT_BACK {
            let class = kept_back as u32 & 0xff;
            if class != 0 {
                count_freed((*thread).process, class);
            }
            kept_back >>= 8;
        }
    }
}

/// `realloc` is given a block: keeps in mind of which class it is.
#[inline(always)]
pub fn resize(thread: *mut Thread, address: u64) {
    if let Some(state) = state(thread) {
        // SAFETY: the thread's own state.
        unsafe { (*state).resized = if address == 0 { 0 } else { u64::from(class_of(address)) + 1 } };
    }
}

/// `realloc` has given that block up.
#[inline(always)]
pub fn resized(thread: *mut Thread) {
    if let Some(state) = state(thread) {
        // SAFETY: the thread's own state.
        unsafe {
            let class = (*state).resized;
            if class != 0 {
                count_freed((*thread).process, (class - 1) as u32);
            }
        }
    }
}
