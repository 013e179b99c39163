//! The snapshot: the content of one report. [`super::schema`] is its form in a file.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::growth::{Growth, GrowthVerdict, Trend};
use super::heap_pages::HeapPages;
use super::histogram::Histogram;
use super::holders::{Holder, Retained};
use super::losses::{Losses, Stacks};
use super::net_flow::{Bursts, NetFlow};
use super::notation::{lossy_path, seconds};
use super::recommendation::Recommendation;
use super::reproduction::Reproduction;
use super::request::{Options, Target};
use super::site_id::SiteId;
use super::stack_state::StackState;
use super::suppression::Hidden;
use super::timeline::Timeline;
use super::types::{Address, Frame, Pid};
use super::untraced::Untraced;
use super::verdict::{LeakCheck, Reachability, Tally, Verdict};

/// State of the traced processes' memory at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Version of the leaktrace that made the snapshot.
    pub leaktrace_version: String,
    /// When tracing began.
    pub started: Timestamp,
    /// How long tracing had lasted.
    pub elapsed: Duration,
    /// Number of this report within the trace, from 1.
    pub sequence: u64,
    /// Whether it is the trace's last report.
    pub is_final: bool,
    /// Present and true where the numbers are estimates from a sample.
    pub sampled: bool,
    /// Where the numbers are estimates: bounds that the bytes outstanding in all lie within with a probability of 95 %.
    pub outstanding_bytes_ci95: Option<[u64; 2]>,
    /// Whom the trace was pointed at.
    pub target: Target,
    /// The options as resolved.
    pub options: Options,
    /// The machine; `None` where the snapshot does not say.
    pub reproduction: Option<Reproduction>,
    /// How windows went; `None` where every call was seen.
    pub bursts: Option<Bursts>,
    /// Every process of which an event was seen, and every process named.
    pub processes: Vec<Process>,
    /// Pairs of process and stack that allocated, in the order of `options.sort`: every one that has something outstanding, and
    /// the others with `options.all_sites`.
    pub sites: Vec<Site>,
    /// How many sites are left out because they have nothing outstanding.
    pub sites_left_out: u64,
    /// How many stacks are complete; `None` if that cannot be known, as with frame pointers alone.
    pub stacks: Option<Stacks>,
    /// Memory over time; `None` where it was not followed.
    pub timeline: Option<Timeline>,
    /// Processes that were seen and not traced.
    pub untraced: Vec<Untraced>,
    /// What could not be recorded.
    pub losses: Losses,
    /// What else a reader of the numbers must know, a sentence each.
    pub warnings: Vec<String>,
    /// Memory of the traced processes that no tracer of allocation functions sees, and names that debug information would
    /// add, a sentence each.
    pub notes: Vec<String>,
    /// What to do next, the most urgent first; of the last report.
    pub recommendations: Vec<Recommendation>,
}

