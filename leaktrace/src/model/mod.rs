//! What a trace found, as plain data: the types that every stage after the session speaks.
//!
//! In: numbers read from the maps, names from the symbolizer. Out: what the reports render.
//! Invariant: no I/O, no aya, no tokio, no /proc here.

mod types;

pub use types::{Address, Frame, Pid};
