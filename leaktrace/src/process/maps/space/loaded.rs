//! What data of a program or library lies at an address: a space keeps only where code lies, and data lie at a fixed distance.

use std::path::Path;
use std::sync::Arc;

use super::super::object::Object;
use super::AddressSpace;
use crate::elf::Segment;

/// Smallest page: segments are mapped in whole pages.
const PAGE: u64 = 4096;

/// Where the files of a process are loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// By address.
    extents: Vec<Extent>,
}

/// A loaded file, from its first byte in memory to its last.
#[derive(Debug)]
struct Extent {
    start: u64,
    end: u64,
    /// What is added to the file's own addresses.
    bias: u64,
    object: Arc<Object>,
    module: Arc<Path>,
}

/// A place in a loaded file.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The file.
    pub object: &'a Arc<Object>,
    /// Its path as the process sees it.
    pub module: &'a Arc<Path>,
    /// The address in the file's own numbering (ELF virtual address).
    pub address: u64,
}

impl AddressSpace {
    /// Where files are loaded now. Those that have been unmapped are left out.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        let mut extents: Vec<Extent> =
            self.regions.iter().filter(|region| region.seen == self.captures).filter_map(extent).collect();
        extents.sort_by_key(|extent| extent.start);
        extents.dedup_by(|later, earlier| later.start < earlier.end);
        Loaded { extents }
    }
}

fn extent(region: &super::Region) -> Option<Extent> {
    let object = region.object.as_ref()?;
    let bias = region.start.wrapping_sub(object.virtual_address(region.offset)?);
    let start = object.segments().iter().map(|segment| segment.address).min()?;
    let end = object.segments().iter().map(end).max()?;
    let (start, end) = (bias.wrapping_add(start), bias.wrapping_add(end));
    (start < end).then(|| Extent { start, end, bias, object: Arc::clone(object), module: Arc::clone(&region.module) })
}

fn end(segment: &Segment) -> u64 {
    segment.address.saturating_add(segment.memory_size)
}

impl Loaded {
    /// What is loaded at an address. Bytes that a segment has beyond those of its file, as variables without initial value, are
    /// the segment's, too.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Place<'_>> {
        let behind = self.extents.partition_point(|extent| extent.start / PAGE * PAGE <= address);
        let extent = self.extents.get(behind.checked_sub(1)?).filter(|extent| address < extent.end)?;
        let own = address.wrapping_sub(extent.bias);
        let mut segments = extent.object.segments().iter();
        let is_loaded = segments.any(|segment| segment.address / PAGE * PAGE <= own && own < end(segment));
        is_loaded.then_some(Place { object: &extent.object, module: &extent.module, address: own })
    }

    /// What a thread has of thread-local variables of all loaded files at most, bytes.
    #[must_use]
    pub fn thread_local_bytes(&self) -> u64 {
        self.extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.object.thread_local_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::Pid;
    use crate::process::maps::ObjectStore;

    static VARIABLE: AtomicU64 = AtomicU64::new(7);

    #[test]
    fn a_variable_of_this_program_lies_in_its_file() {
        let space = AddressSpace::capture(Pid(std::process::id()), &ObjectStore::new()).unwrap();
        let loaded = space.loaded();
        let place = loaded.at(&raw const VARIABLE as u64).unwrap();
        assert_eq!(place.object.path(), std::env::current_exe().unwrap());
        assert_eq!(VARIABLE.load(Ordering::Relaxed), 7);
        let local = 0u8;
        assert!(loaded.at(&raw const local as u64).is_none(), "a stack");
        let boxed = Box::new(0u8);
        assert!(loaded.at(&raw const *boxed as u64).is_none(), "the heap");
        assert!(loaded.at(0).is_none() && loaded.at(u64::MAX).is_none());
    }
}
