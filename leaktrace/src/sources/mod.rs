//! Where events come from. Each kind of source is a module that finds its functions in mapped files and has the BPF programs
//! attached there.

pub(crate) mod allocators;
pub(crate) mod samples;
