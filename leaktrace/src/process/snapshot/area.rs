//! The memory below a thread's stack pointer that is borrowed for a moment.
//!
//! In: a stopped process, its mappings, a thread's registers. Out: whether frames may lie there; words, read and written.
//!
//! Signal handlers use the same memory, so that the kernel has the same question; it does not ask it. Here a stack must be known to
//! be one: that of the first thread, by its name, or a mapping at the upper end of which the C library keeps the thread's control
//! block, as glibc and musl do. Others may end right below the stack pointer, and there the next block of a heap begins.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::ptr;

use libc::{iovec, pid_t};

use super::frame::place;
use crate::model::Pid;
use crate::process::maps::{Mapping, MappingName};

/// Where the base of fs stands in `struct user_regs_struct`.
const THREAD_POINTER: usize = 21;
/// Pages of x86-64.
const PAGE: u64 = 4096;
/// What must be left below the area, for signals that come on the way back.
const LEFT: u64 = 4 * PAGE;
/// Bits of an entry of `/proc/PID/pagemap`: in memory, and watched by a userfaultfd.
const IS_PRESENT: u64 = 1 << 63;
const IS_WATCHED: u64 = 1 << 57;

/// Whether what lies from `start` up to the stack pointer of a thread with these registers belongs to its stack, and is there.
pub(super) fn is_usable(pid: Pid, mappings: &[Mapping<'_>], general: &[u64], start: u64) -> bool {
    let stack_pointer = general[place::RSP];
    let Some(stack) = mappings.iter().find(|it| (it.start.0..it.end.0).contains(&stack_pointer)) else { return false };
    let is_private = stack.permissions.read && stack.permissions.write && !stack.permissions.shared;
    let control_block = general[THREAD_POINTER];
    let is_stack = match &stack.name {
        MappingName::Kernel(name) if **name == *"[stack]" => true,
        MappingName::Anonymous => (stack_pointer..stack.end.0).contains(&control_block),
        // A name that the C library or the program has given it.
        MappingName::Kernel(name) if name.as_encoded_bytes().starts_with(b"[anon:") => {
            (stack_pointer..stack.end.0).contains(&control_block)
        }
        _ => false,
    };
    let has_room = start.checked_sub(LEFT).is_some_and(|lowest| lowest >= stack.start.0);
    // A page that is not there might be asked of a thread of the process (userfaultfd).
    is_private && is_stack && has_room && pages_are_there(pid, start, stack_pointer).unwrap_or(false)
}

fn pages_are_there(pid: Pid, start: u64, end: u64) -> io::Result<bool> {
    let pages = File::open(format!("/proc/{pid}/pagemap"))?;
    for page in start / PAGE..=end / PAGE {
        let mut entry = [0; 8];
        pages.read_exact_at(&mut entry, page * 8)?;
        let entry = u64::from_ne_bytes(entry);
        if entry & IS_PRESENT == 0 || entry & IS_WATCHED != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The memory of a stopped process, as the process itself may read and write it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory(pub(super) pid_t);

impl Memory {
    /// The word at an address.
    pub(super) fn word(self, address: u64) -> io::Result<u64> {
        let mut word = [0];
        self.read(address, &mut word)?;
        Ok(word[0])
    }

    /// Fills `words` from an address on.
    pub(super) fn read(self, address: u64, words: &mut [u64]) -> io::Result<()> {
        let size = mem::size_of_val(words);
        let local = iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size };
        let remote = iovec { iov_base: ptr::without_provenance_mut(address as usize), iov_len: size };
        // SAFETY: the kernel writes at most `size` bytes to the words; the other address is not ours.
        let read = unsafe { libc::process_vm_readv(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        whole(read, size)
    }

    /// Writes `words` from an address on.
    pub(super) fn write(self, address: u64, words: &[u64]) -> io::Result<()> {
        let size = mem::size_of_val(words);
        let local = iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: size };
        let remote = iovec { iov_base: ptr::without_provenance_mut(address as usize), iov_len: size };
        // SAFETY: the kernel only reads the words; what it writes to is another process' stack, which is checked by its caller.
        let written = unsafe { libc::process_vm_writev(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        whole(written, size)
    }
}

fn whole(moved: isize, size: usize) -> io::Result<()> {
    match usize::try_from(moved) {
        Ok(moved) if moved == size => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
