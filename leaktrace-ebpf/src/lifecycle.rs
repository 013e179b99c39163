//! The ends of lives: threads, processes, and programs replaced by exec.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use leaktrace_common::abi::{EVENT_EXEC, EVENT_EXIT, PROCESS_EXECED, PROCESS_EXITED, PROCESS_SLOTS};

use crate::maps::{PROCESSES, SLOTS, UNWIND_LISTS};
use crate::process::Id;
use crate::{alloc, config, stats, threads};

/// A thread ends; the process too if it was the last.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let id = Id::current();
    // The last reading takes what is in flight from the threads.
    if !alloc::stopped() {
        if let Some(thread) = threads::existing(id) {
            alloc::leave(thread);
        }
        threads::remove(id.tid());
    }
    // Arguments of the tracepoint: the task, and from 6.16 whether its whole group is dead.
    let last = if config::has_group_dead() != 0 {
        // SAFETY: the context of a raw tracepoint is an array of its arguments, and userspace saw that there are two.
        unsafe { *ctx.as_ptr().cast::<u64>().add(1) & 0xff != 0 }
    } else {
        id.tid() == id.tgid()
    };
    if last {
        end(ctx, id, PROCESS_EXITED, EVENT_EXIT);
    }
}

/// The process begins another program: what the old one held went with its address space.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) {
    let id = Id::current();
    threads::remove(id.tid());
    // Arguments of the tracepoint: the task, and the id it had. A thread that is not the first takes over the pid.
    // SAFETY: the context of a raw tracepoint is an array of its arguments, of which there have always been three.
    threads::remove(unsafe { *ctx.as_ptr().cast::<u64>().add(1) } & 0xffff_ffff);
    end(ctx, id, PROCESS_EXECED, EVENT_EXEC);
}

#[inline(always)]
fn end(ctx: &RawTracePointContext, id: Id, state: u32, event: u32) {
    let tgid = id.tgid() as u32;
    let _ = UNWIND_LISTS.remove(tgid);
    // SAFETY: the value is copied at once.
    let Some(slot) = unsafe { SLOTS.get(tgid) }.copied() else { return };
    let _ = SLOTS.remove(tgid);
    if slot >= PROCESS_SLOTS {
        return;
    }
    if let Some(process) = PROCESSES.get_ptr_mut(slot) {
        // SAFETY: an element of the map; nobody else ends this life.
        unsafe {
            (*process).ended_ns = bpf_ktime_get_ns();
            (*process).state = state;
        }
    }
    // Only where userspace asks for it (`-vv`); otherwise the verifier drops it.
    debug!(ctx, "slot {}: process {} has left state {}", slot, tgid, state);
    stats::tell(event, slot, tgid);
}
