//! Which blocks of a process can still be reached, while nothing of it runs.
//!
//! In: the blocks that the tables have of it, its threads. Out: a kind for each block, and how that was found.

use procfs::process::Process;
use std::thread;
use std::time::Duration;

use super::Trace;
use super::capture::Draft;
use crate::analysis::reachability::{
    Blocks, Circumstances, Heuristics, Memory, Rules, Thread, TooFar, judge, regions, scan, vtables,
};
use crate::lives::exiting;
use crate::model::{Address, LeakCheck, LeakCheckMode, Pid, Reachability, Untraced};
use crate::process::kernel_roots::KernelRoots;
use crate::process::maps::AddressSpace;
use crate::process::memory::{MemoryError, Reader, Run, Survey};
use crate::process::registers::{Registers, StoppedThread};

/// Where glibc keeps what it mangles pointers with, in bytes from a thread's control block (`pointer_guard` of `tcbhead_t` in
/// sysdeps/x86_64/nptl/tls.h).
const POINTER_GUARD: u64 = 0x30;

/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
const RED_ZONE: u64 = 128;

/// A block of the process.
#[derive(Debug, Clone, Copy)]
pub struct KnownBlock {
    /// Where it lies.
    pub address: Address,
    /// Bytes asked for.
    pub size: u64,
    /// Index into the capture's sites.
    pub site: u32,
    /// It is old enough for the report.
    pub counts: bool,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    /// Its memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its blocks cannot be indexed.
    #[error(transparent)]
    Blocks(#[from] TooFar),
}

impl Trace {
    /// Judges the blocks of a process that is about to end, given the one thread of it that is there. Returns why it could not.
    pub(super) fn check_leaks(
        &self,
        draft: &mut Draft,
        pid: Pid,
        thread: &StoppedThread,
        untraced: &[Untraced],
    ) -> Result<(), String> {
        let options = &self.options;
        let no_verdict = |why: String| format!("no verdict on the blocks of process {pid}: {why}");
        if options.sample_bytes.is_some() {
            return Err(no_verdict("only a sample of them is known (--sample-bytes)".to_owned()));
        }
        let Some((process, blocks, losses)) = draft.kept_blocks() else {
            return Err(no_verdict("nothing of it was recorded".to_owned()));
        };
        let is_partly = untraced.iter().any(|process| process.pid == pid);
        let since_start =
            !options.filters_sizes() && process.untracked_frees == 0 && !is_partly && !losses.may_miss_blocks();
        let mut threads = vec![thread.clone()];
        threads.extend(self.ended_threads.iter().filter(|ended| ended.tid != thread.tid).cloned());
        let space = self.processes.space(process.life);
        let still = Still { pid, space, tid: thread.tid, threads: &threads, since_start };
        let (kinds, check) = check(&still, blocks).map_err(|obstacle| no_verdict(obstacle.to_string()))?;
        process.leak_check = Some(check);
        draft.judge(&kinds);
        Ok(())
    }
}

/// A process of which nothing runs.
struct Still<'a> {
    /// The process.
    pid: Pid,
    /// What is mapped where.
    space: Option<&'a AddressSpace>,
    /// An id by which its memory can be read: that of a thread that has not ended.
    pub tid: Pid,
    /// Its threads, as far as they are there.
    pub threads: &'a [StoppedThread],
    /// Every block that it has was recorded.
    pub since_start: bool,
}

/// Judges `blocks`, which are put in the order of their addresses, and the kinds with them.
///
/// # Errors
/// Why not.
fn check(still: &Still<'_>, blocks: &mut Vec<KnownBlock>) -> Result<(Vec<Reachability>, LeakCheck), Obstacle> {
    blocks.sort_unstable_by_key(|block| block.address);
    // What a `realloc` in flight has set aside may stand in the table again.
    blocks.dedup_by_key(|block| block.address);
    let index = Blocks::new(blocks.iter().map(|block| (block.address.0, block.size)))?;
    let survey = Survey::of(still.tid)?;
    let memory = MemoryOf { reader: Reader::open(still.tid)?, runs: &survey.runs };
    let live: Vec<Live> = still.threads.iter().map(|thread| still.live(thread, &memory)).collect();
    let threads: Vec<Thread> = live.iter().map(|live| live.thread).collect();
    let circumstances =
        Circumstances { threads: &threads, arguments: arguments(still.tid), since_start: still.since_start };
    let regions = regions(&survey, &index, &memory, circumstances);
    let given: Vec<u64> =
        KernelRoots::of(still.tid).words().chain(live.iter().flat_map(|live| live.words.iter().copied())).collect();
    let rules = Rules {
        heuristics: Heuristics::ALL,
        guard: threads.first().and_then(|thread| guard(thread, &memory)),
        vtables: &vtables::places(&survey),
        threads: thread::available_parallelism().map_or(1, usize::from),
    };
    let scan = scan(&index, &regions, &given, &memory, &rules);
    let tables = vtables::known(&scan, &survey.code, &memory);
    let is_vtable = |address: u64| tables.get(&address).copied().unwrap_or_default();
    let check = LeakCheck {
        mode: LeakCheckMode::Exact,
        pause: Duration::ZERO,
        scanned_bytes: scan.scanned,
        unread_bytes: scan.unread,
        passes: 1,
    };
    Ok((judge(&index, &scan, rules.heuristics, &is_vtable).kinds, check))
}

/// What of a thread is the program's.
struct Live {
    thread: Thread,
    /// What its registers contain.
    words: Vec<u64>,
}

impl Still<'_> {
    fn live(&self, stopped: &StoppedThread, memory: &MemoryOf<'_>) -> Live {
        let registers = &stopped.registers;
        let control_block = registers.thread_pointer().0;
        let live = |live_from, words| Live { thread: Thread { live_from, control_block }, words };
        if registers.system_call() == libc::SYS_exit {
            // It has left its function: only what the C library keeps of it is there.
            let end = if stopped.tid == self.pid { arguments(self.tid) } else { None };
            return live(end.unwrap_or(control_block), Vec::new());
        }
        let read = |address: u64| {
            let mut word = [0];
            (address.is_multiple_of(8) && memory.read(address, &mut word) == 0).then_some(word[0])
        };
        let exiting = Some(registers).filter(|registers| registers.system_call() == libc::SYS_exit_group);
        let frame = exiting.and_then(Registers::by_dwarf_number);
        if let (Some(frame), Some(space)) = (frame, self.space)
            && let Some(caller) = exiting::before_exit(space, frame, &read)
        {
            return live(caller.stack_pointer, caller.kept.to_vec());
        }
        let words = registers.general().iter().chain(registers.extended()).copied();
        live(registers.stack_pointer().0.saturating_sub(RED_ZONE), words.collect())
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
        unread + (end - at)
    }
}
