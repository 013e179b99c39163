//! The entries for aarch64. Arguments are in x0, x1 and x2; x9 to x17 are free to use.
//!
//! A countdown that is smaller than the size, or becomes 0, has run out: `subs` clears C or sets Z, and `b.ls` sees either. A signal
//! handler that allocates between the load and the store is not counted.

use crate::functions::{
    ALIGNED_ALLOC, CALLOC, DELETE, DELETE_ALIGNED, DELETE_ALIGNED_NOTHROW, DELETE_ARRAY, DELETE_ARRAY_ALIGNED,
    DELETE_ARRAY_ALIGNED_NOTHROW, DELETE_ARRAY_NOTHROW, DELETE_ARRAY_SIZED, DELETE_ARRAY_SIZED_ALIGNED, DELETE_NOTHROW,
    DELETE_SIZED, DELETE_SIZED_ALIGNED, FREE, MALLOC, MASKS, MEMALIGN, NEW, NEW_ALIGNED, NEW_ALIGNED_NOTHROW,
    NEW_ARRAY, NEW_ARRAY_ALIGNED, NEW_ARRAY_ALIGNED_NOTHROW, NEW_ARRAY_NOTHROW, NEW_NOTHROW, PLACES, POSIX_MEMALIGN,
    PVALLOC, REALLOC, VALLOC,
};
use crate::samples::FILTER;
use crate::{filter, resolve, slow};
use core::arch::naked_asm;

/// A second name that no other object can take: see `functions::own`.
macro_rules! own {
    ($name:ident) => {
        concat!(
            ".globl leaktrace_sampler_entry_",
            stringify!($name),
            "\n",
            ".hidden leaktrace_sampler_entry_",
            stringify!($name),
            "\n",
            "leaktrace_sampler_entry_",
            stringify!($name),
            ":"
        )
    };
}

macro_rules! register {
    (0) => {
        "x0"
    };
    (1) => {
        "x1"
    };
    (2) => {
        "x2"
    };
}

/// Takes `$size` off the countdown.
macro_rules! take_off {
    ($size:literal) => {
        concat!(
            "adrp x9, :gottprel:leaktrace_sampler_thread
             ldr x9, [x9, #:gottprel_lo12:leaktrace_sampler_thread]
             mrs x10, tpidr_el0
             ldr x11, [x10, x9]
             subs x11, x11, ",
            $size,
            "
             str x11, [x10, x9]"
        )
    };
}

/// Jumps to the real function.
macro_rules! go_on {
    () => {
        "adrp x16, {places} + 8*{index}
         ldr x16, [x16, #:lo12:{places} + 8*{index}]
         br x16"
    };
}

/// Loads the counter of the address in x0 into w9. The index is that of `filter::index`.
macro_rules! look {
    () => {
        "ubfx x9, x0, #4, #{bits}
         adrp x10, {filter}
         add x10, x10, #:lo12:{filter}
         ldrb w9, [x10, x9]"
    };
}

/// An allocation whose size is in argument `$size`, by a function that may pass its calls on.
macro_rules! allocates {
    ($($name:ident $index:ident $size:tt)*) => {$(
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(_: usize, _: usize, _: usize) -> usize {
            naked_asm!(
                own!($name),
                ".cfi_startproc",
                "adrp x12, {masks} + 8*{index}",
                "ldr x12, [x12, #:lo12:{masks} + 8*{index}]",
                concat!("and x12, x12, ", register!($size)),
                take_off!("x12"),
                "b.ls 2f",
                go_on!(),
                "2:",
                "mov w3, #{index}",
                "b {slow}",
                ".cfi_endproc",
                ".balign 64",
                masks = sym MASKS,
                places = sym PLACES,
                slow = sym slow::allocate,
                index = const $index,
            )
        }
    )*};
}

/// A function that frees the block in its first argument.
macro_rules! releases {
    ($($name:ident $index:ident)*) => {$(
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(_: usize, _: usize, _: usize) -> usize {
            naked_asm!(
                own!($name),
                ".cfi_startproc",
                look!(),
                "cbnz w9, 2f",
                go_on!(),
                "2:",
                "mov w3, #{index}",
                "b {slow}",
                ".cfi_endproc",
                ".balign 64",
                filter = sym FILTER,
                bits = const filter::COUNTERS.ilog2(),
                places = sym PLACES,
                slow = sym slow::release,
                index = const $index,
            )
        }
    )*};
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn malloc(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        own!(malloc),
        ".cfi_startproc",
        take_off!("x0"),
        "b.ls 2f",
        go_on!(),
        "2:",
        "mov w3, #{index}",
        "b {slow}",
        ".cfi_endproc",
        ".balign 64",
        places = sym PLACES,
        slow = sym slow::allocate,
        index = const MALLOC,
    )
}

/// A product that does not fit is for the real function to refuse.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn calloc(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        own!(calloc),
        ".cfi_startproc",
        "umulh x9, x0, x1",
        "cbnz x9, 3f",
        "mul x13, x0, x1",
        "adrp x12, {masks} + 8*{index}",
        "ldr x12, [x12, #:lo12:{masks} + 8*{index}]",
        "and x12, x12, x13",
        take_off!("x12"),
        "b.ls 2f",
        "3:",
        go_on!(),
        "2:",
        "mov w3, #{index}",
        "b {slow}",
        ".cfi_endproc",
        ".balign 64",
        masks = sym MASKS,
        places = sym PLACES,
        slow = sym slow::allocate,
        index = const CALLOC,
    )
}

