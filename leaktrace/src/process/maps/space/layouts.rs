//! What was mapped where while a site's blocks were allocated, for processes in which different code has lain at the same
//! addresses.
//!
//! In: mappings with their times, and the BPF programs' events that a process has another layout
//! ([`leaktrace_common::abi::Process::layout`]). Out: for an address and the layout that it was recorded in, the address by
//! which the same code is named in this address space, and whether that is certain.
//!
//! Code that is not mapped any more gets a place of its own, above all addresses that a process has.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::super::object::ObjectId;
use super::{AddressSpace, Region};
use crate::model::Address;

/// Places of code that is not mapped any more begin here: the kernel's half of the addresses.
const ELSEWHERE: u64 = 1 << 63;
/// The size of a file's place there: no text segment reaches that far into its file.
const WINDOW: u64 = 1 << 33;
/// Files beyond these are unknown code.
const MAX_ELSEWHERE: u64 = 1 << 16;
/// Layouts that are remembered; sites of others have frames that are not known for sure.
const MAX_LAYOUTS: usize = 1024;
/// Doubtful address ranges of a layout; with more of them all of its addresses are doubtful.
const MAX_DOUBTS: usize = 256;
/// In a [`Layout`], the bits from here on count replacements of code that the dynamic linker did not map.
const REPLACED_SHIFT: u32 = 32;

/// Names a layout: as [`leaktrace_common::abi::Process::layout`].
pub type Layout = u64;

/// The layouts of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Layouts {
    /// In force now, as far as is known.
    now: Layout,
    /// The one before.
    last: Layout,
    /// When the programs were told: before and after. What is mapped in between belongs to both.
    entered_ns: (u64, u64),
    doubts: Vec<Doubt>,
    /// Earlier layouts, without the one in force.
    past: Arc<HashMap<Layout, Past>>,
    elsewhere: Arc<Elsewhere>,
}

#[derive(Debug, Clone)]
struct Past {
    regions: Arc<Vec<Region>>,
    doubts: Vec<Doubt>,
    /// When it ended, in the order of endings.
    ended: u64,
}

/// Addresses at which more than one thing has lain in one layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    start: u64,
    end: u64,
    /// Since when.
    time_ns: u64,
    /// Whether it came about since the layout is in force.
    is_new: bool,
}

/// Code that lies nowhere any more.
#[derive(Debug, Clone, Default)]
struct Elsewhere {
    regions: Vec<Region>,
    bases: HashMap<Code, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Code {
    Object(ObjectId),
    /// Memory without a file, by its start.
    Memory(Arc<Path>, u64),
    Unknown,
}

impl AddressSpace {
    /// The layout that is in force, as far as is known.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layouts.now
    }

    /// Whether an address may have meant different things.
    #[must_use]
    pub fn has_layouts(&self) -> bool {
        !self.layouts.past.is_empty() || !self.layouts.doubts.is_empty()
    }

    /// The dynamic linker has mapped or unmapped something, and the programs have another layout since some moment between
    /// these.
    pub fn enter(&mut self, layout: u32, times: (u64, u64)) {
        let replaced = self.layouts.now >> REPLACED_SHIFT << REPLACED_SHIFT;
        self.change(replaced | u64::from(layout), times);
    }

    /// Other code was replaced: the BPF programs are told of another layout, between these moments.
    pub fn enter_replaced(&mut self, times: (u64, u64)) {
        self.change(self.layouts.now.wrapping_add(1 << REPLACED_SHIFT), times);
    }

    /// How often [`Self::enter_replaced`] was called.
    #[must_use]
    pub fn replaced(&self) -> u32 {
        (self.layouts.now >> REPLACED_SHIFT) as u32
    }

    /// Whether code was replaced under the layout in force, but after this moment: another layout would keep later records
    /// apart from earlier ones.
    #[must_use]
    pub fn wants_layout(&self, since_ns: u64) -> bool {
        self.layouts.doubts.iter().any(|doubt| doubt.is_new && doubt.time_ns > since_ns)
    }

    /// Forgets all layouts: for a process that begins with this space.
    pub(super) fn forget_layouts(&mut self) {
        self.layouts = Layouts::default();
    }

