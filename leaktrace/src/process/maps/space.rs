//! One process' executable mappings, now and before.

mod layouts;
mod loaded;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::files::ProcessDir;
use super::object::{Object, ObjectId};
use super::perf_map::PerfMap;
use super::store::ObjectStore;
use super::{Mapping, MappingName, parse};
use crate::host::clock::monotonic_ns;
use crate::host::patience::{self, About};
use crate::model::{Address, Pid};
use layouts::Layouts;
pub use layouts::{Layout, Settler};
pub use loaded::{Loaded, Place};

/// Mappings kept after they have gone. A process that loads and unloads plugins for months must not fill our memory.
const MAX_RETIRED: usize = 4096;
/// Mappings taken note of before the process is looked at again.
const MAX_NOTED: usize = 1024;
/// Mappings remembered of files that had just been written to.
const MAX_JUST_WRITTEN: usize = 64;

/// Where a process' code lies, and where code that it has unmapped lay.
///
/// Everything needed to name an address is taken at [`capture`](Self::capture): afterwards the process may end.
/// It belongs to one life of one process: after `execve(2)`, and for a pid that was given out again, capture a new one.
/// A clone is a snapshot: cheap, and left alone by later changes.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    pid: Pid,
    /// Ascending, without overlap.
    regions: Arc<Vec<Region>>,
    jit: PerfMap,
    captures: u64,
    /// Mappings taken note of since the latest capture.
    noted: usize,
    /// Whether one of these was code without a file.
    noted_jit: bool,
    /// When each file was mapped first, by `CLOCK_MONOTONIC`, where that was recorded.
    first_mapped: Arc<BTreeMap<ObjectId, u64>>,
    /// When files were mapped that had just been written to, and may have been written to again in the same tick of the clock:
    /// by file and offset.
    just_written: BTreeMap<(ObjectId, u64), u64>,
    layouts: Layouts,
}

/// Executable memory.
#[derive(Debug, Clone)]
struct Region {
    start: u64,
    end: u64,
    /// In the file, of `start`.
    offset: u64,
    module: Arc<Path>,
    object: Option<Arc<Object>>,
    /// The capture that saw it last.
    seen: u64,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    /// The file, or the kernel's `[vdso]`; `None` for memory without one and for files that could not be opened.
    pub object: Option<&'a Arc<Object>>,
    /// The path as the process sees it, or the kernel's name for the mapping.
    pub module: &'a Arc<Path>,
    /// Offset in the file, bytes; in memory without a file it means nothing.
    pub offset: u64,
    /// First address of the mapping.
    pub start: Address,
    /// One past the last address of the mapping.
    pub end: Address,
    /// Whether it was still mapped at the latest capture.
    pub mapped: bool,
}

/// Why a process' mappings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It has ended.
    #[error("process {0} has ended")]
    Ended(Pid),
    /// It belongs to somebody else.
    #[error(
        "no permission to read the mappings of process {0}; run as root, or, if that is root, with the rights that a container \
         or a security module denies"
    )]
    Denied(Pid),
    /// Anything else.
    #[error("cannot read the mappings of process {0}")]
    Read(Pid, #[source] io::Error),
}

impl AddressSpace {
    /// The executable mappings of a living process.
    pub fn capture(pid: Pid, store: &ObjectStore) -> Result<Self, CaptureError> {
        let mut space = Self::empty(pid);
        space.recapture(store)?;
        Ok(space)
    }

    /// Without any mapping: every address in it is unknown.
    #[must_use]
    pub fn empty(pid: Pid) -> Self {
        Self {
            pid,
            regions: Arc::default(),
            jit: PerfMap::default(),
            captures: 0,
            noted: 0,
            noted_jit: false,
            first_mapped: Arc::default(),
            just_written: BTreeMap::new(),
            layouts: Layouts::default(),
        }
    }

