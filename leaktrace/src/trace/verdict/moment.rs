//! A process in the moment of a stop, as far as a later search of its memory must know it.
//!
//! In: a stopped process. Out: its threads, and copies: of the tops of their stacks, of all that has changed since an earlier search, or
//! of the whole process (`process/snapshot`). Then it goes on.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::standstill::{Changes, Then, kept_tables_of};
use crate::analysis::reachability::Overlay;
use crate::kernel::drain::TabledBlock;
use crate::model::{Address, Pid};
use crate::process::kernel_roots::KernelRoots;
use crate::process::launch::Held;
use crate::process::memory::{
    Marks, MemoryError, Pages, Reader, Region, RegionKind, Run, Survey, Unseen, has_huge_pages, regions,
};
use crate::process::registers::StoppedThread;
use crate::process::snapshot::{Fork, Plan, Refused, kept_from_children};
use crate::process::stop::Stopped;
use crate::ranges::{joined, less, parts_within};

/// How much of shared memory is read while a process is stopped, bytes.
const MOST_SHARED: u64 = 64 << 20;
/// What the kernel may move by a whole page table is at least as large as the memory of one, bytes.
const LARGE: u64 = 2 << 20;
/// How fast what has changed is copied at least, bytes per microsecond.
const COPIED_PER_US: u64 = 2000;
/// What is copied of one stack, from its top on, and of all stacks, bytes.
const COPIED: u64 = 1 << 20;
const COPIED_IN_ALL: u64 = 16 << 20;
/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
const RED_ZONE: u64 = 128;
const PAGE: u64 = 4096;

/// What is to be known before a process is stopped for a moment.
pub struct Ready {
    regions: Vec<Region>,
    pages: Pages,
    reader: Reader,
}

/// A process as it was when nothing of it ran.
pub struct Moment {
    /// Its threads.
    pub threads: Vec<StoppedThread>,
    /// Of stacks, or of all that has changed.
    pub copies: Overlay,
    /// What has changed since an earlier search.
    pub changes: Option<Changes>,
    /// What it held then, where its memory is known as it was then.
    pub then: Option<Then>,
    /// A copy of the process, and its regions when it was copied.
    pub copy: Option<(Fork, Vec<Region>)>,
    /// All that has changed was copied.
    pub is_whole: bool,
    /// It went on before that was done.
    pub was_cut_short: bool,
    /// How long it was stopped.
    pub pause: Duration,
}

/// The pages of a process that is searched while it runs.
pub struct Tracked {
    marks: Marks,
    /// How much may be copied while it is stopped, bytes.
    most: u64,
    /// What was mapped when it was searched last.
    regions: Vec<Range<u64>>,
    /// Its large blocks then, by address.
    large: Vec<TabledBlock>,
}

impl Tracked {
    /// Begins to track the pages of a process, if the kernel does; no more may be copied at once than takes this long.
    ///
    /// # Errors
    /// The process cannot be read.
    pub fn begin(pid: Pid, room: Duration) -> Result<Option<Self>, MemoryError> {
        let (mut marks, survey) = (Marks::of(pid)?, Survey::of(pid)?);
        if has_huge_pages(pid)? {
            // Their marks are not kept by the kernel.
            return Ok(None);
        }
        let most = room.as_micros() as u64 * COPIED_PER_US;
        match marks.clear(&survey) {
            Ok(true) => Ok(Some(Self { marks, most, regions: mapped(&survey), large: Vec::new() })),
            Ok(false) => Ok(None),
            Err(error) => {
                log::debug!("the pages of process {pid} cannot be tracked: {error}");
                Ok(None)
            }
        }
    }

    /// Takes note of the blocks with which a process is searched first, given by address.
    pub fn begin_with(&mut self, blocks: &[TabledBlock]) {
        self.large = large(blocks);
    }

    /// What has changed in a stopped process with these blocks, and whether that is little enough to be copied. If not, it is tracked
    /// anew what changes from now on. `None` if somebody else tracks it too, so that nobody knows.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn changes(&mut self, pid: Pid, blocks: &[TabledBlock]) -> Result<Option<(Changes, bool)>, MemoryError> {
        let survey = Survey::of(pid)?;
        let Some(runs) = self.marks.changed(&survey).map_err(|error| unreadable(pid, error))? else { return Ok(None) };
        // Pages that mremap(2) moves by whole page tables come without marks (`move_normal_pmd` of mm/mremap.c).
        let (regions, large) = (mapped(&survey), large(blocks));
        let is_known = |block: &&TabledBlock| {
            let place = self.large.binary_search_by_key(&block.address, |known| known.address);
            place.is_ok_and(|place| self.large[place] == **block)
        };
        let new = large.iter().filter(|block| !is_known(block));
        let mut changed: Vec<Range<u64>> =
            new.map(|block| block.address..block.address.saturating_add(block.size)).collect();
        changed.extend(less(&regions, &self.regions));
        changed.extend(runs.iter().map(|run| run.start.0..run.end.0));
        let runs = runs_within(&survey.runs, changed);
        (self.regions, self.large) = (regions, large);
        let is_little = runs.iter().map(Run::bytes).sum::<u64>() <= self.most;
        if !is_little && !self.marks.clear(&survey).map_err(|error| unreadable(pid, error))? {
            return Ok(None);
        }
        Ok(Some((Changes { survey, runs }, is_little)))
    }
}

