//! Lives: processes that are made, programs replaced by exec, the ends of threads and processes.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use leaktrace_common::abi::{EVENT_EXEC, EVENT_EXIT, PROCESS_EXECED, PROCESS_EXITED, PROCESS_SLOTS};

use crate::maps::{INHERITED, PROCESSES, SLOTS, UNWIND_LISTS};
use crate::process::Id;
use crate::{alloc, annotations, config, process, registers, stats, threads, whom};

/// A process or a thread is made; it has not run yet.
#[inline(always)]
pub fn fork(ctx: &RawTracePointContext) {
    let parent = Id::current().tgid() as u32;
    if config::task_tgid() == 0 {
        annotations::not_inherited();
        return;
    }
    // SAFETY: the context of a raw tracepoint is an array of its arguments, the second is the child's task; the helper
    // checks what it reads, and userspace looked up where the field is.
    let child = unsafe {
        let task = *ctx.as_ptr().cast::<*const u8>().add(1);
        bpf_probe_read_kernel(task.wrapping_add(config::task_tgid() as usize).cast::<u32>())
    };
    let Ok(child) = child else { return };
    if child == parent || parent == config::self_tgid() {
        return;
    }
    whom::fork(parent, child);
    annotations::fork(child);
    // Its mappings are its parent's, until userspace has a list of its own for it.
    // SAFETY: values are copied at once.
    let slot = unsafe { SLOTS.get(parent) }.copied().unwrap_or(0);
    let list = if slot == 0 {
        // SAFETY: the value is copied at once.
        unsafe { UNWIND_LISTS.get(parent) }.copied().unwrap_or(0)
    } else {
        // SAFETY: an element of the map.
        process::of(slot).map_or(0, |life| unsafe { process::unwind_list(life, process::layout(life)) })
    };
    if list != 0 {
        let _ = UNWIND_LISTS.insert(child, list, 0);
    }
}

/// A thread ends; the process too if it was the last.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let id = Id::current();
    if config::judged_tgid() != 0 && id.tgid() == u64::from(config::judged_tgid()) {
        registers::tell_end(id);
    }
    // The last reading takes what is in flight from the threads.
    if !alloc::ended() {
        if let Some(thread) = threads::existing(id) {
            alloc::leave(thread);
        }
        threads::remove(id.tid());
    }
    if is_last(ctx, id) {
        whom::forget(id.tgid() as u32);
        end(ctx, id, PROCESS_EXITED, EVENT_EXIT);
    }
}

/// Whether no thread of the process is left.
#[inline(always)]
fn is_last(ctx: &RawTracePointContext, id: Id) -> bool {
    // SAFETY: the context of a raw tracepoint is an array of its arguments.
    let argument = |index| unsafe { *ctx.as_ptr().cast::<u64>().add(index) };
    if config::has_group_dead() != 0 {
        // The second argument says it, from 6.16.
        return argument(1) & 0xff != 0;
    }
    if config::task_signal() != 0 && config::signal_live() != 0 {
        // The first is the task; its group's count of living threads was lowered before.
        // SAFETY: the helper checks what it reads; userspace looked up where the fields are.
        let live = unsafe {
            let signal = (argument(0) as *const u8).wrapping_add(config::task_signal() as usize);
            bpf_probe_read_kernel(signal.cast::<*const u8>()).and_then(|signal| {
                bpf_probe_read_kernel(signal.wrapping_add(config::signal_live() as usize).cast::<i32>())
            })
        };
        return live.is_ok_and(|live| live == 0);
    }
    id.tid() == id.tgid()
}

/// The process begins another program: what the old one held went with its address space.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) {
    let id = Id::current();
    threads::remove(id.tid());
    // Arguments of the tracepoint: the task, and the id it had. A thread that is not the first takes over the pid.
    // SAFETY: the context of a raw tracepoint is an array of its arguments, of which there have always been three.
    threads::remove(unsafe { *ctx.as_ptr().cast::<u64>().add(1) } & 0xffff_ffff);
    whom::exec(id.tgid() as u32);
    end(ctx, id, PROCESS_EXECED, EVENT_EXEC);
}

#[inline(always)]
fn end(ctx: &RawTracePointContext, id: Id, state: u32, event: u32) {
    let tgid = id.tgid() as u32;
    let _ = UNWIND_LISTS.remove(tgid);
    let _ = INHERITED.remove(tgid);
    // SAFETY: the value is copied at once.
    let Some(slot) = unsafe { SLOTS.get(tgid) }.copied() else { return };
    // Where the last threads end at once, two may come here; the slot ends once.
    if SLOTS.remove(tgid).is_err() || slot >= PROCESS_SLOTS {
        return;
    }
    let Some(process) = PROCESSES.get_ptr_mut(slot) else { return };
    // SAFETY: an element of the map; nobody else ends this life. With the state written, userspace may give the slot to
    // another one.
    let seen_ns = unsafe {
        let seen_ns = (*process).seen_ns;
        (*process).ended_ns = bpf_ktime_get_ns();
        (&raw mut (*process).state).write_volatile(state);
        seen_ns
    };
    // Only where userspace asks for it (`-vv`); otherwise the verifier drops it.
    debug!(ctx, "slot {}: process {} has left state {}", slot, tgid, state);
    stats::tell(event, slot, tgid, seen_ns);
}
