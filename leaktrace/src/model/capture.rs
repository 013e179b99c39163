//! What the session reads from the maps, before any name is known, and how it becomes a [`Snapshot`].
//!
//! In: counters per stack, raw addresses, and the outstanding blocks as a stream, so that ten million of them need not be
//! held. Out: a snapshot whose sites of one process and one stack are merged, sorted and named.
//! Invariant: pure; names come through [`Resolver`].

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leaktrace_common::sampling::{BYTES_SHIFT, COUNT_SHIFT};

use super::blocks::{BlockTally, SiteTally};
use super::estimate::Spread;
use super::growth::{Growth, Past, SiteGrowth, Window};
use super::heap_pages::HeapPages;
use super::holders::{Described, Retained};
use super::losses::{Losses, Stacks};
use super::net_flow::{Bursts, NetFlow};
use super::reproduction::Reproduction;
use super::request::{Options, Target, Unwind};
use super::silence::Silence;
use super::site_id::SiteId;
use super::snapshot::{Process, Site, Snapshot};
use super::stack_state::StackState;
use super::timeline::{MemoryUse, RawTimeline, TimelineEvent};
use super::timelines::Timelines;
use super::types::{Address, Frame, Pid};
use super::untraced::Untraced;
use super::verdict::{LeakCheck, Tally};
use crate::model::sampling::whole;

/// One reading of the maps.
#[derive(Debug)]
pub struct Capture {
    /// When tracing began.
    pub started: Timestamp,
    /// How long tracing had lasted.
    pub elapsed: Duration,
    /// Number of this report within the trace, from 1.
    pub sequence: u64,
    /// Whether it is the trace's last report.
    pub is_final: bool,
    /// Whom the trace was pointed at.
    pub target: Target,
    /// The options as resolved.
    pub options: Options,
    /// The machine.
    pub reproduction: Reproduction,
    /// How windows went; `None` where every call was seen.
    pub bursts: Option<Bursts>,
    /// Every life of every traced process.
    pub processes: Vec<RawProcess>,
    /// Every pair of process and stack. Two of one process may have the same frames; they are merged.
    pub sites: Vec<RawSite>,
    /// The outstanding blocks, tallied; `None` if they were not read: ages are then unknown.
    pub blocks: Option<BlockTally>,
    /// Whether frees of blocks from before the trace are seen: not of every sampler's.
    pub tells_earlier: bool,
    /// What the leak check found out of the blocks of sites, by their places among [`Capture::merged`].
    pub described: HashMap<usize, Described>,
    /// What time says of sites, by the same places; empty if nothing was judged.
    pub growth: Vec<SiteGrowth>,
    /// Bytes of the heap's pages that sites pin, by their places among [`Capture::merged`].
    pub pinned: HashMap<usize, u64>,
    /// How many stacks are whole, where that is known.
    pub stacks: Option<Stacks>,
    /// Processes that were seen and not traced.
    pub untraced: Vec<Untraced>,
    /// What happened to processes.
    pub events: Vec<TimelineEvent>,
    /// What could not be recorded.
    pub losses: Losses,
    /// What else a reader of the numbers must know, a sentence each.
    pub warnings: Vec<String>,
    /// If nothing was seen: the known reasons.
    pub silence: Vec<Silence>,
    /// Memory that is not traced and need not be, a sentence each.
    pub notes: Vec<String>,
}

/// One life of a process. Its totals are those of its sites.
#[derive(Debug, Clone)]
pub struct RawProcess {
    /// The life's number, which the resolver uses to find its address space; this module does not interpret it.
    pub life: u32,
    /// The process.
    pub pid: Pid,
    /// When it started, where that could be read.
    pub start_time: Option<Timestamp>,
    /// The kernel's short name of it.
    pub comm: String,
    /// Path of its executable.
    pub exe: Option<PathBuf>,
    /// Whether the process had exited.
    pub exited: bool,
    /// If it is known how the process ended: its exit code, or 128 + n after signal n.
    pub exit_status: Option<i32>,
    /// Most bytes that were outstanding at any one time; in the units of [`Counters`].
    pub peak_bytes: u64,
    /// Frees of blocks that were not recorded.
    pub untracked_frees: u64,
    /// Frees by the C library when threads end.
    pub thread_end_frees: u64,
    /// Calls of allocation functions that never returned to their caller.
    pub abandoned_calls: u64,
    /// How many ended lives this one stands for; 0 for one life, which has a pid.
    pub merged: u64,
    /// Its memory.
    pub memory: MemoryUse,
    /// How the resident pages of its heap are used; `None` where that was not looked at.
    pub heap_pages: Option<HeapPages>,
    /// How its blocks were judged; `None` where they were not.
    pub leak_check: Option<LeakCheck>,
    /// What leak checks called lost and turned out not to be.
    pub taken_back: Tally,
    /// The variables that alone hold most of its blocks, the largest first.
    pub holders: Vec<Retained>,
    /// What its sites amount to that are too small to be judged; `None` where they do not matter.
    pub scattered_growth: Option<Growth>,
    /// What goes in and out, as windows show it; `None` where every call was seen, or no window has shown the process.
    pub net_flow: Option<NetFlow>,
    /// The time that its growth is judged by; `None` where it was not followed.
    pub window: Option<Arc<Window>>,
    /// Its memory over that time.
    pub timeline: Option<RawTimeline>,
}

