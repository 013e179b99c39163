//! Stopping and reading processes on the real kernel: compiled programs, stopped, read and let go.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_arch = "x86_64")]
mod copying;
#[cfg(target_arch = "x86_64")]
mod disturbing;
mod freezing;
mod job_control;
mod kernel_roots;
mod memory;
#[cfg(target_arch = "x86_64")]
mod outliving;
#[cfg(target_arch = "x86_64")]
mod refusing;
mod signals;
#[cfg(target_arch = "x86_64")]
mod stepping;
mod stopping;
mod support;
mod survival;