    /// Enters a layout where it is uncertain what was mapped, both in the layout that ends and in the new one.
    pub fn enter_unknown(&mut self, layout: u32, times: (u64, u64)) {
        let all = Doubt { start: 0, end: u64::MAX, time_ns: u64::MAX, is_new: false };
        add_doubt(&mut self.layouts.doubts, all);
        self.enter(layout, times);
        add_doubt(&mut self.layouts.doubts, all);
    }

    fn change(&mut self, layout: Layout, (before, after): (u64, u64)) {
        if layout == self.layouts.now {
            return;
        }
        let mut doubts = std::mem::take(&mut self.layouts.doubts);
        // What was replaced while the programs were being told may have been recorded in either.
        let carried: Vec<Doubt> = doubts.iter().copied().filter(|doubt| doubt.time_ns >= before).collect();
        for doubt in &mut doubts {
            doubt.is_new = false;
        }
        let past = Arc::make_mut(&mut self.layouts.past);
        past.insert(self.layouts.now, Past { regions: Arc::clone(&self.regions), doubts, ended: after });
        self.layouts.doubts = carried;
        if let Some(earlier) = past.remove(&layout) {
            for doubt in earlier.doubts {
                add_doubt(&mut self.layouts.doubts, doubt);
            }
            for (start, end) in differences(&earlier.regions, &self.regions) {
                add_doubt(&mut self.layouts.doubts, Doubt { start, end, time_ns: before, is_new: false });
            }
        }
        while past.len() > MAX_LAYOUTS {
            let Some(oldest) = past.iter().min_by_key(|(_, past)| past.ended).map(|(layout, _)| *layout) else { break };
            past.remove(&oldest);
        }
        self.layouts.last = self.layouts.now;
        (self.layouts.now, self.layouts.entered_ns) = (layout, (before, after));
    }

    /// A region is about to be laid over others, at this moment.
    pub(super) fn doubt_what_lies_under(&mut self, new: &Region, time_ns: u64) {
        let (before, after) = self.layouts.entered_ns;
        for (start, end) in differences(std::slice::from_ref(new), &self.regions) {
            add_doubt(&mut self.layouts.doubts, Doubt { start, end, time_ns, is_new: true });
        }
        // Mapped while the programs were being told: what was recorded then has the layout before.
        if (before..after).contains(&time_ns)
            && let Some(past) = Arc::make_mut(&mut self.layouts.past).get_mut(&self.layouts.last)
        {
            for (start, end) in differences(std::slice::from_ref(new), &past.regions) {
                add_doubt(&mut past.doubts, Doubt { start, end, time_ns, is_new: false });
            }
            super::overlay(Arc::make_mut(&mut past.regions), new.clone());
        }
    }
}

/// Finds the addresses by which code is named that was recorded in any of a process' layouts.
pub struct Settler<'a> {
    space: &'a mut AddressSpace,
    /// Where each file lies now, or lay last, lowest address first.
    by_object: HashMap<ObjectId, Vec<usize>>,
}

impl<'a> Settler<'a> {
    /// Of this process.
    pub fn new(space: &'a mut AddressSpace) -> Self {
        let mut by_object: HashMap<ObjectId, Vec<usize>> = HashMap::new();
        for (index, region) in space.regions.iter().enumerate() {
            if let Some(object) = &region.object {
                by_object.entry(object.id()).or_default().push(index);
            }
        }
        Self { space, by_object }
    }

    /// Replaces return addresses that were recorded in this layout after this moment by those by which their code is named: the
    /// same for the same code, whenever and wherever it was mapped. Returns whether all of them are certain.
    pub fn settle(&mut self, layout: Layout, since_ns: u64, frames: &mut [Address]) -> bool {
        let past = Arc::clone(&self.space.layouts.past);
        let (regions, doubts, is_known) = if layout == self.space.layouts.now {
            (Arc::clone(&self.space.regions), self.space.layouts.doubts.clone(), true)
        } else if let Some(past) = past.get(&layout) {
            (Arc::clone(&past.regions), past.doubts.clone(), true)
        } else {
            (Arc::clone(&self.space.regions), Vec::new(), false)
        };
        let doubtful = |at: &u64| doubts.iter().any(|it| it.time_ns > since_ns && (it.start..it.end).contains(at));
        let mut all_known = is_known || frames.is_empty();
        for frame in frames {
            // The call, not what follows it: that may be another file's.
            let call = frame.0.wrapping_sub(1);
            all_known &= !doubtful(&call);
            frame.0 = self.place(&regions, call).wrapping_add(1);
        }
        all_known
    }