/// What was allocated and freed again since tracing began. While sampling, bytes are in units of 1/2^[`BYTES_SHIFT`] and
/// allocations in units of 1/2^[`COUNT_SHIFT`], as the programs count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes allocated.
    pub alloc_bytes: u64,
    /// Allocations.
    pub alloc_count: u64,
    /// Bytes of these allocations that were freed again.
    pub free_bytes: u64,
    /// How many of these allocations were freed again.
    pub free_count: u64,
    /// How many of those were freed by the next recorded call of the thread that had made them.
    pub temporary_count: u64,
    /// The longest that one of those had lived, if there are any.
    pub longest_life: Duration,
}

impl Counters {
    /// Bytes not freed, never below zero: the counters of a running process are not read at one instant, so a free can be
    /// seen before its allocation.
    #[must_use]
    pub fn outstanding_bytes(&self) -> u64 {
        self.alloc_bytes.saturating_sub(self.free_bytes)
    }

    /// Allocations not freed, never below zero.
    #[must_use]
    pub fn outstanding_count(&self) -> u64 {
        self.alloc_count.saturating_sub(self.free_count)
    }

    /// Estimates in whole bytes and allocations. Rounded so that what is outstanding remains what was allocated less what
    /// was freed.
    #[must_use]
    pub fn whole(&self) -> Self {
        let balanced = |allocated: u64, freed: u64, shift| {
            let outstanding = whole(allocated.saturating_sub(freed), shift);
            let allocated_whole = whole(allocated, shift);
            let freed = if freed > allocated { whole(freed, shift) } else { allocated_whole - outstanding };
            (allocated_whole, freed)
        };
        let (alloc_bytes, free_bytes) = balanced(self.alloc_bytes, self.free_bytes, BYTES_SHIFT);
        let (alloc_count, free_count) = balanced(self.alloc_count, self.free_count, COUNT_SHIFT);
        let temporary_count = whole(self.temporary_count, COUNT_SHIFT);
        Self { alloc_bytes, alloc_count, free_bytes, free_count, temporary_count, longest_life: self.longest_life }
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: &Self) {
        self.alloc_bytes = self.alloc_bytes.saturating_add(other.alloc_bytes);
        self.alloc_count = self.alloc_count.saturating_add(other.alloc_count);
        self.free_bytes = self.free_bytes.saturating_add(other.free_bytes);
        self.free_count = self.free_count.saturating_add(other.free_count);
        self.temporary_count = self.temporary_count.saturating_add(other.temporary_count);
        self.longest_life = self.longest_life.max(other.longest_life);
    }
}

/// One pair of process and stack.
#[derive(Debug, Clone)]
pub struct RawSite {
    /// Index into the capture's `processes`.
    pub process: usize,
    /// Raw addresses, innermost first; empty where no stack could be recorded.
    pub frames: Vec<Address>,
    /// What was allocated and freed here.
    pub counters: Counters,
    /// Whether the stack was cut at `--max-depth`.
    pub truncated: bool,
    /// Whether the stack is complete.
    pub stack_state: StackState,
    /// What it has had over time, in the window of its process; `None` where it was not followed.
    pub past: Option<Past>,
}

/// Gives names to addresses.
pub trait Resolver {
    /// The names of a stack of `process`, innermost first; at least one frame for each address, more where functions are
    /// inlined, [`Frame::unresolved`] where nothing is known.
    fn resolve(&mut self, process: &RawProcess, stack: &[Address]) -> Named;
}

/// A stack with names.
#[derive(Debug, Clone)]
pub struct Named {
    /// Innermost first; a frame that many stacks have is held once.
    pub frames: Vec<Arc<Frame>>,
    /// The site's id, the same in all runs of the program.
    pub id: SiteId,
}

impl<F: FnMut(&RawProcess, &[Address]) -> Named> Resolver for F {
    fn resolve(&mut self, process: &RawProcess, stack: &[Address]) -> Named {
        self(process, stack)
    }
}

