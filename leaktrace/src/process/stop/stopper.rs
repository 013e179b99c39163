//! The thread that stops a process: it seizes and interrupts all threads, reads their registers, waits, and detaches.
//!
//! In: a process id and limits. Out: an answer through a channel, then the length of the pause. Never takes a stop from the
//! kernel (`WNOWAIT`): a signal that waits in one is delivered by our detaching, or, if we are killed, by the kernel.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::iter;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, pid_t};

use super::error::{self, StopError};
use super::{Answer, Limits, Pause};
use crate::model::Pid;
use crate::process::ptrace::{self, Change};
use crate::process::registers::{RegistersError, Room, StoppedThread};
use crate::process::snapshot::{self, Made, Order, Plan, Refused, Task};
use crate::process::threads;

/// The pauses between two looks at threads that are to stop: doubled from the first to the second.
const NAPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));

/// How long the end of a thread may take after it has let go of what it could.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// How often a thread is refused before that is taken for the kernel's last word.
const ATTEMPTS: u32 = 20;

/// The threads that are seized and the one that has seized them, for whoever waits for that.
#[derive(Debug, Default)]
pub(super) struct Seized {
    tids: Mutex<Vec<pid_t>>,
    tracer: AtomicI32,
}

impl Seized {
    pub(super) fn all(&self) -> Vec<pid_t> {
        self.tids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the thread that has seized them has left the kernel's list of threads, before which the kernel lets go of
    /// what it traced (`exit_notify` in kernel/exit.c). Its end as Rust sees it comes earlier.
    pub(super) fn await_end_of_tracer(&self) {
        let tracer = self.tracer.load(Ordering::Relaxed);
        let begun = Instant::now();
        while tracer != 0
            && begun.elapsed() < GONE_WITHIN
            && threads::state(std::process::id() as pid_t, tracer).is_some()
        {
            thread::sleep(NAPS.0);
        }
    }

    fn add(&self, tid: pid_t) {
        self.tids.lock().unwrap_or_else(PoisonError::into_inner).push(tid);
    }

    fn remove(&self, tid: pid_t) {
        self.tids.lock().unwrap_or_else(PoisonError::into_inner).retain(|seized| *seized != tid);
    }
}

/// How far a seized thread has come.
#[derive(Debug)]
enum State {
    /// It is yet to stop.
    Running,
    /// It is stopped, and gets this signal (0: none) when it goes on.
    Stopped(Box<StoppedThread>, c_int),
    /// It has ended. Until the process has, its first thread stays.
    Ended,
}

#[derive(Debug)]
struct Tracee {
    tid: pid_t,
    comm: String,
    state: State,
}

/// What a process is stopped by.
pub(super) struct Stopper {
    pid: pid_t,
    held: Option<StoppedThread>,
    limits: Limits,
    seized: Arc<Seized>,
    /// By thread id.
    tracees: BTreeMap<pid_t, Tracee>,
    room: Room,
    began: Option<Instant>,
    has_let_go: bool,
}

impl Stopper {
    pub(super) fn new(pid: Pid, held: Option<StoppedThread>, limits: Limits, seized: Arc<Seized>) -> Self {
        let pid = pid.0 as pid_t;
        Self { pid, held, limits, seized, tracees: BTreeMap::new(), room: Room::new(), began: None, has_let_go: false }
    }

    /// Stops the process, answers, and lets it go when it is told to or the other end of `orders` is dropped, or after the longest
    /// time. Then it keeps the copies that were made, until each is to end.
    pub(super) fn run(mut self, answers: &Sender<Answer>, orders: &Receiver<Order>, paused: &Sender<Pause>) {
        // SAFETY: only reads a number.
        self.seized.tracer.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        let answer = self.stop_all();
        if answer.is_err() {
            self.let_go();
            // If nobody waits any more, nobody wants to know.
            let _ = answers.send(answer);
            return;
        }
        let mut copies = Vec::new();
        let cut_short = answers.send(answer).is_ok() && self.hold(orders, &mut copies);
        let _ = paused.send(Pause { cut_short, ..self.let_go() });
        while !copies.is_empty() {
            match orders.recv() {
                Ok(order) => self.obey(order, &mut copies),
                // They are killed when they are dropped.
                Err(_) => return,
            }
        }
    }

