//! The functions that are in place of the program's own calls, and the tables by which they find the real ones.
//!
//! In: what `crate::resolve` found. Out: for each function its real one, where its entry jumps to, and whether the entry counts.
//!
//! A function that the real allocator passes on to another one of these (glibc's `operator new` calls `malloc`, musl's `calloc` calls
//! `malloc`, each through us) counts nothing itself: its mask is 0, and its entry takes 0 bytes off the countdown.

use crate::{entry, slow};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Any of them: the arguments that it does not have are whatever was in the registers.
pub type Function = unsafe extern "C-unwind" fn(usize, usize, usize) -> usize;
/// The arguments of a call.
pub type Arguments = [usize; 3];

/// A place that an entry jumps to.
#[repr(transparent)]
pub struct Place(core::cell::UnsafeCell<Function>);

// SAFETY: after its initialisation it is only read and written as an atomic, here and by the single load of an entry.
unsafe impl Sync for Place {}

macro_rules! functions {
    ($($index:literal $constant:ident $name:ident;)*) => {
        $(pub const $constant: usize = $index;)*
        /// How many there are.
        pub const COUNT: usize = [$($index),*].len();

        /// Their names, each with a zero behind it.
        static NAMES: [&str; COUNT] = [$(concat!(stringify!($name), "\0")),*];
        /// What we put in their place.
        static WRAPPERS: [Function; COUNT] = [$(entry::$name),*];
        /// Where the entries jump: first to what resolves the function, then to the real function.
        pub static PLACES: [Place; COUNT] = [$(Place(core::cell::UnsafeCell::new(entry::unresolved::<$index>))),*];

        // In a static program the linker's option --wrap gives the real functions these names; nowhere else do they exist.
        core::arch::global_asm!(
            ".pushsection .data.rel.ro.leaktrace_sampler_linked,\"aw\",@progbits",
            ".balign 8",
            ".globl leaktrace_sampler_linked",
            ".hidden leaktrace_sampler_linked",
            "leaktrace_sampler_linked:",
            $(
                concat!(".weak __real_", stringify!($name)),
                concat!(".hidden __real_", stringify!($name)),
                concat!(".8byte __real_", stringify!($name)),
            )*
            ".globl leaktrace_sampler_own",
            ".hidden leaktrace_sampler_own",
            "leaktrace_sampler_own:",
            $(concat!(".8byte leaktrace_sampler_entry_", stringify!($name)),)*
            ".popsection",
        );
    };
}

functions! {
    0 MALLOC malloc;
    1 CALLOC calloc;
    2 REALLOC realloc;
    3 FREE free;
    4 POSIX_MEMALIGN posix_memalign;
    5 ALIGNED_ALLOC aligned_alloc;
    6 MEMALIGN memalign;
    7 VALLOC valloc;
    8 PVALLOC pvalloc;
    9 NEW _Znwm;
    10 NEW_ARRAY _Znam;
    11 NEW_NOTHROW _ZnwmRKSt9nothrow_t;
    12 NEW_ARRAY_NOTHROW _ZnamRKSt9nothrow_t;
    13 NEW_ALIGNED _ZnwmSt11align_val_t;
    14 NEW_ARRAY_ALIGNED _ZnamSt11align_val_t;
    15 NEW_ALIGNED_NOTHROW _ZnwmSt11align_val_tRKSt9nothrow_t;
    16 NEW_ARRAY_ALIGNED_NOTHROW _ZnamSt11align_val_tRKSt9nothrow_t;
    17 DELETE _ZdlPv;
    18 DELETE_ARRAY _ZdaPv;
    19 DELETE_SIZED _ZdlPvm;
    20 DELETE_ARRAY_SIZED _ZdaPvm;
    21 DELETE_NOTHROW _ZdlPvRKSt9nothrow_t;
    22 DELETE_ARRAY_NOTHROW _ZdaPvRKSt9nothrow_t;
    23 DELETE_ALIGNED _ZdlPvSt11align_val_t;
    24 DELETE_ARRAY_ALIGNED _ZdaPvSt11align_val_t;
    25 DELETE_SIZED_ALIGNED _ZdlPvmSt11align_val_t;
    26 DELETE_ARRAY_SIZED_ALIGNED _ZdaPvmSt11align_val_t;
    27 DELETE_ALIGNED_NOTHROW _ZdlPvSt11align_val_tRKSt9nothrow_t;
    28 DELETE_ARRAY_ALIGNED_NOTHROW _ZdaPvSt11align_val_tRKSt9nothrow_t;
}

