//! Counting what could not be recorded, and telling userspace.

use leaktrace_common::abi::{EVENT_LAYOUT, Event, LayoutEvent, Losses};
use leaktrace_common::atomic;

use crate::maps::{EVENTS, LOSSES};

/// Adds `n` to one counter of the losses.
#[inline(always)]
pub fn add(counter: impl FnOnce(&mut Losses) -> *mut u64, n: u64) {
    if let Some(losses) = LOSSES.get_ptr_mut(0) {
        // SAFETY: a field of the map's only element, written by atomics alone.
        unsafe { atomic::add(counter(&mut *losses), n) };
    }
}

/// `lose!(field)` or `lose!(field, n)`.
macro_rules! lose {
    ($field:ident) => {
        lose!($field, 1)
    };
    ($field:ident, $n:expr) => {
        $crate::stats::add(|losses| &raw mut losses.$field, $n)
    };
}
pub(crate) use lose;

/// Sends an event to userspace about the life in a slot that was first seen at this time.
#[inline(always)]
pub fn tell(kind: u32, process: u32, tgid: u32, seen_ns: u64) {
    let event = Event { kind, process, tgid, seen: seen_ns as u32 };
    if EVENTS.output::<Event>(event, 0).is_err() {
        lose!(events_lost);
    }
}

/// Tells userspace that the life in a slot has another layout.
#[inline(always)]
pub fn tell_layout(process: u32, tgid: u32, seen_ns: u64, layout: u64, (before_ns, after_ns): (u64, u64)) {
    let event = Event { kind: EVENT_LAYOUT, process, tgid, seen: seen_ns as u32 };
    if EVENTS.output::<LayoutEvent>(LayoutEvent { event, layout, before_ns, after_ns }, 0).is_err() {
        lose!(events_lost);
    }
}