/// One life of a traced process: from its start or its exec to its exit or its next exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// The process; a pid can appear more than once, since exec begins a new life.
    pub pid: Pid,
    /// When it started; `None` where that could not be read any more.
    #[serde(default)]
    pub start_time: Option<Timestamp>,
    /// The kernel's short name of it (at most 15 bytes).
    #[serde(default)]
    pub comm: String,
    /// Path of its executable.
    #[serde(default, serialize_with = "lossy_path")]
    pub exe: Option<PathBuf>,
    /// Whether it had ended.
    #[serde(default)]
    pub exited: bool,
    /// How it ended where that is known: its exit code, or 128 + n after signal n.
    #[serde(default)]
    pub exit_status: Option<i32>,
    /// Bytes allocated and not freed; with `--older-than`, only those old enough.
    pub outstanding_bytes: u64,
    /// Allocations not freed; with `--older-than`, only those old enough.
    pub outstanding_count: u64,
    /// Most bytes that were outstanding at any one time.
    #[serde(default)]
    pub peak_bytes: u64,
    /// Bytes allocated since tracing began.
    #[serde(default)]
    pub alloc_bytes: u64,
    /// Allocations since tracing began.
    #[serde(default)]
    pub alloc_count: u64,
    /// Bytes freed again of those.
    #[serde(default)]
    pub free_bytes: u64,
    /// Allocations freed again of those.
    #[serde(default)]
    pub free_count: u64,
    /// Frees of blocks that were not recorded: allocated before tracing began, by the parent before a fork, filtered out, or lost.
    #[serde(default)]
    pub untracked_frees: u64,
    /// Frees by which the C library, when a thread ends, releases what it has cached for the thread: small blocks that the
    /// program had already freed, and the list of them. These are not the program's blocks. They are recognised by where they
    /// are called from: one place in the source file of glibc's own `free`.
    #[serde(default)]
    pub thread_end_frees: u64,
    /// Calls of allocation functions that never returned to their caller (longjmp, exception, thread ended).
    #[serde(default)]
    pub abandoned_calls: u64,
    /// How many processes that have ended this stands for, by name and program, and then `pid` is 0; absent for one process.
    /// Their numbers are summed, the peaks too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merged: u64,
    /// Resident set in bytes; `None` once the process had ended.
    #[serde(default)]
    pub rss_bytes: Option<u64>,
    /// Proportional set in bytes; `None` once the process had ended or where it may not be read.
    #[serde(default)]
    pub pss_bytes: Option<u64>,
    /// Resident pages that no other process shares, in bytes; `None` as for the proportional set.
    #[serde(default)]
    pub uss_bytes: Option<u64>,
    /// Swapped out, in bytes; `None` as for the proportional set.
    #[serde(default)]
    pub swap_bytes: Option<u64>,
    /// How the resident pages of its heap are used; `None` where that was not looked at.
    #[serde(default)]
    pub heap_pages: Option<HeapPages>,
    /// How its blocks were judged; `None` where no leak check ran.
    #[serde(default)]
    pub leak_check: Option<LeakCheck>,
    /// Blocks that a leak check had called lost and that were freed or found again later: those verdicts are taken back. Absent
    /// where there were none.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub lost_taken_back: Tally,
    /// Whether it leaks, as far as time tells; `None` where it was not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// What those of its sites amount to of which only a few blocks each stay, or which found no room to be followed. Absent where
    /// they are not most of its growth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scattered_growth: Option<Growth>,
    /// What goes in and out, as windows show it (`--burst`); absent where every call was seen, or no window has shown the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_flow: Option<NetFlow>,
    /// The variables that alone hold most of its blocks' bytes, the largest first; empty where no leak check ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Retained>,
    /// Present and true where the numbers are estimates from a sample.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sampled: bool,
    /// Where they are: bounds that the outstanding bytes lie within with a probability of 95 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding_bytes_ci95: Option<[u64; 2]>,
}

