//! leaktrace's BPF programs: the entry points, nothing else.
//!
//! Uprobes sit at allocation functions (or a few instructions in, see `targets::site` in userspace): `malloc` and `free`
//! at plain ones, `call` at all others, told by its cookie which function this is and where its arguments are. One
//! program serves every return, and two tracepoints end lives. Each body hands over to [`alloc`] or [`lifecycle`].
//!
//! Invariant: no policy and no strings here; userspace decides by globals ([`config`]) and attach cookies.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod alloc;
mod blocks;
mod config;
mod lifecycle;
mod maps;
mod process;
mod registers;
mod scratch;
mod sites;
mod stack;
mod stats;
mod threads;

use aya_ebpf::macros::{raw_tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext};

use crate::registers::{Entry, Mapped, Standard};

#[uprobe]
pub fn malloc(ctx: ProbeContext) -> u32 {
    alloc::malloc(&Entry::<Standard>::new(&ctx));
    0
}

#[uprobe]
pub fn free(ctx: ProbeContext) -> u32 {
    alloc::free(&Entry::<Standard>::new(&ctx));
    0
}

#[uprobe]
pub fn call(ctx: ProbeContext) -> u32 {
    alloc::call(&Entry::<Mapped>::new(&ctx));
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
pub fn process_exec(_ctx: RawTracePointContext) -> i32 {
    lifecycle::exec();
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