impl Capture {
    /// Whether not one call of an allocation function was seen.
    #[must_use]
    pub fn saw_nothing(&self) -> bool {
        self.sites.iter().all(|site| site.counters.alloc_count == 0)
            && self.processes.iter().all(|process| process.untracked_frees + process.thread_end_frees == 0)
            && self.bursts.is_none_or(|bursts| bursts.calls == 0)
    }

    /// The latest life of a process ended with this status after the reading.
    pub fn exited(&mut self, pid: Pid, status: u8) {
        if let Some(process) = self.processes.iter_mut().rev().find(|process| process.pid == pid) {
            process.exited = true;
            process.exit_status = Some(i32::from(status));
        }
    }

    /// The sites to be named: those that the snapshot will have (with `--older-than` also those that have only young blocks) and those
    /// that peaks have.
    pub fn named_sites(&self) -> impl Iterator<Item = &RawSite> {
        let peaks = self.processes.iter().filter_map(|process| process.timeline.as_ref()?.peak.as_ref());
        let at_peaks: HashSet<_> = peaks.flat_map(|peak| &peak.sites).filter_map(|(site, _)| *site).collect();
        // Counters and blocks of a running process are not read at one instant, so both are checked.
        let has_blocks = |index| {
            let tally = self.blocks.as_ref().and_then(|blocks| blocks.sites.get(index));
            tally.is_some_and(|tally: &SiteTally| tally.count > 0)
        };
        let is_reported = move |(index, site): &(usize, &RawSite)| {
            self.options.all_sites
                || site.counters.outstanding_count() > 0
                || has_blocks(*index)
                || at_peaks.contains(index)
        };
        self.sites.iter().enumerate().filter(is_reported).map(|(_, site)| site)
    }

    /// For each site its place among the merged ones: those of one process with the same frames share a place.
    #[must_use]
    pub fn merged(&self) -> Vec<usize> {
        places(&self.sites)
    }

    /// The same before the capture is complete: sites that are added later change no place.
    #[must_use]
    pub fn merged_places(sites: &[RawSite]) -> Vec<usize> {
        places(sites)
    }

