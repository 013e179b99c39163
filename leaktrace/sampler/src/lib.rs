//! `libleaktrace_sampler.so`: preloaded into a program, it samples the program's allocations in the process itself.
//!
//! In: the program's calls of the malloc family and of C++'s operators, which reach this library before the real allocator.
//! Out: hits of the USDT sites `otel_memory:alloc(ptr, size, weighted_bytes)` and `otel_memory:free(ptr)`, for samples only and
//! only while somebody listens; and [`state::leaktrace_sampler_state`], which a tracer reads from the process' memory.
//!
//! An allocation takes its size off the thread's countdown and jumps to the real function (`entry`); where the countdown has
//! run out, `slow` draws the next one and may record the block in the set of samples ([`set`]). A free looks at one byte of a
//! counting filter ([`filter`]) and jumps to the real function unless the address may be a sample's.
//!
//! A program that is linked statically has it by the archive: `objcopy --redefine-syms=static.syms libleaktrace_sampler.a
//! sampler.a`, then `cc -static … @static.args sampler.a`, and `@static-c++.args` beside it for C++. The linker's --wrap puts us in
//! place there, since there is no next definition to ask for.
//!
//! Never here: locks, allocations, thread-local destructors, panics, a dependency beyond libc.so.6. All of it may run in signal
//! handlers, in the child of a fork of a program with threads, and before the constructors of any library.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(test, allow(unused, reason = "the modules that take malloc's place are not in the test program"))]

// For its panic handler, which no code of ours refers to: so the linker takes none of std.
#[cfg(not(test))]
extern crate std as _;

pub mod configuration;
pub mod draw;
pub mod filter;
pub mod pace;
#[path = "../../../leaktrace-common/src/sampling.rs"]
#[expect(clippy::inline_always, reason = "the file is the one that the BPF programs share with userspace")]
pub mod sampling;
pub mod set;
pub mod word;

// Unit tests must keep their malloc.
#[cfg(not(test))]
mod calibrate;
#[cfg(not(test))]
mod early;
#[cfg(not(test))]
mod entry;
#[cfg(not(test))]
mod fallback;
#[cfg(not(test))]
mod fork;
#[cfg(not(test))]
mod functions;
#[cfg(not(test))]
mod probes;
#[cfg(not(test))]
mod resolve;
#[cfg(not(test))]
mod samples;
#[cfg(not(test))]
mod slow;
#[cfg(not(test))]
pub mod state;
#[cfg(not(test))]
mod thread;

// What rustc asks std for in every shared library, as absent: see build.rs.
#[cfg(not(test))]
core::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/absent.s")));

/// Nothing here allocates. This says so to the linker, which would take std's allocator otherwise, and std's needs along with it.
#[cfg(not(test))]
struct Nothing;

// SAFETY: no memory is a valid answer.
#[cfg(not(test))]
unsafe impl core::alloc::GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

#[cfg(not(test))]
#[global_allocator]
static NOTHING: Nothing = Nothing;
