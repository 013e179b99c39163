//! The allocation protocol: which calls count, and when their blocks are booked.
//!
//! Only the outermost call of a thread counts. It is remembered with its stack pointer from entry to return; a call
//! entered meanwhile from further down the stack is nested and ignored, one from the same height or above shows that
//! the remembered one was left without returning.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use leaktrace_common::abi::{
    Block, CALL_ALLOCATE, CALL_POSIX_MEMALIGN, CALL_REALLOCATE, CALL_RESIZE, CALL_STRING, CALL_TO_EXIT, Control,
    MAX_DEPTH, SCRATCH_SLOTS, STRETCH, Thread, UNWIND_FP,
};
use leaktrace_common::{abi, atomic};

use crate::maps::{CONTROL, PROCESSES, SESSION_TAILS, TAILS, unknown};
use crate::process::Id;
use crate::registers::{self, Entry, Mapped, Placement, Standard};
use crate::sites::End;
use crate::stretch::GOES_ON;
use crate::{
    accounts, blocks, config, flow, frees, kfunc, sampling, scratch, sites, stack, stats::lose, strings, threads,
    unwind,
};

#[inline(always)]
fn control() -> Option<*mut Control> {
    CONTROL.get_ptr_mut(0)
}

/// Whether nothing is to be recorded: the trace is over, or no window is open.
#[inline(always)]
pub fn stopped() -> bool {
    ended() || config::bursts() != 0 && flow::open() == 0
}

/// Whether userspace has ended the trace.
#[inline(always)]
pub fn ended() -> bool {
    // SAFETY: the map's only element.
    control().is_none_or(|control| unsafe { (&raw const (*control).stopped).read_volatile() } != 0)
}

/// A tail call that is never taken. From 6.13 the x86 JIT gives uprobe programs that use 64 bytes of stack or more a
/// stack per CPU, on which a program that preempts another overwrites it ("BUG: unable to handle page fault"); a
/// program that contains a tail call gets none.
#[inline(always)]
pub fn forbid_private_stack<C: EbpfContext>(ctx: &C, tails: &ProgramArray) {
    if let Some(control) = control()
        // SAFETY: the map's only element.
        && unsafe { (&raw const (*control).never).read_volatile() } != 0
    {
        // SAFETY: the index is in bounds of the map, which is empty: the call falls through.
        let _ = unsafe { tails.tail_call(ctx, 0) };
    }
}

/// What a session's program tells the kernel at a function's entry.
const RETURN_WANTED: u32 = 0;
const RETURN_UNWANTED: u32 = 1;
/// What programs answer where there are no sessions. After a 1, kernels before 6.13 take the probe of a multi link out of the
/// process, and a perf event's program has a sample prepared.
const NOTHING: u32 = 0;

/// What an entry gives that has left nothing for its return to do.
const NO_TICKET: u64 = 0;

/// Requests of fewer bytes fail only where memory has run out, and glibc's `realloc` meets them without calling `malloc`:
/// only blocks that were mapped one by one, of 128 KiB and more by default, may come to that.
const SMALL: u64 = 64 << 10;

/// An allocation function's arguments, whatever the function.
pub struct Request {
    /// One of the `CALL_` constants.
    pub call: u32,
    /// Bytes asked for.
    pub size: u64,
    /// Where `posix_memalign` will store the address.
    pub out: u64,
    /// The block that `realloc` is given; 0 for none.
    pub old: u64,
}

/// `malloc` is entered with everything in its standard place, or, in a session, returns.
#[inline(always)]
pub fn malloc(ctx: &ProbeContext) -> u32 {
    session(ctx, || {
        let entry = Entry::<Standard>::new(ctx);
        enter(&entry, &Request { call: CALL_ALLOCATE, size: entry.a(), out: 0, old: 0 })
    })
}

