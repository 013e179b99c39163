//! Which pages of a process have changed, by the marks of kernels with `CONFIG_MEM_SOFT_DIRTY`
//! (Documentation/admin-guide/mm/soft-dirty.rst): the mark of every page is taken away, and a page that is written gets it again.
//!
//! In: the id of a process, and which of its pages are there. Out: those that were written since the marks were taken away.
//!
//! The process pays a page fault for the first write to each page. Whoever else uses the marks, such as CRIU's incremental dumps,
//! misses changes from before; so would we, and therefore it is watched who else does ([`Watch`]).

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pages::page_size;
use super::watch::Watch;
use super::{MemoryError, RegionKind, Run, Survey};
use crate::host::features::IS_WRITTEN;
use crate::model::{Address, Pid};

/// How many entries are read at once.
const ENTRIES: usize = 8192;

/// Pages with marks were seen: the kernel has them.
static WERE_SEEN: AtomicBool = AtomicBool::new(false);

/// Whether a process has huge pages of hugetlbfs. The kernel does not mark these (`clear_refs_walk_ops` of
/// `fs/proc/task_mmu.c`). Takes some milliseconds for each GB.
///
/// # Errors
/// The list of mappings cannot be read.
pub fn has_huge_pages(pid: Pid) -> Result<bool, MemoryError> {
    let smaps = fs::read(format!("/proc/{pid}/smaps")).map_err(|error| MemoryError::of(pid, "smaps", error))?;
    let smaps = String::from_utf8_lossy(&smaps);
    let mut flags = smaps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    Ok(flags.any(|flags| flags.split(' ').any(|flag| flag == "ht")))
}

/// The marks of one process.
#[derive(Debug)]
pub struct Marks {
    pid: Pid,
    pagemap: File,
    page: u64,
    entries: Vec<u8>,
    /// Since they were taken away.
    watch: Option<Watch>,
}

impl Marks {
    /// Those of `pid`.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn of(pid: Pid) -> Result<Self, MemoryError> {
        let path = format!("/proc/{pid}/pagemap");
        let pagemap = File::open(path).map_err(|error| MemoryError::of(pid, "pagemap", error))?;
        Ok(Self { pid, pagemap, page: page_size(), entries: vec![0; ENTRIES * size_of::<u64>()], watch: None })
    }

    /// Takes the marks of all pages away, if the kernel has such marks: then some page of a process has one, since new pages do, unless
    /// they were taken away before. Not if somebody else takes them away at the same time.
    ///
    /// # Errors
    /// They cannot be read or written, or not watched.
    pub fn clear(&mut self, survey: &Survey) -> io::Result<bool> {
        let mut runs = survey.runs.iter();
        let mut has_marks = WERE_SEEN.load(Ordering::Relaxed);
        while !has_marks && let Some(run) = runs.next() {
            self.entries(run, |_, entry| has_marks |= entry & IS_WRITTEN != 0)?;
        }
        if !has_marks {
            return Ok(false);
        }
        WERE_SEEN.store(true, Ordering::Relaxed);
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => Watch::of(self.pid)?,
        };
        self.watch.insert(watch).clear()
    }

    /// The pages of these that have a mark, and those of shared memory, which others may have written. `None` if somebody else has
    /// taken marks away since they were taken away by us.
    ///
    /// # Errors
    /// The marks cannot be read.
    pub fn changed(&mut self, survey: &Survey) -> io::Result<Option<Vec<Run>>> {
        let mut changed: Vec<Run> = Vec::new();
        let page = self.page;
        for run in &survey.runs {
            let place = survey.regions.partition_point(|region| region.end.0 <= run.start.0);
            if survey.regions.get(place).is_none_or(|region| region.kind == RegionKind::Shared) {
                changed.push(*run);
                continue;
            }
            let before = changed.len();
            self.entries(run, |address, entry| {
                if entry & IS_WRITTEN == 0 {
                    return;
                }
                let end = Address(run.end.0.min(address + page));
                match changed[before..].last_mut() {
                    Some(last) if last.end.0 == address => last.end = end,
                    _ => changed.push(Run { start: Address(address), end, ..*run }),
                }
            })?;
        }
        // Asked at last: until then marks may have vanished.
        let is_alone = self.watch.as_ref().map_or(Ok(false), Watch::is_alone)?;
        Ok(is_alone.then_some(changed))
    }

    /// Calls `seen` for each page of a run, with its address and its entry.
    fn entries(&mut self, run: &Run, mut seen: impl FnMut(u64, u64)) -> io::Result<()> {
        let mut address = run.start.0;
        while address < run.end.0 {
            let pages = (run.end.0 - address).div_ceil(self.page).min(ENTRIES as u64);
            let entries = &mut self.entries[..pages as usize * size_of::<u64>()];
            self.pagemap.read_exact_at(entries, address / self.page * size_of::<u64>() as u64)?;
            for entry in entries.as_chunks().0 {
                seen(address, u64::from_ne_bytes(*entry));
                address += self.page;
            }
        }
        Ok(())
    }
}
