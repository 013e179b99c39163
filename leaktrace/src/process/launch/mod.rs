//! Starting a command so that it can be traced from before its first allocation, and seeing it through to its end.
//!
//! In: the words of the command line. Out: a process held where all its libraries are mapped and none of its constructors
//! has run, then, when it is let go, its later programs, its coming exit and its status.
//!
//! While it is held, probes can be attached to it; afterwards it runs as if started alone: its own terminal, process group,
//! environment, signals and status. It stays seized by a thread of ours, with two effects that cannot be hidden from it: no
//! debugger can attach, and a signal that it ignores interrupts (EINTR) those system calls that signal(7) lists as
//! interrupted by a stop, such as `epoll_wait`. A program that traces itself, as LeakSanitizer does, is let go for good.
//!
//! Invariant: if leaktrace is killed at any moment, the command goes on unharmed.

pub mod background;
mod bell;
mod command;
mod inherited;
mod jobs;
mod linker;
mod spawn;
mod tracer;

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;
use std::{io, thread};

use async_channel::Receiver as Notices;

use crate::model::Pid;
use crate::process::pidfd::PidFd;
use crate::process::registers::{Registers, StoppedThread};
use crate::process::threads;
use bell::Bell;
use command::Executable;
use tracer::{Notice, Word};

pub use super::ptrace::Ending;
pub use command::CommandError;
pub use linker::HeldAt;

/// What the thread is called that traces a command.
pub(super) const COMMAND_THREAD: &str = "command";

/// Why there is no held command. Each text is one line that names the next step.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is nothing to execute, or it cannot be executed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// No process could be made.
    #[error("cannot start a process: {0}")]
    Fork(#[source] io::Error),
    /// The kernel does not let us hold it.
    #[error(
        "cannot hold the command before it runs: ptrace is refused ({0}). A container's seccomp profile, a security \
         module or kernel.yama.ptrace_scope=3 may be why; start the command yourself and trace it with -p"
    )]
    Ptrace(#[source] io::Error),
    /// It is lost from view.
    #[error("cannot wait for the command: {0}")]
    Wait(#[source] io::Error),
    /// A signal came first.
    #[error("the command ended before it ran ({0})")]
    Ended(Ending),
}

/// How a command is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchOptions {
    /// Let leaktrace stop and go on with the command when a shell's job control does so to it. Changes how this process
    /// as a whole takes SIGTSTP, SIGTTIN and SIGTTOU until the command has ended.
    pub job_control: bool,
    /// Hold each program that the command's process executes in its place later, as the first one is held.
    pub hold_later_programs: bool,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        Self { job_control: true, hold_later_programs: true }
    }
}

/// A process that was started, and the means to signal it that cannot hit another.
struct Started {
    pid: Pid,
    pidfd: PidFd,
}

impl Started {
    fn of(pid: libc::pid_t) -> Result<Self, LaunchError> {
        let pid = Pid(pid as u32);
        Ok(Self { pid, pidfd: PidFd::open(pid).map_err(LaunchError::Wait)? })
    }
}

/// What happens to a command after it was started.
#[derive(Debug)]
pub enum Event {
    /// It is held at its first program, or at one that its process executes later.
    Held(Held),
    /// One of its threads is stopped, as was asked for by [`Launched::ask_to_stop`]. `None` where no thread is traced: another
    /// tracer may stop it.
    Stopped(Option<Held>),
    /// The process is about to end; its memory is still there and stays until it is let go.
    Exiting(Held),
    /// The process is gone, with this result. No event follows.
    Ended(Ending),
}

/// A process that waits to be let go.
#[derive(Debug)]
#[must_use = "the command stays stopped until it is released"]
pub struct Held {
    words: Sender<Word>,
    at: HeldAt,
    thread: Option<Box<StoppedThread>>,
    since: Instant,
}

impl Held {
    /// Where it is held; [`HeldAt::Late`] means that allocations may have been missed.
    #[must_use]
    pub fn at(&self) -> HeldAt {
        self.at
    }

    /// At an exit or anywhere, the thread that is held, with its registers. It is the first one, unless that has ended long
    /// before.
    ///
    /// At an exit it need not be the one that called `exit`. The others are being killed then, and their registers are gone.
    /// Anywhere else they run.
    #[must_use]
    pub fn thread(&self) -> Option<&StoppedThread> {
        self.thread.as_deref()
    }

    /// The registers of [`Held::thread`].
    #[must_use]
    pub fn registers(&self) -> Option<&Registers> {
        self.thread().map(|thread| &thread.registers)
    }

    /// Since when it is known to be held.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// At an exit, whether all other threads of the process have ended. They are being killed.
    #[must_use]
    pub fn is_alone(&self, pid: Pid) -> bool {
        self.thread.as_ref().is_none_or(|thread| threads::is_alone(pid.0 as libc::pid_t, thread.tid.0 as libc::pid_t))
    }

