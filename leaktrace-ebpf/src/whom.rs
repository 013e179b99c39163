//! Whom to trace: everyone, those who pass the filters, or those followed from the named ones.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel};
use leaktrace_common::abi::{FILTER_CGROUP, FILTER_COMM, FILTER_UID};
use leaktrace_common::atomic;

use crate::maps::{CGROUPS, COMMS, CONTROL, FOLLOWED, UIDS};
use crate::{config, stats::lose};

/// Control groups lie at most so deep in one another, as far as we look.
const MAX_LEVELS: i32 = 16;

/// Whether the current process is to be traced.
#[inline(always)]
pub fn is_wanted(tgid: u32) -> bool {
    if config::following() != 0 {
        return is_followed(tgid);
    }
    let filters = config::filters();
    (filters & FILTER_UID == 0 || has_wanted_uid())
        && (filters & FILTER_COMM == 0 || has_wanted_comm())
        && (filters & FILTER_CGROUP == 0 || is_in_wanted_cgroup())
}

#[inline(always)]
fn is_followed(tgid: u32) -> bool {
    // SAFETY: nothing is read of the value.
    unsafe { FOLLOWED.get(tgid) }.is_some()
}

#[inline(always)]
fn has_wanted_uid() -> bool {
    let uid = bpf_get_current_uid_gid() as u32;
    // SAFETY: as above.
    unsafe { UIDS.get(uid) }.is_some()
}

/// The process' name is that of its first thread.
#[inline(always)]
fn has_wanted_comm() -> bool {
    let name = if config::task_comm() != 0 && config::task_group_leader() != 0 {
        // SAFETY: the helpers check what they read; userspace looked up where the fields are.
        unsafe {
            let task = bpf_get_current_task() as *const u8;
            bpf_probe_read_kernel(task.wrapping_add(config::task_group_leader() as usize).cast::<*const u8>())
                .and_then(|leader| bpf_probe_read_kernel(leader.wrapping_add(config::task_comm() as usize).cast()))
        }
    } else {
        bpf_get_current_comm()
    };
    // SAFETY: nothing is read of the value.
    name.is_ok_and(|name: [u8; 16]| unsafe { COMMS.get(name) }.is_some())
}

#[inline(always)]
fn is_in_wanted_cgroup() -> bool {
    let mut level = 0;
    while level < MAX_LEVELS {
        // SAFETY: takes a number.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        // Level 0 is the root; beyond the group itself there is nothing.
        if id == 0 {
            return false;
        }
        // SAFETY: nothing is read of the value.
        if unsafe { CGROUPS.get(id) }.is_some() {
            return true;
        }
        level += 1;
    }
    false
}

/// A process is made, by its parent: the child of one that is followed is followed, before it has run one instruction.
#[inline(always)]
pub fn fork(parent: u32, child: u32) {
    if config::following() != 0 && is_followed(parent) && FOLLOWED.insert(child, 0, 0).is_err() {
        lose!(threads_dropped);
    }
}

/// A process begins another program.
#[inline(always)]
pub fn exec(tgid: u32) {
    if config::following() != 0 && is_followed(tgid) {
        count_end();
    }
}

/// A process ends, and its number may be given to another.
#[inline(always)]
pub fn forget(tgid: u32) {
    if config::following() != 0 && FOLLOWED.remove(tgid).is_ok() {
        count_end();
    }
}

#[inline(always)]
fn count_end() {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: the map's only element; the counter is written by atomics alone.
        unsafe { atomic::add(&raw mut (*control).followed_ends, 1) };
    }
}
