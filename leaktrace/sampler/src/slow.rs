//! Calls that an entry does not simply pass on: the countdown has run out, or the freed block may be a sample.
//!
//! In: the program's arguments, as the entry got them. Out: what the real function returns; samples in `crate::samples`.
//!
//! A real function may throw through here (`operator new`), so nothing here needs to be undone after a call of one. Nothing of the
//! thread's state is held over such a call either: the real function, or a signal handler in it, may come to us again.

use crate::functions::{self, Arguments, CALLOC, Function, MALLOC, POSIX_MEMALIGN, REALLOC, call};
use crate::set::Sample;
use crate::state::{self, STATE};
use crate::thread::{self, Inside, Outcome};
use crate::{draw, early, resolve, samples};
use core::sync::atomic::Ordering::Relaxed;

/// No address space has so many bytes (of x86-64 with five levels of page tables the half that is the program's).
const IMPOSSIBLE: usize = 1 << 56;

/// An allocation that the countdown did not reach beyond.
pub unsafe extern "C-unwind" fn allocate(first: usize, second: usize, third: usize, index: usize) -> usize {
    let arguments = [first, second, third];
    let thread = thread::current();
    // SAFETY: this thread's own word.
    if unsafe { (*thread).inside } != Inside::Program {
        // SAFETY: the caller's arguments.
        return unsafe { inside(thread, index, arguments) };
    }
    let Some(real) = functions::real(index) else {
        // SAFETY: the caller's arguments. What was taken off the countdown was 0 for a function with a mask, which begins anew.
        unsafe {
            resolve::resolve(index);
            if functions::has_mask(index) {
                return call(functions::own(index), arguments);
            }
            let Some(real) = functions::real(index) else { return refuse(0, 0, 0) };
            return sampled(real, index, arguments);
        }
    };
    // SAFETY: the caller's arguments.
    unsafe {
        if !functions::counts(index) {
            return call(real, arguments);
        }
        sampled(real, index, arguments)
    }
}

unsafe fn sampled(real: Function, index: usize, arguments: Arguments) -> usize {
    let size = functions::size(index, arguments) as u64;
    let Some(interval) = judge(size) else {
        // SAFETY: the program's own call.
        return unsafe { call(real, arguments) };
    };
    // SAFETY: as above.
    let result = unsafe { call(real, arguments) };
    let block = if index != POSIX_MEMALIGN {
        result
    } else if result as i32 == 0 {
        // SAFETY: where the function has just written its result.
        unsafe { (arguments[0] as *const usize).read() }
    } else {
        0
    };
    record(block, size, interval);
    result
}

/// Whether a block of `size` bytes is a sample; then the interval that drew it. That goes on while nobody listens: whoever listens
/// later is told of the frees of what was there before.
fn judge(size: u64) -> Option<u64> {
    let limits = state::limits();
    let interval = || {
        if limits.floor <= 1 {
            return 1;
        }
        let held = STATE.samples.load(Relaxed).saturating_sub(STATE.frees.load(Relaxed));
        STATE.pace.interval().max(limits.least(held, samples::ROOM))
    };
    // SAFETY: this thread's state; nothing that is called while it is borrowed allocates.
    let thread = unsafe { &mut *thread::current() };
    let drawn_by = match thread.judge(size, interval()) {
        Outcome::Nothing => return None,
        Outcome::Sample(drawn_by) => Some(drawn_by),
        Outcome::Look => {
            STATE.pace.note(limits, state::now(), false);
            None
        }
    };
    thread.draw(interval());
    drawn_by
}

/// Records a sample, unless the call has failed.
fn record(block: usize, size: u64, interval: u64) {
    if block == 0 {
        return;
    }
    if interval > 1 {
        STATE.pace.note(state::limits(), state::now(), true);
    }
    samples::enter(Sample { address: block as u64, size, weight: draw::weight(size, interval) });
}