    /// The address by which the code that these regions have at an address is named.
    fn place(&mut self, regions: &[Region], at: u64) -> u64 {
        let present = Arc::clone(&self.space.regions);
        let Some(region) = super::at(regions, at) else {
            return if super::at(&present, at).is_none() { at } else { self.elsewhere(Code::Unknown, None, at) };
        };
        let Some(object) = &region.object else {
            let is_memory_now = super::at(&present, at).is_none_or(|now| now.object.is_none());
            let code = || Code::Memory(Arc::clone(&region.module), region.start);
            // In a file that could not be opened, or is not what was mapped, the offset is all that is known.
            let into = if region.module.is_absolute() { region.offset_of(at) } else { at - region.start };
            return if is_memory_now { at } else { self.elsewhere(code(), Some(region), into) };
        };
        // Devices may be mapped at their last offsets.
        let offset = region.offset.wrapping_add(at - region.start);
        let holding = self.by_object.get(&object.id()).into_iter().flatten().find_map(|index| {
            let now = present.get(*index)?;
            let into = offset.checked_sub(now.offset).filter(|into| *into < now.end - now.start)?;
            Some(now.start + into)
        });
        holding.unwrap_or_else(|| self.elsewhere(Code::Object(object.id()), Some(region), offset))
    }

    fn elsewhere(&mut self, code: Code, what: Option<&Region>, offset: u64) -> u64 {
        let elsewhere = Arc::make_mut(&mut self.space.layouts.elsewhere);
        let number = elsewhere.bases.len() as u64;
        let base = match elsewhere.bases.get(&code) {
            Some(base) => *base,
            None if number == MAX_ELSEWHERE => return u64::MAX - 1,
            None => {
                let base = ELSEWHERE + number * WINDOW;
                elsewhere.bases.insert(code, base);
                if let Some(what) = what {
                    elsewhere.regions.push(Region { start: base, end: base + WINDOW, offset: 0, ..what.clone() });
                }
                base
            }
        };
        base + offset % WINDOW
    }
}

impl Layouts {
    /// What was mapped in earlier layouts.
    pub(super) fn past_regions(&mut self) -> impl Iterator<Item = &mut Arc<Vec<Region>>> {
        Arc::make_mut(&mut self.past).values_mut().map(|past| &mut past.regions)
    }

    /// What lies at an address that [`Settler::settle`] has given to code that lies nowhere any more.
    pub(super) fn elsewhere(&self, address: u64) -> Option<&Region> {
        if address < ELSEWHERE { None } else { super::at(&self.elsewhere.regions, address) }
    }
}

/// Where two lists of regions have different things at the same addresses.
fn differences(ours: &[Region], others: &[Region]) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    for region in ours {
        let first = others.partition_point(|other| other.end <= region.start);
        for other in others[first..].iter().take_while(|other| other.start < region.end) {
            if !is_same_code(region, other) {
                ranges.push((region.start.max(other.start), region.end.min(other.end)));
            }
        }
    }
    ranges
}

/// Whether an address that is in both means the same. Memory without a file may hold anything at any time; just-in-time
/// compilers report its contents themselves ([`super::super::JitSymbols`]).
fn is_same_code(one: &Region, other: &Region) -> bool {
    let is_file = |region: &Region| region.module.is_absolute();
    match (&one.object, &other.object) {
        (Some(object), Some(of_other)) => {
            object.id() == of_other.id() && one.start.wrapping_sub(one.offset) == other.start.wrapping_sub(other.offset)
        }
        (None, None) => one.module == other.module || !is_file(one) || !is_file(other),
        _ => false,
    }
}

fn add_doubt(doubts: &mut Vec<Doubt>, new: Doubt) {
    if let Some(known) = doubts.iter_mut().find(|known| (known.start, known.end) == (new.start, new.end)) {
        known.time_ns = known.time_ns.max(new.time_ns);
        known.is_new |= new.is_new;
    } else if doubts.len() < MAX_DOUBTS {
        doubts.push(new);
    } else if let Some(first) = doubts.first_mut() {
        *first = Doubt { start: 0, end: u64::MAX, time_ns: u64::MAX, is_new: first.is_new };
    }
}
#[cfg(test)]
mod tests;