/// One place that allocates: a stack of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The process.
    pub pid: Pid,
    /// Index into the snapshot's `processes`: tells the lives of one pid apart. See [`Snapshot::process_of`].
    pub process: Option<usize>,
    /// Its name among all runs of the program; `None` where the snapshot does not say.
    pub id: Option<SiteId>,
    /// Bytes allocated here and not freed; with `--older-than`, only those old enough.
    pub outstanding_bytes: u64,
    /// Allocations made here and not freed; with `--older-than`, only those old enough.
    pub outstanding_count: u64,
    /// Bytes allocated here since tracing began.
    pub alloc_bytes: u64,
    /// Allocations made here since tracing began.
    pub alloc_count: u64,
    /// Bytes freed again of those.
    pub free_bytes: u64,
    /// Allocations freed again of those.
    pub free_count: u64,
    /// Allocations freed again by the next recorded call of the thread that had made them.
    pub temporary_count: u64,
    /// Age of the oldest outstanding allocation; `None` where nothing is outstanding.
    pub oldest: Option<Duration>,
    /// Age of the youngest outstanding allocation; `None` where nothing is outstanding.
    pub youngest: Option<Duration>,
    /// How old the outstanding allocations are; empty where that is not known.
    pub ages: Histogram,
    /// How large they are; empty where that is not known.
    pub sizes: Histogram,
    /// What the leak check found; `None` where none ran.
    pub verdict: Option<Verdict>,
    /// Its blocks that the program wants no leak reported of (`__lsan_ignore_object`, `__lsan_disable`). They can be in any kind of
    /// the verdict but those of lost blocks.
    pub ignored: Tally,
    /// What suppressions hide of it, by rule; no kind twice.
    pub suppressed: Vec<Hidden>,
    /// The class of the objects in its blocks, if all that are objects of a class with virtual functions are of one.
    pub type_name: Option<Arc<str>>,
    /// How those of its blocks are held that can still be reached, the largest part first; `None` where there are none, or where
    /// no leak check ran.
    pub holders: Option<Vec<Holder>>,
    /// Bytes of the heap's resident pages on which all blocks are of this site; `None` where that was not looked at.
    pub pinned_bytes: Option<u64>,
    /// Shape of the growth over time; `None` where it was not followed.
    pub trend: Option<Trend>,
    /// Growth of the outstanding bytes; 0 where it was not followed.
    pub growth_bytes_per_s: f64,
    /// Whether it leaks, as far as time tells; `None` where it was not followed.
    pub growth: Option<Growth>,
    /// Whether the stack was cut at `--max-depth`.
    pub truncated: bool,
    /// Whether the stack is all there; `None` where the snapshot does not say.
    pub stack_state: Option<StackState>,
    /// Present and true where the numbers are estimates from a sample.
    pub sampled: bool,
    /// Where they are: bounds that the outstanding bytes lie within with a probability of 95 %.
    pub outstanding_bytes_ci95: Option<[u64; 2]>,
    /// Innermost first, from the caller of the allocation function; empty where no stack could be recorded.
    pub stack: Vec<Arc<Frame>>,
    /// The outstanding allocations, oldest first; only with `--show-allocs`.
    pub blocks: Option<Vec<Block>>,
}

/// One outstanding allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Where it lies in the process.
    pub address: Address,
    /// Bytes asked for, never an estimate.
    pub size: u64,
    /// The bytes that it stands for where its program has drawn it for a sample; `None` for as many as it has.
    #[serde(default, rename = "weighted_bytes", skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonZeroU64>,
    /// Time since it was allocated, or until its process ended.
    #[serde(rename = "age_s", with = "seconds")]
    pub age: Duration,
    /// What the leak check found about it; `None` where none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Reachability>,
    /// The program wants no leak reported of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignored: bool,
    /// The class of the object in it, if that has virtual functions.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_name: Option<Arc<str>>,
}

/// What functions' names begin with that others call to allocate: C++ operators and containers, Rust's.
const CALLED_TO_ALLOCATE: [&str; 8] =
    ["operator new", "std::", "__gnu_cxx::", "void* std::", "alloc::", "<alloc::", "__rust_", "__rustc"];

/// See [`Site::caller`].
pub(super) fn caller(stack: &[Arc<Frame>]) -> Option<&Frame> {
    let allocates = |frame: &&Arc<Frame>| {
        let function = frame.function.as_deref().unwrap_or_default();
        CALLED_TO_ALLOCATE.iter().any(|called| function.starts_with(called))
    };
    stack.iter().find(|frame| !allocates(frame)).or(stack.first()).map(|frame| &**frame)
}

impl Process {
    /// Whether it ended with something outstanding, before its growth was judged: that is done of what goes on, and of COMMAND.
    #[must_use]
    pub fn ended_unjudged(&self) -> bool {
        self.exited && self.growth.is_none() && self.outstanding_bytes > 0
    }
}

