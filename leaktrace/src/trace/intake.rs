//! Applies what happens while a trace runs: lives that begin and end, new mappings, and table space that ended lives leave.
//!
//! In: events of the BPF programs and records of the kernel. Events are read before records, so that every record that precedes
//! an event is applied before it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use leaktrace_common::abi::{EVENT_EXEC, EVENT_EXIT, EVENT_PROCESS, LayoutEvent, Process};
use nix::time::{ClockId, clock_gettime};

use super::untraced::Means;
use super::{RECLAIM_AFTER, Trace};
use crate::config::{Config, Whom};
use crate::host::clock::monotonic_ns;
use crate::kernel::Kernel;
use crate::kernel::attach::Scope;
use crate::kernel::events::{News, Told};
use crate::kernel::reclaim;
use crate::lives::mmap_records::Record;
use crate::lives::processes::Mapped;
use crate::model::{Pid, Untraced};
use crate::process::registers::{Registers, StoppedThread};
use crate::sources::allocators::{Prober, Request};

/// From so many ended lives in the tables on, the next pass comes sooner: more will end.
const MANY: usize = 200;
/// Where the last pass took out at least one in so many of all sites, the next comes sooner, too.
const LARGE_PART: u64 = 16;
/// How many times one [`Trace::take_in`] reads. Later events stay in the ring for the next call.
const ROUNDS: u32 = 8;

/// The processes in which the files that a process maps are probed.
fn scope(config: &Config, pid: Pid) -> Scope {
    // In windows each process is probed by itself, so that others pay nothing: of what begins in one window the next one is the first.
    let is_alone = config.recording.bursts.is_some() || !config.follow;
    if config.whom.is_named() && is_alone { Scope::Process(pid) } else { Scope::AllProcesses }
}

fn means<'a>(prober: &'a Prober, kernel: &Kernel, scope: &'a dyn Fn(Pid) -> Scope) -> Means<'a> {
    Means { prober, scope, slots_ran_out: kernel.slots_ran_out() }
}

/// How the last pass that took ended lives out of the tables went.
pub(super) struct Reclaimed {
    at: Instant,
    /// Processor time: on a busy machine a pass takes many times as long by the clock, and so would the pause.
    worked: Duration,
    sites: u64,
}

impl Reclaimed {
    /// Before the first pass.
    pub(super) fn nothing() -> Self {
        Self { at: Instant::now(), worked: Duration::ZERO, sites: 0 }
    }

    /// How long to wait for the next pass, with so many ended lives in tables for so many stacks. A pass reads whole tables, so
    /// the pause is a multiple of its processor time: ten times, or twice where many lives end or leave much.
    fn pause(&self, reclaimable: usize, max_stacks: u64) -> Duration {
        let hurries = reclaimable >= MANY || self.sites >= max_stacks / LARGE_PART;
        self.worked * if hurries { 2 } else { 10 }
    }
}

