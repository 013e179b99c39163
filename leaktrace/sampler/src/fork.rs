//! Whether this process is a forked child that has not drawn random numbers of its own yet.
//!
//! In: a page that the kernel gives to children as zeros (`MADV_WIPEONFORK`, Linux 4.14). Out: a number that differs from the parent's.
//!
//! Asking for the process' number instead would be a system call at each draw, which a program that has given up its system calls
//! (seccomp) does not survive. On older kernels children go on with their parents' random numbers: each estimate is right on average
//! all the same, only not independent of the others.

use crate::state;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The largest page of our machines.
#[cfg(target_arch = "x86_64")]
const PAGE: usize = 4 << 10;
#[cfg(target_arch = "aarch64")]
const PAGE: usize = 64 << 10;

#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(target_arch = "aarch64", repr(align(65536)))]
struct Page {
    generation: AtomicU32,
    rest: [u8; PAGE - 4],
}

static WIPED: Page = Page { generation: AtomicU32::new(0), rest: [0; PAGE - 4] };

/// Lets children see zeros. Called before `main`.
pub fn start() {
    // SAFETY: pages of this library's own zeros, which nothing else lies in. A kernel that does not know the advice refuses it.
    unsafe { libc::madvise((&raw const WIPED).cast_mut().cast(), PAGE, libc::MADV_WIPEONFORK) };
}

/// Not 0, and after a fork another one.
pub fn generation() -> u32 {
    let generation = WIPED.generation.load(Relaxed);
    if generation != 0 {
        return generation;
    }
    let mut seed = state::now();
    let next = crate::draw::random(&mut seed) | 1;
    // Whichever thread comes first.
    match WIPED.generation.compare_exchange(0, next, Relaxed, Relaxed) {
        Ok(_) => next,
        Err(other) => other,
    }
}

const _: () = assert!(size_of::<Page>() == PAGE && align_of::<Page>() == PAGE);
