//! leaktrace's BPF programs: the entry points, nothing else.
//!
//! Uprobes sit at allocation functions (or a few instructions in, see `targets::site` in userspace): `malloc` and `free`
//! at plain ones, `call` at all others, told by its cookie which function this is and where its arguments are. Where the
//! kernel has uprobe sessions, `malloc` and `call` run at the return too; elsewhere `returned` does. `allocated` sits in the middle
//! of functions where one probe sees a whole call. `linker` sits where the
//! dynamic linker tells debuggers of what it maps and unmaps, `annotation` at LeakSanitizer's functions by which a program says
//! what is no leak, `sample` where programs tell of what they have drawn for a sample of their own. Tracepoints follow lives from fork to end. Each body hands over to [`alloc`](crate::alloc),
//! [`linker`](crate::linker), [`annotations`], [`samples`] or [`lifecycle`].
//!
//! Invariant: no policy and no strings here; userspace decides by globals ([`config`]) and attach cookies.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod accounts;
mod alloc;
mod annotations;
mod blocks;
mod config;
mod flow;
mod frees;
mod kfunc;
mod lifecycle;
mod linker;
mod maps;
mod process;
mod registers;
mod samples;
mod sampling;
mod scratch;
mod sites;
mod stack;
mod stats;
mod stretch;
mod strings;
mod threads;
mod unwind;
mod vma;
mod whole;
mod whom;
mod wide;

use core::ffi::c_void;

use aya_ebpf::macros::{raw_tracepoint, uretprobe};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext};

use crate::registers::{Entry, Standard};

// Not by aya's `#[uprobe]`, which drops the result: in a session it says whether the return is wanted.

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn malloc(ctx: *mut c_void) -> u32 {
    alloc::malloc(&ProbeContext::new(ctx))
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn call(ctx: *mut c_void) -> u32 {
    alloc::call(&ProbeContext::new(ctx))
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn free(ctx: *mut c_void) -> u32 {
    alloc::free(&Entry::<Standard>::new(&ProbeContext::new(ctx)))
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn allocated(ctx: *mut c_void) -> u32 {
    whole::allocated(&ProbeContext::new(ctx))
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn linker(ctx: *mut c_void) -> u32 {
    linker::changes(&ProbeContext::new(ctx));
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn annotation(ctx: *mut c_void) -> u32 {
    annotations::told(&ProbeContext::new(ctx));
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn sample(ctx: *mut c_void) -> u32 {
    samples::told(&ProbeContext::new(ctx));
    0
}

#[uretprobe]
pub fn returned(ctx: RetProbeContext) -> u32 {
    alloc::returned(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    lifecycle::exit(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    lifecycle::exec(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    lifecycle::fork(&ctx);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
