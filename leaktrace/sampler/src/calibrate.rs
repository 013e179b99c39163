//! Whether a real function passes its calls on to another function that is in our hands.
//!
//! In: a function that was just resolved. Out: whether a call of it came to us again. The same function does one or the other: glibc's
//! `operator new` calls `malloc`, tcmalloc's does not; musl's `calloc` calls `malloc`, glibc's does not. Counting in both places would
//! count twice, counting in neither would miss everything.
//!
//! One small block is allocated and freed for each function, before `main`. A call that only reaches us on the
//! way, and returns another block than the one that we saw, is none that was passed on.

use crate::functions::{self, Arguments, CALLOC, FREE, Function, POSIX_MEMALIGN};
use crate::resolve;
use crate::thread::{Inside, Thread};

/// Bytes of the block.
const SIZE: usize = 24;
const ALIGNMENT: usize = 64;

/// Whether `real` calls us. The thread's countdown must be 0, so that every call of it comes to be seen.
pub fn passes_on(thread: *mut Thread, index: usize, real: Function) -> bool {
    if !functions::has_mask(index) {
        return false;
    }
    // An allocator that lacks some C function leaves it to the C library's, whose blocks it could not free: jemalloc has no
    // `pvalloc`. Nothing is tried on such a pair. C++'s operators have their delete beside them.
    let malloc = functions::real(functions::MALLOC);
    if index < functions::NEW && malloc.is_some_and(|malloc| !resolve::are_together(real, malloc)) {
        return false;
    }
    let mut block = 0usize;
    let arguments: Arguments = match index {
        CALLOC => [1, SIZE, 0],
        POSIX_MEMALIGN => [&raw mut block as usize, ALIGNMENT, SIZE],
        functions::ALIGNED_ALLOC | functions::MEMALIGN => [ALIGNMENT, SIZE, 0],
        // Aligned operators take the alignment second; others of one argument ignore it. The nothrow argument is an empty object.
        _ => [SIZE, ALIGNMENT, &raw mut block as usize],
    };
    // SAFETY: this thread's own words.
    unsafe {
        (*thread).inside = Inside::Calibration;
        (*thread).countdown = 0;
        (*thread).seen = 0;
    }
    // SAFETY: arguments that the function takes.
    let result = unsafe { functions::call(real, arguments) };
    if index != POSIX_MEMALIGN {
        block = result;
    }
    // SAFETY: as above.
    let seen = unsafe { (*thread).seen };
    if block != 0 {
        // By the function that belongs to it: allocators for debugging insist on that.
        let partner = functions::partner(index);
        let free = if partner == FREE { functions::real(FREE) } else { Some(functions::wrapper(partner)) };
        if let Some(free) = free {
            // SAFETY: a block of the real function's. The aligned delete takes the alignment second.
            unsafe { functions::call(free, [block, ALIGNMENT, 0]) };
        }
    }
    block != 0 && seen == block
}
