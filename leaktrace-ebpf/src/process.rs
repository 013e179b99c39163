//! Process slots: one for each life of a process, given at its first event.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use leaktrace_common::abi::{EVENT_PROCESS, NOT_TRACED, PROCESS_ALIVE, PROCESS_SLOTS, Process};
use leaktrace_common::unwind::ProcessWord;
use leaktrace_common::{abi, atomic};

use crate::maps::{CONTROL, FREE_SLOTS, PROCESSES, SLOTS, UNWIND_LISTS, unknown};
use crate::{config, sites, stats, whom};

/// The current task's pid and thread id.
#[derive(Clone, Copy)]
pub struct Id(u64);

impl Id {
    #[inline(always)]
    pub fn current() -> Self {
        Self(bpf_get_current_pid_tgid())
    }

    #[inline(always)]
    pub fn tid(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    #[inline(always)]
    pub fn tgid(self) -> u64 {
        self.0 >> 32
    }
}

/// The slot of the current process, newly given if need be: [`NOT_TRACED`] for one that is not to be traced, 0 where
/// no slot is left.
#[inline(always)]
pub fn slot_of(tgid: u32) -> u32 {
    if tgid == config::self_tgid() {
        return NOT_TRACED;
    }
    // SAFETY: the value is copied at once; entries are only ever removed by the process' own end.
    if let Some(slot) = unsafe { SLOTS.get(tgid) } {
        return *slot;
    }
    if !whom::is_wanted(tgid) {
        return NOT_TRACED;
    }
    let slot = match FREE_SLOTS.pop() {
        Ok(Some(slot)) => slot,
        Ok(None) | Err(_) => fresh_slot(),
    };
    if slot == 0 || slot >= PROCESS_SLOTS {
        return 0;
    }
    let Some(process) = PROCESSES.get_ptr_mut(slot) else { return 0 };
    // SAFETY: the slot is ours alone until it stands in SLOTS.
    unsafe { begin(process, slot, tgid) };
    if SLOTS.insert(tgid, slot, 1 /* BPF_NOEXIST */).is_err() {
        // Another thread of the process was faster.
        let _ = FREE_SLOTS.push(slot, 0);
        // SAFETY: as above.
        return unsafe { SLOTS.get(tgid) }.map_or(0, |slot| *slot);
    }
    // SAFETY: an element of the map. The process cannot end meanwhile, this being a thread of it; nobody knows of a slot
    // without a state.
    let seen_ns = unsafe {
        (&raw mut (*process).state).write_volatile(PROCESS_ALIVE);
        (*process).seen_ns
    };
    stats::tell(EVENT_PROCESS, slot, tgid, seen_ns);
    slot
}

/// The process in a slot.
#[inline(always)]
pub fn of(slot: u32) -> Option<*const Process> {
    PROCESSES.get_ptr(slot)
}

/// What lies where in a process now, as [`Process::layout`] has it.
///
/// # Safety
/// `process` must be an element of the map.
#[inline(always)]
pub unsafe fn layout(process: *const Process) -> u64 {
    // SAFETY: the caller's promise; one aligned word.
    unsafe { (&raw const (*process).layout).read_volatile() }
}

/// The list of mappings of a process, if it is for this layout, or 0.
///
/// # Safety
/// `process` must be an element of the map.
#[inline(always)]
pub unsafe fn unwind_list(process: *const Process, layout: u64) -> u64 {
    // SAFETY: the caller's promise; userspace stores each word whole.
    let (list, is_for) = unsafe {
        ((&raw const (*process).unwind_list).read_volatile(), (&raw const (*process).list_for).read_volatile())
    };
    // Without a branch, so that walks without a list are not verified apart from those with one.
    let differs = is_for ^ abi::list_for(layout, ProcessWord::from_bits(list).generation());
    let is_same = (unknown(differs | differs.wrapping_neg()) >> 63).wrapping_sub(1);
    list & is_same
}

#[inline(always)]
fn fresh_slot() -> u32 {
    let Some(control) = CONTROL.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map's only element; the field is only ever added to.
    unsafe {
        let next = &raw mut (*control).next_slot;
        // Read first, so that the counter cannot wrap however long it is asked.
        if atomic::load(next) >= u64::from(PROCESS_SLOTS) { 0 } else { atomic::fetch_add(next, 1) as u32 }
    }
}

/// # Safety
/// `process` must be an element of the map that nobody else uses yet.
#[inline(always)]
unsafe fn begin(process: *mut Process, slot: u32, tgid: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*process).tgid = tgid;
        (*process).live_bytes = 0;
        (*process).peak_bytes = 0;
        (*process).untracked_frees = 0;
        (*process).thread_end_frees = 0;
        (*process).abandoned_calls = 0;
        (*process).seen_ns = bpf_ktime_get_ns();
        (*process).seen_jiffies = bpf_jiffies64();
        (*process).ended_ns = 0;
        let list = UNWIND_LISTS.get(tgid).copied().unwrap_or(0);
        (*process).unwind_list = list;
        (*process).layout = 0;
        (*process).list_for = abi::list_for(0, ProcessWord::from_bits(list).generation());
        if let Ok(comm) = bpf_get_current_comm() {
            (*process).comm = comm;
        }
        (*process).frameless_site = sites::frameless(slot);
    }
}
