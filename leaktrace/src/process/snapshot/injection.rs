//! Making the copy, by system calls that threads of the process are made to make.
//!
//! In: a stopped thread that waits in a system call, and the area below its stack. Out: a stopped process with a copy of the
//! memory. The steps, each of which may be the last one that we live to see:
//!
//! 1. The area is written, which changes nothing that belongs to the program.
//! 2. The thread's registers are set to a system call from whose return the area leads back. From now on it comes back by itself.
//! 3. The thread creates a helper task, a process that shares its memory and its open files (`CLONE_VM`, `CLONE_FILES`). The kernel
//!    writes the task's id into the area, so that on its own the thread waits for the end of the task.
//! 4. The task lets go of the open files and forks: the copy. Both die with us (`PTRACE_O_EXITKILL`), and the copy would begin
//!    with the task's exit if it ever ran.
//! 5. The task is killed, and the thread waits for it, so that no zombie stays.
//! 6. The thread's signal mask and registers are put back, then the bytes of the area.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, pid_t};

use super::Refused;
use super::area::Memory;
use super::frame::{Area, GENERAL, General, NOBODY, place};
use super::gadgets::Gadgets;
use crate::model::Pid;
use crate::process::ptrace::{self, Change, Words};
use crate::process::threads;

/// `NT_PRSTATUS`: the general registers.
const GENERAL_SET: c_int = 1;
/// With these no stop that we leave behind becomes a signal, and what a thread creates is ours before it runs.
const OPTIONS: c_int = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
/// Numbers of system calls. Those of the machine that this is for, also where this is compiled for another.
const CLONE: u64 = 56;
const WAIT4: u64 = 61;
const PRCTL: u64 = 157;
const CLOSE_RANGE: u64 = 436;
/// `CLOSE_RANGE_UNSHARE` of `include/uapi/linux/close_range.h`.
const UNSHARE: u64 = 1 << 1;
/// How long one step may take, apart from the fork.
const STEP: Duration = Duration::from_secs(1);
/// How often a thread is looked at before it is left more time, and how much then.
const LOOKS: u32 = 500;
const NAP: Duration = Duration::from_micros(50);

/// The thread that the copy is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    pub(super) pid: Pid,
    pub(super) tid: pid_t,
    pub(super) general: &'a [u64],
    /// What it blocks.
    pub(super) mask: u64,
}

/// What is left of an attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The copy's process, which the calling thread traces.
    pub(super) copy: Result<Task, Refused>,
    /// Whether the thread has its registers again. If not it is on its way back by itself, and needs the area.
    pub(super) is_back: bool,
}

/// Makes the copy. The area is in the thread's memory.
pub(super) fn copy(chosen: Chosen<'_>, area: &Area, gadgets: Gadgets, memory: Memory, until: Instant) -> Attempt {
    let thread = Caller::new(chosen, area.start, gadgets);
    // Before a thread is resumed for the first time, nothing has happened to it.
    let (copy, is_alone) = match thread.begin() {
        Ok(()) => thread.fork_twice(area, memory, until),
        Err(refused) => (Err(refused), true),
    };
    let is_back = is_alone && thread.put_back(chosen);
    let copy = if is_back { copy } else { copy.and(Err(Refused::Disturbed(chosen.pid))) };
    Attempt { copy, is_back }
}

/// A stopped task that makes the system calls that it is told to.
struct Caller {
    pid: Pid,
    tid: pid_t,
    /// With the stack pointer and without a system call to be restarted.
    general: General,
    gadgets: Gadgets,
}