/// Some function of the family is entered, the cookie tells which; or, in a session, returns.
#[inline(always)]
pub fn call(ctx: &ProbeContext) -> u32 {
    session(ctx, || {
        let entry = &Entry::<Mapped>::new(ctx);
        let (a, b) = entry.ab();
        let mut request = Request { call: CALL_ALLOCATE, size: a, out: 0, old: 0 };
        match entry.function() {
            abi::FUNCTION_FREE => {
                frees::release(entry, a);
                return NO_TICKET;
            }
            abi::FUNCTION_EXIT => {
                exit(entry.sp(), a);
                return NO_TICKET;
            }
            // A product that overflows cannot succeed, so its remainder is never booked.
            abi::FUNCTION_CALLOC => request.size = a.wrapping_mul(b),
            abi::FUNCTION_POSIX_MEMALIGN => {
                request = Request { call: CALL_POSIX_MEMALIGN, size: b, out: a, old: 0 };
            }
            abi::FUNCTION_REALLOC => request = Request { call: CALL_REALLOCATE, size: b, out: 0, old: a },
            abi::FUNCTION_REALLOCARRAY => {
                // A product that overflows fails and leaves the old block alone.
                let c = entry.c();
                if overflows(b, c) {
                    return NO_TICKET;
                }
                request = Request { call: CALL_REALLOCATE, size: b.wrapping_mul(c), out: 0, old: a };
            }
            abi::FUNCTION_STRDUP => request = Request { call: CALL_STRING, size: 0, out: 0, old: 0 },
            abi::FUNCTION_XALLOCX => request = Request { call: CALL_RESIZE, size: b, out: 0, old: a },
            _ => {}
        }
        enter(entry, &request)
    })
}

/// Runs `enter` at an entry, which says with a thread's ticket that it wants the return; at a return, which reaches the same
/// program in a session, books the block.
#[inline(always)]
fn session(ctx: &ProbeContext, enter: impl FnOnce() -> u64) -> u32 {
    let mut answer = NOTHING;
    if config::sessions() == 0 {
        if !stopped() {
            enter();
        }
    } else {
        // SAFETY: asked only where the program is attached as a session, or is made to have none. Where there is a cookie,
        // it is this call's own.
        unsafe {
            let cookie = kfunc::session_cookie(ctx.as_ptr());
            let ticket = if cookie.is_null() { NO_TICKET } else { *cookie };
            if ticket != NO_TICKET {
                if !stopped()
                    && let Some(thread) = threads::of_ticket(ticket, Id::current())
                {
                    give(thread, &RetProbeContext::new(ctx.as_ptr()));
                }
            } else {
                answer = RETURN_UNWANTED;
                if !stopped() {
                    let ticket = enter();
                    if ticket != NO_TICKET && !cookie.is_null() {
                        *cookie = ticket;
                        answer = RETURN_WANTED;
                    }
                }
            }
        }
    }
    forbid_private_stack(ctx, &SESSION_TAILS);
    answer
}

/// `free` is entered with everything in its standard place.
#[inline(always)]
pub fn free(entry: &Entry<'_, Standard>) -> u32 {
    frees::release(entry, entry.a());
    forbid_private_stack(entry.ctx(), &TAILS);
    NOTHING
}

/// A probed function returns, and no session told us of its entry.
#[inline(always)]
pub fn returned(ctx: &RetProbeContext) {
    if !stopped()
        && let Some(thread) = threads::existing(Id::current())
    {
        give(thread, ctx);
    }
    forbid_private_stack(ctx, &TAILS);
}

