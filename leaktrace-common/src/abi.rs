//! The layout of every value that crosses between the BPF programs and userspace.
//!
//! All types are `repr(C)` without implicit padding; sizes are in bytes, times in the kernel's jiffies unless named
//! `_ns`.

use crate::table::Bucket;
use crate::unwind::{FileKey, Stop};

/// Address bits in a block's key; the process slot lies above them.
pub const ADDRESS_BITS: u32 = 48;
/// Process slots: 1 to this number less one. Slot 0 means "none", so that no key is 0.
pub const PROCESS_SLOTS: u32 = 1 << 16;
/// The process slot of a thread whose process is not traced.
pub const NOT_TRACED: u32 = PROCESS_SLOTS;

/// Only processes of a name are traced (bits of the global `FILTERS`).
pub const FILTER_COMM: u32 = 1;
/// Only processes of a user are traced.
pub const FILTER_UID: u32 = 2;
/// Only processes in a control group are traced.
pub const FILTER_CGROUP: u32 = 4;
/// How many names, users or control groups there may be.
pub const MAX_FILTERS: u32 = 256;

/// Files whose unwind tables can be found without a process' list of mappings.
pub const MAX_UNWIND_FILES: u32 = 8192;

/// Frames in one element of the frames array. Each site has one, by its own index, for its innermost frames; those of
/// deeper stacks have more, by [`frames_key`].
pub const FRAMES_PER_CHUNK: usize = 32;
/// The deepest stack that can be kept.
pub const MAX_DEPTH: usize = 1024;
/// Chunks of the deepest stack.
pub const MAX_CHUNKS: usize = MAX_DEPTH / FRAMES_PER_CHUNK;
/// Frames walked in one call of a program: a program that walked the deepest stack in one loop would take the verifier
/// more instructions than it bears.
pub const STRETCH: u32 = 64;
/// Slots of scratch memory for stack walks in progress. Four a CPU were measured to be too few where the kernel
/// preempts programs.
pub const SCRATCH_SLOTS: u32 = 256;
/// Words of a user stack read at once. A read costs 80 ns whatever its length, and 10 more for each KiB.
pub const WINDOW_WORDS: usize = 256;

/// An outstanding block: what was asked for, where, when.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Block {
    /// Bytes requested.
    pub size: u64,
    /// Index of its site plus one; 0 while the place is being filled or emptied.
    pub site: u32,
    /// When it was booked: in [`BLOCK_TIME`] the lowest bits of the kernel's jiffies, which the verifier turns into a plain load
    /// where the clock costs 35 ns. They advance with `CLOCK_MONOTONIC` and wrap after 24 days or more. Beside them
    /// [`BLOCK_IGNORED`]: here it goes wherever the record goes, and no program looks at it.
    pub time: u32,
}

/// Set in [`Block::time`] if the program wants no leak reported of the block (`__lsan_ignore_object`, `__lsan_disable`).
pub const BLOCK_IGNORED: u32 = 1 << 31;
/// The bits of [`Block::time`] that are a time.
pub const BLOCK_TIME: u32 = BLOCK_IGNORED - 1;

impl Block {
    /// Whether the program wants no leak reported of it.
    #[must_use]
    pub const fn is_ignored(&self) -> bool {
        self.time & BLOCK_IGNORED != 0
    }
}

/// How much later than now a time may seem, jiffies: clocks are read one after the other.
const SKEW: u32 = 1 << 16;

/// Jiffies from `then` to `now`, of both of which the bits of [`BLOCK_TIME`] count.
#[must_use]
pub const fn jiffies_since(then: u32, now: u32) -> u32 {
    let since = now.wrapping_sub(then) & BLOCK_TIME;
    if since > BLOCK_TIME - SKEW { 0 } else { since }
}

/// How far in front of an address the programs look for the block that it lies in, bytes. What a program ignores by an address
/// that is further in, [`Inside`] keeps.
pub const IGNORED_REACH: u64 = 4096;
/// How many such addresses there is room for.
pub const MAX_INSIDE: u32 = 16_384;

/// When the address in a block that begins further in front was ignored last: as [`Block::time`].
pub type Inside = u32;

