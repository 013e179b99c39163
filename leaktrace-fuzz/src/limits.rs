//! What an input may cost: memory, and time of the processor.
//!
//! Memory beyond the target's limit cannot be had: whoever is prepared for that goes on, everybody else ends the process, which
//! is a failure. An input that takes longer than [`LONGEST_RUN`] is one, too.

use crate::targets::Target;
use nix::time::{ClockId, clock_gettime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The most that an input may take, of the processor's time.
const LONGEST_RUN: Duration = Duration::from_secs(5);

/// The system's allocator within a limit.
pub struct Bounded;

/// Bytes allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most that may be.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

impl Bounded {
    fn admits(more: usize) -> bool {
        LIVE.load(Ordering::Relaxed).saturating_add(more) <= LIMIT.load(Ordering::Relaxed)
    }
}

// SAFETY: every block is the system allocator's, or null, which says that there is no memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::admits(layout.size()) {
            return std::ptr::null_mut();
        }
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::admits(layout.size()) {
            return std::ptr::null_mut();
        }
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises; the block is the system allocator's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !Self::admits(size.saturating_sub(layout.size())) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises; the block is the system allocator's.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            LIVE.fetch_add(size, Ordering::Relaxed);
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        moved
    }
}

/// Inputs begun; odd while one runs.
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Bytes that one input may take.
static ALLOWANCE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Ends this process when an input of this target costs too much from here on, or panics, even where that is caught.
pub fn guard(target: &Target) {
    ALLOWANCE.store(target.memory, Ordering::Relaxed);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        LIMIT.store(usize::MAX, Ordering::Relaxed);
        hook(panic);
        std::process::exit(101);
    }));
    std::thread::spawn(|| {
        let (mut run, mut begun) = (0, used());
        loop {
            std::thread::sleep(Duration::from_millis(250));
            let now = RUNS.load(Ordering::Relaxed);
            if now != run || now.is_multiple_of(2) {
                (run, begun) = (now, used());
            } else if used().saturating_sub(begun) > LONGEST_RUN {
                eprintln!("the input takes more than {} s of the processor's time", LONGEST_RUN.as_secs());
                std::process::exit(102);
            }
        }
    });
}

/// Runs one input within the limits.
pub fn one(run: impl FnOnce()) {
    LIMIT.store(LIVE.load(Ordering::Relaxed).saturating_add(ALLOWANCE.load(Ordering::Relaxed)), Ordering::Relaxed);
    RUNS.fetch_add(1, Ordering::Relaxed);
    run();
    RUNS.fetch_add(1, Ordering::Relaxed);
    LIMIT.store(usize::MAX, Ordering::Relaxed);
}

/// The processor's time that this process has taken.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
