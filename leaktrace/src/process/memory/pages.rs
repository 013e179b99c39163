//! Which pages of a region are there: in memory or swapped out.
//!
//! In: `/proc/PID/pagemap`. Out: runs of such pages. Missing pages are left out, and so are those that only show what is in a
//! file and those that are known to be zero: neither holds a pointer to the heap. Nothing is read or changed of the pages.

use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::{MemoryError, Region, RegionKind};
use crate::model::{Address, Pid};

/// A range of pages of one region that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// First address.
    pub start: Address,
    /// One past the last address.
    pub end: Address,
    /// They are swapped out.
    pub swapped: bool,
    /// The process itself may not read them, so that only `/proc/PID/mem` does.
    pub forced: bool,
}

impl Run {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }
}

/// `struct page_region` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`, `_IOWR('f', 16, struct pm_scan_arg)`, from Linux 6.7.
const SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
/// `PAGE_IS_FILE`: of a file or of shared memory, and not the process' own copy.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
/// `PAGE_IS_PFNZERO`: the page of zeroes that was only read until now.
const IS_ZERO: u64 = 1 << 5;
/// How many runs are asked for at once.
const RUNS: usize = 4096;

/// Bits of an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const ENTRY_IS_FILE: u64 = 1 << 61;
const ENTRY_IS_SWAPPED: u64 = 1 << 62;
const ENTRY_IS_PRESENT: u64 = 1 << 63;
/// How many entries are read at once.
const ENTRIES: usize = 8192;
/// The largest region of which the entries are read, bytes: of holes as well there are 2 MiB of them for each GiB. Larger ones
/// are only reserved, by sanitizers for example.
const MOST_BY_ENTRIES: u64 = 256 << 30;

/// The page tables of a process. One at a time may use it; what it needs is allocated once.
#[derive(Debug)]
pub struct Pages {
    file: File,
    page: u64,
    /// Filled by the kernel; empty where it has no `PAGEMAP_SCAN`.
    found: Vec<PageRegion>,
    entries: Vec<u8>,
}

impl Pages {
    /// Those of `pid`.
    ///
    /// # Errors
    /// They may not be read, or the process is gone.
    pub fn of(pid: Pid) -> Result<Self, MemoryError> {
        let file =
            File::open(format!("/proc/{pid}/pagemap")).map_err(|error| MemoryError::of(pid, "pagemap", error))?;
        Ok(Self { file, page: page_size(), found: vec![PageRegion::default(); RUNS], entries: Vec::new() })
    }

    /// Adds the pages of `region` that are there to `runs`, by address.
    ///
    /// # Errors
    /// What the kernel said. Runs that were found before are kept.
    pub fn runs(&mut self, region: &Region, runs: &mut Vec<Run>) -> io::Result<()> {
        let mut found = Found { before: runs.len(), runs, forced: region.kind == RegionKind::Inaccessible };
        let runs = &mut found;
        if !self.found.is_empty() {
            match self.scan(region, runs) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => self.found.clear(),
                other => return other,
            }
        }
        self.read_entries(region, runs)
    }

    /// By the system call that lists ranges.
    fn scan(&mut self, region: &Region, runs: &mut Found<'_>) -> io::Result<()> {
        // Without a file there are no pages of one, and asking would have the kernel look at each page's descriptor.
        let has_file = region.name.is_file() && !region.permissions.shared;
        let unwanted = if has_file { IS_ZERO | IS_FILE } else { IS_ZERO };
        let mut arguments = ScanArguments {
            size: mem::size_of::<ScanArguments>() as u64,
            start: region.start.0,
            end: region.end.0,
            vec: self.found.as_mut_ptr() as u64,
            vec_len: self.found.len() as u64,
            category_inverted: unwanted,
            category_mask: unwanted,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            return_mask: IS_SWAPPED,
            ..ScanArguments::default()
        };
        while arguments.start < arguments.end {
            // SAFETY: the kernel reads and writes the arguments, whose size they say, and at most `vec_len` entries of `found`.
            let count = unsafe { libc::ioctl(self.file.as_raw_fd(), SCAN, &raw mut arguments) };
            let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
            for found in self.found.iter().take(count) {
                runs.add(found.start..found.end, found.categories & IS_SWAPPED != 0);
            }
            if arguments.walk_end <= arguments.start {
                // It has not moved on, which only a kernel that breaks its promise would do.
                return Err(io::ErrorKind::InvalidData.into());
            }
            if count < self.found.len() {
                // It has come to the end, which `walk_end` does not always say: where the kernel has had to empty its own buffer
                // on the way, it says where that was (`do_pagemap_scan` of fs/proc/task_mmu.c).
                break;
            }
            arguments.start = arguments.walk_end;
        }
        Ok(())
    }

    /// By an entry for each page.
    fn read_entries(&mut self, region: &Region, runs: &mut Found<'_>) -> io::Result<()> {
        if region.bytes() > MOST_BY_ENTRIES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.entries.resize(ENTRIES * size_of::<u64>(), 0);
        let mut address = region.start.0;
        while address < region.end.0 {
            let pages = (region.end.0 - address).div_ceil(self.page).min(ENTRIES as u64);
            let entries = &mut self.entries[..pages as usize * size_of::<u64>()];
            self.file.read_exact_at(entries, address / self.page * size_of::<u64>() as u64)?;
            for entry in entries.as_chunks().0 {
                let entry = u64::from_ne_bytes(*entry);
                let is_there = entry & (ENTRY_IS_PRESENT | ENTRY_IS_SWAPPED) != 0;
                if is_there && (region.permissions.shared || entry & ENTRY_IS_FILE == 0) {
                    runs.add(address..address + self.page, entry & ENTRY_IS_SWAPPED != 0);
                }
                address += self.page;
            }
        }
        Ok(())
    }
}

