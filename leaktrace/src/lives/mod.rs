//! Processes from their birth to their end: what the kernel records of them, which of them are traced, what they held when
//! they ended, and the unwind tables that stacks in them are walked by.
//!
//! In: records of the kernel and events of the programs. Out: which process is which, and its address space.

pub(crate) mod discovery;
pub(crate) mod exiting;
pub(crate) mod frames;
pub(crate) mod life;
pub(crate) mod mmap_records;
pub(crate) mod processes;
mod ring;
pub(crate) mod unwinding;