/// The running account of one (process, stack). While sampling, its numbers are in the units of `sampling::BYTES_SHIFT`
/// and `sampling::COUNT_SHIFT`, and so are those of [`Process`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Site {
    /// Bytes of all blocks ever booked here.
    pub alloc_bytes: u64,
    /// All blocks ever booked here.
    pub alloc_count: u64,
    /// Bytes of those since freed.
    pub free_bytes: u64,
    /// Those since freed.
    pub free_count: u64,
    /// The process slot; 0 until the site's frames are in place.
    pub process: u32,
    /// Frames kept.
    pub depth: u32,
    /// [`SITE_TRUNCATED`] and the like.
    pub flags: u32,
    /// The longest that a block lived that was freed, jiffies. Nothing without `free_count`.
    pub longest_life: u32,
    /// The [`Process::layout`] that was in force at its allocations.
    pub layout: u64,
    /// Blocks freed by the next recorded call of the thread that had allocated them.
    pub temporary_count: u64,
}

/// The stack went on beyond the frames kept.
pub const SITE_TRUNCATED: u32 = 1;
/// The stack could not be kept: the account of all such blocks of a process.
pub const SITE_FRAMELESS: u32 = 2;
/// Frame pointers were followed somewhere, for want of an unwind row.
pub const SITE_GUESSED: u32 = 4;
/// Some of that was for want of a table that was not there yet: frames may be missing in the middle.
pub const SITE_UNREADY: u32 = 8;
/// Where in a site's flags the [`Stop`] stands that its walk ended with; not where it was cut.
pub const SITE_STOP_SHIFT: u32 = 8;

/// Stacks are walked by frame pointers alone.
pub const UNWIND_FP: u32 = 0;
/// Stacks are walked by unwind tables, and by frame pointers where there are none.
pub const UNWIND_AUTO: u32 = 1;
/// Stacks are walked by unwind tables and end where there are none.
pub const UNWIND_DWARF: u32 = 2;

/// What a walk has to say, in one word: bits 0..16 how many frames it left, bits 32..64 the flags of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked(u64);

impl Walked {
    /// `depth` frames, the [`Stop`] by its discriminant that says why there are no more, and [`SITE_GUESSED`] and
    /// [`SITE_UNREADY`] as they apply.
    #[inline(always)]
    #[must_use]
    pub const fn new(depth: u32, stop: u32, guesses: u32) -> Self {
        let flags = (stop & 0xff) << SITE_STOP_SHIFT | guesses & (SITE_GUESSED | SITE_UNREADY);
        Self((flags as u64) << 32 | depth as u64)
    }

    /// The word.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Of the word.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(word: u64) -> Self {
        Self(word)
    }

    /// Frames in the scratch slot: at most one more than are kept.
    #[inline(always)]
    #[must_use]
    pub const fn depth(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// [`SITE_GUESSED`], [`SITE_UNREADY`] and the [`Stop`].
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Why the walk of a site with these flags ended; `None` where it was cut, or for a site without frames. A walk that
/// reached its end without a table that it should have had is not complete.
#[must_use]
pub fn site_stop(flags: u32) -> Option<Stop> {
    if flags & (SITE_TRUNCATED | SITE_FRAMELESS) != 0 {
        return None;
    }
    match Stop::from_code(flags >> SITE_STOP_SHIFT & 0xff) {
        Some(Stop::Outermost) if flags & SITE_UNREADY != 0 => Some(Stop::TablePending),
        stop => stop,
    }
}

/// One life of a process: from its first event (or its exec) to its exec or exit.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Its pid.
    pub tgid: u32,
    /// [`PROCESS_ALIVE`] and the like; 0 for a slot never used.
    pub state: u32,
    /// Bytes outstanding now.
    pub live_bytes: u64,
    /// The most that were ever outstanding.
    pub peak_bytes: u64,
    /// Frees of blocks we do not know, and reallocations of such. One that is not to be recorded and smaller than 64 KiB
    /// counts even if it fails, as it does where memory has run out.
    pub untracked_frees: u64,
    /// Of these, frees by which the C library gave up at threads' ends what it had kept for them.
    pub thread_end_frees: u64,
    /// Calls that never returned: left by longjmp, an exception, or the thread's end.
    pub abandoned_calls: u64,
    /// Index of its frameless site plus one; 0 where there was no room even for that.
    pub frameless_site: u32,
    /// Explicit padding.
    pub padding: u32,
    /// `CLOCK_MONOTONIC` at registration.
    pub seen_ns: u64,
    /// Jiffies at registration.
    pub seen_jiffies: u64,
    /// `CLOCK_MONOTONIC` at exec or exit.
    pub ended_ns: u64,
    /// Where its list of mappings lies in the unwind pool (`unwind::ProcessWord`); 0 for none yet. Userspace writes it.
    pub unwind_list: u64,
    /// For which layout that list is: [`list_for`] of the two. Where it is for another, it is not used. Userspace writes it.
    pub list_for: u64,
    /// What lies where in its address space, as a number that is part of its sites' keys: bits 0..32 of the objects that the
    /// dynamic linker has mapped, 0 until it unmaps one for the first time; the programs write it. Bits 32..64 how often
    /// userspace saw that something else was replaced; userspace writes that.
    pub layout: u64,
    /// Its name at registration, NUL-padded.
    pub comm: [u8; 16],
}

