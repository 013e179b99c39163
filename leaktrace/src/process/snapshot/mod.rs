//! A copy of a running process, whose memory can be read for as long as that takes while the process itself runs on.
//!
//! In: a process, examined ([`Plan::of`]) and stopped (`stop::Stopped::copy`). Out: a [`Fork`], a process of its own with the same
//! memory, copied on write as by fork(2). It never executes an instruction, and is killed when it is dropped or when we end.
//!
//! Only the kernel can copy memory in that way, and only at the request of a task that has it. So a thread of the process is made to
//! make system calls (`injection`), in a way in which it finds back by itself if we are killed at any moment (`frame`): there is no
//! guardian process that could be killed as well.
//!
//! What the process and those around it may notice, beyond what a stop shows:
//! - Another process of the same name, group, session and control group, for as long as the copy is there. It has no open files,
//!   sends no SIGCHLD to the process, and none of its calls of wait(2) sees it. Whoever adopts orphans reaps it.
//! - The first write to each page costs a fault and a page, as after a fork.
//! - The time that the fork took is in the process' times of its children (getrusage(2)).
//! - If we are killed within the millisecond in which calls are injected: a wait with a time limit begins anew with its whole time.
//!
//! What the copy does not have:
//! - Shared memory is not copied. It goes on changing, and the copy has no page of it in its own page table, so that a survey of the
//!   copy finds none: it must be read from the process itself.
//! - Memory that a program keeps from its children (`MADV_DONTFORK`, `MADV_WIPEONFORK`) is missing or empty: [`Fork::unread`].
//!
//! Invariant: nothing of the process is written but the area below the stack pointer of one thread, and that thread's registers; both
//! are put back before it runs. Nothing is written that a process could not bear if it were never put back.

mod area;
mod copy;
mod fitness;
mod frame;
mod gadgets;
mod injection;
mod refused;

use std::fs;
use std::time::Instant;

use area::Memory;
pub(super) use copy::Order;
pub use copy::{Fork, kept_from_children};
pub use fitness::Plan;
use fitness::Status;
use frame::{Area, place};
pub(super) use injection::Task;
use injection::{Attempt, Chosen};
pub use refused::Refused;

use super::maps::{Mapping, parse};
use super::memory::Reader;
use super::ptrace::{self, Change};
use super::registers::StoppedThread;
use crate::model::Address;

/// The selector of 64-bit code, and `syscall`.
const CODE_SELECTOR: u64 = 0x33;
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];

/// A copy, traced by the calling thread.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) task: Task,
    pub(super) mappings: Vec<u8>,
}

/// Makes a copy of a process all of whose threads the calling thread has stopped; `threads` are those that no signal waits for. On
/// return they are as they were, unless something came between: then one of them must be let go, and finds back by itself.
pub(super) fn make(plan: &Plan, threads: &[&StoppedThread], until: Instant) -> Result<Made, Refused> {
    let pid = plan.pid;
    if fitness::program(pid)? != plan.program {
        return Err(Refused::Replaced(pid));
    }
    let text =
        fs::read(format!("/proc/{pid}/maps")).map_err(|error| Refused::kernel(pid, "reading its mappings", error))?;
    let mappings: Vec<Mapping<'_>> = parse(&text).filter_map(Result::ok).collect();
    plan.check(&mappings)?;
    let reader = Reader::open(pid).map_err(|_| Refused::Ended(pid))?;
    if !plan.gadgets.are_in(&reader) {
        return Err(Refused::Replaced(pid));
    }
    let (thread, area, mask) = choose(plan, threads, &mappings, &reader)?;

    let memory = Memory(pid.0 as libc::pid_t);
    let mut own = vec![0; area.words.len()];
    memory.read(area.start, &mut own).map_err(|error| Refused::kernel(pid, "reading memory", error))?;
    memory.write(area.start, &area.words).map_err(|error| Refused::kernel(pid, "writing memory", error))?;
    let chosen = Chosen { pid, tid: thread.tid.0 as libc::pid_t, general: thread.registers.general(), mask };
    let Attempt { copy, is_back } = injection::copy(chosen, &area, plan.gadgets, memory, until);
    if is_back {
        // Nothing of the program is there: if it cannot be written any more the process is gone.
        let _ = memory.write(area.start, &own);
    }
    let task = copy?;
    let copied = Memory(task.pid().0 as libc::pid_t);
    copied.write(area.start, &own).map_err(|error| Refused::kernel(task.pid(), "writing memory", error))?;
    // Should memory become scarce, it is the copy that has to go.
    let _ = fs::write(format!("/proc/{}/oom_score_adj", task.pid()), "1000");
    drop(mappings);
    Ok(Made { task, mappings: text })
}

/// The thread that notices least, with what is to be written below its stack and the signals that it blocks.
fn choose<'a>(
    plan: &Plan,
    threads: &[&'a StoppedThread],
    mappings: &[Mapping<'_>],
    reader: &Reader,
) -> Result<(&'a StoppedThread, Area, u64), Refused> {
    let pid = plan.pid;
    let mut waiting = Vec::new();
    for thread in threads {
        let tid = thread.tid.0 as libc::pid_t;
        match ptrace::change_of(tid) {
            Ok(Some(Change::Trap)) => {}
            Ok(Some(Change::GroupStop(_))) => return Err(Refused::JobControl(pid)),
            _ => continue,
        }
        let general = thread.registers.general();
        let Some(how) = frame::waiting(general) else { continue };
        let mut instruction = [0; 2];
        let before = Address(general[place::RIP].wrapping_sub(2));
        let is_call = reader.read_exact(before, &mut instruction).is_ok() && instruction == SYSTEM_CALL;
        if is_call && general[place::CS] == CODE_SELECTOR {
            waiting.push((how, *thread));
        }
    }
    if waiting.is_empty() {
        return Err(Refused::Busy(pid));
    }
    // The first thread's stack is the surest.
    waiting.sort_by_key(|(how, thread)| (*how, thread.tid != pid));
    for (_, thread) in waiting {
        let tid = thread.tid.0 as libc::pid_t;
        Status::of(pid, thread.tid)?.check(pid)?;
        if ptrace::dispatches_calls(tid) {
            return Err(Refused::Dispatch(pid));
        }
        let mask = ptrace::signal_mask(tid).map_err(|error| Refused::kernel(pid, "reading a signal mask", error))?;
        let (general, extended) = (thread.registers.general(), thread.registers.extended());
        let Some(size) = frame::state_bytes(extended, frame::component) else { continue };
        let Some(area) = Area::of(general, extended, size, mask, plan.gadgets) else { continue };
        if area::is_usable(pid, mappings, general, area.start) {
            return Ok((thread, area, mask));
        }
    }
    Err(Refused::Stack(pid))
}