/// The runs of one region, behind those that were found before.
struct Found<'a> {
    before: usize,
    runs: &'a mut Vec<Run>,
    forced: bool,
}

impl Found<'_> {
    /// Adds a run, to the one before it where they are one. What was found before is not added again.
    fn add(&mut self, mut range: Range<u64>, swapped: bool) {
        if let Some(last) = self.runs[self.before..].last() {
            range.start = range.start.max(last.end.0);
        }
        if range.is_empty() {
            return;
        }
        match self.runs[self.before..].last_mut() {
            Some(last) if last.end.0 == range.start && last.swapped == swapped => last.end = Address(range.end),
            _ => {
                let (start, end) = (Address(range.start), Address(range.end));
                self.runs.push(Run { start, end, swapped, forced: self.forced });
            }
        }
    }
}

/// The size of a page, bytes.
#[must_use]
pub fn page_size() -> u64 {
    // SAFETY: only reads a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use memmap2::{MmapMut, MmapOptions};

    use super::*;
    use crate::process::maps::{MappingName, Permissions};

    /// The runs of a mapping as offsets in pages, by each of both ways.
    fn runs(map: &MmapMut, name: MappingName<'static>, shared: bool) -> [Vec<(u64, u64)>; 2] {
        let start = map.as_ptr() as u64;
        let region = Region {
            start: Address(start),
            end: Address(start + map.len() as u64),
            kind: RegionKind::Data,
            permissions: Permissions { read: true, write: true, execute: false, shared },
            name,
        };
        let mut pages = Pages::of(Pid(std::process::id())).unwrap();
        let (mut scanned, mut read) = (Vec::new(), Vec::new());
        pages.runs(&region, &mut scanned).unwrap();
        pages.read_entries(&region, &mut Found { before: 0, runs: &mut read, forced: false }).unwrap();
        [scanned, read].map(|runs| {
            let page = |address: Address| (address.0 - start) / pages.page;
            runs.iter().map(|run| (page(run.start), page(run.end))).collect()
        })
    }

    #[test]
    fn pages_that_were_written_are_there_and_others_are_not() {
        let page = page_size() as usize;
        // More than the entries that are read at once.
        let mut map = MmapMut::map_anon((ENTRIES + 10) * page).unwrap();
        // SAFETY: only keeps the kernel from making huge pages of it.
        unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_NOHUGEPAGE) };
        for index in [0, 1, 5, ENTRIES - 1, ENTRIES, ENTRIES + 9] {
            map[index * page] = 1;
        }
        let entries = ENTRIES as u64;
        let expected = vec![(0, 2), (5, 6), (entries - 1, entries + 1), (entries + 9, entries + 10)];
        assert_eq!(runs(&map, MappingName::Anonymous, false), [expected.clone(), expected]);
    }

    #[test]
    fn no_run_is_found_twice_however_many_there_are() {
        let page = page_size() as usize;
        // More than the kernel keeps for itself at a time (512), and more than are asked for at once.
        for count in [500, 1500, RUNS, RUNS + 700] {
            let mut map = MmapMut::map_anon(2 * count * page).unwrap();
            // SAFETY: only keeps the kernel from making huge pages of it.
            unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_NOHUGEPAGE) };
            (0..count).for_each(|index| map[2 * index * page] = 1);
            let expected: Vec<_> = (0..count as u64).map(|index| (2 * index, 2 * index + 1)).collect();
            assert!(runs(&map, MappingName::Anonymous, false).iter().all(|runs| *runs == expected), "{count}");
        }
    }

    #[test]
    fn of_a_file_only_the_pages_that_were_written_are_there() {
        let page = page_size() as usize;
        let file = tempfile::tempfile().unwrap();
        let name = MappingName::File { path: Path::new("/tmp/file").into(), deleted: true };
        file.set_len(8 * page as u64).unwrap();
        // SAFETY: nobody else has the file.
        let mut map = unsafe { MmapOptions::new().map_copy(&file) }.unwrap();
        map[3 * page] = 1;
        assert_eq!(map[5 * page], 0, "only read");
        assert_eq!(runs(&map, name.clone(), false), [[(3, 4)], [(3, 4)]]);
        // SAFETY: as above.
        let mut map = unsafe { MmapOptions::new().map_mut(&file) }.unwrap();
        map[4 * page] = 1;
        assert!(runs(&map, name, true).iter().all(|runs| runs.iter().any(|run| (run.0..run.1).contains(&4))));
    }

    #[test]
    fn neighbours_are_one_run_if_they_are_of_one_region_and_in_one_place() {
        let mut runs = Vec::new();
        let mut found = Found { before: 0, runs: &mut runs, forced: false };
        found.add(0x1000..0x2000, false);
        found.add(0x2000..0x3000, false);
        found.add(0x3000..0x4000, true);
        Found { before: runs.len(), runs: &mut runs, forced: true }.add(0x4000..0x5000, true);
        let shown: Vec<_> = runs.iter().map(|run| (run.start.0, run.end.0, run.swapped, run.forced)).collect();
        assert_eq!(
            shown,
            [(0x1000, 0x3000, false, false), (0x3000, 0x4000, true, false), (0x4000, 0x5000, true, true)]
        );
    }
}
