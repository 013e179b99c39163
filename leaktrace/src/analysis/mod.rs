//! What the outstanding blocks amount to: which of them are lost, what grows, and which leaks are known and
//! not to be reported.
//!
//! In: the model's values, and memory behind a trait. Out: values. Does no I/O of its own and knows no process.

pub mod advice;
pub mod diff;
pub mod flow;
pub mod fragmentation;
pub mod growth;
pub mod reachability;
pub mod suppressions;
