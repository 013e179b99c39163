//! What this kernel and this machine can do, and what they are: version, clock, features, types of the kernel's structures.
//!
//! In: the running system. Out: facts and small system calls. Nothing outlives a call but the thread of a question that is not
//! answered (`patience`), and of traced processes only their seccomp mode is read.

#[doc(hidden)]
pub mod bpf;
pub(crate) mod btf;
pub(crate) mod clock;
pub(crate) mod cpus;
pub(crate) mod errno;
pub(crate) mod features;
pub(crate) mod fields;
pub(crate) mod file_id;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod patience;
pub(crate) mod sampler;
pub(crate) mod seccomp;
pub(crate) mod version;
