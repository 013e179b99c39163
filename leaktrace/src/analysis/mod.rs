//! What the outstanding blocks amount to: which of them are lost.
//!
//! In: the model's values, and memory behind a trait. Out: values. Does no I/O of its own and knows no process.

pub mod reachability;
