//! What a trace found, as plain data: the types that all later stages use.
//!
//! In: a [`Capture`] (raw counters and addresses, as read from the maps) and the names that a [`Resolver`] gives to the
//! addresses; or the bytes of a saved snapshot. Out: a [`Snapshot`], which the reports render and `--json` writes.
//! Invariant: no I/O, no aya, no tokio, no /proc here.

mod blocks;
mod capture;
pub mod choice;
mod diff;
mod estimate;
mod growing;
mod growth;
mod heap_pages;
mod hidden;
mod histogram;
mod holders;
mod leaked;
mod losses;
mod lost;
mod net_flow;
mod notation;
mod recommendation;
mod reproduction;
mod request;
pub mod sampling;
mod schema;
mod select;
mod silence;
mod sink;
mod site_id;
mod snapshot;
mod stack_state;
mod sums;
mod suppression;
mod timeline;
mod timelines;
mod types;
mod untraced;
mod verdict;

pub use blocks::{BlockTally, RawBlock, SiteTally};
pub use capture::{Capture, Counters, Named, RawProcess, RawSite, Resolver};
pub use diff::{Amount, Change, Diff, Difference, Lapse, Matched, Pair, ProgramDiff, SiteDiff};
pub use estimate::Spread;
pub use growth::{Growth, GrowthVerdict, Past, SiteGrowth, Trend, Window};
pub use heap_pages::{HeapFinding, HeapPages};
pub use hidden::Suppressed;
pub use histogram::{Class, Histogram};
pub use holders::{Described, Holder, Retained, RootKind};
pub use losses::{Losses, Stacks};
pub use lost::NoVerdict;
pub use net_flow::{Bursts, ClassFlow, Finding, Flow, LEAST_WINDOWS, NetFlow};
pub use recommendation::Recommendation;
pub use reproduction::{ProgramVersion, Reproduction, Versions};
pub use request::{Only, Options, SortKey, Target, TraceMode, Unwind};
pub use schema::{Schema, SnapshotError, Written, WrittenDiff};
pub use select::NoBlocks;
pub use silence::Silence;
pub use sink::{Sink, Status};
pub use site_id::{Code, SiteId};
pub use snapshot::{Block, Process, Site, Snapshot};
pub use stack_state::StackState;
pub use sums::{SumMismatch, Totals};
pub use suppression::{Hidden, Kinds, Rule};
pub use timeline::{
    EventKind, MemoryUse, Peak, PeakSite, ProcessTimeline, RawPeak, RawTimeline, SiteTimeline, Timeline, TimelineEvent,
};
pub use types::{Address, Frame, Pid};
pub use untraced::Untraced;
pub use verdict::{LeakCheck, LeakCheckMode, Reachability, Tally, Verdict};