/// Processor time of this thread.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Trace {
    /// Lets the unwinder know of mappings that are new.
    pub(super) fn follow_mappings(&mut self) {
        for (pid, space) in self.processes.take_changed() {
            self.unwinding.follow(&self.kernel, pid, space);
        }
    }

    /// Takes the records of lives that have ended out of the tables.
    pub(super) fn reclaim(&mut self) -> Result<()> {
        let began = worked();
        // Applies pending events of these lives before their slots can be reused.
        self.take_in();
        self.reclaim_at = None;
        let mut slots = self.processes.take_reclaimable();
        let held = reclaim::still_held(&self.kernel, &slots);
        slots.retain(|slot| !held.contains(slot));
        self.processes.keep_reclaimable(held);
        self.plan_reclaim();
        if slots.is_empty() {
            return Ok(());
        }
        let last: HashMap<u32, Process> =
            slots.iter().filter_map(|slot| Some((*slot, self.kernel.processes.read(*slot)?))).collect();
        self.look_for_alerts_of_ended(&last);
        let mut taken = 0;
        self.history.forget(&slots);
        for (slot, sites) in reclaim::reclaim(&mut self.kernel, &slots, &self.options)? {
            taken += sites.len();
            if let Some(last) = last.get(&slot) {
                if let Some(seen) = self.processes.seen_in(slot) {
                    let config = &self.config;
                    self.untraced.booked(seen, &means(&self.prober, &self.kernel, &|pid| scope(config, pid)));
                }
                self.processes.put_into_archive(slot, last, sites);
            }
        }
        let worked = worked().saturating_sub(began);
        self.reclaimed = Reclaimed { at: Instant::now(), worked, sites: taken as u64 };
        log::trace!("{} lives taken out of the tables with {taken} sites in {worked:.1?}", slots.len());
        Ok(())
    }

    /// Applies what the BPF programs and the kernel have recorded since the last time.
    pub(super) fn take_in(&mut self) {
        // The programs' events first: whatever the kernel recorded before them is read then too.
        let mut told = self.events.get_mut().read();
        for round in 1..=ROUNDS {
            let now = monotonic_ns().unwrap_or(0);
            let records = self.discovery.read();
            let mut next = Told::default();
            if round < ROUNDS {
                // Layouts up to now may precede some of these records. Other new events wait for the next round: records that
                // precede them may still be unread.
                next = self.events.get_mut().read();
                told.layouts.extend(next.layouts.extract_if(.., |layout| layout.after_ns <= now));
            }
            self.take_in_told(told, &records);
            told = next;
            if told.lives.is_empty() && told.layouts.is_empty() {
                break;
            }
        }
        let (untraced, config) = (&mut self.untraced, &self.config);
        let scope = |pid| scope(config, pid);
        let means = means(&self.prober, &self.kernel, &scope);
        for pid in self.processes.forget_unclaimed(|seen| untraced.ended(seen, &means)) {
            self.unwinding.ended(&self.kernel, pid);
        }
        self.plan_reclaim();
        self.follow_mappings();
    }

    /// Applies records and layouts in the order of their times, and then the events of lives.
    fn take_in_told(&mut self, Told { lives, mut layouts }: Told, records: &[Record]) {
        layouts.sort_by_key(|layout| layout.after_ns);
        let mut layouts = layouts.into_iter().peekable();
        for record in records {
            while let Some(layout) = layouts.next_if(|layout| layout.after_ns < record.time_ns) {
                self.relay(&layout);
            }
            self.apply(record);
        }
        layouts.for_each(|layout| self.relay(&layout));
        for news in lives {
            let event = match news {
                News::Life(event) => event,
                News::ThreadKilled(thread) => {
                    let registers = Registers::at_end(&thread.registers, thread.bases);
                    let tid = Pid(thread.tid as u32);
                    self.ended_threads.push(StoppedThread { tid, comm: String::new(), registers });
                    continue;
                }
            };
            match event.kind {
                EVENT_PROCESS => {
                    if let Some(process) = self.kernel.processes.read(event.process) {
                        self.processes.began(event.process, &process);
                    }
                    self.unwinding.began(&self.kernel, Pid(event.tgid), event.process);
                }
                EVENT_EXIT | EVENT_EXEC => {
                    if event.kind == EVENT_EXEC && self.target.pids == [Pid(event.tgid)] {
                        // They were the old program's.
                        self.ended_threads.clear();
                    }
                    self.processes.ended(event.process, event.seen);
                    self.unwinding.ended(&self.kernel, Pid(event.tgid));
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, record: &Record) {
        self.alerts.note(record);
        let mapped = self.processes.apply(record);
        for pid in self.processes.take_orphaned() {
            self.renew(pid);
        }
        if let Some(mapped) = mapped {
            self.unwinding.announce(&mapped.object);
            self.probe_mapped(mapped);
        }
    }

    /// A process has another layout.
    fn relay(&mut self, told: &LayoutEvent) {
        let slot = told.event.process;
        // The event of the life's beginning may be in the same batch and is applied later.
        if let Some(process) = self.kernel.processes.read(slot).filter(|life| life.seen_ns as u32 == told.event.seen) {
            self.processes.began(slot, &process);
        }
        self.processes.relaid(slot, told.event.seen, told.layout as u32, (told.before_ns, told.after_ns));
    }

    /// Where code was replaced without an event of the dynamic linker, marks the life, so that stacks recorded from now on are
    /// kept apart from earlier ones.
    pub(super) fn tell_replaced(&mut self) {
        for replaced in self.processes.replaced() {
            match self.kernel.set_replaced(replaced.slot, replaced.seen_ns, replaced.count) {
                Ok(Some(times)) => {
                    log::debug!("slot {}: other code than before lies at some addresses", replaced.slot);
                    self.processes.told_replaced(replaced, times);
                }
                Ok(None) => {}
                Err(error) => log::warn!("{error:#}"),
            }
        }
    }

    /// Reads from the processes' mappings what changes without an event, for about this long: how many processes are left
    /// out.
    pub(super) fn refresh(&mut self, within: Duration) -> usize {
        let kernel = &self.kernel;
        let layout = |slot| kernel.processes.read(slot).map_or(0, |process| process.layout);
        let before = self.processes.refresh(within, layout);
        let left_out = before.left_out;
        self.take_in();
        self.processes.undo_where_over(before);
        left_out
    }

    fn plan_reclaim(&mut self) {
        let reclaimable = self.processes.reclaimable();
        if reclaimable > 0 {
            let pause = self.reclaimed.pause(reclaimable, self.options.max_stacks);
            let at = (Instant::now() + RECLAIM_AFTER).max(self.reclaimed.at + pause);
            self.reclaim_at = Some(self.reclaim_at.map_or(at, |before| before.min(at)));
        }
    }

    /// A file that a process has just mapped may have an allocator in it.
    fn probe_mapped(&mut self, Mapped { pid, object, time_ns }: Mapped) {
        let scope = self.scope(pid);
        if let Err(error) = self.prober.request(&mut self.kernel, Request { object, scope, mapped_ns: time_ns }) {
            log::warn!("{error:#}");
        }
    }

    /// The kernel ties probes of one process to its first thread, and they went with that thread: what the process maps from
    /// now on is probed anew.
    fn renew(&mut self, pid: Pid) {
        let scope = self.scope(pid);
        if matches!(scope, Scope::Process(_)) {
            self.prober.forget(scope);
            self.warnings.push(format!(
                "process {pid} began another program by a thread that is not its first: what it allocated before it was \
                 probed again is missing; trace without --no-follow"
            ));
        }
    }

    /// The processes in which the files that a process maps are probed.
    pub(super) fn scope(&self, pid: Pid) -> Scope {
        scope(&self.config, pid)
    }

    /// Processes of which nothing was recorded, or not all, as far as that is known by now.
    pub(super) fn list_untraced(&mut self) -> Vec<Untraced> {
        let (untraced, config) = (&mut self.untraced, &self.config);
        let scope = |pid| scope(config, pid);
        let mut list = untraced.list(self.processes.seen(), &means(&self.prober, &self.kernel, &scope));
        if let Whom::Filtered(filters) = &config.whom {
            // Processes that fail the filters were not to be recorded. Users and control groups are unknown here: where they
            // are filtered by, only processes that were recorded in part are listed.
            let by_name_alone = filters.uids.is_empty() && filters.cgroups.is_empty();
            list.retain(|process| process.partly || by_name_alone && filters.comms.contains(&process.comm));
        }
        list
    }

    /// After lost records, mappings may be unknown: reads the processes' mappings again and, while the trace goes on, has new
    /// ones probed.
    pub(super) fn make_up_for_lost_records(&mut self, goes_on: bool) -> Result<()> {
        if goes_on && let Err(error) = self.discovery.follow_cpus() {
            log::warn!("{error:#}");
        }
        let ends = self.kernel.followed_ends();
        let lost = self.lost_by_the_end.unwrap_or_else(|| self.discovery.lost());
        let before = self.lost_records;
        // Records missed on a CPU without a ring are not counted.
        let is_blind = goes_on && self.discovery.is_blind();
        if lost == before && !is_blind {
            self.ends_before = ends;
            return Ok(());
        }
        self.lost_records = lost;
        if lost != before {
            log::warn!("{lost} records of mappings were lost; looking at the processes again");
        }
        if !self.config.whom.is_named() {
            return if goes_on { self.request_system() } else { Ok(()) };
        }
        let alive = self.processes.alive();
        let mut missed = self.target.pids.iter().any(|pid| !alive.contains(pid));
        for pid in alive {
            let scope = self.scope(pid);
            // The look fails where the process has ended.
            match self.processes.look_at(pid) {
                Ok(space) if goes_on => self.prober.request_all(&mut self.kernel, space, scope)?,
                Ok(_) => {}
                Err(_) => missed = true,
            }
        }
        // The kernel does not say whose records it lost. If every named process was looked at and no followed process has ended
        // since the last look, nothing is missing.
        let ends = self.kernel.followed_ends();
        if !missed && ends == self.ends_before && !is_blind {
            self.made_up_records += lost - before;
        }
        self.ends_before = ends;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_dead_wait_for_less_where_many_end_or_leave_much() {
        let after = |sites| Reclaimed { worked: Duration::from_millis(3), sites, ..Reclaimed::nothing() };
        assert_eq!(after(1023).pause(MANY - 1, 16_384), Duration::from_millis(30));
        assert_eq!(after(1023).pause(MANY, 16_384), Duration::from_millis(6));
        assert_eq!(after(1024).pause(1, 16_384), Duration::from_millis(6));
        assert_eq!(Reclaimed::nothing().pause(1, 16_384), Duration::ZERO);
    }
}
