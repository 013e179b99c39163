//! A process of which nothing runs: what of its threads is the program's, and which of its blocks can still be reached.
//!
//! In: its threads as they are stopped or have ended, its blocks. Out: a kind for each block.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;

use super::findings::Pass;
use super::holding::{FileWords, Given, Holding, StackCopy, copy_stacks};
use crate::analysis::reachability::{
    self as scanned, Blocks, Circumstances, Heuristics, Memory, Overlay, Rules, Scan, TABLE, Thread, TooFar, addresses,
    judge, kept_tables, regions, scan, table_block, unrecorded, vtables,
};
use crate::kernel::drain::TabledBlock;
use crate::kernel::in_flight::InFlight;
use crate::lives::exiting;
use crate::model::{Address, LeakCheck, LeakCheckMode, Pid, Reachability};
use crate::process::kernel_roots::KernelRoots;
use crate::process::maps::AddressSpace;
use crate::process::memory::{self, MemoryError, Reader, Region, Run, Survey, Unseen};
use crate::process::registers::{Registers, StoppedThread};
use crate::ranges::parts_within;

/// Where glibc keeps what it mangles pointers with, in bytes from a thread's control block (`pointer_guard` of `tcbhead_t` in
/// `sysdeps/x86_64/nptl/tls.h`).
const POINTER_GUARD: u64 = 0x30;
/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
const RED_ZONE: u64 = 128;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Its memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its blocks cannot be indexed.
    #[error(transparent)]
    Blocks(#[from] TooFar),
    /// It was killed, or its copy, so that pointers are missing.
    #[error("it was killed before all of its memory was read")]
    Gone,
}

/// A process of which nothing runs.
pub struct Standstill<'a> {
    /// The process.
    pub pid: Pid,
    /// An id by which its memory can be read: that of a thread that has not ended, or of a copy.
    pub memory: Pid,
    /// Its threads.
    pub threads: &'a [StoppedThread],
    /// What is mapped where.
    pub space: Option<&'a AddressSpace>,
    /// Every block that it has was recorded.
    pub since_start: bool,
    /// Nothing of this memory changes meanwhile.
    pub is_at_rest: bool,
    /// What threads are in the midst of.
    pub in_flight: &'a InFlight,
    /// What to take for the contents of parts of its memory.
    pub overlay: &'a Overlay,
    /// Where it is not stopped any more: what was known of it when it was.
    pub then: Option<&'a Then>,
    /// Which pointers into blocks are as good as to their start.
    pub heuristics: Heuristics,
    /// How many threads search.
    pub searchers: Searchers,
}

/// What else a process held when it was stopped, and pages that a copy does not have and an overlay has.
#[derive(Debug, Default)]
pub struct Then {
    /// What the kernel holds for it.
    pub kernel: KernelRoots,
    /// The tables of thread-local storage that the C library keeps, if its memory is not as it was then.
    pub kept_tables: Option<Vec<u64>>,
    /// Pages of shared memory, by address.
    pub shared: Vec<Run>,
    /// What it had not used of that.
    pub unseen: Unseen,
}

/// How many threads search memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searchers {
    /// One for each processor: a process waits.
    All,
    /// One for every other processor: the process needs them, too.
    Half,
}

impl Searchers {
    fn count(self) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        match self {
            Self::All => processors,
            Self::Half => (processors / 2).max(1),
        }
    }
}

/// What has changed of a process since it was searched.
pub struct Changes {
    /// What is mapped, and which pages are there.
    pub survey: Survey,
    /// Pages that have changed, by address.
    pub runs: Vec<Run>,
}

/// What a search found.
pub struct Found {
    /// By address, unrecorded ones among them.
    blocks: Vec<TabledBlock>,
    index: Blocks,
    scan: Scan,
    /// Of the vtables of its objects.
    tables: vtables::Tables,
    code: Vec<Range<u64>>,
    given: Given,
    mappings: Vec<Region>,
    threads: Vec<StackCopy>,
    heuristics: Heuristics,
    pause: Duration,
    /// Bytes that were read once more, since they had changed.
    rescanned: Option<u64>,
    /// What of the kernel could not be asked.
    missing: Vec<&'static str>,
    /// Bytes of shared memory that were not searched.
    unsearched: u64,
}

