//! Reports: each format renders a finished [`Snapshot`](crate::model::Snapshot) into a writer.
//!
//! In: a snapshot and the format's own options. Out: bytes, on a destination that [`output`] looks after.
//! Invariant: a renderer sees only the model: no aya, no tokio, no /proc here. Every format says every loss.

mod deliver;
pub mod diff;
mod estimates;
pub mod flamegraph;
pub mod folded;
mod format;
mod growth;
mod heap_pages;
mod holders;
pub(crate) mod human;
pub mod json;
pub mod lsan;
mod names;
mod net_flow;
mod notices;
pub mod output;
mod stack;
mod style;
mod suppressed;
pub mod text;
pub mod timeline;
mod types;
mod verdicts;

pub use deliver::{Delivery, Outputs, Reporter};
pub use format::{Form, Format};
pub use notices::notices;

/// What the width of a flame graph's frame stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Measure {
    /// Outstanding bytes.
    #[default]
    Bytes,
    /// Outstanding allocations.
    Count,
}
