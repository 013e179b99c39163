//! The state of threads: found by thread id, made at a thread's first event, removed at its end.

use leaktrace_common::abi::{NOT_TRACED, Thread};
use leaktrace_common::table::{self, Inserted, Place};

use crate::maps::{Keys, THREAD_KEYS, THREADS, unknown};
use crate::process::{self, Id};
use crate::{annotations, config, flow, stats::lose};

const NONE: u64 = u64::MAX;

#[inline(always)]
fn keys() -> Keys {
    Keys::new(&THREAD_KEYS, config::thread_buckets())
}

/// The place of a thread as a word, [`NONE`] where it has none. A global function: verified once, not at every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thread_find(tid: u64) -> u64 {
    table::find(&keys(), tid).map_or(NONE, Place::word)
}

/// [`thread_find`], without the call for most.
#[inline(always)]
fn find(tid: u64) -> u64 {
    match table::find_first(&keys(), tid) {
        Some(place) => place.word(),
        None => unknown(thread_find(tid)),
    }
}

/// Gives a thread a state, and its process a slot if it has none. Returns as [`thread_find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thread_register(tid: u64, tgid: u64) -> u64 {
    let process = process::slot_of(tgid as u32);
    if process == 0 {
        lose!(threads_dropped);
        lose!(slots_dropped);
        return NONE;
    }
    let place = match table::insert(&keys(), tid) {
        Inserted::New(place) | Inserted::Present(place) => place,
        Inserted::Full => {
            lose!(threads_dropped);
            return NONE;
        }
    };
    let disabled = if tid == tgid { annotations::inherited(tid as u32) } else { 0 };
    if let Some(thread) = THREADS.get_ptr_mut(place.index()) {
        // SAFETY: the place is this thread's own. Fields one by one, so that no memset call is made of it.
        unsafe {
            (*thread).sp = 0;
            (*thread).returned_sp = 0;
            (*thread).old_address = 0;
            (*thread).gap = 0;
            (*thread).cache_frees = 0;
            (*thread).freed_sp = 0;
            (*thread).disabled = disabled;
            (*thread).ignores = annotations::mark(disabled);
            (*thread).process = process;
            (*thread).tid = tid as u32;
            (*thread).tgid = tgid as u32;
            (*thread).place = place.index();
        }
        if config::bursts() != 0 {
            flow::forget(place.index());
        }
    }
    place.word()
}

/// The state of the current thread, made if it has none; `None` where there is no room or the process is not traced.
#[inline(always)]
pub fn current(id: Id) -> Option<*mut Thread> {
    let mut word = find(id.tid());
    if word == NONE {
        word = unknown(thread_register(id.tid(), id.tgid()));
        if word == NONE {
            return None;
        }
    }
    let thread = traced(word);
    if thread.is_none() && config::filters() != 0 {
        // What the filters ask for may have come about since: a name, a user, a control group.
        return traced(unknown(thread_reconsider(word, id.tgid())));
    }
    thread
}

/// Asks again whether the process of a thread that was not traced is to be, and returns the thread's place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thread_reconsider(word: u64, tgid: u64) -> u64 {
    let process = process::slot_of(tgid as u32);
    if process != 0
        && let Some(thread) = THREADS.get_ptr_mut(Place::from_word(word).index())
    {
        // SAFETY: a valid element of the map, the current thread's own.
        unsafe { (*thread).process = process };
    }
    word
}

/// The state of the current thread, whether its process is traced or not, made if it has none; `None` where there is no room.
#[inline(always)]
pub fn any(id: Id) -> Option<*mut Thread> {
    let mut word = unknown(thread_find(id.tid()));
    if word == NONE {
        word = unknown(thread_register(id.tid(), id.tgid()));
    }
    if word == NONE { None } else { THREADS.get_ptr_mut(Place::from_word(word).index()) }
}

/// [`Thread::disabled`] of the current thread.
#[inline(always)]
pub fn disabled(id: Id) -> u32 {
    let word = unknown(thread_find(id.tid()));
    let thread = if word == NONE { None } else { THREADS.get_ptr_mut(Place::from_word(word).index()) };
    // SAFETY: a valid element of the map.
    thread.map_or(0, |thread| unsafe { (*thread).disabled })
}

/// The state of the current thread, if it has one.
#[inline(always)]
pub fn existing(id: Id) -> Option<*mut Thread> {
    let word = unknown(thread_find(id.tid()));
    if word == NONE { None } else { traced(word) }
}

/// What [`of_ticket`] takes: of a thread's state, not 0.
///
/// # Safety
/// `thread` must be the current thread's state.
#[inline(always)]
pub unsafe fn ticket(thread: *mut Thread) -> u64 {
    // SAFETY: the caller's promise.
    u64::from(unsafe { (*thread).place }) + 1
}

/// The state of the current thread, which had it when it was given this ticket. Cheaper than looking for it.
#[inline(always)]
pub fn of_ticket(ticket: u64, id: Id) -> Option<*mut Thread> {
    let thread = THREADS.get_ptr_mut((ticket - 1) as u32)?;
    // A process that was forked inside of a call returns from it with its parent's ticket.
    // SAFETY: a valid element of the map.
    if u64::from(unsafe { (*thread).tid }) == id.tid() { Some(thread) } else { existing(id) }
}

#[inline(always)]
fn traced(word: u64) -> Option<*mut Thread> {
    let thread = THREADS.get_ptr_mut(Place::from_word(word).index())?;
    // SAFETY: a valid element of the map.
    if unsafe { (*thread).process } == NOT_TRACED { None } else { Some(thread) }
}

/// Forgets a thread.
#[inline(always)]
pub fn remove(tid: u64) {
    let word = unknown(thread_find(tid));
    if word != NONE {
        table::remove(&keys(), tid, Place::from_word(word));
    }
}
