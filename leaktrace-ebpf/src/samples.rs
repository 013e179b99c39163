//! What programs draw themselves: a program, its allocator or a library that it was started with samples its own allocations, and
//! tells of each that it has drawn, and of its free, at places that tracers may probe (the provider `otel_memory` of OpenTelemetry's
//! memory profiling). What a block stands for it says with it.
//!
//! Its word is taken for its own blocks, and for nothing else: what cannot be is counted as lost.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_probe_read_user};
use aya_ebpf::programs::ProbeContext;
use leaktrace_common::abi::{self, Control, Thread};
use leaktrace_common::drawn::{
    ARGUMENT_CONSTANT, ARGUMENT_REGISTER, Drawn, NO_REGISTER, SampleArgument, SampleArguments,
};

use crate::maps::{CONTROL, SAMPLE_ARGUMENTS, TAILS};
use crate::process::Id;
use crate::sites::End;
use crate::{accounts, alloc, blocks, frees, registers, stats::lose, threads};

/// The program is at one of these places; the cookie tells which.
#[inline(always)]
pub fn told(ctx: &ProbeContext) {
    alloc::forbid_private_stack(ctx, &TAILS);
    if alloc::stopped() {
        return;
    }
    // SAFETY: the helper takes the context and nothing else.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(arguments) = SAMPLE_ARGUMENTS.get(cookie as u32) else { return };
    let Some(thread) = threads::current(Id::current()) else { return };
    let is_told = if abi::cookie_function(cookie) == abi::FUNCTION_SAMPLE_FREED {
        argument(ctx, &arguments[0]).map(|address| freed(thread, address)).is_some()
    } else {
        drawn(ctx, thread, arguments).is_some()
    };
    if !is_told {
        lose!(samples_lost);
    }
}

/// A block was drawn. `None` where it cannot be read what is told of it, or that cannot be.
#[inline(always)]
fn drawn(ctx: &ProbeContext, thread: *mut Thread, arguments: &SampleArguments) -> Option<()> {
    let [address, size, weight] = arguments;
    let (address, size, weight) = (argument(ctx, address)?, argument(ctx, size)?, argument(ctx, weight)?);
    let word = Drawn::word(size, weight)?;
    if address == 0 || !alloc::is_wanted(size) {
        return Some(());
    }
    // One byte of a large block stands for less.
    if size <= weight / 2
        && let Some(control) = CONTROL.get_ptr_mut(0)
    {
        raise_weight(control, weight);
    }
    let (sp, fp) = registers::frame(ctx);
    // As a return address would, behind the instruction.
    let at = registers::KNOWN | (registers::instruction(ctx) + 1);
    let site = alloc::site_from(thread, at, sp, fp, size);
    if site != 0 {
        blocks::book(thread, address, word, site, 0);
        // SAFETY: the thread's own state.
        unsafe { (*thread).last_allocated = address };
    }
    Some(())
}

/// Two that do so at once may leave the lesser, which the next corrects.
#[inline(always)]
fn raise_weight(control: *mut Control, weight: u64) {
    // SAFETY: the map's only element; the word is stored whole.
    unsafe {
        let largest = &raw mut (*control).sample_weight;
        if largest.read_volatile() < weight {
            largest.write_volatile(weight);
        }
    }
}

/// A block is about to be freed that was drawn, perhaps before the trace.
#[inline(always)]
fn freed(thread: *mut Thread, address: u64) {
    // SAFETY: the thread's own state.
    let process = unsafe { (*thread).process };
    match blocks::take(process, address) {
        Some(record) => accounts::settle(process, &record, End::by(thread, address, &record)),
        None => frees::count_untracked(process),
    }
}

#[inline(always)]
fn argument(ctx: &ProbeContext, place: &SampleArgument) -> Option<u64> {
    let SampleArgument { kind, register, index, shift, width, is_signed, value, .. } = *place;
    let value = value as u64;
    if kind == ARGUMENT_CONSTANT {
        return Some(value);
    }
    let base = if register == NO_REGISTER { 0 } else { registers::register(ctx, register) };
    let word = if kind == ARGUMENT_REGISTER {
        base
    } else {
        let index = if index == NO_REGISTER { 0 } else { registers::register(ctx, index) };
        let address = base.wrapping_add(index << (shift & 7)).wrapping_add(value);
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(address as *const u64) }.ok()?
    };
    let unused = (64 - (u64::from(width) & 15) * 8) & 63;
    let shifted = word << unused;
    Some(if is_signed == 0 { shifted >> unused } else { ((shifted as i64) >> unused) as u64 })
}