    /// The copy that a forked child begins with.
    #[must_use]
    pub fn forked(&self, child: Pid) -> Self {
        let mut space = Self { pid: child, jit: PerfMap::default(), ..self.clone() };
        space.forget_layouts();
        space
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Looks again, as after `dlopen(3)` or before a report. What has been unmapped since stays known except where
    /// something else has taken its addresses. Returns whether anything is mapped that was not before.
    ///
    /// Errors leave everything as it was.
    pub fn recapture(&mut self, store: &ObjectStore) -> Result<bool, CaptureError> {
        let read = read_maps(self.pid.0);
        self.take_over(read, store)
    }

    /// [`recapture`](Self::recapture) that waits no longer than this for the mappings: a process that maps from a file system
    /// that does not answer may hold its lock on them.
    pub fn recapture_within(&mut self, time: Duration, store: &ObjectStore) -> Result<bool, CaptureError> {
        let pid = self.pid.0;
        let read = patience::within(time, About::Process(pid), move || read_maps(pid));
        self.take_over(read.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())), store)
    }

    fn take_over(
        &mut self,
        read: io::Result<(ProcessDir, Vec<u8>)>,
        store: &ObjectStore,
    ) -> Result<bool, CaptureError> {
        let fail = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => CaptureError::Ended(self.pid),
            Some(libc::EACCES | libc::EPERM) => CaptureError::Denied(self.pid),
            _ => CaptureError::Read(self.pid, error),
        };
        let (process, text) = read.map_err(fail)?;
        if text.is_empty() {
            return Err(CaptureError::Ended(self.pid));
        }
        self.captures += 1;
        let (current, jitted) = regions(&process, &text, store, self.captures);
        if jitted && let Err(error) = self.jit.follow(&process, store.budget()) {
            self.jit.tell(self.pid, &error);
        }
        let changed = current.iter().any(|region| !self.has(region, self.captures - 1));
        if changed {
            let now = monotonic_ns().unwrap_or(u64::MAX);
            for region in &current {
                self.doubt_what_lies_under(region, now);
            }
        }
        let before = std::mem::take(&mut self.regions);
        self.regions = Arc::new(merge(Arc::unwrap_or_clone(before), current));
        (self.noted, self.noted_jit) = (0, false);
        self.forget_oldest();
        Ok(changed)
    }

    /// Takes note of a mapping that the kernel has recorded at this moment, without a look at the process, which may have
    /// ended. Its path is as the process sees it. Returns what is mapped, where that is a file that can be opened, and whether
    /// anything is mapped now that was not before: the kernel records every `mprotect(2)` that makes memory executable, and
    /// just-in-time compilers change theirs to and fro.
    pub fn note(&mut self, mapping: &Mapping<'_>, time_ns: u64, store: &ObjectStore) -> (Option<Arc<Object>>, bool) {
        if !mapping.permissions.execute {
            return (None, false);
        }
        let (module, found) = store.recorded(self.pid.0, mapping);
        // Overwritten since, a file would give the names of what it holds now.
        let object = found.clone().filter(|object| !object.is_written_after(time_ns));
        if let Some(object) = &object {
            self.disown_overwritten(object, mapping.offset, time_ns);
        }
        let (start, end) = (mapping.start.0, mapping.end.0);
        let region = Region { start, end, offset: mapping.offset, module, object: object.clone(), seen: self.captures };
        let is_new = !self.has(&region, self.captures);
        if is_new {
            self.noted_jit |= mapping.name == MappingName::Anonymous;
            self.noted += 1;
            self.doubt_what_lies_under(&region, time_ns);
            overlay(Arc::make_mut(&mut self.regions), region);
        }
        // Also for a file that a capture has found before the record was read.
        if let Some(object) = &found {
            self.note_first(object.id(), time_ns);
        }
        (found, is_new)
    }

    /// A file is mapped at this moment. Where it was mapped before, so shortly after it was written that it may have been written
    /// again in between, what was mapped before is not known.
    fn disown_overwritten(&mut self, object: &Object, offset: u64, time_ns: u64) {
        let key = (object.id(), offset);
        if self.just_written.remove(&key).is_some_and(|before| before < time_ns) {
            let is_it = |region: &Region| {
                region.offset == offset && region.object.as_ref().is_some_and(|known| known.id() == object.id())
            };
            let disown = |regions: &mut Arc<Vec<Region>>| {
                for region in Arc::make_mut(regions).iter_mut().filter(|region| is_it(region)) {
                    region.object = None;
                }
            };
            disown(&mut self.regions);
            self.layouts.past_regions().for_each(disown);
        }
        if object.is_just_written(time_ns) && self.just_written.len() < MAX_JUST_WRITTEN {
            self.just_written.insert(key, time_ns);
        }
    }

    fn note_first(&mut self, object: ObjectId, time_ns: u64) {
        if !self.first_mapped.contains_key(&object) && self.first_mapped.len() < MAX_RETIRED {
            Arc::make_mut(&mut self.first_mapped).insert(object, time_ns);
        }
    }

    /// Every file that is or was mapped, once each, with the moment at which it was mapped first, by `CLOCK_MONOTONIC`: `None`
    /// where that was not recorded.
    pub fn objects(&self) -> impl Iterator<Item = (&Arc<Object>, Option<u64>)> {
        let objects: BTreeMap<ObjectId, &Arc<Object>> =
            self.regions.iter().filter_map(|region| region.object.as_ref()).map(|it| (it.id(), it)).collect();
        objects.into_iter().map(|(id, object)| (object, self.first_mapped.get(&id).copied()))
    }

    /// Places a whole file of another address space at these addresses, where nothing may lie yet.
    pub(super) fn place(&mut self, start: u64, end: u64, what: &Location<'_>) {
        let (module, object) = (Arc::clone(what.module), what.object.cloned());
        overlay(
            Arc::make_mut(&mut self.regions),
            Region { start, end, offset: 0, module, object, seen: self.captures },
        );
    }

    /// Whether the mappings should be read from the process again: code of a just-in-time compiler was noted, which may have a
    /// map of its names, or so many mappings that some must be unmapped by now, which is not recorded.
    #[must_use]
    pub fn needs_recapture(&self) -> bool {
        self.noted_jit || self.noted > MAX_NOTED
    }

    /// What lies, or lay, at an address.
    #[must_use]
    pub fn locate(&self, address: Address) -> Option<Location<'_>> {
        let region = self.layouts.elsewhere(address.0).or_else(|| at(&self.regions, address.0))?;
        Some(self.location(region, address.0))
    }

    /// Everything known, ascending; [`Location::offset`] is that of the mapping's start.
    pub fn mappings(&self) -> impl Iterator<Item = Location<'_>> {
        self.regions.iter().map(|region| self.location(region, region.start))
    }

    /// As it is now, with the names that its just-in-time compiler has written up to now, whenever they are read.
    #[must_use]
    pub fn as_of_now(&self) -> Self {
        Self { jit: self.jit.as_of_now(), ..self.clone() }
    }

    /// The name that the process' just-in-time compiler gave to the code at an address, as far as it was
    /// [read](Self::refresh_jit). Waits for whoever is reading, as the next two do.
    #[must_use]
    pub fn jit_symbol(&self, address: Address) -> Option<Arc<str>> {
        self.jit.names().symbols.find(address.0).map(|symbol| Arc::clone(&symbol.name))
    }

    /// Whether any of these return addresses is in code of a just-in-time compiler whose name is unsure: code of another name
    /// has lain there, too, or the map does not say any more what it did.
    #[must_use]
    pub fn passes_unsure_code(&self, frames: &[Address]) -> bool {
        let names = self.jit.names();
        let is_unsure = |frame: &Address| {
            let call = frame.0.wrapping_sub(1);
            names.is_unsure(call) && at(&self.regions, call).is_none_or(|region| region.object.is_none())
        };
        names.has_unsure() && frames.iter().any(is_unsure)
    }

    /// Reads what the just-in-time compiler has written since the last time, which works after the process' end as well.
    pub fn refresh_jit(&self) {
        if let Err(error) = self.jit.refresh() {
            self.jit.tell(self.pid, &error);
        }
    }

    fn location<'a>(&'a self, region: &'a Region, address: u64) -> Location<'a> {
        Location {
            object: region.object.as_ref(),
            module: &region.module,
            offset: region.offset_of(address),
            start: Address(region.start),
            end: Address(region.end),
            mapped: region.seen == self.captures,
        }
    }

    /// Whether the region was mapped, and not only remembered, at the capture `seen`.
    fn has(&self, region: &Region, seen: u64) -> bool {
        self.regions
            .binary_search_by_key(&region.start, |known| known.start)
            .is_ok_and(|index| self.regions[index].seen == seen && self.regions[index].is_same(region))
    }

    fn forget_oldest(&mut self) {
        let mut retired: Vec<u64> =
            self.regions.iter().map(|region| region.seen).filter(|&seen| seen != self.captures).collect();
        if retired.len() > MAX_RETIRED {
            retired.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = retired[MAX_RETIRED];
            Arc::make_mut(&mut self.regions).retain(|region| region.seen > oldest);
        }
    }
}