/// What [`Process::list_for`] must be where a list of this generation is for what the dynamic linker has mapped now.
#[inline(always)]
#[must_use]
pub const fn list_for(layout: u64, generation: u32) -> u64 {
    layout << 32 | generation as u64
}

/// The process runs.
pub const PROCESS_ALIVE: u32 = 1;
/// The process has exited.
pub const PROCESS_EXITED: u32 = 2;
/// The process has replaced itself by another program.
pub const PROCESS_EXECED: u32 = 3;

/// What a thread has in flight. Only the thread itself writes it, save for userspace after the trace was stopped.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Thread {
    /// Stack pointer at the entry of the outermost call in flight; 0 where none is.
    pub sp: u64,
    /// Stack pointer of the call that returned last: one that was reached by a jump returns a second time there.
    pub returned_sp: u64,
    /// Bytes asked for by that call.
    pub size: u64,
    /// Where `posix_memalign` will store the address; with [`CALL_TO_EXIT`] the return address.
    pub out: u64,
    /// The block that `realloc` has taken aside.
    pub old_address: u64,
    /// Its record.
    pub old: Block,
    /// Index of the call's site plus one; 0 where the new block is not wanted (filtered).
    pub site: u32,
    /// One of the `CALL_` constants, with or without [`CALL_TO_EXIT`].
    pub call: u32,
    /// The process slot, or [`NOT_TRACED`].
    pub process: u32,
    /// The thread.
    pub tid: u32,
    /// Of the process.
    pub tgid: u32,
    /// Where this lies in the array of threads.
    pub place: u32,
    /// Way to go to the next hit, in the units of `sampling::GAP_SHIFT`; 0 before the first draw.
    pub gap: u64,
    /// Frees of blocks we do not know that were made from one place in the allocator itself, since the last allocation: the
    /// thread's cache, if no other such place follows before the thread's end. Counted in the process' too.
    pub cache_frees: u32,
    /// Where the first of them returned to, the lower half.
    pub cache_freed_from: u32,
    /// The block that was freed last.
    pub freed_address: u64,
    /// Stack pointer at the entry of that call; 0 where an allocation function was called since.
    pub freed_sp: u64,
    /// [`BLOCK_IGNORED`] for its blocks while `disabled` is not 0, else 0.
    pub ignores: u32,
    /// How many calls of `__lsan_disable` it has made that no `__lsan_enable` has ended.
    pub disabled: u32,
    /// The block that its last recorded call allocated; 0 where that was a free.
    pub last_allocated: u64,
}

/// The call returns the address of a new block.
pub const CALL_ALLOCATE: u32 = 0;
/// The call returns the address of a moved or resized block.
pub const CALL_REALLOCATE: u32 = 1;
/// The call stores the address through its first argument and returns 0.
pub const CALL_POSIX_MEMALIGN: u32 = 2;
/// The call returns the address of a new string, whose size shows only then.
pub const CALL_STRING: u32 = 3;
/// The call resizes a block where it lies and returns its real size, which is below the size asked for if that failed.
pub const CALL_RESIZE: u32 = 4;
/// Added to one of these: the call ends at a probe on the function's way out, and `out` is its return address.
pub const CALL_TO_EXIT: u32 = 1 << 8;