/// All ones where a function's own entry counts, 0 where it passes its call on to one that does, or is not resolved yet.
pub static MASKS: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];
static REAL: [AtomicPtr<()>; COUNT] = [const { AtomicPtr::new(core::ptr::null_mut()) }; COUNT];

unsafe extern "C" {
    static leaktrace_sampler_linked: [usize; COUNT];
    static leaktrace_sampler_own: [usize; COUNT];
}

/// The function's name, with a zero behind it.
pub fn name(index: usize) -> &'static str {
    NAMES.get(index).copied().unwrap_or("\0")
}

/// What we put in its place.
pub fn own(index: usize) -> Function {
    // SAFETY: a table of the linker's, never written to.
    unsafe { &leaktrace_sampler_own }.get(index).copied().and_then(function).unwrap_or(slow::refuse)
}

/// What the program calls by this name, which is ours unless an object before us has it too: by its name our own function is theirs.
pub fn wrapper(index: usize) -> Function {
    WRAPPERS.get(index).copied().unwrap_or(entry::malloc)
}

/// The real function of a static program, if this is one.
pub fn linked(index: usize) -> Option<Function> {
    // SAFETY: a table of the linker's, never written to.
    let address = unsafe { &leaktrace_sampler_linked }.get(index).copied()?;
    function(address)
}

/// The function at an address that is not 0.
pub fn function(address: usize) -> Option<Function> {
    // SAFETY: null is the None of a function pointer; other addresses come from the linkers, static or dynamic.
    unsafe { core::mem::transmute::<usize, Option<Function>>(address) }
}

/// The real function, once it is resolved.
pub fn real(index: usize) -> Option<Function> {
    function(REAL.get(index)?.load(Ordering::Acquire) as usize)
}

/// Lets the function's entry jump to `real` from now on, and count if it `counts`. All threads that resolve it say the same.
pub fn settle(index: usize, real: Function, counts: bool) {
    let (Some(mask), Some(slot), Some(place)) = (MASKS.get(index), REAL.get(index), PLACES.get(index)) else { return };
    mask.store(if counts { usize::MAX } else { 0 }, Ordering::Release);
    slot.store(real as *mut (), Ordering::Release);
    // SAFETY: an aligned pointer in a static, which all accesses treat as an atomic.
    unsafe { AtomicPtr::from_ptr(place.0.get().cast::<*mut ()>()) }.store(real as *mut (), Ordering::Release);
}

/// Whether the function's own entry counts its calls.
pub fn counts(index: usize) -> bool {
    !has_mask(index) || MASKS.get(index).is_some_and(|mask| mask.load(Ordering::Acquire) != 0)
}

/// Whether the function may pass its calls on to another one.
pub fn has_mask(index: usize) -> bool {
    index == CALLOC || (POSIX_MEMALIGN..=NEW_ARRAY_ALIGNED_NOTHROW).contains(&index)
}

/// The size that a call asks for, bytes.
pub fn size(index: usize, [first, second, third]: Arguments) -> usize {
    match index {
        CALLOC => first.wrapping_mul(second),
        POSIX_MEMALIGN => third,
        ALIGNED_ALLOC | MEMALIGN => second,
        _ => first,
    }
}

/// The function that frees what this one allocates.
pub fn partner(index: usize) -> usize {
    match index {
        NEW | NEW_NOTHROW => DELETE,
        NEW_ARRAY | NEW_ARRAY_NOTHROW => DELETE_ARRAY,
        NEW_ALIGNED | NEW_ALIGNED_NOTHROW => DELETE_ALIGNED,
        NEW_ARRAY_ALIGNED | NEW_ARRAY_ALIGNED_NOTHROW => DELETE_ARRAY_ALIGNED,
        _ => FREE,
    }
}

/// Calls it.
///
/// # Safety
/// The arguments must be those of a call of the program, or ones that the function takes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a tail call needs no frame")]
pub unsafe fn call(function: Function, [first, second, third]: Arguments) -> usize {
    // SAFETY: the caller's promise.
    unsafe { function(first, second, third) }
}