impl Region {
    /// The offset in the file of what lies at an address. The sum may wrap: devices may be mapped at offsets near the end of 64
    /// bits.
    fn offset_of(&self, address: u64) -> u64 {
        self.offset.wrapping_add(address.wrapping_sub(self.start))
    }

    fn is_same(&self, other: &Self) -> bool {
        let object = |region: &Self| region.object.as_ref().map(|object| object.id());
        (self.start, self.end, self.offset) == (other.start, other.end, other.offset)
            && object(self) == object(other)
            && self.module == other.module
    }
}

/// The region that holds an address, of regions in order.
fn at(regions: &[Region], address: u64) -> Option<&Region> {
    let after = regions.partition_point(|region| region.start <= address);
    regions.get(after.checked_sub(1)?).filter(|region| address < region.end)
}

/// The text of `maps`. Where the first thread has ended before the others, its `maps` is empty and theirs is not.
fn read_maps(pid: u32) -> io::Result<(ProcessDir, Vec<u8>)> {
    let process = ProcessDir::open(pid)?;
    let mut text = Vec::with_capacity(16 * 1024);
    process.read("maps", &mut text)?;
    if !text.is_empty() {
        return Ok((process, text));
    }
    for thread in process.threads()?.into_iter().filter(|&thread| thread != pid) {
        if let Ok(sibling) = ProcessDir::open(thread)
            && sibling.read("maps", &mut text).is_ok()
            && !text.is_empty()
        {
            return Ok((sibling, text));
        }
        text.clear();
    }
    Ok((process, text))
}

