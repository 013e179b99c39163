//! Other processes: whether they can be traced, what lies where in them, what is in their memory and registers while they are
//! stopped, and how a COMMAND is started and held.
//!
//! In: process ids and command lines. Out: descriptors, address spaces, words of memory, facts of `/proc`, a command under our
//! hand. Knows nothing of BPF, and believes nothing that a process could have written. **Never** writes to a process, apart from
//! `snapshot`, which puts everything back.

pub(crate) mod candidate;
pub(crate) mod facts;
pub(crate) mod growth;
pub mod kernel_roots;
pub mod launch;
pub mod maps;
pub mod memory;
pub(crate) mod pidfd;
mod ptrace;
pub mod registers;
pub mod snapshot;
pub(crate) mod standing;
pub mod stop;
mod threads;
