//! What can be read from outside: what was sampled, what was lost, and by which interval.
//!
//! In: counts of the other modules. Out: [`leaktrace_sampler_state`], a data symbol that a tracer finds in the library's dynamic
//! symbols and reads from the process' memory. Nothing in it is ever written by a tracer.

use crate::configuration;
use crate::pace::{Limits, Pace};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Layout of [`State`], which grows at its end only: a reader takes what `size` says and knows.
const VERSION: u32 = 1;

/// `State::flags`: an environment variable could not be read, and its default is used.
pub const FLAG_BAD_ENVIRONMENT: u64 = 1;
/// `State::flags`: another malloc stands before ours (the program's own, or one preloaded before): only what it passes on is seen.
pub const FLAG_NOT_IN_PLACE: u64 = 2;

/// The sampler's books. All fields are words in the machine's byte order. A forked child begins with its parent's.
#[repr(C)]
pub struct State {
    /// `LEAKSMPL`.
    magic: [u8; 8],
    version: u32,
    /// Of this structure, bytes.
    size: u32,
    /// `FLAG_` bits.
    flags: AtomicU64,
    /// The smallest interval, bytes; 0 before the environment was read.
    floor: AtomicU64,
    /// Samples per second that are not to be exceeded; 0 is no limit.
    rate: AtomicU64,
    /// The interval for the next draws, bytes, behind which lie the start (monotonic clock, ns) and the number of samples of the
    /// window by which it adapts.
    pub pace: Pace,
    /// Samples that entered the set, each of which was a hit of `alloc` if somebody listened.
    pub samples: AtomicU64,
    /// Samples that left the set, by a free that was seen or by a missed one. What is left in the set is the difference.
    pub frees: AtomicU64,
    /// Samples that found no room in the set while somebody listened, and were no hit of `alloc`.
    pub full: AtomicU64,
    /// The bytes that those stand for.
    pub full_bytes: AtomicU64,
    /// Samples whose address was sampled again before a free of it was seen.
    pub missed_frees: AtomicU64,
    /// Bytes of the memory for calls that come before the real functions are known.
    pub early_bytes: AtomicU64,
}

/// The books of this process.
#[unsafe(no_mangle)]
pub static leaktrace_sampler_state: State = State {
    magic: *b"LEAKSMPL",
    version: VERSION,
    size: size_of::<State>() as u32,
    flags: AtomicU64::new(0),
    floor: AtomicU64::new(0),
    rate: AtomicU64::new(0),
    pace: Pace::new(),
    samples: AtomicU64::new(0),
    frees: AtomicU64::new(0),
    full: AtomicU64::new(0),
    full_bytes: AtomicU64::new(0),
    missed_frees: AtomicU64::new(0),
    early_bytes: AtomicU64::new(0),
};
pub use self::leaktrace_sampler_state as STATE;

/// Adds to one of the books.
pub fn add(book: &AtomicU64, number: u64) {
    book.fetch_add(number, Relaxed);
}

/// Sets one of the `FLAG_` bits.
pub fn flag(bit: u64) {
    STATE.flags.fetch_or(bit, Relaxed);
}

/// The limits, from the environment as soon as the C library has it.
pub fn limits() -> Limits {
    let floor = STATE.floor.load(Relaxed);
    if floor != 0 {
        return Limits { floor, rate: STATE.rate.load(Relaxed) };
    }
    configure()
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

#[cold]
fn configure() -> Limits {
    // SAFETY: the C library's own variable, set before any constructor runs.
    if unsafe { (&raw const environ).read() }.is_null() {
        return configuration::limits(None, None).0;
    }
    let value = |name: &core::ffi::CStr| {
        // SAFETY: a string; what is returned is read at once, as any getenv.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        // SAFETY: a string of the C library's.
        (!value.is_null()).then(|| unsafe { core::ffi::CStr::from_ptr(value) }.to_bytes())
    };
    let (limits, is_read) =
        configuration::limits(value(c"LEAKTRACE_SAMPLER_INTERVAL"), value(c"LEAKTRACE_SAMPLER_RATE"));
    if !is_read {
        flag(FLAG_BAD_ENVIRONMENT);
    }
    STATE.rate.store(limits.rate, Relaxed);
    STATE.pace.start(limits);
    STATE.floor.store(limits.floor, Relaxed);
    limits
}

/// The monotonic clock, nanoseconds, to the kernel's tick (1 to 10 ms). A finer one reads the processor's counter, which a program
/// under strict seccomp must not do either.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a local; every kernel has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
