//! Everything that talks to the kernel.
pub mod attach;
pub mod bpf;
pub mod drain;
pub mod kernel;
pub mod mapping;
pub mod programs;
pub mod sampling;
