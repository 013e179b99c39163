//! The entries for x86-64. Arguments are in rdi, rsi and rdx; rax, rcx, r8 to r11 are free to use.
//!
//! A countdown that is smaller than the size, or becomes 0, has run out: `sub` sets CF or ZF, and `jbe` sees either.

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
        "rdi"
    };
    (1) => {
        "rsi"
    };
    (2) => {
        "rdx"
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
                "mov rcx, qword ptr [rip + {masks} + 8*{index}]",
                concat!("and rcx, ", register!($size)),
                "mov rax, qword ptr [rip + leaktrace_sampler_thread@GOTTPOFF]",
                "sub qword ptr fs:[rax], rcx",
                "jbe 2f",
                "jmp qword ptr [rip + {places} + 8*{index}]",
                "2:",
                "mov ecx, {index}",
                "jmp {slow}",
                ".cfi_endproc",
        ".balign 64",
                // Of the section, which begins with the function: an entry shares its cache line with no other.
                ".balign 64",
                masks = sym MASKS,
                places = sym PLACES,
                slow = sym slow::allocate,
                index = const $index,
            )
        }
    )*};
}

/// Sets ZF unless the address in rdi may be a sample's. The index is that of `filter::index`.
macro_rules! look {
    () => {
        "mov eax, edi
         shr eax, 4
         and eax, {most}
         lea rcx, [rip + {filter}]
         cmp byte ptr [rcx + rax], 0"
    };
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
                "jne 2f",
                "jmp qword ptr [rip + {places} + 8*{index}]",
                "2:",
                "mov ecx, {index}",
                "jmp {slow}",
                ".cfi_endproc",
        ".balign 64",
                // Of the section, which begins with the function: an entry shares its cache line with no other.
                ".balign 64",
                filter = sym FILTER,
                most = const filter::COUNTERS - 1,
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
        "mov rax, qword ptr [rip + leaktrace_sampler_thread@GOTTPOFF]",
        "sub qword ptr fs:[rax], rdi",
        "jbe 2f",
        "jmp qword ptr [rip + {places} + 8*{index}]",
        "2:",
        "mov ecx, {index}",
        "jmp {slow}",
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
        "mov rax, rdi",
        "mul rsi",
        "jo 3f",
        "and rax, qword ptr [rip + {masks} + 8*{index}]",
        "mov rcx, qword ptr [rip + leaktrace_sampler_thread@GOTTPOFF]",
        "sub qword ptr fs:[rcx], rax",
        "jbe 2f",
        "3:",
        "jmp qword ptr [rip + {places} + 8*{index}]",
        "2:",
        "mov ecx, {index}",
        "jmp {slow}",
        ".cfi_endproc",
        ".balign 64",
        masks = sym MASKS,
        places = sym PLACES,
        slow = sym slow::allocate,
        index = const CALLOC,
    )
}

/// Hands over in ecx whether the countdown has run out.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn realloc(_: usize, _: usize, _: usize) -> usize {
    naked_asm!(
        own!(realloc),
        ".cfi_startproc",
        "mov rax, qword ptr [rip + leaktrace_sampler_thread@GOTTPOFF]",
        "sub qword ptr fs:[rax], rsi",
        "jbe 3f",
        look!(),
        "jne 2f",
        "jmp qword ptr [rip + {places} + 8*{index}]",
        "2:",
        "xor ecx, ecx",
        "jmp {slow}",
        "3:",
        "mov ecx, 1",
        "jmp {slow}",
        ".cfi_endproc",
        ".balign 64",
        filter = sym FILTER,
        most = const filter::COUNTERS - 1,
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
        "mov rax, rsi",
        "mul rdx",
        "jo 2f",
        "mov rsi, rax",
        "jmp {realloc}",
        "2:",
        "jmp {refuse}",
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
    naked_asm!(".cfi_startproc", "jmp {free}", ".cfi_endproc", free = sym free)
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
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        "mov edi, {index}",
        "call {resolve}",
        "pop rdx",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        ".balign 64",
        index = const INDEX,
        resolve = sym resolve::resolve,
    )
}
