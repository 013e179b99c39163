//! Net flow: what a process allocates less what it frees, by size, as windows in time show it (`--burst`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::notation::seconds;

/// With fewer windows nothing is decided.
pub const LEAST_WINDOWS: u64 = 5;

/// What windows show of a process that is still there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetFlow {
    /// Windows that were open while it ran.
    pub windows: u64,
    /// For how long they were open, together.
    #[serde(rename = "open_s", with = "seconds")]
    pub open: Duration,
    /// All of its blocks.
    pub all: Flow,
    /// Blocks by their size in the allocator, the largest net flow of bytes first; those of which nothing was seen are absent.
    pub classes: Vec<ClassFlow>,
}

/// What goes in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Blocks allocated in one second.
    pub allocs_per_s: f64,
    /// Blocks freed in one second.
    pub frees_per_s: f64,
    /// The difference.
    pub net_per_s: f64,
    /// What that lies within with a probability of 95 %; `None` with fewer than two windows.
    pub net_ci95: Option<[f64; 2]>,
    /// The difference in bytes: blocks by the mean size of those allocated. `None` where sizes of freed blocks are not known.
    pub net_bytes_per_s: Option<f64>,
    /// What is to be thought of it.
    pub finding: Finding,
}

/// The flow of blocks of similar sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassFlow {
    /// The least and the largest size in the allocator, bytes, what the allocator adds included; `None` for blocks whose size when they
    /// are freed is not known.
    pub sizes: Option<[u64; 2]>,
    /// What goes in and out.
    #[serde(flatten)]
    pub flow: Flow,
    /// Whether stacks of its blocks were recorded in the last windows.
    pub recorded: bool,
}

/// Whether more comes than goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// More is allocated than freed.
    Grows,
    /// More is freed than allocated.
    Shrinks,
    /// Neither can be told from chance, or there were too few windows.
    #[default]
    Undecided,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// How the windows of a trace went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bursts {
    /// How long a window is open.
    #[serde(rename = "window_s", with = "seconds")]
    pub window: Duration,
    /// From the beginning of one period to that of the next; a window is at a random place in each.
    #[serde(rename = "period_s", with = "seconds")]
    pub period: Duration,
    /// Windows so far.
    pub windows: u64,
    /// Windows that were left out, since no process had more memory than ever before.
    pub left_out: u64,
    /// Windows that could not be opened, as their probes were not in place in time.
    pub failed: u64,
    /// Allocations and frees that were seen; a realloc is one of each.
    pub calls: u64,
    /// What that has cost the processes: a part of the processor time that they have used, estimated by the number of calls. `None` where
    /// that time is not known.
    pub overhead: Option<f64>,
    /// Processes of which nothing was counted at the last window, for want of room.
    pub without_room: u64,
    /// Frees from within the C library that were not counted, since they may have been of blocks that the program had freed before.
    pub frees_lost: u64,
}
