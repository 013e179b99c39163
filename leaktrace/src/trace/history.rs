//! Counters over time: what growth is judged by, and the timeline.
//!
//! In: the tables, at moments of its own choice. Out: the window of a process, the past of a site in it, and the process' memory.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use leaktrace_common::abi::PROCESS_ALIVE;

use super::Trace;
use crate::analysis::growth::rings::{MOMENTS, ProcessReading, Reading, Rings, SITES};
use crate::kernel::{Kernel, drain};
use crate::model::{
    Counters, EventKind, MemoryUse, Past, Pid, ProcessTimeline, RawPeak, RawTimeline, TimelineEvent, Window,
};
use crate::process::facts;

/// Between the first readings. Each time that half of the moments are dropped it doubles.
const FIRST_STEP: Duration = Duration::from_millis(100);
/// Reading takes at most this part of the time.
const SHARE: u32 = 50;
/// Processes whose resident set is read each time, at most: those that hold most.
const WITH_MEMORY: usize = 16;
/// Sites that are kept of a peak.
const PEAK_SITES: usize = 10;
/// Events that are kept, at most: the first ones.
const EVENTS: usize = 256;

/// What was read so far.
pub struct History {
    rings: Rings,
    step: Duration,
    due: Instant,
    /// Growth is judged from then on.
    warm_up: Duration,
    is_sample: bool,
    /// By slot, when a process had most outstanding, and what of it was whose.
    peaks: HashMap<u32, Peak>,
    /// What was read of processes' memory since the last reading of counters.
    memory: HashMap<Pid, MemoryUse>,
    /// Processes that held most when counters were read last.
    largest: Vec<Pid>,
    events: Vec<TimelineEvent>,
}

/// When most was outstanding.
struct Peak {
    at: Duration,
    bytes: u64,
    /// Places of the largest sites, with their bytes.
    sites: Vec<(u32, u64)>,
}

impl History {
    /// Nothing yet.
    pub fn new(warm_up: Duration, is_sample: bool) -> Self {
        Self {
            rings: Rings::default(),
            step: FIRST_STEP,
            due: Instant::now(),
            warm_up,
            is_sample,
            peaks: HashMap::new(),
            memory: HashMap::new(),
            largest: Vec::new(),
            events: Vec::new(),
        }
    }

    /// When the next reading is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Reads all counters, `elapsed` after the trace began.
    fn read(&mut self, kernel: &Kernel, elapsed: Duration) {
        let began = Instant::now();
        if self.rings.moments() == MOMENTS {
            self.step *= 2;
        }
        let mut processes: HashMap<u32, ProcessReading> = HashMap::new();
        let mut sites = Vec::new();
        for (index, slot, counters) in drain::placed_counters(kernel) {
            let counters = if self.is_sample { counters.whole() } else { counters };
            let (reading, process) = (Reading::from(&counters), processes.entry(slot).or_default());
            process.allocated = process.allocated.saturating_add(counters.alloc_bytes);
            process.live = process.live.saturating_add(reading.live);
            process.calls = process.calls.saturating_add(counters.alloc_count).saturating_add(counters.free_count);
            sites.push((index, slot, reading));
        }
        for (slot, process) in &mut processes {
            process.unknown_frees = kernel.processes.read(*slot).as_ref().map_or(0, drain::unknown_frees);
        }
        self.note_peaks(elapsed, &processes, &sites);
        let mut largest: Vec<_> = processes.iter().map(|(slot, reading)| (Reverse(reading.live), *slot)).collect();
        largest.sort_unstable();
        self.largest.clear();
        for (_, slot) in largest.into_iter().take(WITH_MEMORY) {
            let life = kernel.processes.read(slot).filter(|life| life.state == PROCESS_ALIVE);
            let (Some(life), Some(reading)) = (life, processes.get_mut(&slot)) else { continue };
            let pid = Pid(life.tgid);
            self.largest.push(pid);
            reading.memory = self.memory.remove(&pid).unwrap_or_default();
            reading.memory.rss_bytes = facts::resident(pid).or(reading.memory.rss_bytes);
        }
        self.memory.clear();
        self.rings.add(elapsed, sites, processes);
        self.due = began + self.step.max(began.elapsed() * SHARE);
    }

    fn note_peaks(&mut self, at: Duration, processes: &HashMap<u32, ProcessReading>, sites: &[(u32, u32, Reading)]) {
        let is_higher = |slot: &u32, bytes: u64| self.peaks.get(slot).is_none_or(|peak| peak.bytes < bytes);
        let higher = processes.iter().filter(|(slot, reading)| reading.live > 0 && is_higher(slot, reading.live));
        let mut peaks: HashMap<u32, Peak> =
            higher.map(|(slot, reading)| (*slot, Peak { at, bytes: reading.live, sites: Vec::new() })).collect();
        if peaks.is_empty() {
            return;
        }
        for (index, slot, reading) in sites.iter().filter(|(_, _, reading)| reading.live > 0) {
            if let Some(peak) = peaks.get_mut(slot) {
                peak.sites.push((*index, reading.live));
            }
        }
        for peak in peaks.values_mut() {
            peak.sites.sort_unstable_by_key(|(index, bytes)| (Reverse(*bytes), *index));
            peak.sites.truncate(PEAK_SITES);
        }
        self.peaks.extend(peaks);
    }