impl Caller {
    fn new(chosen: Chosen<'_>, stack: u64, gadgets: Gadgets) -> Self {
        let mut general = [0; GENERAL];
        general.copy_from_slice(&chosen.general[..GENERAL]);
        general[place::CALL] = u64::MAX;
        general[place::RSP] = stack;
        Self { pid: chosen.pid, tid: chosen.tid, general, gadgets }
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> Refused + use<> {
        let pid = self.pid;
        move |error| Refused::kernel(pid, doing, error)
    }

    /// Points the thread to the way back, and then keeps signals off. In this order: what is on the way back gets its mask again.
    fn begin(&self) -> Result<(), Refused> {
        ptrace::set_options(self.tid, OPTIONS).map_err(self.failed("setting options"))?;
        // A call that has no effect, for which nobody has to wait.
        self.load(WAIT4, [NOBODY, 0, 0, 0, 0])?;
        ptrace::set_signal_mask(self.tid, u64::MAX).map_err(self.failed("blocking signals"))
    }

    fn load(&self, number: u64, [first, second, third, fourth, fifth]: [u64; 5]) -> Result<(), Refused> {
        let mut general = self.general;
        general[place::RAX] = number;
        general[place::RDI] = first;
        general[place::RSI] = second;
        general[place::RDX] = third;
        general[place::R10] = fourth;
        general[place::R8] = fifth;
        general[place::RIP] = self.gadgets.call;
        ptrace::set_register_set(self.tid, GENERAL_SET, &Words(general)).map_err(self.failed("setting registers"))
    }

    /// Makes a system call up to its end, or up to where it has created a process.
    fn call(&self, number: u64, arguments: [u64; 5], until: Instant) -> Result<Change, Refused> {
        self.load(number, arguments)?;
        self.resume_to(until)?;
        match ptrace::syscall_entry(self.tid).map_err(self.failed("reading a system call"))? {
            Some(entry) if entry.number == number => self.resume_to(until),
            _ => Err(Refused::Disturbed(self.pid)),
        }
    }

    /// Lets it go on to its next stop, which must be one of ours.
    fn resume_to(&self, until: Instant) -> Result<Change, Refused> {
        ptrace::resume_to_syscall(self.tid, 0).map_err(self.failed("resuming a thread"))?;
        match self.await_stop(until)? {
            change @ (Change::Syscall | Change::Clone) => Ok(change),
            Change::Ended(_) | Change::Exiting => Err(Refused::Ended(self.pid)),
            Change::Exec | Change::GroupStop(_) | Change::Trap | Change::Signal(_) => Err(Refused::Disturbed(self.pid)),
        }
    }

    fn await_stop(&self, until: Instant) -> Result<Change, Refused> {
        await_stop(self.pid, self.tid, until)
    }

    /// The result of the call whose end it is at.
    fn result(&self) -> Result<i64, Refused> {
        let mut words = [0; 27];
        ptrace::register_set(self.tid, GENERAL_SET, &mut words).map_err(self.failed("reading registers"))?;
        Ok(words[place::RAX].cast_signed())
    }

    /// A call that must return at once.
    fn quick(&self, number: u64, arguments: [u64; 5]) -> Result<i64, Refused> {
        match self.call(number, arguments, Instant::now() + STEP)? {
            Change::Syscall => self.result(),
            _ => Err(Refused::Disturbed(self.pid)),
        }
    }

    /// A call that must return at once and succeed.
    fn succeed(&self, number: u64, arguments: [u64; 5], doing: &'static str) -> Result<i64, Refused> {
        let result = self.quick(number, arguments)?;
        if result < 0 { Err(self.failed(doing)(io::Error::from_raw_os_error(-result as i32))) } else { Ok(result) }
    }

    /// Creates a process, and leaves the caller within the call.
    fn create(&self, flags: u64, stack: u64, id: u64, until: Instant) -> Result<Task, Refused> {
        const DOING: &str = "creating a process";
        match self.call(CLONE, [flags, stack, id, 0, 0], until)? {
            Change::Clone => Ok(Task { pid: self.pid, tid: ptrace::created(self.tid).map_err(self.failed(DOING))? }),
            _ => match self.result()? {
                // A signal that cannot be blocked came first (`ERESTARTNOINTR`, `copy_process` in kernel/fork.c).
                -513 => Err(Refused::Disturbed(self.pid)),
                result if result < 0 => Err(self.failed(DOING)(io::Error::from_raw_os_error(-result as i32))),
                _ => Err(Refused::Disturbed(self.pid)),
            },
        }
    }

    /// Makes the thread fork a task, and that the copy. Also says whether the thread is alone again.
    fn fork_twice(&self, area: &Area, memory: Memory, until: Instant) -> (Result<Task, Refused>, bool) {
        let helper = self.adopts(area, memory).and_then(|()| {
            let shared = (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_PARENT_SETTID) as u64;
            self.create(shared, area.child_stack, area.child_id, Instant::now() + STEP)
        });
        let helper = match helper {
            Ok(helper) => helper,
            // It was not there, or is so no longer, or ends by itself while the thread waits for it.
            Err(refused @ (Refused::Disturbed(_) | Refused::Late(_))) => return (Err(refused), !self.has_created()),
            Err(refused) => return (Err(refused), true),
        };
        let copy = self.fork_from(&helper, area, until);
        if !helper.end() {
            return (copy.and(Err(Refused::Late(self.pid))), false);
        }
        match self.wait_for_helper() {
            Ok(()) => (copy, true),
            Err(refused) => (copy.and(Err(refused)), false),
        }
    }

    /// Whether the thread may have created a process when something came between.
    fn has_created(&self) -> bool {
        let mut words = [0; 27];
        let is_known = ptrace::register_set(self.tid, GENERAL_SET, &mut words).is_ok();
        let is_before = words[place::RIP] == self.gadgets.call;
        let is_refused = words[place::RAX].cast_signed() < 0;
        !(is_known && (is_before || is_refused))
    }

    /// Refuses a process that would become the parent of its copy.
    fn adopts(&self, area: &Area, memory: Memory) -> Result<(), Refused> {
        let get = libc::PR_GET_CHILD_SUBREAPER as u64;
        self.succeed(PRCTL, [get, area.scratch, 0, 0, 0], "asking who adopts orphans")?;
        let adopts = memory.word(area.scratch).map_err(self.failed("reading memory"))?;
        // The kernel writes an int.
        if adopts as u32 == 0 { Ok(()) } else { Err(Refused::Adopts(self.pid)) }
    }

    fn fork_from(&self, helper: &Task, area: &Area, until: Instant) -> Result<Task, Refused> {
        helper.await_birth()?;
        let mut general = self.general;
        general[place::RSP] = area.child_stack;
        let caller = Self { tid: helper.tid, general, ..*self };
        ptrace::set_options(helper.tid, OPTIONS | libc::PTRACE_O_EXITKILL).map_err(self.failed("setting options"))?;
        // A copy with open files would keep connections, pipes and locks after the process has closed them. Those of a table of
        // its own, made without them, are not closed either, so that no lock is given up.
        let all = u64::from(u32::MAX);
        caller.succeed(CLOSE_RANGE, [0, all, UNSHARE, 0, 0], "letting go of open files")?;
        let copy = caller.create(0, 0, 0, until)?;
        copy.await_birth()?;
        Ok(copy)
    }

    /// Takes the thread to the end of its clone, and lets it take the end of the helper task.
    fn wait_for_helper(&self) -> Result<(), Refused> {
        let until = Instant::now() + STEP;
        if self.resume_to(until)? != Change::Syscall {
            return Err(Refused::Disturbed(self.pid));
        }
        // Its id as the process sees it.
        let id = self.result()?;
        let options = (libc::__WALL | libc::WNOHANG) as u64;
        let waited = self.succeed(WAIT4, [id as u64, 0, options, 0, 0], "waiting for the task that copied it")?;
        if waited == id { Ok(()) } else { Err(Refused::Disturbed(self.pid)) }
    }

    /// Brings the thread to a stop from which the kernel restarts its own call, and gives it its registers. The mask comes first: as
    /// long as the registers are ours, the thread would find its way back, and its mask with it.
    fn put_back(&self, chosen: Chosen<'_>) -> bool {
        let mut own = [0; GENERAL];
        own.copy_from_slice(&chosen.general[..GENERAL]);
        let mut change = ptrace::change_of(self.tid).ok().flatten();
        // From the end of one call it takes one step, and if it had not begun one, two more.
        for _ in 0..4 {
            match change {
                Some(Change::Trap | Change::Signal(_) | Change::GroupStop(_)) => {
                    let is_back = ptrace::set_signal_mask(self.tid, chosen.mask).is_ok()
                        && ptrace::set_register_set(self.tid, GENERAL_SET, &Words(own)).is_ok();
                    // They are gone with the tracing in any case.
                    let _ = ptrace::set_options(self.tid, 0);
                    return is_back;
                }
                Some(Change::Syscall | Change::Clone) => {
                    if let Ok(Some(_)) = ptrace::syscall_entry(self.tid) {
                        // Without a number in its place a call is not made.
                        let _ = self.load(WAIT4, [NOBODY, 0, 0, 0, 0]);
                    }
                    // Pending when it goes on, it stops the thread before an instruction of the program.
                    let _ = ptrace::interrupt(self.tid);
                    let _ = ptrace::resume(self.tid, 0);
                }
                None => drop(ptrace::interrupt(self.tid)),
                Some(Change::Ended(_) | Change::Exiting | Change::Exec) => return false,
            }
            change = self.await_stop(Instant::now() + STEP).ok();
        }
        false
    }
}

/// A process that was created by a thread of the traced one, and that the calling thread traces. It is killed when it is dropped.
#[derive(Debug)]
pub(in crate::process) struct Task {
    /// The process that it was made from.
    pid: Pid,
    tid: pid_t,
}

impl Task {
    pub(in crate::process) fn pid(&self) -> Pid {
        Pid(self.tid as u32)
    }