impl Standstill<'_> {
    /// Searches its memory for pointers to these blocks, which are by address, or, where `earlier` was found before, what has changed
    /// since. `read` is called as soon as the process may run again.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn search(
        &self,
        mut blocks: Vec<TabledBlock>,
        earlier: Option<(Found, Changes)>,
        read: impl FnOnce() -> Duration,
    ) -> Result<Found, Obstacle> {
        let mut steps = Steps::begin();
        let mut index = indexed(&blocks)?;
        steps.done("indexing blocks");
        let (earlier, survey, changed) = match earlier {
            Some((earlier, Changes { survey, runs })) => {
                (Some(earlier), survey, Some(runs.iter().map(|run| run.start.0..run.end.0).collect::<Vec<_>>()))
            }
            None => (None, self.survey()?, None),
        };
        steps.done("asking for pages");
        let memory = MemoryOf { reader: Reader::open(self.memory)?, runs: &survey.runs, overlay: self.overlay };
        let live: Vec<Live> = self.threads.iter().map(|thread| self.live(thread, &memory)).collect();
        let threads: Vec<Thread> = live.iter().map(|live| live.thread).collect();
        let first_has_ended = self.threads.iter().all(|thread| thread.tid != self.pid);
        let arguments = if first_has_ended { arguments(self.memory) } else { None };
        let Self { since_start, is_at_rest, in_flight: &InFlight { hides_blocks, .. }, .. } = *self;
        let mut known = Vec::new();
        if is_at_rest && !since_start && earlier.is_none() {
            let control_blocks: Vec<u64> = threads.iter().map(|thread| thread.control_block).collect();
            let found = unrecorded(&survey, &index, &memory, &control_blocks);
            known = found.known;
            if !found.blocks.is_empty() {
                blocks = with_unrecorded(blocks, &found.blocks);
                index = indexed(&blocks)?;
            }
            steps.done("finding unrecorded blocks");
        }
        let circumstances =
            Circumstances { threads: &threads, arguments, since_start, is_at_rest, hides_blocks, known: &known };
        let mut regions = regions(&survey, &index, &memory, circumstances);
        for region in &regions {
            log::trace!("{:x?} {:?} {}", region.range, region.outside, region.holds_chunks);
        }
        if let Some(changed) = &changed {
            let parts = parts_within(&regions, |region| region.range.clone(), changed);
            regions = parts.into_iter().map(|(region, range)| scanned::Region { range, ..*region }).collect();
        }
        let mut given = Given::default();
        let own = self.then.is_none().then(|| KernelRoots::of(self.memory));
        let kernel = own.as_ref().or(self.then.map(|then| &then.kernel));
        let missing = kernel.map(|kernel| kernel.missing.clone()).unwrap_or_default();
        if let Some(kernel) = kernel {
            given.kernel(kernel);
        }
        given.ignored(blocks.iter().filter(|block| block.is_ignored()).map(|block| block.address));
        for (number, live) in live.iter().enumerate() {
            given.registers(number, &live.words, live.are_kept);
            live.table.iter().for_each(|table| given.table(number, *table));
            // A coroutine's stack that runs now, in a block.
            if let Some((block, _)) = index.find(live.thread.live_from) {
                given.stack(number, index.start(block));
            }
        }
        let guard = threads.first().and_then(|thread| guard(thread, &memory));
        let unseen = self.then.map_or_else(
            || Cow::Owned(Unseen::of(self.memory, &survey.regions, &survey.runs)),
            |then| Cow::Borrowed(&then.unseen),
        );
        given.unseen(unseen.words.iter().flat_map(|words| addresses(words, &index, guard)));
        for moving in &self.in_flight.moving {
            let thread = self.threads.iter().position(|thread| thread.tid == moving.tid);
            given.moving(thread.unwrap_or_default(), moving.old.0);
        }
        match self.then.and_then(|then| then.kept_tables.as_ref()) {
            Some(tables) => given.kept_tables(tables),
            None => given.kept_tables(&kept_tables(&survey, &memory)),
        }
        steps.done("telling memory apart");
        let rules = Rules {
            heuristics: self.heuristics,
            guard,
            vtables: &vtables::places(&survey),
            threads: self.searchers.count(),
        };
        let mut scan = scan(&index, &regions, &given.words, &memory, &rules);
        // Whoever may hold them is not known.
        let unrecorded = (0..).zip(&blocks).filter(|(_, block)| block.is_unrecorded()).map(|(place, _)| place);
        scan.leave_open(unrecorded);
        steps.done("searching");
        // What was copied before is read from there.
        let is_copied = self.then.is_some() && self.memory == self.pid;
        let is_gone = || memory::regions(self.memory).map_or(true, |regions| regions.is_empty());
        if survey.regions.is_empty() || scan.unread > 0 && !is_copied && is_gone() {
            return Err(Obstacle::Gone);
        }
        let mut rescanned = None;
        if let Some(earlier) = earlier {
            rescanned = Some(earlier.rescanned.unwrap_or(0) + scan.scanned);
            scan.add_earlier(&index, earlier.scan, &earlier.index, changed.as_deref().unwrap_or_default());
            steps.done("joining");
        }
        // Nor is what the kernel does not tell the pages of.
        scan.unread += survey.unknown_bytes + unseen.unread;
        let tables = vtables::Tables::find(&scan, &survey.code, &memory);
        let stacks = copy_stacks(self.threads.iter().zip(threads.iter().copied()), &survey, &memory);
        steps.done("reading vtables and stacks");
        let pause = read();
        log::debug!("process {}: {steps}", self.pid);
        let Survey { regions: mappings, code, .. } = survey;
        let heuristics = self.heuristics;
        let unsearched = unseen.unread;
        Ok(Found {
            blocks,
            index,
            scan,
            tables,
            code,
            given,
            mappings,
            threads: stacks,
            heuristics,
            pause,
            rescanned,
            missing,
            unsearched,
        })
    }
}

