//! What a process' blocks are judged by: the ways to read its memory, what was read of it in a stop, and who holds what.
//!
//! In: a process that is stopped or held, and its blocks. Out: what was found of each. Who is judged, and when it is stopped, is decided
//! by the trace.

pub mod findings;
pub mod holding;
pub mod life;
pub mod moment;
pub mod passes;
pub mod pause;
pub mod search;
pub mod second_look;
pub mod standstill;