/// An allocation function is entered. The thread's ticket if its return is wanted.
#[inline(always)]
fn enter<P: Placement>(entry: &Entry<'_, P>, request: &Request) -> u64 {
    let of_unknown_size = request.call == CALL_STRING;
    let wanted = if of_unknown_size { flow_wants_any() } else { is_wanted(request.size) };
    if config::bursts() == 0 && config::sessions() != 0 && !wanted && request.call != CALL_REALLOCATE && entry.is_leaf()
    {
        return NO_TICKET;
    }
    let Some(thread) = threads::current(Id::current()) else { return NO_TICKET };
    if !begin(entry, thread) {
        return NO_TICKET;
    }
    // SAFETY: the thread's own state.
    unsafe {
        frees::begin_anew(thread);
        let mut old = Block { size: 0, site: 0, time: 0 };
        if config::bursts() != 0 {
            flow::resize(thread, request.old);
        }
        if request.old != 0
            // Taken aside before its address can be handed out again.
            && let Some(record) = blocks::take((*thread).process, request.old)
        {
            old = record;
        }
        let hit = wanted && (of_unknown_size || sampling::hit(thread, request.size));
        let site = if hit { site(entry, thread, request.size) } else { 0 };
        if config::bursts() == 0
            && config::sessions() != 0
            && site == 0
            && entry.is_leaf()
            && gives_nothing_to_book(request, &old)
        {
            if request.old != 0 {
                frees::count_untracked((*thread).process);
            }
            return NO_TICKET;
        }
        let (call, out) = if entry.has_exits() {
            (request.call | CALL_TO_EXIT, entry.return_address())
        } else {
            (request.call, request.out)
        };
        (*thread).sp = entry.sp();
        (*thread).call = call;
        (*thread).size = request.size;
        (*thread).out = out;
        (*thread).old_address = request.old;
        (*thread).old = old;
        (*thread).site = site;
        if entry.has_exits() { NO_TICKET } else { threads::ticket(thread) }
    }
}

/// Whether a leaf's call whose block is not wanted is over at its entry, as far as the books go: also a `realloc` of a
/// block that we do not know, which gives it up (unless it fails: see [`SMALL`]).
#[inline(always)]
fn gives_nothing_to_book(request: &Request, old: &Block) -> bool {
    // From NULL glibc's is `malloc`, and to nothing it is `free`.
    request.call != CALL_REALLOCATE || request.old != 0 && old.site == 0 && request.size != 0 && request.size < SMALL
}

/// Whether blocks of this size are recorded.
#[inline(always)]
pub fn is_wanted(size: u64) -> bool {
    size >= config::min_size() && size <= config::max_size() && (config::bursts() == 0 || flow::is_recorded(size))
}

/// Whether blocks are recorded whose size shows only later.
#[inline(always)]
fn flow_wants_any() -> bool {
    config::bursts() == 0 || flow::records_any()
}

/// A probed function returns: what it gave is booked.
#[inline(always)]
fn give(thread: *mut Thread, ctx: &RetProbeContext) {
    let (sp, result) = (registers::returned_sp(ctx), registers::result(ctx));
    if config::bursts() != 0 && !flow::is_current(thread) {
        return;
    }
    // SAFETY: the thread's own state.
    let (pending, returned) = unsafe { ((*thread).sp, (*thread).returned_sp) };
    if sp == pending {
        finish(thread, result);
    } else if config::bursts() == 0 && sp > pending && sp != returned {
        // A nested call's return lies below the pending one; any other lost its entry.
        lose!(returns_missed);
    }
}

/// A function that may throw is about to return, or another one by way of the same instructions.
#[inline(always)]
fn exit(sp: u64, result: u64) {
    if let Some(thread) = threads::existing(Id::current())
        // SAFETY: the thread's own state.
        && unsafe { (*thread).sp == sp && (*thread).call & CALL_TO_EXIT != 0 }
        && (config::bursts() == 0 || flow::is_current(thread))
    {
        finish(thread, result);
    }
}

/// Whether a product exceeds 64 bits. By halves: BPF has no wide multiplication, and the compiler makes one of the
/// usual ways to ask.
#[inline(always)]
fn overflows(a: u64, b: u64) -> bool {
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    small >> 32 != 0
        || (large >> 32).wrapping_mul(small).wrapping_add((large & 0xffff_ffff).wrapping_mul(small) >> 32) >> 32 != 0
}

