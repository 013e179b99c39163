//! Holding commands on the real kernel: compiled programs of every kind, started, held, released and watched to their end.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod endings;
mod holding;
mod likeness;
mod stopping;
mod support;
mod survival;
