//! What is made of a trace's snapshots: files, a terminal, whatever else.

use std::ops::ControlFlow;
use std::time::Duration;

use super::Snapshot;

/// How a trace stands, in a few numbers.
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
    /// Takes a snapshot. Where it is not the last one, [`Snapshot::is_final`], breaks if the trace is to end, since nobody reads
    /// any more.
    fn take(&mut self, snapshot: &Snapshot) -> ControlFlow<()>;

    /// Whether [`Self::show`] is to be called, which takes reading the tables.
    fn wants_status(&self) -> bool {
        false
    }

    /// Takes how the trace stands, once a second.
    fn show(&mut self, _status: &Status) {}
}