/// Whether this is an outermost call; then any pending one was left without returning.
#[inline(always)]
pub fn begin<P: Placement>(entry: &Entry<'_, P>, thread: *mut Thread) -> bool {
    let sp = entry.sp();
    renew(thread);
    // SAFETY: the thread's own state.
    unsafe {
        let pending = (*thread).sp;
        if pending != 0 {
            if (*thread).call & CALL_TO_EXIT == 0 {
                if sp < pending && registers::returns_to_kernel(pending) || sp == pending && is_tail_call(entry) {
                    return false;
                }
                abandon(thread);
            } else {
                // Still under way as long as its return address is where it was; another tracer may have replaced it.
                let returns = bpf_probe_read_user(pending as *const u64).unwrap_or(0);
                let returns = returns == (*thread).out || returns & 0xfff == 0;
                if sp < pending && returns {
                    return false;
                }
                // One that goes on by jumping to another probed function ends there.
                if sp != pending || !returns || (*thread).old_address != 0 {
                    abandon(thread);
                }
            }
            (*thread).sp = 0;
        }
    }
    true
}

/// A thread does something in a window: what it had in flight in an earlier one is over.
#[inline(always)]
pub fn renew(thread: *mut Thread) {
    if config::bursts() != 0 && flow::renew(thread) {
        // SAFETY: the thread's own state.
        unsafe {
            if (*thread).sp != 0 {
                give_back(thread);
            }
            (*thread).sp = 0;
            (*thread).old_address = 0;
            (*thread).freed_sp = 0;
            (*thread).cache_frees = 0;
            (*thread).last_allocated = 0;
        }
    }
}

/// Whether a call entered at the height of the pending one was reached from it by a jump. Then the return address is
/// that of the kernel's return trampoline, which begins a page; a return into program text hardly ever does.
#[inline(always)]
fn is_tail_call<P: Placement>(entry: &Entry<'_, P>) -> bool {
    let address = entry.return_address();
    address != 0 && address & 0xfff == 0
}

/// A thread ends: a block that `realloc` had taken aside stays with its process.
#[inline(always)]
pub fn leave(thread: *mut Thread) {
    // SAFETY: the thread's own state, and its process' element.
    unsafe {
        if (*thread).sp != 0 {
            abandon(thread);
        }
    }
}

/// The pending call was left without returning: by longjmp, an exception, the end of a coroutine.
#[inline(always)]
fn abandon(thread: *mut Thread) {
    // SAFETY: the thread's own state, and its process' element.
    unsafe {
        give_back(thread);
        if config::bursts() != 0 && !flow::is_current(thread) {
            return;
        }
        if let Some(process) = PROCESSES.get_ptr_mut((*thread).process) {
            atomic::add(&raw mut (*process).abandoned_calls, 1);
        }
    }
}

/// Puts the block that `realloc` had taken aside back.
#[inline(always)]
fn give_back(thread: *mut Thread) {
    // SAFETY: the thread's own state.
    unsafe {
        if (*thread).old_address != 0 && (*thread).old.site != 0 {
            let record = (*thread).old;
            blocks::put_back((*thread).process, (*thread).old_address, &record);
        }
    }
}

/// The site (index plus one) that a block of this size is to be booked at; 0 where there is no room.
#[inline(always)]
pub fn site<P: Placement>(entry: &Entry<'_, P>, thread: *mut Thread, size: u64) -> u32 {
    site_from(thread, entry.apart(), entry.sp(), entry.fp(), size)
}