impl Site {
    /// Whether anything is outstanding here.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.outstanding_count > 0 || self.outstanding_bytes > 0
    }

    /// The frame that it is called by: the innermost of a function that is not there to allocate for others.
    #[must_use]
    pub fn caller(&self) -> Option<&Frame> {
        caller(&self.stack)
    }

    /// Whether it is judged to leak by its growth.
    #[must_use]
    pub fn leaks_by_growth(&self) -> bool {
        self.growth.as_ref().is_some_and(|growth| growth.verdict == GrowthVerdict::Leak)
    }

    /// Bytes that stay, of those allocated in one second; 0 where that is not known.
    #[must_use]
    pub fn growth_rate(&self) -> f64 {
        self.growth.as_ref().map_or(0.0, |growth| growth.bytes_per_s)
    }
}

impl Snapshot {
    /// The process that `site` belongs to; `None` where the snapshot does not describe it.
    #[must_use]
    pub fn process_of(&self, site: &Site) -> Option<&Process> {
        self.process_index(site).and_then(|index| self.processes.get(index))
    }

    /// Index in `processes` of the process that `site` belongs to. A snapshot from elsewhere may lack the site's index or
    /// hold a wrong one; the pid decides then.
    pub(super) fn process_index(&self, site: &Site) -> Option<usize> {
        let is_its = |index: &usize| self.processes.get(*index).is_some_and(|process| process.pid == site.pid);
        site.process.filter(is_its).or_else(|| self.processes.iter().position(|process| process.pid == site.pid))
    }

    /// Gives the sites of peaks the names that the listed sites have.
    pub fn name_peaks(&mut self) {
        let Some(timeline) = &mut self.timeline else { return };
        let listed = self.sites.iter().filter_map(|site| Some(((site.process?, site.id?), site.caller()?)));
        let listed: HashMap<_, _> = listed.collect();
        for of in &mut timeline.processes {
            for site in of.peak.iter_mut().flat_map(|peak| &mut peak.sites) {
                let caller = site.site.and_then(|id| listed.get(&(of.process, id)));
                site.function = caller.map(|frame| frame.name()).or(site.function.take());
            }
        }
    }

    /// Whether every outstanding site carries its blocks, so that the snapshot can be filtered by age.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        self.sites.iter().all(|site| site.blocks.is_some() || site.outstanding_count == 0)
    }

    /// Sums the growth of the sites up by process, but of those that suppressions hide. A process of which no site has anything
    /// outstanding keeps what was said of it.
    pub fn sum_growth(&mut self) {
        let mut by_process: Vec<Vec<(&Growth, &str)>> = vec![Vec::new(); self.processes.len()];
        for site in &self.sites {
            let (Some(growth), Some(process)) = (&site.growth, site.process) else { continue };
            if site.shown().count == 0 && site.is_outstanding() {
                continue;
            }
            let name = site.caller().and_then(|frame| frame.function.as_deref()).unwrap_or("code without a name");
            by_process.get_mut(process).into_iter().for_each(|sites| sites.push((growth, name)));
        }
        let growths: Vec<_> = by_process.iter().map(|sites| Growth::of_all(sites)).collect();
        for (process, growth) in self.processes.iter_mut().zip(growths) {
            let is_more = |scattered: &&Growth| {
                let of_sites = growth.as_ref();
                of_sites.is_none_or(|sites| {
                    sites.verdict != GrowthVerdict::Leak && sites.bytes_per_s < scattered.bytes_per_s
                })
            };
            let scattered = process.scattered_growth.as_ref().filter(is_more).cloned();
            process.growth = scattered.or(growth).or(process.growth.take());
        }
    }

    /// Whether not one call of an allocation function was seen: a sign of a wrong target, never of "no leaks".
    #[must_use]
    pub fn saw_nothing(&self) -> bool {
        self.sites.iter().all(|site| site.alloc_count == 0)
            && self
                .processes
                .iter()
                .all(|process| process.alloc_count == 0 && process.untracked_frees + process.thread_end_frees == 0)
            && self.bursts.is_none_or(|bursts| bursts.calls == 0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