/// The executable mappings, and whether some hold code that no object can name.
fn regions(process: &ProcessDir, text: &[u8], store: &ObjectStore, seen: u64) -> (Vec<Region>, bool) {
    let mut jitted = false;
    let mut regions: Vec<Region> = parse(text)
        .flatten()
        .filter(|mapping| mapping.permissions.execute)
        .map(|mapping| {
            let (module, object) = store.object(process, &mapping);
            let named = object.as_ref().is_some_and(|object| !object.segments().is_empty());
            jitted |= !named && !matches!(mapping.name, MappingName::Vdso | MappingName::Kernel(_));
            jitted |=
                matches!(&mapping.name, MappingName::Kernel(name) if name.as_encoded_bytes().starts_with(b"[anon"));
            Region { start: mapping.start.0, end: mapping.end.0, offset: mapping.offset, module, object, seen }
        })
        .collect();
    // The kernel lists them in order, but a list read in pieces while it changes may not be.
    regions.sort_by_key(|region| region.start);
    regions.dedup_by(|later, earlier| later.start < earlier.end);
    (regions, jitted)
}

/// All of `current`, and of `before` what is not covered by it. Memory without a file has nothing worth remembering.
fn merge(before: Vec<Region>, current: Vec<Region>) -> Vec<Region> {
    let mut merged = Vec::with_capacity(current.len());
    for old in before.into_iter().filter(|old| old.object.is_some()) {
        let mut start = old.start;
        let first = current.partition_point(|new| new.end <= start);
        for new in current[first..].iter().take_while(|new| new.start < old.end) {
            push_part(&mut merged, &old, start, new.start);
            start = new.end;
        }
        push_part(&mut merged, &old, start, old.end);
    }
    merged.extend(current);
    merged.sort_by_key(|region| region.start);
    merged
}

/// Puts a region over those that are there.
fn overlay(regions: &mut Vec<Region>, new: Region) {
    let first = regions.partition_point(|old| old.end <= new.start);
    let last = regions.partition_point(|old| old.start < new.end).max(first);
    let mut parts = Vec::with_capacity(3);
    for old in &regions[first..last] {
        push_part(&mut parts, old, old.start, new.start);
        push_part(&mut parts, old, new.end.max(old.start), old.end);
    }
    parts.push(new);
    parts.sort_by_key(|region| region.start);
    regions.splice(first..last, parts);
}

fn push_part(parts: &mut Vec<Region>, whole: &Region, start: u64, end: u64) {
    if start < end {
        parts.push(Region { start, end, offset: whole.offset_of(start), ..whole.clone() });
    }
}

#[cfg(test)]
mod tests;