    /// Merges, names and sorts: the snapshot that this reading of the maps amounts to.
    ///
    /// Where blocks were read with an `--older-than`, outstanding numbers are those of the blocks that are old enough;
    /// else they are what was allocated and not freed.
    pub fn into_snapshot(mut self, resolver: &mut dyn Resolver) -> Snapshot {
        let filters_age = !self.options.older_than.is_zero();
        if filters_age && self.blocks.is_none() {
            self.options.older_than = Duration::ZERO;
            self.warnings.push("the blocks were not read, so --older-than could not be applied".to_owned());
        }
        let keeps_blocks = self.blocks.as_ref().is_some_and(|tally| tally.keeps_blocks);
        let by_age = filters_age && self.blocks.is_some();

        let mean = self.options.sample_bytes;
        // Nothing shows where a chain of frame pointers ended early, or skipped a caller.
        let all_skip_callers = self.options.unwind == Unwind::Fp;
        let has_blocks = self.blocks.is_some();
        let mut processes: Vec<Process> = self.processes.iter().map(|raw| process(raw, mean.is_some())).collect();
        let mut spreads = vec![Spread::default(); processes.len()];
        let all_sites = self.options.all_sites;
        let (mut sites, mut sites_left_out) = (Vec::new(), 0);
        let followed = self.processes.iter_mut().enumerate();
        let followed = followed.filter_map(|(index, process)| Some((index, process.timeline.take()?)));
        let mut timelines = Timelines::new(followed, self.events, &places(&self.sites));
        for (place, (mut raw, tally)) in merge(self.sites, self.blocks).into_iter().enumerate() {
            let Some(owner) = self.processes.get(raw.process) else { continue };
            if let (Some(spread), Some(tally)) = (spreads.get_mut(raw.process), &tally) {
                spread.merge(&tally.spread);
            }
            // The addresses of blocks of several processes mean nothing in one list.
            let keeps_blocks = keeps_blocks && owner.merged == 0;
            let mut site = site(owner.pid, &raw, tally, &Manner { by_age, keeps_blocks, all_skip_callers, mean });
            if let Some(process) = site.process.and_then(|index| processes.get_mut(index)) {
                process.outstanding_bytes = process.outstanding_bytes.saturating_add(site.outstanding_bytes);
                process.outstanding_count = process.outstanding_count.saturating_add(site.outstanding_count);
                process.alloc_bytes = process.alloc_bytes.saturating_add(site.alloc_bytes);
                process.alloc_count = process.alloc_count.saturating_add(site.alloc_count);
                process.free_bytes = process.free_bytes.saturating_add(site.free_bytes);
                process.free_count = process.free_count.saturating_add(site.free_count);
            }
            if !all_sites && !site.is_outstanding() {
                // Naming sites that are left out would take most of the time.
                sites_left_out += 1;
                let growth = self.growth.get_mut(place).and_then(|growth| growth.growth.take());
                if let Some(process) = site.process.and_then(|index| processes.get_mut(index)) {
                    // Of a process that has freed everything there is no other.
                    process.growth = process.growth.take().or(growth);
                }
                // But those of a peak, which are few: who held the memory then is what a reader looks for.
                if timelines.is_at_peak(place) {
                    let Named { frames, id } = named(resolver, owner, &raw.frames);
                    timelines.add(raw.process, place, (id, &frames), raw.past.take(), None);
                }
                continue;
            }
            let Named { frames, id } = named(resolver, owner, &raw.frames);
            let growth = self.growth.get(place).and_then(|growth| growth.growth.as_ref());
            timelines.add(raw.process, place, (id, &frames), raw.past.take(), growth);
            (site.stack, site.id) = (frames, Some(id));
            site.pinned_bytes = owner.heap_pages.map(|_| self.pinned.remove(&place).unwrap_or(0));
            if let Some(Described { type_name, holders }) = self.described.remove(&place) {
                (site.type_name, site.holders) = (type_name, holders);
            }
            if let Some(SiteGrowth { trend, bytes_per_s, growth }) = self.growth.get_mut(place) {
                (site.trend, site.growth_bytes_per_s, site.growth) = (*trend, *bytes_per_s, growth.take());
            }
            sites.push(site);
        }
        let mut total = None;
        if let Some(mean) = mean {
            let mut sum = Spread::default();
            for (process, spread) in processes.iter_mut().zip(&spreads) {
                sum.merge(spread);
                process.outstanding_bytes_ci95 = has_blocks.then(|| spread.interval(mean));
                // Both numbers are rounded: the peak once, the outstanding bytes for each site.
                process.peak_bytes = process.peak_bytes.max(process.outstanding_bytes);
            }
            total = has_blocks.then(|| sum.interval(mean));
        }

        let mut snapshot = Snapshot {
            leaktrace_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            elapsed: self.elapsed,
            sequence: self.sequence,
            is_final: self.is_final,
            sampled: mean.is_some(),
            outstanding_bytes_ci95: total,
            target: self.target,
            options: self.options,
            reproduction: Some(self.reproduction),
            bursts: self.bursts,
            processes,
            sites,
            sites_left_out,
            stacks: self.stacks,
            timeline: timelines.into_timeline(),
            untraced: self.untraced,
            losses: self.losses,
            warnings: self.warnings,
            notes: self.notes,
            recommendations: Vec::new(),
        };
        if snapshot.saw_nothing() {
            // Where it is known why, that says more.
            let known = self.silence.iter().map(ToString::to_string);
            snapshot.warnings.extend(known);
            if self.silence.is_empty() {
                snapshot.warnings.push(Silence::of(&snapshot).to_string());
            }
        }
        snapshot.sort_sites(snapshot.options.sort);
        snapshot
    }
}

/// The names of a stack; one that could not be recorded has none.
fn named(resolver: &mut dyn Resolver, process: &RawProcess, stack: &[Address]) -> Named {
    if stack.is_empty() {
        return Named { frames: Vec::new(), id: SiteId::of([]) };
    }
    resolver.resolve(process, stack)
}

/// Sites of one process with the same frames are one site. Keeps the order of first appearance.
fn merge(sites: Vec<RawSite>, blocks: Option<BlockTally>) -> Vec<(RawSite, Option<SiteTally>)> {
    let mut tallies = blocks.map(|blocks| blocks.sites.into_iter());
    let mut merged: Vec<(RawSite, Option<SiteTally>)> = Vec::with_capacity(sites.len());
    let places = places(&sites);
    for (site, place) in sites.into_iter().zip(places) {
        let tally = tallies.as_mut().map(|tallies| tallies.next().unwrap_or_default());
        match merged.get_mut(place) {
            None => merged.push((site, tally)),
            Some((first, first_tally)) => {
                first.counters.add(&site.counters);
                first.truncated |= site.truncated;
                first.stack_state = first.stack_state.join(site.stack_state);
                match (&mut first.past, &site.past) {
                    (Some(first), Some(other)) => first.add(other),
                    _ => first.past = None,
                }
                if let (Some(first), Some(other)) = (first_tally.as_mut(), tally) {
                    first.merge(other);
                }
            }
        }
    }
    merged
}