/// Hands over in w3 whether the countdown has run out.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn realloc(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        own!(realloc),
        ".cfi_startproc",
        take_off!("x1"),
        "b.ls 3f",
        look!(),
        "cbnz w9, 2f",
        go_on!(),
        "2:",
        "mov w3, wzr",
        "b {slow}",
        "3:",
        "mov w3, #1",
        "b {slow}",
        ".cfi_endproc",
        ".balign 64",
        filter = sym FILTER,
        bits = const filter::COUNTERS.ilog2(),
        places = sym PLACES,
        slow = sym slow::reallocate,
        index = const REALLOC,
    )
}

/// realloc of a product, as every C library has it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn reallocarray(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        ".cfi_startproc",
        "umulh x9, x1, x2",
        "cbnz x9, 2f",
        "mul x1, x1, x2",
        "b {realloc}",
        "2:",
        "b {refuse}",
        ".cfi_endproc",
        ".balign 64",
        realloc = sym realloc,
        refuse = sym slow::refuse,
    )
}

/// free by its old name.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn cfree(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(".cfi_startproc", "b {free}", ".cfi_endproc", free = sym free)
}

allocates! {
    posix_memalign POSIX_MEMALIGN 2
    aligned_alloc ALIGNED_ALLOC 1
    memalign MEMALIGN 1
    valloc VALLOC 0
    pvalloc PVALLOC 0
    _Znwm NEW 0
    _Znam NEW_ARRAY 0
    _ZnwmRKSt9nothrow_t NEW_NOTHROW 0
    _ZnamRKSt9nothrow_t NEW_ARRAY_NOTHROW 0
    _ZnwmSt11align_val_t NEW_ALIGNED 0
    _ZnamSt11align_val_t NEW_ARRAY_ALIGNED 0
    _ZnwmSt11align_val_tRKSt9nothrow_t NEW_ALIGNED_NOTHROW 0
    _ZnamSt11align_val_tRKSt9nothrow_t NEW_ARRAY_ALIGNED_NOTHROW 0
}

releases! {
    free FREE
    _ZdlPv DELETE
    _ZdaPv DELETE_ARRAY
    _ZdlPvm DELETE_SIZED
    _ZdaPvm DELETE_ARRAY_SIZED
    _ZdlPvRKSt9nothrow_t DELETE_NOTHROW
    _ZdaPvRKSt9nothrow_t DELETE_ARRAY_NOTHROW
    _ZdlPvSt11align_val_t DELETE_ALIGNED
    _ZdaPvSt11align_val_t DELETE_ARRAY_ALIGNED
    _ZdlPvmSt11align_val_t DELETE_SIZED_ALIGNED
    _ZdaPvmSt11align_val_t DELETE_ARRAY_SIZED_ALIGNED
    _ZdlPvSt11align_val_tRKSt9nothrow_t DELETE_ALIGNED_NOTHROW
    _ZdaPvSt11align_val_tRKSt9nothrow_t DELETE_ARRAY_ALIGNED_NOTHROW
}

/// Where a function's place points at first: finds the real function, then goes where `resolve::resolve` says.
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn unresolved<const INDEX: usize>(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        ".cfi_startproc",
        "stp x0, x1, [sp, #-32]!",
        ".cfi_adjust_cfa_offset 32",
        "stp x2, x30, [sp, #16]",
        ".cfi_rel_offset x30, 24",
        "mov w0, #{index}",
        "bl {resolve}",
        "mov x16, x0",
        "ldp x2, x30, [sp, #16]",
        ".cfi_restore x30",
        "ldp x0, x1, [sp], #32",
        ".cfi_adjust_cfa_offset -32",
        "br x16",
        ".cfi_endproc",
        index = const INDEX,
        resolve = sym resolve::resolve,
    )
}
