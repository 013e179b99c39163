//! Layouts of processes that unload code: the BPF programs' events of them, and the frames of sites.

use std::collections::HashMap;

use super::Processes;
use crate::kernel::reclaim::DeadSite;
use crate::lives::life::Life;
use crate::model::{Address, StackState};
use crate::process::maps::{Layout, Settler};

/// A process that needs another layout: code was replaced in it, and later stacks must be kept apart from earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its slot.
    pub slot: u32,
    /// When the life in it was first seen.
    pub seen_ns: u64,
    /// How often that has happened, this time included.
    pub count: u32,
}

impl Processes {
    /// The life in a slot has another layout since a moment between these times. `seen` is the lower half of the time at which
    /// the life was first seen. All records from before must have been applied.
    pub fn relaid(&mut self, slot: u32, seen: u32, layout: u32, times: (u64, u64)) {
        let Some(life) = self.by_slot.get(&slot).and_then(|number| self.lives.get_mut(number)) else { return };
        if life.counters.seen_ns as u32 != seen {
            return;
        }
        if life.captured_ns > times.1 && life.begun_ns == 0 {
            // Its mappings were read after the change.
            life.space.enter_unknown(layout, times);
        } else {
            life.space.enter(layout, times);
        }
        self.changed.insert(life.pid);
    }

    /// Lives in which code was replaced without an event of the dynamic linker.
    pub fn replaced(&self) -> Vec<Replaced> {
        let in_slots = self.by_slot.iter().filter_map(|(slot, number)| Some((*slot, self.lives.get(number)?)));
        in_slots
            .filter(|(_, life)| !life.ended && life.space.wants_layout(life.counters.seen_ns))
            .map(|(slot, life)| {
                let count = life.space.replaced().wrapping_add(1);
                Replaced { slot, seen_ns: life.counters.seen_ns, count }
            })
            .collect()
    }

    /// The BPF programs were told of the new layout between these moments.
    pub fn told_replaced(&mut self, replaced: Replaced, times: (u64, u64)) {
        if let Some(life) = self.by_slot.get(&replaced.slot).and_then(|number| self.lives.get_mut(number)) {
            life.space.enter_replaced(times);
        }
    }

    /// Moves the frames of sites, each with its slot, to the addresses at which they are named: see [`Settler::settle`].
    pub fn settle<'a>(&mut self, sites: impl Iterator<Item = (u32, Layout, &'a mut [Address], &'a mut StackState)>) {
        let mut by_slot: HashMap<u32, Vec<_>> = HashMap::new();
        for (slot, layout, frames, state) in sites {
            let number = self.by_slot.get(&slot);
            let Some(life) = number.and_then(|number| self.lives.get(number)) else { continue };
            if layout != 0 || life.space.has_layouts() {
                by_slot.entry(slot).or_default().push((layout, frames, state));
            }
        }
        for (slot, sites) in by_slot {
            let number = self.by_slot.get(&slot);
            let Some(life) = number.and_then(|number| self.lives.get_mut(number)) else { continue };
            life.settle(sites.into_iter());
        }
    }
}

impl Life {
    /// [`Processes::settle`] for the sites of one life.
    pub(super) fn settle<'a>(&mut self, sites: impl Iterator<Item = (Layout, &'a mut [Address], &'a mut StackState)>) {
        let seen_ns = self.counters.seen_ns;
        let mut settler = Settler::new(&mut self.space);
        for (layout, frames, state) in sites {
            if !settler.settle(layout, seen_ns, frames) {
                *state = state.in_replaced_code();
            }
        }
    }

    /// The same for those of a life that is over, equal ones summed.
    pub(super) fn settle_dead(&mut self, mut sites: Vec<DeadSite>) -> Vec<DeadSite> {
        if !self.space.has_layouts() && sites.iter().all(|site| site.layout == 0) {
            return sites;
        }
        self.settle(sites.iter_mut().map(|site| (site.layout, &mut *site.frames, &mut site.stack_state)));
        let mut by_kind = HashMap::new();
        let mut settled: Vec<DeadSite> = Vec::with_capacity(sites.len());
        for site in sites {
            let kind = (site.frames.clone(), site.truncated, site.broken);
            if let Some(known) = by_kind.get(&kind).and_then(|position: &usize| settled.get_mut(*position)) {
                known.join(site);
            } else {
                by_kind.insert(kind, settled.len());
                settled.push(site);
            }
        }
        settled
    }
}
