//! The maps. Sizes of 1 are placeholders that userspace replaces; arrays marked mappable are read through `mmap`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, ProgramArray, Queue, RingBuf};
use leaktrace_common::abi::{
    Block, Control, FRAMES_PER_CHUNK, Inside, Losses, MAX_FILTERS, MAX_INSIDE, MAX_UNWIND_FILES, PROCESS_SLOTS,
    Process, SCRATCH_SLOTS, Scratch, Site, Thread,
};
use leaktrace_common::drawn::{MAX_SAMPLE_PLACES, SampleArguments};
use leaktrace_common::flow::{Flow, FlowThread, Windows};
use leaktrace_common::sampling;
use leaktrace_common::table::{Bucket, Buckets};
use leaktrace_common::unwind::{CACHE_SLOTS, Chunk, FileKey, FileTable};
use leaktrace_common::wide::WideBlock;

/// Keys of outstanding blocks: process slot and address.
#[map]
pub static BLOCK_KEYS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Their records.
#[map]
pub static BLOCKS: Array<Block> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Keys of outstanding blocks that [`BLOCK_KEYS`] has none for: `leaktrace_common::wide`.
#[map]
pub static WIDE_KEYS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Their records.
#[map]
pub static WIDE_BLOCKS: Array<WideBlock> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Keys of sites: a hash of process slot and frames.
#[map]
pub static SITE_KEYS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Their accounts.
#[map]
pub static SITES: Array<Site> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Keys of the frames of deep stacks beyond the innermost: `leaktrace_common::abi::frames_key`.
#[map]
pub static FRAME_KEYS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Frames: the innermost of each site, by its index, and from `FIRST_OUTER` on those that [`FRAME_KEYS`] gives places.
#[map]
pub static FRAMES: Array<[u64; FRAMES_PER_CHUNK]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Keys of threads: the thread id.
#[map]
pub static THREAD_KEYS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What each has in flight.
#[map]
pub static THREADS: Array<Thread> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Process slots by tgid, of processes alive.
#[map]
pub static SLOTS: HashMap<u32, u32> = HashMap::with_max_entries(PROCESS_SLOTS, BPF_F_NO_PREALLOC);
/// Slots that userspace gives back.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(PROCESS_SLOTS, 0);
/// Lives by slot.
#[map]
pub static PROCESSES: Array<Process> = Array::with_max_entries(PROCESS_SLOTS, BPF_F_MMAPABLE);

/// Processes that are traced where not everyone is: those named, and their descendants.
#[map]
pub static FOLLOWED: HashMap<u32, u8> = HashMap::with_max_entries(PROCESS_SLOTS, BPF_F_NO_PREALLOC);
/// Names of processes to be traced, NUL-padded.
#[map]
pub static COMMS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(MAX_FILTERS, 0);
/// Users whose processes are to be traced.
#[map]
pub static UIDS: HashMap<u32, u8> = HashMap::with_max_entries(MAX_FILTERS, 0);
/// Control groups whose processes, and those of groups in them, are to be traced.
#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(MAX_FILTERS, 0);

/// [`Thread::disabled`] of first threads that have no state yet, as their parents had it, by thread id.
#[map]
pub static INHERITED: HashMap<u32, u32> = HashMap::with_max_entries(PROCESS_SLOTS, BPF_F_NO_PREALLOC);
/// Addresses that were ignored and lie far inside of a block, or in none: process slot and address, as in [`BLOCK_KEYS`].
#[map]
pub static INSIDE: HashMap<u64, Inside> = HashMap::with_max_entries(MAX_INSIDE, BPF_F_NO_PREALLOC);

/// Unwind tables of objects and mapping lists of processes, in chunks that userspace allots.
#[map]
pub static UNWIND_POOL: Array<Chunk> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The same words as in [`PROCESSES`], by tgid, for processes that have no slot yet.
#[map]
pub static UNWIND_LISTS: HashMap<u32, u64> = HashMap::with_max_entries(PROCESS_SLOTS, BPF_F_NO_PREALLOC);
/// Where in the pool the tables of files are, for addresses that no list of mappings has yet.
#[map]
pub static UNWIND_FILES: HashMap<FileKey, FileTable> = HashMap::with_max_entries(MAX_UNWIND_FILES, BPF_F_NO_PREALLOC);
/// Rules that were found in the pool: see `leaktrace_common::unwind::CacheKey`.
#[map]
pub static RULE_CACHE: Array<u64> = Array::with_max_entries(CACHE_SLOTS, BPF_F_MMAPABLE);

/// Scratch memory of stack walks.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(SCRATCH_SLOTS, 0);
/// Quantiles of the distance between hits: entry i is reached with probability 1 - i / `sampling::STEPS`.
#[map]
pub static SAMPLE_GAPS: Array<u64> = Array::with_max_entries(sampling::STEPS + 1, 0);
/// x / (1 - exp(-x)) at x = i / `sampling::STEPS_PER_MEAN`.
#[map]
pub static SAMPLE_WEIGHTS: Array<u64> = Array::with_max_entries(sampling::STEPS + 1, 0);
/// Where the places that tell of samples have their arguments: an attach cookie names an entry.
#[map]
pub static SAMPLE_ARGUMENTS: Array<SampleArguments> = Array::with_max_entries(MAX_SAMPLE_PLACES, 0);
/// What flowed while windows were open: `flow::CLASSES` for each of `flow::FLOW_SLOTS` processes.
#[map]
pub static FLOWS: Array<Flow> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What each thread has in flight in a window.
#[map]
pub static FLOW_THREADS: Array<FlowThread> = Array::with_max_entries(1, 0);
/// Which window is open.
#[map]
pub static WINDOWS: Array<Windows> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What could not be recorded.
#[map]
pub static LOSSES: Array<Losses> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Orders from userspace.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// News for userspace.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Always empty: see `alloc::forbid_private_stack`. For the programs that may be sessions; the kernel allows a program
/// array only programs of one attach type.
#[map]
pub static SESSION_TAILS: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same for the other uprobe programs.
#[map]
pub static TAILS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// A bucket array as the table code wants it.
pub struct Keys {
    map: &'static Array<Bucket>,
    count: u32,
}

impl Keys {
    #[inline(always)]
    pub const fn new(map: &'static Array<Bucket>, count: u32) -> Self {
        Self { map, count }
    }
}

impl Buckets for Keys {
    #[inline(always)]
    fn count(&self) -> u32 {
        self.count
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut Bucket> {
        self.map.get_ptr_mut(index)
    }
}

/// A word as the verifier sees one that a global function returned: unknown. The compiler looks into the function and
/// drops bounds checks that it finds needless, which the verifier then misses.
#[inline(always)]
pub fn unknown(mut word: u64) -> u64 {
    // SAFETY: moves a register to itself. (No instruction at all would leave two lines of debug information at one place,
    // which the kernel refuses.)
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}
