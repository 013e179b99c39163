//! The table for an address by what the kernel itself has mapped there: for the moments after `execve` or `dlopen` in
//! which userspace has not yet published where the process' code lies.
//!
//! Takes some hundred nanoseconds a frame, and nothing of it is cached, since a mapping may go unseen. Where the process'
//! mappings are being changed at this moment it has to give up.

use core::ffi::{c_int, c_void};

use aya_ebpf::helpers::generated::{bpf_find_vma, bpf_get_current_task_btf, bpf_probe_read_kernel};
use leaktrace_common::unwind::{Rule, Stop};

use crate::config;
use crate::maps::{SCRATCH, UNWIND_FILES, unknown};
use crate::unwind::Pool;

/// `VM_EXEC` of include/linux/mm.h.
const EXECUTABLE: u64 = 4;
/// `ENOENT`: nothing is mapped there.
const NOTHING: c_int = -2;
/// Offsets of mappings are in pages.
const PAGE_SHIFT: u32 = 12;
/// Bits of an address within a page.
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// Whether a return address, of whose last byte before nothing is known, is that of the kernel's page that return probes
/// return to: the first byte of code without a file. Nothing else returns to where no call can stand before.
#[inline(always)]
pub fn may_be_trampoline(address: u64, rule: Rule) -> bool {
    address & PAGE_MASK == PAGE_MASK && rule == Rule::unsupported(Stop::NoMapping)
}

/// The rule for the byte before a page, where [`may_be_trampoline`], as its bits.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vma_trampoline(slot: u64, address: u64) -> u64 {
    let no_mapping = Rule::unsupported(Stop::NoMapping);
    let after = unknown(vma_rule(slot, address.wrapping_add(1), no_mapping.to_bits())) as u32;
    let is_code_without_file = Rule::from_bits(after) == Rule::unsupported(Stop::NoTable);
    u64::from(if is_code_without_file { Rule::unsupported(Stop::Trampoline) } else { no_mapping }.to_bits())
}

/// The rule for an address of the current process, as its bits; `otherwise` where the kernel cannot be asked now. What it
/// says passes through a scratch slot: calls as deep as this one's have no stack to spare.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vma_rule(slot: u64, address: u64, otherwise: u32) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(slot as u32) else { return u64::from(otherwise) };
    // SAFETY: the slot was claimed by our caller's caller.
    let found = unsafe { &raw mut (*scratch).found };
    let mut slot = slot as u32;
    let callback: unsafe extern "C" fn(*mut c_void, *const u8, *const u32) -> u64 = note;
    // SAFETY: the helper calls back with the last but one argument before it returns. The rest as above.
    let result = unsafe {
        (*found).known = 0;
        bpf_find_vma(bpf_get_current_task_btf(), address, callback as *mut c_void, (&raw mut slot).cast(), 0)
    } as c_int;
    if result == NOTHING {
        return u64::from(Rule::unsupported(Stop::NoMapping).to_bits());
    }
    // SAFETY: as above; the value of the map is used at once, and chunks that it names rest before they are used again.
    let rule = unsafe {
        if result != 0 || (*found).known == 0 {
            return u64::from(otherwise);
        }
        if (*found).flags & EXECUTABLE == 0 {
            Rule::unsupported(Stop::NoMapping)
        } else if (*found).file == 0 {
            Rule::unsupported(Stop::NoTable)
        } else {
            match UNWIND_FILES.get(&(*found).key) {
                Some(table) => {
                    let offset = address.wrapping_sub((*found).start).wrapping_add((*found).page << PAGE_SHIFT);
                    table.rule(&Pool, offset)
                }
                None => Rule::unsupported(Stop::TablePending),
            }
        }
    };
    u64::from(rule.to_bits())
}

/// Called by the helper with the mapping, and the slot. (Not exported: the verifier takes no global function here.)
unsafe extern "C" fn note(_task: *mut c_void, vma: *const u8, slot: *const u32) -> u64 {
    // SAFETY: the slot is what `vma_rule` passed, and is claimed.
    let Some(scratch) = SCRATCH.get_ptr_mut(unsafe { *slot }) else { return 0 };
    // SAFETY: as above; the helper checks what it reads, userspace looked up where fields are.
    unsafe {
        let found = &raw mut (*scratch).found;
        if !read(&raw mut (*found).start, vma, config::vma_start())
            || !read(&raw mut (*found).page, vma, config::vma_pgoff())
            || !read(&raw mut (*found).flags, vma, config::vma_flags())
            || !read(&raw mut (*found).file, vma, config::vma_file())
        {
            return 0;
        }
        if (*found).file != 0 {
            let key = &raw mut (*found).key;
            (*key).padding = 0;
            if !read(&raw mut (*found).inode, (*found).file as *const u8, config::file_inode())
                || !read(&raw mut (*key).inode, (*found).inode as *const u8, config::inode_number())
                || !read(&raw mut (*key).modified_s, (*found).inode as *const u8, config::inode_modified())
                || !read(&raw mut (*found).super_block, (*found).inode as *const u8, config::inode_super())
                || !read(&raw mut (*key).device, (*found).super_block as *const u8, config::super_device())
            {
                return 0;
            }
        }
        (*found).known = 1;
    }
    0
}

/// Reads a field of a structure of the kernel's. Whether that could be done.
///
/// # Safety
/// `to` must be in a value of a map.
#[inline(always)]
unsafe fn read<T>(to: *mut T, structure: *const u8, offset: u32) -> bool {
    // SAFETY: the caller's promise; the helper checks what it reads.
    unsafe {
        bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, structure.wrapping_add(offset as usize).cast()) == 0
    }
}
