//! What each thread has: its countdown to the next sample and the random numbers that it draws from.
//!
//! In: sizes of allocations for which the countdown has run out. Out: whether the block is a sample, and by which interval.
//!
//! It is in the initial thread-local block, which every thread has from its start and loses with its stack: nothing is allocated
//! for it, and nothing has to be cleaned up. Signal handlers may allocate at any instruction here: the worst that follows is a
//! sample more or less.

use crate::{draw, fork, state};
use core::arch::{asm, global_asm};

/// Bytes after which a countdown is looked at even where the sample is further away, so that an interval that has become too long
/// is noticed. A look costs some 30 ns, and allocating so many bytes a thousand times that.
const LOOK: u64 = 16 << 20;

/// A thread's state, all zeros at its start. The entries know that the countdown comes first.
#[repr(C)]
pub struct Thread {
    /// Bytes to go; an allocation of as many or more is for `crate::slow` to see.
    pub countdown: u64,
    /// Bytes to go after those.
    rest: u64,
    /// The interval that drew them; 0 before the first draw.
    interval: u64,
    random: u64,
    /// Address that the last call inside of a probing call returned: see `crate::calibrate`.
    pub seen: usize,
    pub inside: Inside,
    /// Of the process that these random numbers are for: see `crate::fork`.
    generation: u32,
}

/// Whether the thread's calls are the program's.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Inside {
    /// They are.
    Program = 0,
    /// They come from a real function that is called to see whether it calls us.
    Calibration,
    /// They come from the dynamic linker, which we asked for a function.
    Linker,
}

const _: () = assert!(size_of::<Thread>() == 48 && core::mem::offset_of!(Thread, countdown) == 0);

global_asm!(
    ".pushsection .tbss.leaktrace_sampler_thread,\"awT\",@nobits",
    ".balign 64",
    ".globl leaktrace_sampler_thread",
    ".hidden leaktrace_sampler_thread",
    ".type leaktrace_sampler_thread, @object",
    ".size leaktrace_sampler_thread, 48",
    "leaktrace_sampler_thread:",
    ".zero 48",
    ".popsection",
);

/// This thread's state. A pointer and no reference, since a signal handler may change what is behind it.
pub fn current() -> *mut Thread {
    let thread: *mut Thread;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads two words that are the same for the thread's life.
    unsafe {
        asm!(
            "mov {thread}, qword ptr fs:[0]",
            "add {thread}, qword ptr [rip + leaktrace_sampler_thread@GOTTPOFF]",
            thread = out(reg) thread,
            options(pure, readonly, nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "adrp {offset}, :gottprel:leaktrace_sampler_thread",
            "ldr {offset}, [{offset}, :gottprel_lo12:leaktrace_sampler_thread]",
            "mrs {thread}, tpidr_el0",
            "add {thread}, {thread}, {offset}",
            thread = out(reg) thread,
            offset = out(reg) _,
            options(pure, readonly, nostack),
        );
    }
    thread
}

/// What a block is that the countdown did not reach beyond.
pub enum Outcome {
    /// A sample, by this interval.
    Sample(u64),
    /// None; only the countdown's part has run out.
    Look,
    /// None.
    Nothing,
}

impl Thread {
    /// Judges a block of `size` bytes, which the entry has taken off the countdown and found it run out. The countdown must be drawn
    /// again unless the outcome is [`Outcome::Nothing`]. `interval` draws the first countdown of a thread.
    pub fn judge(&mut self, size: u64, interval: u64) -> Outcome {
        let left = if self.interval == 0 {
            self.draw(interval);
            self.countdown
        } else {
            self.countdown.wrapping_add(size)
        };
        if size >= left.saturating_add(self.rest) {
            Outcome::Sample(self.interval)
        } else if size >= left {
            Outcome::Look
        } else {
            self.countdown = left - size;
            Outcome::Nothing
        }
    }

    /// Draws the distance to the next sample. An interval of 1 leaves the countdown at 0, so that every call comes to be seen.
    pub fn draw(&mut self, interval: u64) {
        self.interval = interval;
        self.rest = 0;
        if interval <= 1 {
            self.countdown = 0;
            return;
        }
        self.seed();
        let distance = draw::distance(interval, || draw::random(&mut self.random));
        self.countdown = distance.min(LOOK);
        self.rest = distance - self.countdown;
    }

    /// Lets the next call draw: what was drawn before the environment could be read is not what it asks for.
    pub fn forget(&mut self) {
        self.countdown = 0;
        self.interval = 0;
    }

    fn seed(&mut self) {
        let generation = fork::generation();
        if self.generation != generation {
            self.generation = generation;
            self.random ^= state::now().rotate_left(32) ^ (&raw const *self as u64) ^ u64::from(generation);
            // Neighbouring seeds are far apart after one step.
            draw::random(&mut self.random);
        }
    }
}