/// What could not be recorded, each the count of a named failure.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Blocks not booked: the block table was full, or the thread table was.
    pub allocs_dropped: u64,
    /// Their bytes.
    pub bytes_dropped: u64,
    /// Blocks booked without their stack: no room for another, or no scratch memory.
    pub stacks_dropped: u64,
    /// Returns of calls whose entry was overwritten meanwhile.
    pub returns_missed: u64,
    /// Events for userspace that found the ring full.
    pub events_lost: u64,
    /// Frees and calls of processes beyond [`PROCESS_SLOTS`] or threads beyond the thread table.
    pub threads_dropped: u64,
    /// Those of processes among them.
    pub slots_dropped: u64,
    /// Stacks kept with fewer frames than they have (counted once per stack).
    pub stacks_truncated: u64,
    /// Blocks not booked that [`block_key`] has no key for: their own table was full.
    pub wide_dropped: u64,
    /// Their bytes.
    pub wide_bytes_dropped: u64,
    /// Calls by which a program said of blocks that they are no leaks, and of which it is not known which blocks these are.
    pub marks_lost: u64,
    /// What programs told of their samples and could not be read, or cannot be: a block that stands for less than it has.
    pub samples_lost: u64,
}

/// What userspace tells the running programs, and they it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Control {
    /// Nonzero: the programs do nothing any more, so that the tables stand still.
    pub stopped: u64,
    /// Always 0, which the verifier cannot know. See `never` in the programs.
    pub never: u64,
    /// The next process slot never used yet.
    pub next_slot: u64,
    /// Lives of followed processes that have ended so far, by exec or exit.
    pub followed_ends: u64,
    /// The most bytes that a small block has stood for that a program has drawn itself: no less than its mean distance between
    /// hits, and at most 1.4 times that. 0 before the first.
    pub sample_weight: u64,
}

/// What the kernel says of a mapping.
#[repr(C)]
pub struct FoundMapping {
    /// Nonzero once all of it could be read.
    pub known: u64,
    /// First address.
    pub start: u64,
    /// Of `start` in the file, pages.
    pub page: u64,
    /// `vm_flags`
    pub flags: u64,
    /// The kernel's `struct file`; 0 where there is none.
    pub file: u64,
    /// The kernel's `struct inode` of the file.
    pub inode: u64,
    /// The kernel's `struct super_block` of the inode.
    pub super_block: u64,
    /// The file.
    pub key: FileKey,
}

/// Scratch memory of one stack walk.
#[repr(C)]
pub struct Scratch {
    /// Nonzero while claimed.
    pub busy: u64,
    /// The walk: instruction pointer, stack pointer, frame pointer, and `Walk::state`. (By frame pointers alone: nothing, the
    /// last frame's address, frame pointer, nothing.)
    pub walk: [u64; 4],
    /// [`SITE_GUESSED`] and [`SITE_UNREADY`] as far as the walk has come.
    pub guesses: u64,
    /// What the walk has to say: a [`Walked`]. Between two stretches the frames so far, in the same place.
    pub walked: u64,
    /// Between two stretches: the hash of the frames so far.
    pub hash: u64,
    /// The process' layout when the walk began.
    pub layout: u64,
    /// Its list of mappings for that layout, or 0.
    pub list: u64,
    /// What the kernel said of the mapping that was asked for last.
    pub found: FoundMapping,
    /// Address that `window` was read from.
    pub base: u64,
    /// Bytes of `window` that were read.
    pub length: u64,
    /// A copy of user stack memory.
    pub window: [u64; WINDOW_WORDS],
    /// The stack's frames, innermost first; one more than a stack can keep, so that truncation shows. Last, so that what
    /// shallow stacks use lies together.
    pub frames: [u64; MAX_DEPTH + 1],
}

