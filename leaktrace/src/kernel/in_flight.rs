//! Calls of `realloc` that a stopped process is in the midst of.
//!
//! In: the threads' table. Out: who is in such a call, and the block that was given to it.
//!
//! From its entry to its return such a call's block is in the table as it was, and the allocator's code has it: the pointer may
//! be in its registers alone, and not as the program knows it. When the contents were moved, they are where no block is known
//! yet, and nothing may be left of them in the old one. Other calls hide nothing: what `malloc` has not returned yet holds no
//! pointer, and what is freed the program has given up.

use leaktrace_common::abi::{CALL_REALLOCATE, CALL_TO_EXIT, Thread};
use leaktrace_common::table::{BUCKET_KEYS, Bucket};

use super::Kernel;
use super::drain;
use crate::model::{Address, Pid};

/// A thread in `realloc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving {
    /// The thread.
    pub tid: Pid,
    /// The block that it gave.
    pub old: Address,
}

impl Moving {
    fn of(thread: &Thread) -> Option<Self> {
        let is_it = thread.sp != 0 && thread.old_address != 0 && thread.call & !CALL_TO_EXIT == CALL_REALLOCATE;
        is_it.then_some(Self { tid: Pid(thread.tid), old: Address(thread.old_address) })
    }
}

/// What threads are in the midst of.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    /// These calls.
    pub moving: Vec<Moving>,
    /// Blocks may be in use that stand in no table.
    pub hides_blocks: bool,
}

impl InFlight {
    /// That of a process of which nothing runs.
    #[must_use]
    pub fn of(kernel: &Kernel, pid: Pid) -> Self {
        let has_key = |(bucket, lane): &(u32, usize)| {
            // SAFETY: in bounds; a word of the mapping.
            let key = |keys: *mut Bucket| unsafe { (&raw const (*keys).keys[*lane]).read_volatile() };
            kernel.thread_keys.pointer(*bucket).is_some_and(|keys| key(keys) != 0)
        };
        let places = drain::used(&kernel.thread_keys, 0..kernel.thread_keys.elements())
            .flat_map(|bucket| (0..BUCKET_KEYS).map(move |lane| (bucket, lane)))
            .filter(has_key)
            .map(|(bucket, lane)| bucket * BUCKET_KEYS as u32 + lane as u32);
        let threads = places.filter_map(|place| kernel.threads.read(place));
        Self::by(threads.filter(|thread| thread.tgid == pid.0))
    }

    /// That of a process at its end, of which nothing runs, with what these threads were in that were killed with it. Their
    /// records are in the table no more, and stand where they were until other threads have theirs there.
    #[must_use]
    pub fn at_end(kernel: &Kernel, pid: Pid, killed: &[Pid]) -> Self {
        let threads = (0..kernel.threads.elements()).filter_map(|place| kernel.threads.read(place));
        let known: Vec<Thread> =
            threads.filter(|thread| thread.tgid == pid.0 && killed.contains(&Pid(thread.tid))).collect();
        let is_known = |tid: &Pid| known.iter().any(|thread| thread.tid == tid.0);
        let mut all = Self::of(kernel, pid);
        all.moving.extend(known.iter().filter_map(Moving::of));
        Self { hides_blocks: !all.moving.is_empty() || !killed.iter().all(is_known), ..all }
    }

    fn by(threads: impl Iterator<Item = Thread>) -> Self {
        let moving: Vec<Moving> = threads.filter_map(|thread| Moving::of(&thread)).collect();
        Self { hides_blocks: !moving.is_empty(), moving }
    }
}
