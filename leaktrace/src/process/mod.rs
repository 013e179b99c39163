//! Other processes: whether they can be traced, what lies where in them, and how a COMMAND is started and held.
//!
//! In: process ids and command lines. Out: descriptors, address spaces, facts of `/proc`, a command under our hand. Knows
//! nothing of BPF, and believes nothing that a process could have written.

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
pub mod stop;
mod threads;