/// What the ring buffer carries: lives beginning and ending.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Event {
    /// One of the `EVENT_` constants.
    pub kind: u32,
    /// The process slot.
    pub process: u32,
    /// The pid.
    pub tgid: u32,
    /// The lower half of the life's `seen_ns`, which tells it from others that had or will have its slot.
    pub seen: u32,
}

/// What the ring buffer carries where an address space changes: begins with what all events have.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct LayoutEvent {
    /// As of all events; the kind is [`EVENT_LAYOUT`].
    pub event: Event,
    /// [`Process::layout`] from now on, of which bits 0..32 are told.
    pub layout: u64,
    /// `CLOCK_MONOTONIC` before it was stored.
    pub before_ns: u64,
    /// The same after that.
    pub after_ns: u64,
}

/// What the ring buffer carries of a thread that ends with its process: begins with what all events have.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ThreadEvent {
    /// As of all events; the kind is [`EVENT_THREAD`], and there need be no slot.
    pub event: Event,
    /// The thread.
    pub tid: u64,
    /// Where its thread-local storage is, and the base of gs, as the kernel last put them aside; 0 where it does not tell.
    pub bases: [u64; 2],
    /// The kernel's `struct pt_regs` of x86-64, 21 words, or `struct user_pt_regs` of aarch64, 34 words.
    pub registers: [u64; THREAD_REGISTERS],
}

/// Words of registers in a [`ThreadEvent`].
pub const THREAD_REGISTERS: usize = 34;

/// A process was given a slot.
pub const EVENT_PROCESS: u32 = 1;
/// The process of a slot has exited.
pub const EVENT_EXIT: u32 = 2;
/// The process of a slot has begun another program.
pub const EVENT_EXEC: u32 = 3;
/// The process of a slot has another layout.
pub const EVENT_LAYOUT: u32 = 4;

/// A thread of the process that is judged at its end has ended with it, not by itself.
pub const EVENT_THREAD: u32 = 5;

/// What a probed function is, in bits 32 to 39 of its probe's cookie, with what the cookie's arguments A, B and C are.
/// A = size: `malloc`, `memalign`, `aligned_alloc`, `valloc`, `operator new`.
pub const FUNCTION_MALLOC: u32 = 0;
/// A = count, B = size.
pub const FUNCTION_CALLOC: u32 = 1;
/// A = where to store the address, B = size.
pub const FUNCTION_POSIX_MEMALIGN: u32 = 2;
/// A = block, B = size.
pub const FUNCTION_REALLOC: u32 = 3;
/// A = block, B = count, C = size.
pub const FUNCTION_REALLOCARRAY: u32 = 4;
/// A = block: `free`, `operator delete`.
pub const FUNCTION_FREE: u32 = 5;
/// No argument: a copy of a string that is allocated by nothing else that is probed.
pub const FUNCTION_STRDUP: u32 = 6;
/// A = block, B = size.
pub const FUNCTION_XALLOCX: u32 = 7;
/// A = what is returned. The last instruction of a function whose cookie has [`COOKIE_EXITS`].
pub const FUNCTION_EXIT: u32 = 8;
/// No function: where a dynamic linker tells of changes. Its program takes no cookie of this kind.
pub const FUNCTION_LINKER: u32 = 9;
/// A = an address in a block that is no leak: `__lsan_ignore_object`. Its program and that of the two that follow is none of
/// the allocation functions'.
pub const FUNCTION_IGNORE: u32 = 10;
/// No argument: what the thread allocates from now on is no leak. `__lsan_disable`.
pub const FUNCTION_DISABLE: u32 = 11;
/// No argument: ends one of those. `__lsan_enable`.
pub const FUNCTION_ENABLE: u32 = 12;

// 13 to 15 are those of `whole`.

/// No function: where a program tells of an allocation that it has drawn for its own sample (`otel_memory:alloc`). A = block, B = size,
/// C = the bytes that it stands for. The cookie has the place of its `drawn::SampleArguments`; its program and that of the next is
/// none of the allocation functions'.
pub const FUNCTION_SAMPLED: u32 = 16;
/// No function: where a program tells that it frees such a block (`otel_memory:free`). A = block.
pub const FUNCTION_SAMPLE_FREED: u32 = 17;

