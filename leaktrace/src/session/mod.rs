//! Everything that talks to the kernel.
pub mod attach;
pub mod drain;
pub mod kernel;
pub mod mapping;