/// Blocks of which the kernel may move whole page tables.
fn large(blocks: &[TabledBlock]) -> Vec<TabledBlock> {
    blocks.iter().filter(|block| block.size >= LARGE).copied().collect()
}

/// What is mapped, neighbours as one.
fn mapped(survey: &Survey) -> Vec<Range<u64>> {
    joined(survey.regions.iter().map(|region| region.start.0..region.end.0))
}

/// Whole pages of runs, which are in ascending order, that lie in ranges.
fn runs_within(runs: &[Run], ranges: Vec<Range<u64>>) -> Vec<Run> {
    let pages = |range: Range<u64>| range.start / PAGE * PAGE..range.end.div_ceil(PAGE).saturating_mul(PAGE);
    let ranges = joined(ranges.into_iter().map(pages));
    let within = parts_within(runs, |run| run.start.0..run.end.0, &ranges);
    within
        .into_iter()
        .map(|(run, range)| Run { start: Address(range.start), end: Address(range.end), ..*run })
        .collect()
}

/// A copy of a process, and of the memory that it shares with others.
pub struct Copied {
    copy: Fork,
    regions: Vec<Region>,
    copies: Overlay,
    then: Then,
}

impl Copied {
    /// Lets the process go on, `held` as well if that is its first thread.
    pub fn look(self, stopped: Stopped, held: Option<Held>, began: Option<Instant>) -> Moment {
        let Self { copy, regions, copies, then } = self;
        let threads = stopped.threads().to_vec();
        let pause = stopped.release();
        held.into_iter().for_each(Held::release);
        let (was_cut_short, length) = (pause.cut_short, pause.length);
        let pause = began.map_or(length, |began| began.elapsed());
        let (then, copy) = (Some(then), Some((copy, regions)));
        Moment { threads, copies, changes: None, then, copy, is_whole: true, was_cut_short, pause }
    }
}

fn unreadable(pid: Pid, error: io::Error) -> MemoryError {
    MemoryError::Unreadable { pid, what: "pagemap", error }
}

/// Why a process is not copied.
#[derive(Debug, thiserror::Error)]
pub enum NoCopy {
    /// It cannot be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] MemoryError),
    /// A copy does not have the memory that it shares, and this is too much to be read in a stop.
    #[error(
        "a copy does not have its {} MiB of shared memory, more than the {} that are read", .0 >> 20, MOST_SHARED >> 20
    )]
    Shared(u64),
    /// A copy does not have what is kept from children.
    #[error("{KEPT}")]
    Kept,
}

/// Why a copy is not enough.
pub const KEPT: &str =
    "its program keeps memory from its children (MADV_DONTFORK or MADV_WIPEONFORK), which a copy does not have";

/// Examines whether a process can be copied, before it is stopped.
///
/// # Errors
/// Why it cannot, a part of a sentence.
pub fn plan_copy(pid: Pid) -> Result<Plan, NoCopy> {
    if holds_pointers(&kept_from_children(pid)?, &regions(pid)?) {
        return Err(NoCopy::Kept);
    }
    Ok(Plan::of(pid)?)
}

/// Whether there may be pointers to a heap in one of these ranges.
pub fn holds_pointers(ranges: &[Range<u64>], regions: &[Region]) -> bool {
    let overlaps = |range: &Range<u64>, region: &Region| region.start.0 < range.end && range.start < region.end.0;
    ranges.iter().any(|range| regions.iter().any(|region| overlaps(range, region)))
}

/// Copies pages of a stopped process.
fn copy(runs: &[Run], reader: &Reader) -> Overlay {
    let mut copies = Overlay::default();
    for run in runs {
        let mut words = vec![0; (run.bytes() / 8) as usize];
        // What cannot be read is zero, and counts as such when it is searched.
        reader.fill(&[*run], &mut words);
        copies.add(run.start.0, words);
    }
    copies
}

impl Ready {
    /// Finds out where stacks are.
    ///
    /// # Errors
    /// The process cannot be read.
    pub fn of(pid: Pid) -> Result<Self, MemoryError> {
        Ok(Self { regions: regions(pid)?, pages: Pages::of(pid)?, reader: Reader::open(pid)? })
    }

