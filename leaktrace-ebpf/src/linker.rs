//! What the dynamic linker says to debuggers: before it unmaps objects, and when all that it has mapped is in place and none of it
//! has run yet.
//!
//! From its first unmapping on, a process has a layout: a number made of all objects that are mapped and of their places. It is
//! part of the sites' keys, so that code which comes to lie where other code lay has other sites; and it is made of what
//! is there and not counted, so that a program which loads and unloads one object again and again has two of them.
//!
//! Where a probe is, `_dl_debug_state` is called; the attach cookie is what lies between there and `_r_debug`, of the same object
//! (`struct r_debug` and `struct link_map` of glibc's elf/link.h, which debuggers rely on).

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_probe_read_user};
use aya_ebpf::programs::ProbeContext;
use leaktrace_common::abi::{Process, SCRATCH_SLOTS};

use crate::maps::{PROCESSES, SCRATCH, SLOTS, TAILS, unknown};
use crate::process::Id;
use crate::{alloc, registers, scratch, stats, threads};

/// `RT_CONSISTENT`: everything is mapped.
const CONSISTENT: u32 = 0;
/// `RT_DELETE`: objects are about to be unmapped.
const DELETE: u32 = 2;
/// `r_map` and `r_state` in `struct r_debug`.
const MAP: u64 = 8;
const STATE: u64 = 24;
/// Objects in a process that are looked at; more do not tell its layouts apart.
const MAX_OBJECTS: u32 = 1024;
/// Words of an object's first page that tell it from others: headers, sizes of its segments, and its build id.
const HEADER_WORDS: usize = 128;
/// Odd: the golden ratio's fraction.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The dynamic linker has changed something, or is about to.
#[inline(always)]
pub fn changes(ctx: &ProbeContext) {
    alloc::forbid_private_stack(ctx, &TAILS);
    if alloc::stopped() {
        return;
    }
    // SAFETY: the helper takes the context and nothing else.
    let distance = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let debug = registers::instruction(ctx).wrapping_add(distance);
    let Some(state) = read::<u32>(debug.wrapping_add(STATE)) else { return };
    if state != DELETE && state != CONSISTENT {
        return;
    }
    let id = Id::current();
    let slot = if state == DELETE {
        // Made if there is none: what is recorded later must not take what was there before for what will be.
        // SAFETY: the thread's own state.
        threads::current(id).map_or(0, |thread| unsafe { (*thread).process })
    } else {
        // SAFETY: the value is copied at once.
        unsafe { SLOTS.get(id.tgid() as u32) }.copied().unwrap_or(0)
    };
    if slot == 0 {
        return;
    }
    let Some(process) = PROCESSES.get_ptr_mut(slot) else { return };
    // SAFETY: an element of the map.
    let before = unsafe { (&raw const (*process).layout).read_volatile() } as u32;
    let after = if state == DELETE {
        // Until it is known what is left.
        hash(u64::from(before), SPREAD) as u32 | 1
    } else if before == 0 {
        // Nothing was unmapped yet: what has come has taken nothing's place.
        return;
    } else {
        let scratch = scratch::claim(id.tid());
        if scratch >= SCRATCH_SLOTS {
            return;
        }
        let map = read::<u64>(debug.wrapping_add(MAP)).unwrap_or(0);
        let layout = unknown(linker_layout(u64::from(scratch), map)) as u32 | 1;
        scratch::release(scratch);
        layout
    };
    if after != before {
        set(process, slot, id.tgid() as u32, after);
    }
}

/// The linker holds a lock meanwhile: nobody else of the process comes here.
#[inline(always)]
fn set(process: *mut Process, slot: u32, tgid: u32, layout: u32) {
    // SAFETY: the helper takes nothing; an element of the map, and the lower half of a word, the upper of which is userspace's.
    let (seen_ns, times) = unsafe {
        let before = bpf_ktime_get_ns();
        (&raw mut (*process).layout).cast::<u32>().write_volatile(layout);
        ((*process).seen_ns, (before, bpf_ktime_get_ns()))
    };
    stats::tell_layout(slot, tgid, seen_ns, u64::from(layout), times);
}

/// The sum over the objects of a list, from this one on, by way of a scratch slot.
///
/// A global function: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn linker_layout(slot: u64, first: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 0 };
    let (mut object, mut sum, mut count) = (first, 0u64, 0);
    while object != 0 && count < MAX_OBJECTS {
        sum = sum.wrapping_add(unknown(linker_object(slot, object)));
        // SAFETY: the slot was claimed by our caller.
        object = unsafe { (*scratch).walk[3] };
        count += 1;
    }
    sum >> 32
}

/// A number for an object and its place. Leaves the next one's address in the scratch slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn linker_object(slot: u64, object: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: the slot was claimed by our caller's caller; the helper writes no more than is said.
    unsafe {
        // l_addr, l_name, l_ld, l_next.
        let link = &raw mut (*scratch).walk;
        if bpf_probe_read_user(link.cast(), size_of::<[u64; 4]>() as u32, object as *const _) != 0 {
            (*scratch).walk = [0; 4];
            return 0;
        }
        let base = (*scratch).walk[0];
        let mut sum = hash(base, (*scratch).walk[2]);
        let window = &raw mut (*scratch).window;
        // Of what is not there now only the place counts.
        if bpf_probe_read_user(window.cast(), (HEADER_WORDS * 8) as u32, base as *const _) == 0 {
            let mut i = 0;
            while i < HEADER_WORDS {
                sum = hash(sum, (*window)[i]);
                i += 1;
            }
        }
        hash(sum, SPREAD)
    }
}

#[inline(always)]
fn hash(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(SPREAD).rotate_left(31)
}

/// Reads from the user's memory.
#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(address as *const T) }.ok()
}