/// For each site its place where those of one process with the same frames share one, in the order of first appearance.
fn places(sites: &[RawSite]) -> Vec<usize> {
    let mut places: HashMap<(usize, &[Address]), usize> = HashMap::with_capacity(sites.len());
    sites
        .iter()
        .map(|site| {
            let next = places.len();
            *places.entry((site.process, site.frames.as_slice())).or_insert(next)
        })
        .collect()
}

/// How a site's numbers are computed.
struct Manner {
    /// The outstanding numbers come from the tally, not from the counters.
    by_age: bool,
    /// The blocks are listed.
    keeps_blocks: bool,
    /// Stacks were walked in a way that may skip callers.
    all_skip_callers: bool,
    /// Mean distance between hits where the numbers are estimates.
    mean: Option<u64>,
}

/// A site without names.
fn site(pid: Pid, raw: &RawSite, tally: Option<SiteTally>, manner: &Manner) -> Site {
    let Manner { by_age, keeps_blocks, mean, all_skip_callers } = *manner;
    let has_tally = tally.is_some();
    let mut tally = tally.unwrap_or_default();
    // Oldest first is what a reader looks for; the address makes the order one.
    tally.blocks.sort_unstable_by(|a, b| b.age.cmp(&a.age).then(a.address.cmp(&b.address)));
    let counters = if mean.is_some() { raw.counters.whole() } else { raw.counters };
    if mean.is_some() {
        tally.bytes = whole(tally.bytes, BYTES_SHIFT);
        tally.count = whole(tally.count, COUNT_SHIFT);
        tally.ages = std::mem::take(&mut tally.ages).whole();
        tally.sizes = std::mem::take(&mut tally.sizes).whole();
        tally.ignored.bytes = whole(tally.ignored.bytes, BYTES_SHIFT);
        tally.ignored.count = whole(tally.ignored.count, COUNT_SHIFT);
    }
    let Counters { alloc_bytes, alloc_count, free_bytes, free_count, temporary_count, longest_life: _ } = counters;
    let state = raw.stack_state.settled();
    Site {
        pid,
        process: Some(raw.process),
        id: None,
        outstanding_bytes: if by_age { tally.bytes } else { counters.outstanding_bytes() },
        outstanding_count: if by_age { tally.count } else { counters.outstanding_count() },
        alloc_bytes,
        alloc_count,
        free_bytes,
        free_count,
        temporary_count,
        oldest: tally.oldest,
        youngest: tally.youngest,
        ages: tally.ages,
        sizes: tally.sizes,
        verdict: tally.verdict,
        ignored: tally.ignored,
        suppressed: Vec::new(),
        type_name: None,
        holders: None,
        pinned_bytes: None,
        trend: None,
        growth_bytes_per_s: 0.0,
        growth: None,
        truncated: raw.truncated,
        stack_state: Some(if all_skip_callers { state.max(StackState::Guessed) } else { state }),
        sampled: mean.is_some(),
        outstanding_bytes_ci95: mean.filter(|_| has_tally).map(|mean| tally.spread.interval(mean)),
        stack: Vec::new(),
        blocks: (has_tally && keeps_blocks).then_some(tally.blocks),
    }
}

/// A process whose totals are still to be summed from its sites.
fn process(raw: &RawProcess, sampled: bool) -> Process {
    Process {
        pid: raw.pid,
        start_time: raw.start_time,
        comm: raw.comm.clone(),
        exe: raw.exe.clone(),
        exited: raw.exited,
        exit_status: raw.exit_status,
        outstanding_bytes: 0,
        outstanding_count: 0,
        peak_bytes: if sampled { whole(raw.peak_bytes, BYTES_SHIFT) } else { raw.peak_bytes },
        alloc_bytes: 0,
        alloc_count: 0,
        free_bytes: 0,
        free_count: 0,
        untracked_frees: raw.untracked_frees,
        thread_end_frees: raw.thread_end_frees,
        abandoned_calls: raw.abandoned_calls,
        merged: raw.merged,
        rss_bytes: raw.memory.rss_bytes,
        pss_bytes: raw.memory.pss_bytes,
        uss_bytes: raw.memory.uss_bytes,
        swap_bytes: raw.memory.swap_bytes,
        heap_pages: raw.heap_pages,
        leak_check: raw.leak_check,
        lost_taken_back: raw.taken_back,
        growth: None,
        scattered_growth: raw.scattered_growth.clone(),
        net_flow: raw.net_flow.clone(),
        holders: raw.holders.clone(),
        sampled,
        outstanding_bytes_ci95: None,
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