    /// Copies what is to be known of a stopped process, and lets it go on, `held` as well if that is its first thread.
    pub fn look(
        mut self,
        stopped: Stopped,
        changes: Option<(Changes, bool)>,
        held: Option<Held>,
        began: Option<Instant>,
    ) -> Moment {
        let threads = stopped.threads().to_vec();
        let (changes, is_whole) = changes.map_or((None, false), |(changes, is_little)| (Some(changes), is_little));
        let (copies, then) = match &changes {
            Some(changes) if is_whole => {
                let mut copies = copy(&changes.runs, &self.reader);
                self.copy_control_blocks(&threads, &mut copies);
                let pid = stopped.pid();
                let kept_tables = kept_tables_of(pid, &changes.survey).ok();
                let unseen = Unseen::of(pid, &changes.survey.regions, &changes.survey.runs);
                (copies, Some(Then { kernel: KernelRoots::of(pid), kept_tables, shared: Vec::new(), unseen }))
            }
            _ => (self.copy_stacks(&threads), None),
        };
        let pause = stopped.release();
        held.into_iter().for_each(Held::release);
        let (was_cut_short, length) = (pause.cut_short, pause.length);
        let pause = began.map_or(length, |began| began.elapsed());
        Moment { threads, copies, changes, then, copy: None, is_whole, was_cut_short, pause }
    }

    /// Has a stopped process copied, and what of its memory no copy has.
    ///
    /// # Errors
    /// Why it cannot be copied, a part of a sentence.
    pub fn copy(&self, stopped: &Stopped, plan: &Plan) -> Result<Copied, NoCopy> {
        let pid = stopped.pid();
        let (mut shared, mut pages) = (Vec::new(), Pages::of(pid)?);
        let regions = regions(pid)?;
        for region in regions.iter().filter(|region| region.kind == RegionKind::Shared) {
            pages.runs(region, &mut shared).map_err(|error| unreadable(pid, error))?;
        }
        let bytes = shared.iter().map(Run::bytes).sum::<u64>();
        if bytes > MOST_SHARED {
            return Err(NoCopy::Shared(bytes));
        }
        let copies = copy(&shared, &self.reader);
        let unseen = Unseen::of(pid, &regions, &shared);
        let then = Then { kernel: KernelRoots::of(pid), kept_tables: None, shared, unseen };
        Ok(Copied { copy: stopped.copy(plan)?, regions, copies, then })
    }

    /// Copies where each thread has its own data, which is not on a stack of its own for the first one.
    fn copy_control_blocks(&self, threads: &[StoppedThread], copies: &mut Overlay) {
        for thread in threads {
            let start = thread.registers.thread_pointer().0 / PAGE * PAGE;
            let mut words = vec![0; (PAGE / 8) as usize];
            let page = Run { start: Address(start), end: Address(start + PAGE), swapped: false, forced: false };
            if start != 0 && self.reader.fill(&[page], &mut words).unreadable == 0 {
                copies.add(start, words);
            }
        }
    }

    fn copy_stacks(&mut self, threads: &[StoppedThread]) -> Overlay {
        let mut stacks = Overlay::default();
        let mut left = COPIED_IN_ALL;
        for thread in threads {
            left = left.saturating_sub(self.copy_stack(thread, left, &mut stacks));
        }
        stacks
    }

    /// Copies the top of a thread's stack, as far as it is there; gives the number of bytes.
    fn copy_stack(&mut self, thread: &StoppedThread, most: u64, stacks: &mut Overlay) -> u64 {
        let top = thread.registers.stack_pointer().0.saturating_sub(RED_ZONE) / PAGE * PAGE;
        let behind = self.regions.partition_point(|region| region.end.0 <= top);
        let is_stack =
            |region: &&Region| matches!(region.kind, RegionKind::Stack | RegionKind::Anonymous | RegionKind::Heap);
        let Some(region) = self.regions.get(behind).filter(|region| region.start.0 <= top).filter(is_stack) else {
            return 0;
        };
        let end = region.end.0.min(top.saturating_add(COPIED.min(most)));
        let part = Region { start: Address(top), end: Address(end), ..region.clone() };
        let mut runs = Vec::new();
        if self.pages.runs(&part, &mut runs).is_err() {
            return 0;
        }
        let mut copied = 0;
        for run in runs.iter().filter(|run| !run.swapped && run.end.0 <= end) {
            let mut words = vec![0; (run.bytes() / 8) as usize];
            if self.reader.fill(&[*run], &mut words).unreadable == 0 {
                copied += run.bytes();
                stacks.add(run.start.0, words);
            }
        }
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_has_changed_only_pages_that_are_there_are_read() {
        let run = |start, end| Run { start: Address(start), end: Address(end), swapped: false, forced: false };
        let runs = [run(0x1000, 0x4000), run(0x6000, 0x7000)];
        let found = runs_within(&runs, vec![0x3800..0x6800, 0x1010..0x1020, 0x1800..0x2000]);
        assert_eq!(found, [run(0x1000, 0x2000), run(0x3000, 0x4000), run(0x6000, 0x7000)]);
    }
}
