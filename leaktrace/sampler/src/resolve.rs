//! Finding the real functions: before `main`, or when one is called earlier.
//!
//! In: a function. Out: in the tables of `crate::functions`, the next definition of it behind this library, and whether its entry
//! counts. Nothing here is locked: threads that do it at the same time find the same.

use crate::functions::{self, COUNT, FREE, Function, MALLOC, NEW, REALLOC};
use crate::thread::{self, Inside};
use crate::{calibrate, fallback, fork, slow, state};
use core::arch::{asm, global_asm};

// Weak, since a static program has none of them.
global_asm!(".weak dlsym", ".weak dlopen", ".weak dlclose", ".weak dladdr");

macro_rules! weak {
    ($name:literal) => {{
        let address: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: reads what the linker wrote.
        unsafe {
            asm!(
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            asm!(
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        address
    }};
}

/// `dlsym`, where there is a dynamic linker.
pub fn dlsym() -> Option<unsafe extern "C" fn(*mut libc::c_void, *const u8) -> usize> {
    let address = weak!("dlsym");
    // SAFETY: the address of that function, or null, which is None.
    unsafe { core::mem::transmute(address) }
}

/// `dlopen`, as above.
pub fn dlopen() -> Option<unsafe extern "C" fn(*const u8, i32) -> *mut libc::c_void> {
    let address = weak!("dlopen");
    // SAFETY: the address of that function, or null, which is None.
    unsafe { core::mem::transmute(address) }
}

/// `dlclose`, as above.
pub fn dlclose() -> Option<unsafe extern "C" fn(*mut libc::c_void) -> i32> {
    let address = weak!("dlclose");
    // SAFETY: the address of that function, or null, which is None.
    unsafe { core::mem::transmute(address) }
}

/// Whether two functions are in the same object, as far as the dynamic linker knows.
pub fn are_together(one: Function, other: Function) -> bool {
    let address = weak!("dladdr");
    // SAFETY: the address of that function, or null, which is None.
    let dladdr: Option<unsafe extern "C" fn(usize, *mut libc::Dl_info) -> i32> =
        unsafe { core::mem::transmute(address) };
    let Some(dladdr) = dladdr else { return true };
    let base = |function: Function| {
        // SAFETY: plain words, for which zeros are valid.
        let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
        // SAFETY: writes into the local.
        unsafe { dladdr(function as usize, &raw mut info) };
        info.dli_fbase
    };
    base(one) == base(other)
}

/// Does something the allocations of which are ours and not the program's.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    let thread = thread::current();
    // SAFETY: this thread's own words, and the C library's errno.
    let (countdown, inside, seen, error) =
        unsafe { ((*thread).countdown, (*thread).inside, (*thread).seen, *libc::__errno_location()) };
    // SAFETY: as above. With the countdown at 0 all of the thread's calls come to `slow`, which sees whose they are.
    unsafe {
        (*thread).countdown = 0;
        (*thread).inside = Inside::Linker;
    }
    let result = work();
    // SAFETY: as above.
    unsafe {
        (*thread).countdown = countdown;
        (*thread).inside = inside;
        (*thread).seen = seen;
        *libc::__errno_location() = error;
    }
    result
}

/// Resolves a function at its first call. Out: where that call goes on, which is its own entry again where nothing was counted yet.
pub unsafe extern "C-unwind" fn resolve(index: usize) -> usize {
    let thread = thread::current();
    // SAFETY: this thread's own word.
    if index == FREE && unsafe { (*thread).inside } == Inside::Linker {
        // The linker frees something before we know how. It stays.
        return slow::keep as *const () as usize;
    }
    aside(|| {
        // What the others need: the linker's own calls, and what frees a block that calibration has allocated.
        for needed in [FREE, MALLOC, REALLOC, index] {
            find(thread, needed);
        }
    });
    match functions::real(index) {
        Some(real) if !functions::has_mask(index) => real as usize,
        _ => functions::own(index) as usize,
    }
}

/// Resolves a function. Whether there is a real one.
fn find(thread: *mut thread::Thread, index: usize) -> bool {
    if functions::real(index).is_some() {
        return true;
    }
    // SAFETY: this thread's own words.
    unsafe {
        (*thread).countdown = 0;
        (*thread).inside = Inside::Linker;
    }
    let found = if is_static() { functions::linked(index) } else { next(functions::name(index)) };
    // SAFETY: as above.
    unsafe { (*thread).inside = Inside::Calibration };
    // A linker that finds us again has none.
    let found = found.filter(|real| *real as usize != functions::own(index) as usize);
    match found {
        Some(real) => functions::settle(index, real, !calibrate::passes_on(thread, index, real)),
        None => fall_back(index),
    }
    found.is_some()
}

fn fall_back(index: usize) {
    let (function, counts) = fallback::of(index);
    functions::settle(index, function, counts);
}

/// Whether the linker has put us in place.
fn is_static() -> bool {
    functions::linked(MALLOC).is_some()
}

/// The next definition behind this library.
fn next(name: &str) -> Option<Function> {
    // SAFETY: a string with a zero behind it.
    functions::function(unsafe { dlsym()?(libc::RTLD_NEXT, name.as_ptr()) })
}

/// Resolves everything. Later is too late: the dynamic linker has a lock, which a thread may hold that waits for this one, as in a
/// constructor of a plug-in. C++'s functions are looked for only if the program has any, since looking in vain costs most.
fn find_all() {
    let thread = thread::current();
    aside(|| {
        for index in 0..NEW {
            find(thread, index);
        }
        let has_operators = find(thread, NEW);
        for index in NEW..COUNT {
            if has_operators {
                find(thread, index);
            } else if functions::real(index).is_none() {
                fall_back(index);
            }
        }
    });
}

/// Runs before `main`: prepares for forks, reads the environment, resolves everything, and lets this thread draw by what it has read.
extern "C" fn start() {
    fork::start();
    state::limits();
    find_all();
    // SAFETY: this thread's own words.
    unsafe { (*thread::current()).forget() };
    if is_static() {
        return;
    }
    let first = dlsym().and_then(|dlsym| {
        // SAFETY: a string with a zero behind it; the function exists, so nothing is allocated for an error.
        functions::function(unsafe { dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr().cast()) })
    });
    if first.is_some_and(|first| first as usize != functions::own(MALLOC) as usize) {
        state::flag(state::FLAG_NOT_IN_PLACE);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