impl Found {
    /// Finds out the kinds of all blocks.
    #[must_use]
    pub fn judge(mut self, space: Option<&AddressSpace>) -> Pass {
        // What is described by what is described in files.
        for _ in 0..2 {
            let unread = self.tables.unread();
            if let Some(space) = space.filter(|_| !unread.is_empty()) {
                self.tables.learn(&self.code, &FileWords::read(space, &unread));
            }
        }
        let mut judgement = judge(&self.index, &self.scan, self.heuristics, &|address| self.tables.is_vtable(address));
        if self.unsearched > 0 {
            let lost = judgement.kinds.iter_mut().filter(|kind| kind.is_lost());
            lost.for_each(|kind| *kind = Reachability::Undecided);
        }
        let check = LeakCheck {
            mode: LeakCheckMode::Exact,
            pause: self.pause,
            scanned_bytes: self.scan.scanned - self.rescanned.unwrap_or(0),
            unread_bytes: self.scan.unread,
            passes: 1,
            rescanned_bytes: self.rescanned,
        };
        let holding = Holding::new(self.index, self.scan, judgement, self.tables);
        let Self { blocks, given, mappings, threads, missing, unsearched, .. } = self;
        Pass { check, holding: Holding { given, mappings, threads, missing, unsearched, ..holding }, blocks }
    }
}

/// The index of these blocks, which are by address.
fn indexed(blocks: &[TabledBlock]) -> Result<Blocks, TooFar> {
    Blocks::new(blocks.iter().map(|block| (block.address, block.size)))
}

/// These blocks and unrecorded ones, by address; of several at one address the recorded one.
fn with_unrecorded(recorded: Vec<TabledBlock>, unrecorded: &[(u64, u64)]) -> Vec<TabledBlock> {
    let mut all = recorded;
    all.reserve_exact(unrecorded.len());
    all.extend(unrecorded.iter().map(|(address, size)| TabledBlock::unrecorded(*address, *size)));
    // Two runs in order.
    all.sort_by_key(|block| block.address);
    all.dedup_by_key(|block| block.address);
    all
}

