//! End-to-end tests: the built `leaktrace` binary against real processes on the running kernel.
//!
//! Victims (`tests/victims/`) print their own exact accounting; the tests compare the tracer's JSON snapshot with it.
//! These are ordinary tests: without root or a kernel that can do it they fail, with one sentence that says so.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and its helpers say what went wrong by panicking"
)]

mod harness;

mod abandoned;
mod accounting;
mod alerts;
mod allocators;
mod annotations;
mod bad_input;
mod breakpoints;
mod bursts;
mod busy;
mod callers;
mod capacity;
mod choosing;
mod command;
mod committed_object;
mod debuginfod;
mod deep;
mod diff;
mod doctor;
mod everything;
mod failures;
mod filters;
mod following;
mod fragmentation;
mod frames;
mod growth;
mod holder;
mod holders;
mod hostile_files;
mod jitted;
mod leak_checks;
mod lifecycle;
mod linked_allocators;
mod lives;
mod lost_records;
mod lsan_text;
mod many_lives;
mod meanwhile;
mod other_leaktraces;
mod outputs;
mod overwritten;
mod places;
mod processes;
mod reachability;
mod real_programs;
mod replaced_code;
mod sampler;
mod samples;
mod sampling;
mod schema;
mod set_up;
mod suppressions;
mod system_wide;
mod threads;
mod traps;
mod untraced;
mod victims;
mod wide;