/// The same from what [`registers::first_frame`] takes.
#[inline(always)]
pub fn site_from(thread: *mut Thread, apart: u64, sp: u64, fp: u64, size: u64) -> u32 {
    // SAFETY: the thread's own state.
    let (process, tid) = unsafe { ((*thread).process, u64::from((*thread).tid)) };
    let slot = scratch::claim(tid);
    let mut site = 0;
    if slot < SCRATCH_SLOTS {
        let slot = u64::from(slot);
        let by_tables = config::unwind() != UNWIND_FP;
        let mut key = unknown(if by_tables {
            unwind::unwind_walk(slot, process, apart, sp, fp)
        } else {
            stack::stack_walk(slot, process, apart, sp, fp)
        });
        let mut stretch = 0;
        while key == GOES_ON && stretch < MAX_DEPTH as u32 / STRETCH {
            key = unknown(if by_tables {
                unwind::unwind_walk_on(slot, process)
            } else {
                stack::stack_walk_on(slot, process)
            });
            stretch += 1;
        }
        if key != GOES_ON {
            site = sites::site_of(process, slot, key);
        }
        scratch::release(slot as u32);
    }
    if site == 0 {
        lose!(stacks_dropped);
        site = PROCESSES.get_ptr(process).map_or(0, |process| {
            // SAFETY: an element of the map.
            unsafe { (*process).frameless_site }
        });
        if site == 0 {
            lose!(allocs_dropped);
            lose!(bytes_dropped, size);
        }
    }
    site
}

/// The highest address that a block can have: above, mmap(2) and what is modelled on it tell errors.
const MAX_ADDRESS: u64 = u64::MAX - 4095;

/// The block that a call's result points to, or 0 where it failed.
#[inline(always)]
pub fn given(result: u64) -> u64 {
    if result > MAX_ADDRESS { 0 } else { result }
}

/// The pending call returns: books what it gave.
#[inline(always)]
fn finish(thread: *mut Thread, result: u64) {
    // SAFETY: the thread's own state.
    unsafe {
        (*thread).returned_sp = (*thread).sp;
        (*thread).sp = 0;
        let (mut size, mut site, process) = ((*thread).size, (*thread).site, (*thread).process);
        let mut gone = 0;
        let address = match (*thread).call & !CALL_TO_EXIT {
            CALL_POSIX_MEMALIGN => {
                if result as u32 == 0 {
                    bpf_probe_read_user((*thread).out as *const u64).unwrap_or(0)
                } else {
                    0
                }
            }
            CALL_REALLOCATE => {
                let address = given(result);
                if config::bursts() != 0 && (address != 0 || size == 0) {
                    flow::resized(thread);
                }
                gone = finish_old(thread, process, size, address);
                address
            }
            CALL_RESIZE => {
                let address = if result < size { 0 } else { (*thread).old_address };
                gone = finish_old(thread, process, size, address);
                address
            }
            CALL_STRING => {
                if result != 0 && site != 0 {
                    size = strings::size((*thread).tid, result);
                    if size == 0 {
                        lose!(allocs_dropped);
                    }
                    if size == 0 || !is_wanted(size) || !sampling::hit(thread, size) {
                        site = 0;
                    }
                }
                result
            }
            _ => given(result),
        };
        if config::bursts() != 0
            && address != 0
            && (*thread).call & !CALL_TO_EXIT != CALL_RESIZE
            && !flow::allocated(process, address, size)
        {
            site = 0;
        }
        if address != 0 && site != 0 {
            blocks::book(thread, address, size, site, gone);
            (*thread).last_allocated = address;
        } else {
            (*thread).last_allocated = 0;
            accounts::lower(process, gone);
        }
    }
}

/// Decides over the block that `realloc` had taken aside: freed by success or by size 0, otherwise as before. The bytes by
/// which the process' outstanding ones are still to be lowered.
#[inline(always)]
fn finish_old(thread: *mut Thread, process: u32, size: u64, result: u64) -> u64 {
    // SAFETY: the thread's own state.
    unsafe {
        let address = (*thread).old_address;
        if address == 0 {
            return 0;
        }
        let mut bytes = 0;
        let record = (*thread).old;
        let gone = result != 0 || size == 0;
        if record.site == 0 {
            if gone {
                frees::count_untracked(process);
            }
        } else if gone {
            bytes = accounts::settle_site(&record, End::by(thread, address, &record));
        } else {
            blocks::put_back(process, address, &record);
        }
        (*thread).old_address = 0;
        bytes
    }
}