/// How long the steps of a stop took; told afterwards, since a process waits.
struct Steps {
    began: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn begin() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    fn done(&mut self, what: &'static str) {
        let now = Instant::now();
        self.done.push((what, now - self.began));
        self.began = now;
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (what, took)) in self.done.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{what} {:.1} ms", took.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// The tables of thread-local storage that the C library keeps in a process that is stopped.
///
/// # Errors
/// Its memory cannot be read.
pub fn kept_tables_of(pid: Pid, survey: &Survey) -> Result<Vec<u64>, MemoryError> {
    let overlay = Overlay::default();
    Ok(kept_tables(survey, &MemoryOf { reader: Reader::open(pid)?, runs: &survey.runs, overlay: &overlay }))
}

/// What of a thread is the program's.
struct Live {
    thread: Thread,
    /// What its registers contain.
    words: Vec<u64>,
    /// These are only those that a call keeps.
    are_kept: bool,
    /// The table of its local storage.
    table: Option<u64>,
}

impl Standstill<'_> {
    fn survey(&self) -> Result<Survey, MemoryError> {
        let mut survey = Survey::of(self.memory)?;
        if let Some(Then { shared, .. }) = self.then.filter(|then| !then.shared.is_empty()) {
            let is_shared = |run: &Run| {
                let place = shared.partition_point(|shared| shared.end.0 <= run.start.0);
                shared.get(place).is_some_and(|shared| shared.start.0 < run.end.0)
            };
            survey.runs.retain(|run| !is_shared(run));
            survey.runs.extend(shared);
            survey.runs.sort_by_key(|run| run.start);
        }
        Ok(survey)
    }

    fn live(&self, stopped: &StoppedThread, memory: &MemoryOf<'_>) -> Live {
        let registers = &stopped.registers;
        let control_block = registers.thread_pointer().0;
        let live = |live_from, words| Live {
            thread: Thread { live_from, control_block, is_first: stopped.tid == self.pid },
            words,
            are_kept: false,
            table: None,
        };
        if registers.system_call() == libc::SYS_exit {
            // It has left its function: only what the C library keeps of it is there.
            let end = if stopped.tid == self.pid { arguments(self.memory) } else { None };
            return live(end.unwrap_or(control_block), Vec::new());
        }
        let read = |address: u64| {
            let mut word = [0];
            (address.is_multiple_of(8) && memory.read(address, &mut word) == 0).then_some(word[0])
        };
        let table = read(control_block.wrapping_add(TABLE)).map(table_block);
        let exiting = Some(registers).filter(|registers| registers.system_call() == libc::SYS_exit_group);
        let frame = exiting.and_then(Registers::by_dwarf_number);
        if let (Some(frame), Some(space)) = (frame, self.space)
            && let Some(caller) = exiting::before_exit(space, frame, &read)
        {
            return Live { are_kept: true, table, ..live(caller.stack_pointer, caller.kept.to_vec()) };
        }
        let words = registers.general().iter().chain(registers.extended()).copied();
        Live { table, ..live(registers.stack_pointer().0.saturating_sub(RED_ZONE), words.collect()) }
    }
}

/// Where on the first thread's stack the kernel has put the program's arguments: below it is what the program has used.
fn arguments(tid: Pid) -> Option<u64> {
    Some(Process::new(tid.0.cast_signed()).ok()?.stat().ok()?.startstack).filter(|start| *start != 0)
}

/// What the C library mangles pointers with, if it is glibc: else a word of which nothing comes.
fn guard(thread: &Thread, memory: &MemoryOf<'_>) -> Option<u64> {
    let mut word = [0];
    let is_read = memory.read(thread.control_block.checked_add(POINTER_GUARD)?, &mut word) == 0;
    (is_read && word[0] != 0).then_some(word[0])
}

/// The memory of a process, of which only pages are read that are there.
struct MemoryOf<'a> {
    reader: Reader,
    /// By address.
    runs: &'a [Run],
    overlay: &'a Overlay,
}

impl Memory for MemoryOf<'_> {
    fn read(&self, address: u64, words: &mut [u64]) -> u64 {
        let end = address.saturating_add(size_of_val(words) as u64);
        let mut at = address;
        let first = self.runs.partition_point(|run| run.end.0 <= address);
        let mut unread = 0;
        let place = |address_of: u64| ((address_of - address) / 8) as usize;
        for run in self.runs[first..].iter().take_while(|run| run.start.0 < end) {
            let piece = Run { start: Address(run.start.0.max(at)), end: Address(run.end.0.min(end)), ..*run };
            words[place(at)..place(piece.start.0)].fill(0);
            unread += piece.start.0 - at;
            unread += self.reader.fill(&[piece], &mut words[place(piece.start.0)..place(piece.end.0)]).unreadable;
            at = piece.end.0;
        }
        words[place(at)..].fill(0);
        self.overlay.lay_over(address, words);
        unread + (end - at)
    }
}