    /// Waits until it is stopped before its first instruction.
    fn await_birth(&self) -> Result<(), Refused> {
        match await_stop(self.pid, self.tid, Instant::now() + STEP)? {
            Change::Trap => Ok(()),
            _ => Err(Refused::Disturbed(self.pid)),
        }
    }

    /// Kills it and takes its end as its tracer, so that its parent sees it. Says whether it has ended.
    pub(in crate::process) fn end(self) -> bool {
        let has_ended = self.kill();
        std::mem::forget(self);
        has_ended
    }

    fn kill(&self) -> bool {
        // SAFETY: sends a number. Its id is not another's as long as its end was not taken.
        unsafe { libc::kill(self.tid, libc::SIGKILL) };
        let until = Instant::now() + 10 * STEP;
        loop {
            match await_stop(self.pid, self.tid, until) {
                Ok(Change::Ended(_)) => return ptrace::take(self.tid).is_ok(),
                // The stop that it was killed in is seen until it has left it.
                Ok(_) if Instant::now() < until => thread::yield_now(),
                // Nobody else can have taken its end but a thread that waits for all.
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the next stop or end of a task.
fn await_stop(pid: Pid, tid: pid_t, until: Instant) -> Result<Change, Refused> {
    for look in 0.. {
        match ptrace::change_of(tid) {
            Ok(Some(change)) => return Ok(change),
            Ok(None) => {}
            Err(_) => return Err(Refused::Ended(pid)),
        }
        if look < LOOKS {
            thread::yield_now();
            continue;
        }
        // The kernel reports the end of a first thread only after those of the others.
        if tid as u32 == pid.0 && threads::state(tid, tid) == Some('Z') {
            return Err(Refused::Ended(pid));
        }
        if Instant::now() > until {
            return Err(Refused::Late(pid));
        }
        thread::sleep(NAP);
    }
    Err(Refused::Late(pid))
}
