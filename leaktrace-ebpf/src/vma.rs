//! The table for an address by what the kernel itself has mapped there: for the moments after `execve` or `dlopen` in
//! which userspace has not yet published where the process' code lies.
//!
//! Takes some hundred nanoseconds a frame, and nothing of it is cached, since a mapping may go unseen. Where the process'
//! mappings are being changed at this moment it has to give up.

use core::ffi::{c_int, c_void};
use core::mem::size_of;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_find_vma, bpf_get_current_task_btf};
use leaktrace_common::unwind::{FileKey, Rule, Stop};

use crate::config;
use crate::maps::UNWIND_FILES;
use crate::unwind::Pool;

/// `VM_EXEC` of include/linux/mm.h.
const EXECUTABLE: u64 = 4;
/// `ENOENT`: nothing is mapped there.
const NOTHING: i64 = -2;
/// Offsets of mappings are in pages.
const PAGE_SHIFT: u32 = 12;

/// What the kernel says of a mapping.
struct Found {
    /// Nonzero once all of it could be read.
    is_known: u64,
    start: u64,
    /// Of `start` in the file, bytes.
    offset: u64,
    flags: u64,
    /// Nonzero where it is of a file.
    has_file: u64,
    file: FileKey,
}

/// The rule for an address of the current process, as its bits; `otherwise` where the kernel cannot be asked now.
///
/// A global function: verified once, not at every frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vma_rule(address: u64, otherwise: u32) -> u64 {
    let file = FileKey { inode: 0, modified_s: 0, device: 0, padding: 0 };
    let mut found = Found { is_known: 0, start: 0, offset: 0, flags: 0, has_file: 0, file };
    let callback: unsafe extern "C" fn(*mut c_void, *const u8, *mut Found) -> u64 = note;
    // SAFETY: the helper calls back with the last but one argument before it returns.
    let result = unsafe {
        bpf_find_vma(bpf_get_current_task_btf(), address, callback as *mut c_void, (&raw mut found).cast(), 0)
    } as c_int;
    if i64::from(result) == NOTHING {
        return u64::from(Rule::unsupported(Stop::NoMapping).to_bits());
    }
    if result != 0 || found.is_known == 0 {
        return u64::from(otherwise);
    }
    let rule = if found.flags & EXECUTABLE == 0 {
        Rule::unsupported(Stop::NoMapping)
    } else if found.has_file == 0 {
        Rule::unsupported(Stop::NoTable)
    } else {
        // SAFETY: the value is used at once; chunks that it names rest before they are used again.
        match unsafe { UNWIND_FILES.get(found.file) } {
            Some(table) => table.rule(&Pool, address.wrapping_sub(found.start).wrapping_add(found.offset)),
            None => Rule::unsupported(Stop::TablePending),
        }
    };
    u64::from(rule.to_bits())
}

/// Called by the helper with the mapping. (Not exported: the verifier takes no global function here.)
unsafe extern "C" fn note(_task: *mut c_void, vma: *const u8, found: *mut Found) -> u64 {
    // SAFETY: `found` is what `vma_rule` passed.
    let found = unsafe { &mut *found };
    let Some(start) = word(vma, config::vma_start()) else { return 0 };
    let Some(page) = word(vma, config::vma_pgoff()) else { return 0 };
    let Some(flags) = word(vma, config::vma_flags()) else { return 0 };
    let Some(file) = word(vma, config::vma_file()) else { return 0 };
    found.start = start;
    found.offset = page << PAGE_SHIFT;
    found.flags = flags;
    if file != 0 {
        let Some(inode) = word(file as *const u8, config::file_inode()) else { return 0 };
        let inode = inode as *const u8;
        let Some(number) = word(inode, config::inode_number()) else { return 0 };
        let Some(modified) = word(inode, config::inode_modified()) else { return 0 };
        let Some(file_system) = word(inode, config::inode_super()) else { return 0 };
        let Some(device) = word(file_system as *const u8, config::super_device()) else { return 0 };
        found.has_file = 1;
        found.file.inode = number;
        found.file.modified_s = modified;
        // dev_t has 32 bits.
        found.file.device = device as u32;
    }
    found.is_known = 1;
    0
}

/// A field of eight bytes, or what stands there.
#[inline(always)]
fn word(structure: *const u8, offset: u32) -> Option<u64> {
    // SAFETY: the helper checks what it reads; userspace looked up where the field is.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<u64>()) }.ok()
}

const _: () = assert!(size_of::<Found>() == 64);
