//! Consumers of a trace's snapshots: files, a terminal, or others.

use std::ops::ControlFlow;
use std::time::Duration;

use super::Snapshot;

/// The state of a trace, in a few numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Status {
    /// Time since tracing began.
    pub elapsed: Duration,
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding allocations.
    pub live_count: u64,
    /// Allocations a second since the last status.
    pub allocs_per_s: f64,
    /// [`Losses::total`](crate::model::Losses::total).
    pub losses: u64,
}

/// A consumer of snapshots.
pub trait Sink: Send {
    /// Takes a snapshot. For a snapshot that is not the last one ([`Snapshot::is_final`]), returns a break if the trace
    /// should end because nobody reads its reports any more.
    fn take(&mut self, snapshot: &Snapshot) -> ControlFlow<()>;

    /// Whether [`Self::show`] is to be called; that requires reading the tables.
    fn wants_status(&self) -> bool {
        false
    }

    /// Takes the state of the trace, once a second.
    fn show(&mut self, _status: &Status) {}

    /// Takes note that the trace is over and its last report is being made.
    fn close(&mut self) {}
}
