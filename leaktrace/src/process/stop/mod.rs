//! Stopping a running process for a moment, with the registers of all its threads.
//!
//! In: the id of a process. Out: its threads as they are stopped, until they are released; its memory can be read meanwhile and
//! belongs together. Never writes anything to the process, and sets no option of ptrace(2) that would leave a trace in it, unless it
//! is asked for a copy ([`Stopped::copy`]).
//!
//! Each thread is seized and interrupted (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`) by one thread of ours, since ptrace relations are
//! per thread. The process may notice three things. System calls that signal(7) lists as interrupted by a stop, such as
//! `epoll_wait`, return EINTR once. Clocks go on. A signal that arrives during the stop is handled after it.
//!
//! Invariant: if leaktrace is killed at any moment, the process runs on: the kernel detaches, and none of these stops turns into
//! a signal. A signal that a thread was about to handle is not taken from the kernel, so that it is not lost either.

mod error;
mod stopper;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::model::Pid;
use crate::process::ptrace;
use crate::process::registers::StoppedThread;
use crate::process::snapshot::{Fork, Order, Plan, Refused};
pub use error::StopError;
use stopper::{Seized, Stopper};

/// How long the stopping thread may be silent beyond the time for stopping; then it waits within the kernel.
const GRACE: Duration = Duration::from_secs(1);
/// How often threads that were killed meanwhile are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a process may be kept from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long its threads may take to stop. Those that are stopped wait for the others meanwhile.
    pub stop_within: Duration,
    /// After this time from the first interruption the process runs again, even if nobody has released it.
    pub hold_at_most: Duration,
}

impl Default for Limits {
    /// Half a second to stop: 1,001 threads take 23 ms on a quiet machine. Half a minute at most: 150 ms are needed per GB.
    fn default() -> Self {
        Self { stop_within: Duration::from_millis(500), hold_at_most: Duration::from_secs(30) }
    }
}

/// How long a process did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// From the first thread's interruption to the last one's release.
    pub length: Duration,
    /// It ended by [`Limits::hold_at_most`]. What was read of the process last need not fit to what was read first.
    pub cut_short: bool,
}

/// The name of the threads that stop processes.
const STOPPING_THREAD: &str = "stop";

/// A process all of whose threads are stopped. It runs again when this is released or dropped, both of which wait for that.
#[derive(Debug)]
#[must_use = "the process runs again as soon as this is dropped"]
pub struct Stopped {
    pid: Pid,
    threads: Vec<StoppedThread>,
    hold: Option<Hold>,
}

/// The thread that traces. It lets the process go as soon as nothing can be sent to it any more.
#[derive(Debug)]
struct Hold {
    orders: Sender<Order>,
    pause: Receiver<Pause>,
    tracer: JoinHandle<()>,
}

impl Stopped {
    /// Stops every thread of `pid`, also those that are created meanwhile. Blocks until that is done, within
    /// [`Limits::stop_within`] and a second.
    ///
    /// A process that job control has stopped already stays so; its threads are read where they are.
    ///
    /// # Errors
    /// What stands in the way. The process runs again, or is about to where a thread of it is in an uninterruptible wait.
    pub fn stop(pid: Pid, limits: Limits) -> Result<Self, StopError> {
        Self::stop_all(pid, None, limits)
    }

    /// Stops a process one of whose threads another thread of ours traces and holds stopped; `held` is how that was found. It is
    /// among the threads, and is not released with the others.
    ///
    /// # Errors
    /// As [`Stopped::stop`].
    pub fn stop_beside(held: StoppedThread, pid: Pid, limits: Limits) -> Result<Self, StopError> {
        Self::stop_all(pid, Some(held), limits)
    }

    fn stop_all(pid: Pid, held: Option<StoppedThread>, limits: Limits) -> Result<Self, StopError> {
        let seized = Arc::new(Seized::default());
        let stopper = Stopper::new(pid, held, limits, Arc::clone(&seized));
        let (answers, answer) = mpsc::channel();
        let (orders, given) = mpsc::channel();
        let (paused, pause) = mpsc::channel();
        let tracer = thread::Builder::new()
            .name(STOPPING_THREAD.to_owned())
            .spawn(move || stopper.run(&answers, &given, &paused))
            .map_err(StopError::Thread)?;
        match await_answer(pid, limits, &seized, &answer) {
            Ok(threads) => Ok(Self { pid, threads, hold: Some(Hold { orders, pause, tracer }) }),
            // Where the kernel does not let it go on, it is left behind.
            Err(error @ StopError::Executing(_)) => Err(error),
            Err(error) => {
                // A thread that is yet to stop is traced until the tracer has ended.
                let _ = tracer.join();
                seized.await_end_of_tracer();
                Err(error)
            }
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its threads. Those that have ended and only wait to be noticed are not among them.
    #[must_use]
    pub fn threads(&self) -> &[StoppedThread] {
        &self.threads
    }

    /// Lets it run again and says how long it did not.
    pub fn release(mut self) -> Pause {
        let nothing = Pause { length: Duration::ZERO, cut_short: true };
        self.let_go().unwrap_or(nothing)
    }

    /// Makes a copy of the process while it is stopped. It stays as it is when the process runs again.
    ///
    /// # Errors
    /// Why there is none.
    pub fn copy(&self, plan: &Plan) -> Result<Fork, Refused> {
        let released = || Refused::Released(self.pid);
        let Some(Hold { orders, .. }) = &self.hold else { return Err(released()) };
        let (answers, answer) = mpsc::channel();
        orders.send(Order::Copy(plan.clone(), answers)).map_err(|_| released())?;
        let (pid, mappings) = answer.recv().map_err(|_| released())??;
        Ok(Fork::new(pid, mappings, orders.clone()))
    }

    fn let_go(&mut self) -> Option<Pause> {
        let Hold { orders, pause, tracer } = self.hold.take()?;
        // It has already let go if it cannot be told.
        let _ = orders.send(Order::Release);
        // It goes on with the copies that there are.
        pause.recv().ok().or_else(|| {
            // A thread that panicked has ended, and the kernel has let go of what it traced.
            let _ = tracer.join();
            None
        })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.let_go();
    }
}

type Answer = Result<Vec<StoppedThread>, StopError>;

/// Waits for the stopping thread, and keeps it from waiting for itself.
///
/// A program that one of several threads executes waits until the others have ended, which for those that are traced means: until
/// their tracer has taken their ends. Meanwhile the kernel lets nobody seize a thread of that process, so that a tracer that tries
/// would wait for the program, and the program for it (`de_thread` in fs/exec.c, `ptrace_attach` in kernel/ptrace.c: both want
/// `cred_guard_mutex`). But every thread of a process may take the ends that are due to one of them.
fn await_answer(pid: Pid, limits: Limits, seized: &Seized, answer: &Receiver<Answer>) -> Answer {
    let deadline = Instant::now() + limits.stop_within + GRACE;
    loop {
        match answer.recv_timeout(LOOK_AGAIN) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => {
                let error = io::Error::other("the thread for it panicked");
                return Err(StopError::Kernel { pid, doing: "tracing", error });
            }
            // The thread finds nobody to answer to when it comes back, and lets go of everything.
            Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => return Err(StopError::Executing(pid)),
            Err(RecvTimeoutError::Timeout) => {
                // The first thread's end is not waited for by anyone but its parent, which may be us.
                for tid in seized.all().into_iter().filter(|&tid| tid as u32 != pid.0) {
                    // It has not ended, or its tracer was quicker.
                    let _ = ptrace::take_end_for_another(tid);
                }
            }
        }
    }
}
