//! Naming the addresses of real programs: compiled here, started, deleted, replaced, stripped, put into other namespaces.
//!
//! Every expected name, line and address comes from the program's source, from the program itself or from binutils.
//! Runs as root, like tracing itself: `/proc/PID/map_files` and namespaces need it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise, its helpers too")]

mod debuginfo;
mod harness;
mod hostile;
mod jit;
mod languages;
mod lifetimes;
mod speed;