    /// Lets it go on.
    pub fn release(self) {
        // If the thread is gone, so is the process.
        let _ = self.words.send(Word::GoOn);
    }

    /// Lets it go on and only waits for its end: later programs are not held, nor is its exit, and others may trace it.
    pub fn leave_alone(self) {
        let _ = self.words.send(Word::LeaveAlone);
    }
}

/// A command that was started and is seen through to its end.
///
/// When it is dropped, a command that was never released is killed: it has not run. One that runs already is left to
/// itself, and also goes on when leaktrace exits.
#[derive(Debug)]
pub struct Launched {
    started: Started,
    words: Sender<Word>,
    notices: Notices<Notice>,
    bell: Arc<Bell>,
    ended: Option<Ending>,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

impl Launched {
    /// Starts `command`, the first word being searched in PATH as a shell does, and holds it at its `exec`. Blocks for the
    /// few milliseconds that this takes.
    ///
    /// Limits and the like that leaktrace changes for itself must be changed after this, or the command inherits them.
    pub fn spawn(command: &[OsString], options: LaunchOptions) -> Result<Self, LaunchError> {
        Self::spawn_with(command, None, options)
    }

    /// The same with a library preloaded, if one is named.
    pub fn spawn_with(
        command: &[OsString],
        library: Option<&Path>,
        options: LaunchOptions,
    ) -> Result<Self, LaunchError> {
        let mut executable = Executable::find(command, std::env::var_os("PATH").as_deref())?;
        if let Some(library) = library {
            executable.preload(library);
        }
        let (word_sender, words) = mpsc::channel();
        let (notice_sender, notices) = async_channel::unbounded();
        let (started_sender, started) = mpsc::channel();
        let bell = Arc::new(Bell::default());
        let heard = Arc::clone(&bell);
        thread::Builder::new()
            .name(COMMAND_THREAD.to_owned())
            .spawn(move || tracer::run(&executable, options, &started_sender, words, notice_sender, &heard))
            .map_err(LaunchError::Fork)?;
        let started = started.recv().map_err(|_| LaunchError::Wait(io::ErrorKind::BrokenPipe.into()))??;
        Ok(Self { started, words: word_sender, notices, bell, ended: None })
    }

    /// The process' id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.started.pid
    }

    /// Readable once the process has ended, whoever reaps it.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.started.pidfd.as_fd()
    }

    /// Runs it on from its `exec` until its libraries are mapped; call this once, first.
    ///
    /// # Errors
    /// Its ending, where it ended before: a library was missing, or somebody killed it.
    pub async fn hold_until_mapped(&mut self) -> Result<Held, Ending> {
        // If the thread is gone, the events below say so.
        let _ = self.words.send(Word::GoOn);
        loop {
            match self.next_event().await {
                Event::Held(held) => return Ok(held),
                Event::Exiting(held) | Event::Stopped(Some(held)) => held.release(),
                Event::Stopped(None) => {}
                Event::Ended(ending) => return Err(ending),
            }
        }
    }

    /// Waits for what happens next. May be cancelled and called again without losing an event; after
    /// [`Event::Ended`] it says so again.
    pub async fn next_event(&mut self) -> Event {
        if let Some(ending) = self.ended {
            return Event::Ended(ending);
        }
        let held = |at, thread| Held { words: self.words.clone(), at, thread, since: Instant::now() };
        match self.notices.recv().await {
            Ok(Notice::Exiting(thread)) => Event::Exiting(held(HeldAt::Exit, thread)),
            Ok(Notice::Held(at)) => Event::Held(held(at, None)),
            Ok(Notice::Stopped(None)) => Event::Stopped(None),
            Ok(Notice::Stopped(thread)) => Event::Stopped(Some(held(HeldAt::Anywhere, thread))),
            Ok(Notice::Ended(ending)) => {
                self.ended = Some(ending);
                Event::Ended(ending)
            }
            Err(_) => {
                log::error!("process {} ended unseen", self.started.pid);
                let ending = Ending::Exited(1);
                self.ended = Some(ending);
                Event::Ended(ending)
            }
        }
    }

    /// Has the thread of it that is traced stopped as soon as it leaves the kernel or an interruptible wait:
    /// [`Event::Stopped`] follows, unless it exits or ends. Events that are due come before. Blocks for a millisecond, or fifty
    /// where the command is held.
    pub fn ask_to_stop(&self) {
        self.bell.ask();
        let asked = self.words.send(Word::Stop).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH));
        if let Err(error) = asked.and_then(|()| self.bell.ring()) {
            // Its end follows.
            log::debug!("process {} is not stopped: {error}", self.started.pid);
        }
    }

    /// Calls the stop off that was asked for. If that is too late, [`Event::Stopped`] follows soon.
    pub fn call_stop_off(&self) {
        if !self.bell.take() {
            log::debug!("process {} is being stopped already", self.started.pid);
        }
    }

    /// Sends `signal` to the process.
    ///
    /// # Errors
    /// `ESRCH` where it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.started.pidfd.signal(signal)
    }
}
