//! The two USDT sites: `otel_memory:alloc(ptr, size, weighted_bytes)` and `otel_memory:free(ptr)`.
//!
//! In: samples. Out: a function call that runs into the site's `nop` with the arguments in the first argument registers, which is what
//! the notes say. The notes have the form of systemtap's sdt.h (version 3). A tracer raises a site's semaphore, sixteen bits in
//! a page of the library's file that is mapped to be written, for as long as it listens.
//!
//! On x86-64 a `nop` of ten bytes follows the probed one, so that a kernel that can replaces both by a call, which is cheaper than a
//! trap; and the sites have functions of their own which leave what is below the stack pointer alone, because such a call pushes.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

#[cfg(target_arch = "x86_64")]
macro_rules! machine {
    (site) => {
        "nop\n.byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0\nret"
    };
    (three) => {
        "8@%rdi 8@%rsi 8@%rdx"
    };
    (one) => {
        "8@%rdi"
    };
    (page) => {
        ".balign 4096"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! machine {
    (site) => {
        "nop\nret"
    };
    (three) => {
        "8@x0 8@x1 8@x2"
    };
    (one) => {
        "8@x0"
    };
    (page) => {
        ".balign 65536"
    };
}

macro_rules! site {
    ($probe:literal, $arguments:tt) => {
        global_asm!(
            concat!(".pushsection .text.leaktrace_sampler_hit_", $probe, ",\"ax\",@progbits"),
            ".balign 16",
            concat!(".globl leaktrace_sampler_hit_", $probe),
            concat!(".hidden leaktrace_sampler_hit_", $probe),
            concat!(".type leaktrace_sampler_hit_", $probe, ", @function"),
            concat!("leaktrace_sampler_hit_", $probe, ":"),
            ".cfi_startproc",
            machine!(site),
            ".cfi_endproc",
            concat!(".size leaktrace_sampler_hit_", $probe, ", . - leaktrace_sampler_hit_", $probe),
            ".popsection",
            ".pushsection .probes,\"aw\",@progbits",
            ".balign 2",
            concat!(".globl otel_memory_", $probe, "_semaphore"),
            concat!(".hidden otel_memory_", $probe, "_semaphore"),
            concat!(".type otel_memory_", $probe, "_semaphore, @object"),
            concat!(".size otel_memory_", $probe, "_semaphore, 2"),
            concat!("otel_memory_", $probe, "_semaphore:"),
            ".2byte 0",
            ".popsection",
            ".pushsection .note.stapsdt,\"\",@note",
            ".balign 4",
            ".4byte 992f - 991f, 994f - 993f, 3",
            "991:",
            ".asciz \"stapsdt\"",
            "992:",
            ".balign 4",
            "993:",
            concat!(".8byte leaktrace_sampler_hit_", $probe),
            ".8byte _.stapsdt.base",
            concat!(".8byte otel_memory_", $probe, "_semaphore"),
            ".asciz \"otel_memory\"",
            concat!(".asciz \"", $probe, "\""),
            concat!(".asciz \"", machine!($arguments), "\""),
            "994:",
            ".balign 4",
            ".popsection",
        );
    };
}

// The semaphores begin a page of the file. A linker that maps what becomes read-only apart lets its last page and the first of the
// data be the same of the file; a kernel that raises a semaphore while the program is loaded takes the first mapping of that page
// that can be written to, which is the wrong one until the dynamic linker has made it read-only (`find_ref_ctr_vma` in
// kernel/events/uprobes.c).
global_asm!(".pushsection .probes,\"aw\",@progbits", machine!(page), ".popsection");

site!("alloc", three);
site!("free", one);

// By its address a tool sees whether the file was changed after it was linked.
global_asm!(
    ".pushsection .stapsdt.base,\"aGR\",@progbits,.stapsdt.base,comdat",
    ".weak _.stapsdt.base",
    ".hidden _.stapsdt.base",
    "_.stapsdt.base:",
    ".space 1",
    ".size _.stapsdt.base, 1",
    ".popsection",
);

unsafe extern "C" {
    fn leaktrace_sampler_hit_alloc(ptr: u64, size: u64, weighted_bytes: u64);
    fn leaktrace_sampler_hit_free(ptr: u64);
    static otel_memory_alloc_semaphore: AtomicU16;
    static otel_memory_free_semaphore: AtomicU16;
}

/// Whether somebody listens to `alloc`.
pub fn alloc_is_wanted() -> bool {
    // SAFETY: a word of this library's, which the kernel writes.
    unsafe { &otel_memory_alloc_semaphore }.load(Relaxed) != 0
}

/// Hits `alloc` if somebody listens.
pub fn alloc(ptr: u64, size: u64, weighted_bytes: u64) {
    if alloc_is_wanted() {
        // SAFETY: the site does nothing.
        unsafe { leaktrace_sampler_hit_alloc(ptr, size, weighted_bytes) };
    }
}

/// Hits `free` if somebody listens.
pub fn free(ptr: u64) {
    // SAFETY: as above; the site does nothing.
    unsafe {
        if otel_memory_free_semaphore.load(Relaxed) != 0 {
            leaktrace_sampler_hit_free(ptr);
        }
    }
}