/// Set in the cookie of a function that calls no other probed one, so that a call of it that is not wanted need not be
/// remembered until it returns. For a `realloc` that holds of what it is given a block and a size for; without either it
/// may be `malloc` or `free`.
pub const COOKIE_LEAF: u64 = 1 << 40;

/// Set in the cookie of a function that may throw a C++ exception: its return address must stay as it is, since no exception
/// gets past a return probe. Probes on its ways out see its returns.
pub const COOKIE_EXITS: u64 = 1 << 41;

/// Set in the cookie of a `free` that its own allocator calls at a thread's end, for the blocks that it has kept for the thread.
pub const COOKIE_THREAD_CACHE: u64 = 1 << 42;

/// Stands for the kernel function `bpf_session_cookie` in the object; the loader puts its BTF id there.
pub const KFUNC_SESSION_COOKIE: u32 = 0x7ea0_0001;

/// Where the function stands in a cookie.
pub const COOKIE_FUNCTION_SHIFT: u32 = 32;

/// The function that a cookie names.
#[inline(always)]
#[must_use]
pub const fn cookie_function(cookie: u64) -> u32 {
    (cookie >> COOKIE_FUNCTION_SHIFT) as u32 & 0xff
}

/// The key of a block of a user program's allocator; `None` for an address that has more than [`ADDRESS_BITS`] bits, which
/// is for [`crate::wide`].
#[inline(always)]
#[must_use]
pub fn block_key(process: u32, address: u64) -> Option<u64> {
    if address >> ADDRESS_BITS == 0 { Some(u64::from(process) << ADDRESS_BITS | address) } else { None }
}

/// The key of frames `chunk * FRAMES_PER_CHUNK` and following of a site by its index, `chunk` being 1 to
/// [`MAX_CHUNKS`] less one. It names them exactly, no other site's frames can have it.
#[inline(always)]
#[must_use]
pub const fn frames_key(site: u32, chunk: u32) -> u64 {
    (site as u64) << 8 | (chunk & 0xff) as u64
}

/// The process slot and the address of a block's key.
#[inline(always)]
#[must_use]
pub const fn split_block_key(key: u64) -> (u32, u64) {
    ((key >> ADDRESS_BITS) as u32, key & ((1 << ADDRESS_BITS) - 1))
}

const _: () = {
    assert!(size_of::<Block>() == 16);
    assert!(size_of::<Site>() == 64);
    assert!(size_of::<Process>() == 120);
    assert!(size_of::<Thread>() == 128);
    assert!(size_of::<Losses>() == 96);
    assert!(size_of::<Control>() == 40);
    assert!(size_of::<Event>() == 16);
    assert!(size_of::<LayoutEvent>() == 40);
    assert!(size_of::<ThreadEvent>() == 312);
    assert!(size_of::<Bucket>() == 64);
};

#[cfg(feature = "user")]
mod pod {
    use super::{Block, Control, Event, Losses, Process, Site, Thread};
    use crate::drawn::SampleArgument;
    use crate::unwind::{FileKey, FileTable};
    use crate::wide::WideBlock;

    macro_rules! pod {
        ($($type:ty),*) => {
            $(
                // SAFETY: `repr(C)`, plain integers only, no implicit padding (sizes asserted above).
                unsafe impl aya::Pod for $type {}
            )*
        };
    }

    pod!(Block, Control, Event, FileKey, FileTable, Losses, Process, SampleArgument, Site, Thread, WideBlock);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_beside_the_mark_and_across_their_wrap() {
        assert_eq!(jiffies_since(5, 9), 4);
        assert_eq!(jiffies_since(5 | BLOCK_IGNORED, 9), 4);
        assert_eq!(jiffies_since(BLOCK_TIME, 2), 3);
        assert_eq!(jiffies_since(5, 0xfff0_0000), 0x7fef_fffb, "the clock of the kernel has more bits");
        assert_eq!(jiffies_since(9, 5), 0, "the other clock was read first");
        assert!(Block { time: 7 | BLOCK_IGNORED, ..Block::default() }.is_ignored());
        assert!(!Block { time: BLOCK_TIME, ..Block::default() }.is_ignored());
    }
}