    /// Takes over what was read of processes' memory.
    pub fn remember(&mut self, memory: impl Iterator<Item = (Pid, MemoryUse)>) {
        self.memory.extend(memory);
    }

    /// Notes what happened to a process.
    pub fn note(&mut self, at: Duration, pid: Pid, kind: EventKind) {
        if self.events.len() < EVENTS {
            self.events.push(TimelineEvent { at, pid, kind });
        }
    }

    /// What happened so far, in the order in which it did.
    pub fn events(&self) -> Vec<TimelineEvent> {
        let mut events = self.events.clone();
        events.sort_by_key(|event| event.at);
        events
    }

    /// Forgets lives that are taken out of the tables.
    pub fn forget(&mut self, slots: &HashSet<u32>) {
        self.rings.forget(slots);
        self.peaks.retain(|slot, _| !slots.contains(slot));
    }

    /// The window of a life in a slot that began and ended (or has lasted) so long after the trace began; `None` where too little
    /// was read.
    pub fn window(&self, slot: u32, began: Duration, ended: Duration) -> Option<Window> {
        self.rings.window(slot, began, ended, self.warm_up)
    }

    /// A site in its process' window, which ends with these counters.
    pub fn past(&self, index: u32, slot: u32, window: &Window, now: &Counters) -> Option<Past> {
        let now = if self.is_sample { now.whole() } else { *now };
        self.rings.past(index, slot, window, &now)
    }

    /// A process in its window, which ends with these sums over its sites and this memory. `index` are the places of sites in the
    /// capture.
    pub fn timeline(
        &self,
        slot: u32,
        window: &Window,
        (sums, memory): (&Counters, MemoryUse),
        index: impl Fn(u32) -> Option<usize>,
    ) -> Option<RawTimeline> {
        let sums = if self.is_sample { sums.whole() } else { *sums };
        let calls = sums.alloc_count.saturating_add(sums.free_count);
        let now = ProcessReading {
            allocated: sums.alloc_bytes,
            live: sums.outstanding_bytes(),
            calls,
            memory,
            ..ProcessReading::default()
        };
        let readings = self.rings.process(slot, window, now)?;
        let of = |value: fn(&MemoryUse) -> Option<u64>| readings.iter().map(|reading| value(&reading.memory)).collect();
        let last = window.times.last().copied().unwrap_or_default();
        let peak = match self.peaks.get(&slot) {
            Some(peak) if peak.bytes >= now.live => {
                let sites = peak.sites.iter().map(|(place, bytes)| (index(*place), *bytes)).collect();
                Some(RawPeak { at_s: rounded(peak.at), bytes: peak.bytes, sites })
            }
            // The sites of that are in the report itself.
            _ => (now.live > 0).then(|| RawPeak { at_s: rounded(last), bytes: now.live, sites: Vec::new() }),
        };
        Some(RawTimeline {
            readings: ProcessTimeline {
                at_s: window.times.iter().copied().map(rounded).collect(),
                outstanding_bytes: readings.iter().map(|reading| reading.live).collect(),
                alloc_bytes: readings.iter().map(|reading| reading.allocated).collect(),
                rss_bytes: of(|memory| memory.rss_bytes),
                pss_bytes: of(|memory| memory.pss_bytes),
                uss_bytes: of(|memory| memory.uss_bytes),
                swap_bytes: of(|memory| memory.swap_bytes),
                ..ProcessTimeline::default()
            },
            peak,
        })
    }

    /// What to say of sites that are not followed for want of room.
    pub fn warning(&self) -> Option<String> {
        let left_out = self.rings.left_out();
        (left_out > 0).then(|| format!("the growth of {left_out} sites is not followed: there is room for {SITES}"))
    }
}

/// Seconds, to the millisecond.
fn rounded(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}

impl Trace {
    /// Reads all counters, which is due.
    pub(super) fn look_at_counters(&mut self) {
        let elapsed = self.since.elapsed();
        self.history.read(&self.kernel, elapsed);
    }

    /// Has the memory read of the processes that hold most, which is due.
    pub(super) fn look_at_memory(&mut self) {
        let mut lives = self.processes.reported_alive();
        lives.retain(|(_, pid)| self.history.largest.contains(pid));
        self.memory.order(lives);
    }

    /// Takes over how much memory lives have, by their numbers.
    pub(super) fn remember_memory(&mut self, memory: Vec<(u32, MemoryUse)>) {
        let pids: HashMap<u32, Pid> = self.processes.reported_alive().into_iter().collect();
        self.history.remember(memory.iter().filter_map(|(life, memory)| Some((*pids.get(life)?, *memory))));
        self.processes.remember(memory);
    }
}
