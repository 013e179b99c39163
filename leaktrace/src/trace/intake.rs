//! What happens while a trace runs, brought to those concerned: lives, mappings, ends, and room that the dead leave.
//!
//! In: events of the programs and records of the kernel. Both are read in an order in which nothing is known of a life that
//! was not told before.

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
use crate::kernel::events::Told;
use crate::kernel::reclaim;
use crate::lives::mmap_records::Record;
use crate::lives::processes::Mapped;
use crate::model::{Pid, Untraced};
use crate::sources::allocators::{Prober, Request};

/// Lives whose records are worth a hurry: where so many have ended while the tables were last read, more will.
const MANY: usize = 200;
/// Where a part of all sites as large as this were the dead's the last time, there is a hurry, too.
const LARGE_PART: u64 = 16;
/// How often what is told meanwhile is taken in with the rest. What is left then waits for nothing that came before.
const ROUNDS: u32 = 8;

/// For whom the files of a process are probed.
fn scope(config: &Config, pid: Pid) -> Scope {
    if config.whom.is_named() && !config.follow { Scope::Process(pid) } else { Scope::AllProcesses }
}

fn means<'a>(prober: &'a Prober, kernel: &Kernel, scope: &'a dyn Fn(Pid) -> Scope) -> Means<'a> {
    Means { prober, scope, slots_ran_out: kernel.slots_ran_out() }
}

/// How the records of the dead were taken out of the tables.
pub(super) struct Reclaimed {
    at: Instant,
    /// Processor time: on a busy machine it takes many times as long, and there is no time for a pause of many times that.
    worked: Duration,
    sites: u64,
}

impl Reclaimed {
    /// That has not been done yet.
    pub(super) fn nothing() -> Self {
        Self { at: Instant::now(), worked: Duration::ZERO, sites: 0 }
    }

    /// How long to leave the next dead in the tables, so many lives in tables for so many stacks. Whole tables are read: however
    /// large they are, most of the time is left for other things, but no more than is good where many end or leave much.
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
        // Whatever was told of these lives is taken in before their slots can be given to others.
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
        let mut taken = 0;
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

    /// Takes in what the programs and the kernel have told since the last time.
    pub(super) fn take_in(&mut self) {
        // The programs' events first: whatever the kernel recorded before them is read then too.
        let mut told = self.events.get_mut().read();
        for round in 1..=ROUNDS {
            let now = monotonic_ns().unwrap_or(0);
            let records = self.discovery.read();
            let mut next = Told::default();
            if round < ROUNDS {
                // Layouts that came before some of these records. What else has been told meanwhile may have been recorded
                // before, too, in records that are still to be read.
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

    /// Applies records and layouts in the order in which they came about, and then what is told of lives.
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
        for event in lives {
            match event.kind {
                EVENT_PROCESS => {
                    if let Some(process) = self.kernel.processes.read(event.process) {
                        self.processes.began(event.process, &process);
                    }
                    self.unwinding.began(&self.kernel, Pid(event.tgid), event.process);
                }
                EVENT_EXIT | EVENT_EXEC => {
                    self.processes.ended(event.process, event.seen);
                    self.unwinding.ended(&self.kernel, Pid(event.tgid));
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, record: &Record) {
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
        // That the life has begun may be told in the same batch.
        if let Some(process) = self.kernel.processes.read(slot).filter(|life| life.seen_ns as u32 == told.event.seen) {
            self.processes.began(slot, &process);
        }
        self.processes.relaid(slot, told.event.seen, told.layout as u32, (told.before_ns, told.after_ns));
    }

    /// Where something was replaced that the dynamic linker does not tell of, what is recorded from now on is told apart from
    /// what was.
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

    /// Reads of the processes' mappings what changes and is not told.
    pub(super) fn refresh(&mut self) {
        let kernel = &self.kernel;
        self.processes.refresh(|slot| kernel.processes.read(slot).map_or(0, |process| process.layout));
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

    /// Probes that the kernel ties to a process it ties to its first thread, and they went with that; what the process maps
    /// from now on is attached anew.
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

    /// For whom the files of a process are probed.
    pub(super) fn scope(&self, pid: Pid) -> Scope {
        scope(&self.config, pid)
    }

    /// Processes of which nothing was recorded, or not all, as far as that is known by now.
    pub(super) fn list_untraced(&mut self) -> Vec<Untraced> {
        let (untraced, config) = (&mut self.untraced, &self.config);
        let scope = |pid| scope(config, pid);
        let mut list = untraced.list(self.processes.seen(), &means(&self.prober, &self.kernel, &scope));
        if let Whom::Filtered(filters) = &config.whom {
            // Of those that did not pass the filters nothing was to be recorded. Users and control groups are not known here.
            let by_name_alone = filters.uids.is_empty() && filters.cgroups.is_empty();
            list.retain(|process| process.partly || by_name_alone && filters.comms.contains(&process.comm));
        }
        list
    }

    /// Where records were lost, mappings may have been missed: looks at the processes themselves, and has what is new in them
    /// probed while the trace goes on.
    pub(super) fn make_up_for_lost_records(&mut self, goes_on: bool) -> Result<()> {
        if goes_on && let Err(error) = self.discovery.follow_cpus() {
            log::warn!("{error:#}");
        }
        let ends = self.kernel.followed_ends();
        let lost = self.lost_by_the_end.unwrap_or_else(|| self.discovery.lost());
        let before = self.lost_records;
        // What is missed on a CPU without a ring, nobody counts.
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
            // Others have ended.
            match self.processes.look_at(pid) {
                Ok(space) if goes_on => self.prober.request_all(&mut self.kernel, space, scope)?,
                Ok(_) => {}
                Err(_) => missed = true,
            }
        }
        // The kernel does not say whose records they were. Where only certain processes are traced, all have been looked at,
        // and none of them or of their descendants has ended meanwhile, what they told is known by now.
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
