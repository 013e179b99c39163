//! Memory over time: of processes, of their largest sites, and what happened meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::notation::seconds;
use super::site_id::SiteId;
use super::types::Pid;

/// How much memory a process uses, as far as it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident set.
    pub rss_bytes: Option<u64>,
    /// Proportional set: shared pages count in part.
    pub pss_bytes: Option<u64>,
    /// Unique set: resident pages that no other process shares.
    pub uss_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
}

/// Memory over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The processes that were followed.
    #[serde(default)]
    pub processes: Vec<ProcessTimeline>,
    /// Their largest sites and the fastest leaks, by the most that each had; those of one process by each other.
    #[serde(default)]
    pub sites: Vec<SiteTimeline>,
    /// What happened, in the order in which it did.
    #[serde(default)]
    pub events: Vec<TimelineEvent>,
}

/// Memory of one process at some moments. All lists that are not empty are as long as `at_s`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessTimeline {
    /// Its place in the snapshot's `processes`.
    pub process: usize,
    /// The moments, seconds since tracing began, rising.
    pub at_s: Vec<f64>,
    /// Bytes outstanding.
    pub outstanding_bytes: Vec<u64>,
    /// Bytes allocated by then, all in all: what is allocated in a second is the difference.
    #[serde(default)]
    pub alloc_bytes: Vec<u64>,
    /// Resident set; null where it was not read. From the kernel's running count, which may be off by some hundred pages.
    #[serde(default)]
    pub rss_bytes: Vec<Option<u64>>,
    /// Proportional set; null where it was not read, which is at most once a second.
    #[serde(default)]
    pub pss_bytes: Vec<Option<u64>>,
    /// Resident pages that no other process shares; read with the proportional set.
    #[serde(default)]
    pub uss_bytes: Vec<Option<u64>>,
    /// Swapped out; read with the proportional set.
    #[serde(default)]
    pub swap_bytes: Vec<Option<u64>>,
    /// The moment at which most was outstanding, of those at which counters were read.
    #[serde(default)]
    pub peak: Option<Peak>,
}

/// What was outstanding when most was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// When that was, seconds since tracing began.
    pub at_s: f64,
    /// All that was outstanding.
    pub outstanding_bytes: u64,
    /// The sites that held most of it, the largest first.
    pub sites: Vec<PeakSite>,
}

/// A site at its process' peak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakSite {
    /// The site, which need not be among the snapshot's: the usual peak is freed by the report. `None` where it is gone by now.
    pub site: Option<SiteId>,
    /// What it is called, see [`Site::caller`](super::Site::caller); `None` where it is gone, or the snapshot does not say.
    #[serde(default)]
    pub function: Option<String>,
    /// What it had outstanding then.
    pub outstanding_bytes: u64,
}

/// One site at the moments of its process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteTimeline {
    /// Its process' place in the snapshot's `processes`.
    pub process: usize,
    /// Which site of that process.
    pub site: SiteId,
    /// Bytes outstanding.
    pub outstanding_bytes: Vec<u64>,
}

/// Something that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// When, since tracing began.
    #[serde(rename = "at_s", with = "seconds")]
    pub at: Duration,
    /// The process.
    pub pid: Pid,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It executed another program.
    Exec,
    /// It ended.
    Exit,
    /// Its blocks were judged.
    LeakCheck,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a capture knows of a process over time, before sites have ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawTimeline {
    /// At the times of the process' window.
    pub readings: ProcessTimeline,
    /// When most was outstanding.
    pub peak: Option<RawPeak>,
}

/// What was outstanding when most was, before sites have ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawPeak {
    /// Seconds since tracing began.
    pub at_s: f64,
    /// All that was outstanding.
    pub bytes: u64,
    /// The largest sites by their index in the capture, `None` for one that is gone, with their bytes.
    pub sites: Vec<(Option<usize>, u64)>,
}