    /// Obeys orders until one is to let go, and says whether none was.
    fn hold(&mut self, orders: &Receiver<Order>, copies: &mut Vec<Task>) -> bool {
        loop {
            match orders.recv_timeout(self.limits.hold_at_most.saturating_sub(self.paused())) {
                Ok(Order::Release) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(order) => self.obey(order, copies),
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    fn obey(&mut self, order: Order, copies: &mut Vec<Task>) {
        match order {
            // Nobody waits for an answer that cannot be sent. What was made is killed then.
            Order::Copy(plan, answers) => match self.copy(&plan) {
                Ok(Made { task, mappings }) => {
                    if answers.send(Ok((task.pid(), mappings))).is_ok() {
                        copies.push(task);
                    }
                }
                Err(refused) => drop(answers.send(Err(refused))),
            },
            Order::Release => {}
            Order::End(pid, done) => {
                copies.retain(|copy| copy.pid() != pid);
                let _ = done.send(());
            }
        }
    }

    /// Makes a copy, unless the process runs again.
    fn copy(&mut self, plan: &Plan) -> Result<Made, Refused> {
        let of = Pid(self.pid as u32);
        let until = self.began.map(|began| began + self.limits.hold_at_most).filter(|until| *until > Instant::now());
        let Some(until) = until.filter(|_| !self.has_let_go) else { return Err(Refused::Released(of)) };
        let threads: Vec<&StoppedThread> = self.tracees.values().filter_map(Tracee::without_signal).collect();
        let made = snapshot::make(plan, &threads, until);
        // A thread that something came between may have got a signal.
        for tracee in self.tracees.values_mut() {
            tracee.look_again();
        }
        made
    }

    fn stop_all(&mut self) -> Answer {
        let of = Pid(self.pid as u32);
        if self.held.is_none() {
            error::check(self.pid)?;
        }
        let memory = Program::of(self.pid)?;
        // Names take longest to read, so they are read before anything stands still.
        let names: HashMap<_, _> =
            threads::ids(self.pid).into_iter().map(|tid| (tid, threads::comm(self.pid, tid))).collect();
        let deadline = Instant::now() + self.limits.stop_within;
        while let Some(unsettled) = self.take_up(&names)? {
            self.await_stops(deadline)?;
            if Instant::now() > deadline {
                return Err(error::lateness(self.pid, unsettled, self.limits.stop_within));
            }
        }
        if !memory.is_alive() || !self.tracees.values().all(Tracee::is_as_found) {
            return Err(StopError::Replaced(of));
        }
        let stopped = self.tracees.values().filter_map(|tracee| match &tracee.state {
            State::Stopped(thread, _) => Some(StoppedThread::clone(thread)),
            State::Running | State::Ended => None,
        });
        let threads: Vec<_> = self.held.clone().into_iter().chain(stopped).collect();
        if threads.is_empty() { Err(StopError::Ended(of)) } else { Ok(threads) }
    }

    /// Seizes and interrupts each thread that is not yet, and gives one that was not stopped when this began.
    ///
    /// If there is none, these were all: a stopped thread creates no other. The kernel ends its list early where the thread
    /// that it listed last ends meanwhile (`next_tid` in fs/proc/base.c), but a stopped one does not.
    fn take_up(&mut self, names: &HashMap<pid_t, String>) -> Result<Option<pid_t>, StopError> {
        let mut unsettled = None;
        let held = self.held.as_ref().map(|held| held.tid.0 as pid_t);
        for tid in threads::ids(self.pid) {
            if held == Some(tid) || self.tracees.contains_key(&tid) {
                continue;
            }
            if !seize(self.pid, tid)? {
                // Only the first thread stays in the list when it has ended, as long as others have not.
                unsettled = unsettled.or((tid != self.pid).then_some(tid));
                continue;
            }
            unsettled = Some(tid);
            self.seized.add(tid);
            self.began.get_or_insert_with(Instant::now);
            // If it has ended meanwhile, the wait says so.
            let _ = ptrace::interrupt(tid);
            let comm = names.get(&tid).cloned().unwrap_or_else(|| threads::comm(self.pid, tid));
            self.tracees.insert(tid, Tracee { tid, comm, state: State::Running });
        }
        Ok(unsettled)
    }

    /// Waits until each seized thread is stopped or has ended.
    fn await_stops(&mut self, deadline: Instant) -> Result<(), StopError> {
        let (mut nap, longest) = NAPS;
        loop {
            let mut late = None;
            for tracee in self.tracees.values_mut() {
                if let State::Running = tracee.state {
                    tracee.look(self.pid, &mut self.room)?;
                }
                if let State::Running = tracee.state {
                    late = Some(tracee.tid);
                }
            }
            // Their numbers may be given to new threads. What is left of a first thread stays in the list.
            let (pid, seized) = (self.pid, &self.seized);
            self.tracees.retain(|&tid, tracee| {
                let is_left = tid == pid || !matches!(tracee.state, State::Ended);
                if !is_left {
                    seized.remove(tid);
                }
                is_left
            });
            let Some(late) = late else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error::lateness(self.pid, late, self.limits.stop_within));
            }
            thread::sleep(nap);
            nap = (nap * 2).min(longest);
            // A thread that executes a program waits for the ends of the others to be taken, also of those that are stopped.
            for tracee in self.tracees.values_mut() {
                tracee.take_end(self.pid);
            }
        }
    }

    fn paused(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Lets all stopped threads go on. The kernel does that with those that are yet to stop, when this thread ends.
    fn let_go(&mut self) -> Pause {
        self.has_let_go = true;
        let (mut killed, began) = (Vec::new(), self.began);
        for tracee in self.tracees.values_mut() {
            if let State::Stopped(_, signal) = tracee.state {
                // An error means that it was killed while it was stopped.
                if ptrace::detach(tracee.tid, signal).is_err() {
                    killed.push(tracee);
                }
            }
        }
        let length = began.map_or(Duration::ZERO, |began| began.elapsed());
        take_ends(self.pid, killed);
        Pause { length, cut_short: false }
    }
}

/// Takes the ends of threads that were killed while they were stopped: a thread that was let go before them may have executed a program,
/// which waits for that.
fn take_ends(pid: pid_t, mut killed: Vec<&mut Tracee>) {
    let begun = Instant::now();
    while !killed.is_empty() && begun.elapsed() < GONE_WITHIN {
        killed.retain_mut(|tracee| {
            tracee.take_end(pid);
            // The first thread is taken by whoever executes the program, and its parent.
            let is_traced = tracee.tid != pid && ptrace::change_of(tracee.tid).is_ok();
            is_traced && !matches!(tracee.state, State::Ended)
        });
        if !killed.is_empty() {
            thread::sleep(NAPS.0);
        }
    }
}

/// Seizes `tid`, unless it has ended.
fn seize(pid: pid_t, tid: pid_t) -> Result<bool, StopError> {
    for attempt in 1.. {
        let Err(error) = ptrace::seize_plainly(tid) else { return Ok(true) };
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(false);
        }
        match error::refusal(pid, tid, error) {
            None => return Ok(false),
            // A thread that executes a program gets the number of the first one, which had ended when it was refused.
            Some(StopError::Permission { .. }) if attempt < ATTEMPTS => thread::sleep(NAPS.0),
            Some(refusal) => return Err(refusal),
        }
    }
    Ok(false)
}

impl Tracee {
    /// Looks whether it has stopped, and reads its registers if so.
    fn look(&mut self, pid: pid_t, room: &mut Room) -> Result<(), StopError> {
        let failed = |doing, error| StopError::Kernel { pid: Pid(pid as u32), doing, error };
        let signal = match ptrace::change_of(self.tid) {
            Ok(Some(Change::Ended(_))) => {
                self.take_end(pid);
                return Ok(());
            }
            Ok(Some(Change::Signal(signal))) => signal,
            Ok(Some(_)) => 0,
            Ok(None) => {
                // The kernel reports the end of a first thread only after those of the others.
                if self.tid == pid && threads::state(pid, self.tid) == Some('Z') {
                    self.state = State::Ended;
                }
                return Ok(());
            }
            // Its end was taken for us, or it has another number since it executed a program.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                self.state = State::Ended;
                return Ok(());
            }
            Err(error) => return Err(failed("waiting for a thread", error)),
        };
        match StoppedThread::read(self.tid, self.comm.clone(), room) {
            Ok(thread) => self.state = State::Stopped(Box::new(thread), signal),
            Err(RegistersError::WordSize) => return Err(StopError::WordSize(Pid(pid as u32))),
            // It was killed, and will be found to have ended.
            Err(RegistersError::Kernel(error)) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(RegistersError::Kernel(error)) => return Err(failed("reading registers", error)),
        }
        Ok(())
    }