/// A call that is not the program's: the dynamic linker's while it looks for a function, or a real function's that is probed.
unsafe fn inside(thread: *mut thread::Thread, index: usize, arguments: Arguments) -> usize {
    // SAFETY: this thread's own words.
    let is_linker = unsafe {
        (*thread).countdown = 0;
        (*thread).inside == Inside::Linker
    };
    if functions::real(index).is_none() && !is_linker {
        // SAFETY: an index that the entry gave.
        unsafe { resolve::resolve(index) };
    }
    let result = match functions::real(index) {
        // SAFETY: the caller's arguments.
        Some(real) => unsafe { call(real, arguments) },
        None if matches!(index, MALLOC | CALLOC) => early::allocate(functions::size(index, arguments)),
        // No linker asks for these.
        None if index == POSIX_MEMALIGN => libc::ENOMEM as usize,
        None => 0,
    };
    // SAFETY: as above.
    unsafe {
        (*thread).seen = match index {
            POSIX_MEMALIGN if result as i32 == 0 => (arguments[0] as *const usize).read(),
            _ => result,
        };
    }
    result
}

/// A block is freed whose address may be a sample's.
pub unsafe extern "C-unwind" fn release(block: usize, second: usize, third: usize, index: usize) -> usize {
    if early::holds(block) {
        return 0;
    }
    samples::leave(block as u64);
    // SAFETY: the program's own call. An entry's place is never empty, but only the tables know the real function by itself.
    unsafe {
        if functions::real(index).is_none() {
            resolve::resolve(index);
        }
        functions::real(index).map_or(0, |real| call(real, [block, second, third]))
    }
}

/// A realloc for which the countdown has run out, or of a block whose address may be a sample's.
pub unsafe extern "C-unwind" fn reallocate(block: usize, size: usize, _: usize, has_run_out: usize) -> usize {
    let thread = thread::current();
    // SAFETY: this thread's own words.
    let is_programs = unsafe { (*thread).inside == Inside::Program };
    let mut interval = None;
    if !is_programs {
        // SAFETY: as above.
        unsafe { (*thread).countdown = 0 };
    } else if has_run_out != 0 {
        interval = judge(size as u64);
    }
    if early::holds(block) {
        // SAFETY: the program's own call, as two.
        return unsafe { moved(block, size) };
    }
    // SAFETY: an index of ours.
    let Some(real) = functions::real(REALLOC).or_else(|| unsafe {
        resolve::resolve(REALLOC);
        functions::real(REALLOC)
    }) else {
        // SAFETY: takes nothing.
        return unsafe { refuse(0, 0, 0) };
    };
    // It fails, and the block stays what it is.
    if size >= IMPOSSIBLE {
        // SAFETY: the program's own call.
        return unsafe { call(real, [block, size, 0]) };
    }
    // Before the real call: behind it the address may be another thread's.
    let earlier = samples::leave(block as u64);
    // SAFETY: the program's own call.
    let result = unsafe { call(real, [block, size, 0]) };
    // A size of 0 may be a free, which returns 0 as a failure does.
    let has_failed = result == 0 && size != 0;
    if let Some(earlier) = earlier.filter(|_| has_failed) {
        samples::enter(earlier);
    }
    if let Some(interval) = interval {
        record(result, size as u64, interval);
    }
    result
}

/// A realloc of a block that no real function knows.
unsafe fn moved(block: usize, size: usize) -> usize {
    // SAFETY: the program's own call.
    let result = unsafe { call(functions::wrapper(MALLOC), [size, 0, 0]) };
    if result != 0 {
        // SAFETY: two blocks of at least that many bytes.
        unsafe { core::ptr::copy_nonoverlapping(block as *const u8, result as *mut u8, size.min(early::size(block))) };
    }
    result
}

/// What a call returns whose size does not fit.
pub unsafe extern "C-unwind" fn refuse(_: usize, _: usize, _: usize) -> usize {
    // SAFETY: the C library's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    0
}

/// A free that does nothing.
pub unsafe extern "C-unwind" fn keep(_: usize, _: usize, _: usize) -> usize {
    0
}
