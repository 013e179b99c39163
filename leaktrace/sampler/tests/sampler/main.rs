//! The built library in real programs: nothing of theirs changes, and what is counted is what they did.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step ends the test")]

mod books;
mod contract;
mod library;
mod programs;
mod support;
mod tracer;
