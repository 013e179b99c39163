//! What was asked for: whom to trace and with which settings, as the snapshot records it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::notation::{optional_seconds, seconds};
use super::types::Pid;

/// How the traced processes were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceMode {
    /// Running processes named by `--pid`.
    Pid,
    /// A command that leaktrace launched.
    Command,
    /// Processes that match a name, control group or user.
    Filter,
    /// Every process.
    System,
    /// The kernel's own allocations.
    Kernel,
    /// Growth of address spaces, without allocator probes.
    Grow,
    /// A mode that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Whom the trace was pointed at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// How the processes were chosen.
    pub mode: TraceMode,
    /// The processes named, or the launched command's.
    #[serde(default)]
    pub pids: Vec<Pid>,
    /// The launched command and its arguments; bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub command: Vec<String>,
    /// `--comm`: names, one of which a process had to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comms: Vec<String>,
    /// `--cgroup`, as given: control groups, one of which a process had to be in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    /// `--uid`: real user ids, one of which a process had to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
}

impl Target {
    /// A target of this kind that nothing more is said of.
    #[must_use]
    pub fn new(mode: TraceMode) -> Self {
        Self { mode, pids: Vec::new(), command: Vec::new(), comms: Vec::new(), cgroups: Vec::new(), uids: Vec::new() }
    }
}

/// What sites are ordered by, largest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortKey {
    /// Outstanding bytes.
    #[default]
    Bytes,
    /// Outstanding allocations.
    Count,
    /// Age of the oldest outstanding allocation.
    Age,
    /// Growth in bytes per second.
    Growth,
    /// A key that this version does not know; orders as `Bytes`.
    #[serde(other)]
    Unknown,
}

/// How stacks are walked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unwind {
    /// By unwind tables, and by frame pointers where there are none.
    #[default]
    Auto,
    /// By unwind tables only.
    Dwarf,
    /// By frame pointers only.
    Fp,
    /// A way that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What reports are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// What a leak check found to be definitely or indirectly lost.
    Lost,
    /// Sites that keep growing.
    Growing,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The options of the trace as resolved, defaults filled in.
#[expect(clippy::struct_excessive_bools, reason = "each is an option without a value")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--duration`; `None` until interrupted or the command ended.
    #[serde(rename = "duration_s", with = "optional_seconds")]
    pub duration: Option<Duration>,
    /// `--interval`; `None` for one report at the end.
    #[serde(rename = "interval_s", with = "optional_seconds")]
    pub interval: Option<Duration>,
    /// `--count`; `None` for as many interval reports as there are.
    pub count: Option<u64>,
    /// `--min-size` in bytes, inclusive.
    pub min_size: u64,
    /// `--max-size` in bytes, inclusive; `None` for no limit.
    pub max_size: Option<u64>,
    /// `--older-than`: outstanding numbers leave out what is younger.
    #[serde(rename = "older_than_s", with = "seconds")]
    pub older_than: Duration,
    /// `--max-allocs`: capacity of the block table.
    pub max_allocs: u64,
    /// `--max-stacks`: capacity of the stack table.
    pub max_stacks: u64,
    /// `--max-depth`: frames kept of a stack.
    pub max_depth: u32,
    /// `--object`, as given.
    pub objects: Vec<String>,
    /// `--symbols-prefix`, as given.
    pub symbols_prefixes: Vec<String>,
    /// `--alloc-symbols`, each NAME=LIKE.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alloc_symbols: Vec<String>,
    /// Mean distance between sampled bytes; `None` where every allocation is recorded and the numbers are exact.
    pub sample_bytes: Option<u64>,
    /// Whether programs drew the sample themselves, each of them at a distance of its own, of which [`Self::sample_bytes`] is the largest,
    /// or up to 1.4 times that.
    #[serde(skip_serializing_if = "is_false")]
    pub sampler: bool,
    /// `--unwind`.
    pub unwind: Unwind,
    /// `--sort`.
    pub sort: SortKey,
    /// `--show-allocs`: whether sites carry their blocks.
    pub show_allocs: bool,
    /// `--all-sites`: whether sites with nothing outstanding are there, too.
    pub all_sites: bool,
    /// `--warmup`: growth is judged from then on.
    #[serde(rename = "warmup_s", with = "seconds", skip_serializing_if = "Duration::is_zero")]
    pub warm_up: Duration,
    /// `--only`: what the outstanding numbers are about; `None` for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
    /// Whether children of named processes and of a command were traced as well: not so with `--no-follow`.
    pub follow: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Options {
    /// Default of `--max-allocs`.
    pub const MAX_ALLOCS: u64 = 1_000_000;
    /// Default of `--max-stacks`.
    pub const MAX_STACKS: u64 = 16_384;
    /// Default of `--max-depth`.
    pub const MAX_DEPTH: u32 = 256;
    /// Its upper limit.
    pub const DEEPEST: u32 = 1024;

    /// How many of `--max-allocs` allocations may be at addresses of 48 bits and more, beside all others.
    #[must_use]
    pub fn wide_allocs(max_allocs: u64) -> u64 {
        max_allocs.div_ceil(16)
    }

    /// Whether sizes outside a range were left unrecorded.
    #[must_use]
    pub fn filters_sizes(&self) -> bool {
        self.min_size > 0 || self.max_size.is_some()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            duration: None,
            interval: None,
            count: None,
            min_size: 0,
            max_size: None,
            older_than: Duration::ZERO,
            max_allocs: Self::MAX_ALLOCS,
            max_stacks: Self::MAX_STACKS,
            max_depth: Self::MAX_DEPTH,
            objects: Vec::new(),
            symbols_prefixes: Vec::new(),
            alloc_symbols: Vec::new(),
            sample_bytes: None,
            sampler: false,
            unwind: Unwind::Auto,
            sort: SortKey::Bytes,
            show_allocs: false,
            all_sites: false,
            warm_up: Duration::ZERO,
            only: None,
            follow: true,
        }
    }
}
