//! Stopping and reading processes on the real kernel: compiled programs, stopped, read and let go.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod freezing;
mod job_control;
mod kernel_roots;
mod memory;
mod signals;
mod stopping;
mod support;
mod survival;