    /// Whether it is still stopped, if it was found so.
    ///
    /// A thread that executes a program takes over the number of the first one, which may have been stopped until then, and goes on.
    /// The program's memory comes after that (`begin_new_exec` in fs/exec.c calls `de_thread` before `exec_mmap`).
    fn is_as_found(&self) -> bool {
        match self.state {
            State::Stopped(..) => {
                matches!(ptrace::change_of(self.tid), Ok(Some(change)) if !matches!(change, Change::Ended(_)))
            }
            State::Running | State::Ended => true,
        }
    }

    /// Itself, if it is stopped and no signal waits for it to go on.
    fn without_signal(&self) -> Option<&StoppedThread> {
        match &self.state {
            State::Stopped(thread, 0) => Some(thread),
            _ => None,
        }
    }

    /// Looks which signal it gets when it goes on.
    fn look_again(&mut self) {
        if let State::Stopped(_, signal) = &mut self.state
            && let Ok(Some(Change::Signal(now))) = ptrace::change_of(self.tid)
        {
            *signal = now;
        }
    }

    /// Takes its end, if it has ended. That of the first thread is left for its parent, which may be a thread of ours.
    fn take_end(&mut self, pid: pid_t) {
        if matches!(ptrace::change_of(self.tid), Ok(Some(Change::Ended(_)))) {
            if self.tid != pid {
                // It is there.
                let _ = ptrace::take(self.tid);
            }
            self.state = State::Ended;
        }
    }
}

/// The program that a process runs, by its memory.
struct Program(File);

impl Program {
    /// The present one of `pid`. The kernel asks for the same permission as for tracing.
    fn of(pid: pid_t) -> Result<Self, StopError> {
        let of = Pid(pid as u32);
        let is_gone = |opened: &io::Result<File>| matches!(opened, Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)));
        // A thread that has ended has no memory any more, also the first one, which stays until the others have ended.
        let ids = iter::once(pid).chain(threads::ids(pid).into_iter().filter(|tid| *tid != pid));
        let mut opened = ids.map(|tid| File::open(format!("/proc/{pid}/task/{tid}/mem"))).skip_while(is_gone);
        match opened.next().unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ESRCH))) {
            Ok(memory) => Ok(Self(memory)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(StopError::Permission { pid: of, error })
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Err(StopError::Ended(of)),
            Err(error) => Err(StopError::Kernel { pid: of, doing: "opening its memory", error }),
        }
    }

    /// Whether the process still runs it. The descriptor refers to the address space of when it was opened; a read of one that
    /// is gone gives nothing, and one of page 0, which is never mapped in earnest, an error (`mem_rw` in fs/proc/base.c).
    fn is_alive(&self) -> bool {
        !matches!(self.0.read_at(&mut [0], 0), Ok(0))
    }
}
