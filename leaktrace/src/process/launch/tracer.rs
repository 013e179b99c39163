//! The thread that holds the command: the kernel keeps ptrace relations per thread, so this one starts the command, seizes it
//! and sees it through to its end.
//!
//! In: an executable, and words to go on. Out: events. Between two events it passes on every signal, group stop and exec at
//! once, whatever the rest of leaktrace is doing.
//!
//! Only one thread of the command is traced, its first one, for as long as it lives: that is the one that `exec` leaves and
//! that exits with every orderly end of a process. The others run untouched. It is stopped between two events where that is asked
//! for: a word, and a signal to this thread (see `bell`), which waits in the kernel.
//!
//! Invariant: nothing is written into the command, and no stop is left that would turn into a signal if we die; the kernel
//! then detaches, and the command goes on.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, Sender};

use async_channel::Sender as Notices;
use libc::{c_int, pid_t};

use super::bell::Bell;
use super::command::Executable;
use super::jobs::JobControl;
use super::linker::{self, Auxv, HeldAt, Plan, Step, Watch};
use super::{LaunchError, LaunchOptions, Started, inherited, spawn};
use crate::elf::Ident;
use crate::model::{Address, Pid};
use crate::process::memory::Reader;
use crate::process::ptrace::{self, Change, Ending};
use crate::process::registers::{Room, StoppedThread};
use crate::process::threads;

/// What the thread reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// The command is held here, and waits for a [`Word`].
    Held(HeldAt),
    /// As was asked for, its thread is stopped, and waits for a [`Word`]. `None` where none of its threads is traced, or its
    /// registers could not be read: then it does not wait.
    Stopped(Option<Box<StoppedThread>>),
    /// The command is about to exit, and waits for a [`Word`] with this thread in its exit stop. `None` where its registers
    /// could not be read.
    Exiting(Option<Box<StoppedThread>>),
    /// It has ended; nothing follows.
    Ended(Ending),
}

/// The word that ends a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Stop the command; the notice comes when that is done. Does not end a hold.
    Stop,
    /// On to what comes next.
    GoOn,
    /// Let go for good: only its end is still waited for.
    LeaveAlone,
}

/// Why a step could not be taken.
enum Stopped {
    /// The command was killed while it was stopped; its end is the next change.
    Gone,
    /// Nobody listens any more, and the command was never let go.
    Abandoned,
    /// Something that should not fail did.
    Failed(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ESRCH) { Self::Gone } else { Self::Failed(error) }
    }
}

/// Runs on a thread of its own from the start of `executable` to its end.
pub(super) fn run(
    executable: &Executable,
    options: LaunchOptions,
    started: &Sender<Result<Started, LaunchError>>,
    words: Receiver<Word>,
    notices: Notices<Notice>,
    bell: &Bell,
) {
    bell.hear();
    // Before the fork: what the terminal sends to the command's group must never stop us with the command untended.
    let jobs = options.job_control.then(JobControl::take);
    inherited::see_children_end();
    let pid = match spawn::start(executable) {
        Ok(pid) => pid,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let began = Started::of(pid);
    let known = began.is_ok();
    if started.send(began).is_err() || !known {
        end(pid);
        return;
    }
    let mut tracer = Tracer {
        pid,
        traced: pid,
        is_to_stop: false,
        bell,
        jobs,
        hold_later_programs: options.hold_later_programs,
        linking: None,
        released: false,
        words,
        notices,
    };
    let ending = match tracer.see_through() {
        Ok(ending) => Some(ending),
        Err(Stopped::Abandoned | Stopped::Gone) => end(pid),
        Err(Stopped::Failed(error)) => {
            log::error!("process {pid} is no longer under control: {error}");
            see_off(pid)
        }
    };
    if let Some(ending) = ending {
        tracer.tell(Notice::Ended(ending));
    }
}

/// Kills a command that never ran, and waits for its end.
fn end(pid: pid_t) -> Option<Ending> {
    // SAFETY: the number still belongs to our child, which nobody but this thread reaps.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    see_off(pid)
}

/// Waits for the command's end, only keeping it going.
fn see_off(pid: pid_t) -> Option<Ending> {
    loop {
        let change = match ptrace::wait_any() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            change => change.ok()?,
        };
        match change {
            (ended, Change::Ended(ending)) => {
                ptrace::take(ended).ok()?;
                if ended == pid {
                    return Some(ending);
                }
            }
            (tid, Change::Signal(signal)) => drop(ptrace::resume(tid, signal)),
            (tid, Change::GroupStop(_)) => drop(ptrace::listen(tid)),
            (tid, _) => drop(ptrace::resume(tid, 0)),
        }
    }
}

struct Tracer<'a> {
    pid: pid_t,
    /// The thread that changed last, the one that is traced.
    traced: pid_t,
    /// It was asked to stop, and has not yet.
    is_to_stop: bool,
    bell: &'a Bell,
    jobs: Option<JobControl>,
    hold_later_programs: bool,
    /// The dynamic linker that is at work now.
    linking: Option<Watch>,
    /// Code of the command's own has been let run.
    released: bool,
    words: Receiver<Word>,
    notices: Notices<Notice>,
}

impl Tracer<'_> {
    /// From the end of the first `exec` to the end of the process.
    fn see_through(&mut self) -> Result<Ending, Stopped> {
        // Its first `exec` has been seen, but not taken: it is the first change that comes below.
        self.await_word()?;
        loop {
            self.heed();
            let (tid, what) = match ptrace::wait_any() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                change => change?,
            };
            self.traced = tid;
            let done = match what {
                Change::Ended(ending) => {
                    ptrace::take(tid)?;
                    if tid == self.pid {
                        return Ok(ending);
                    }
                    // A thread that was past its exit stop when we took it up.
                    self.follow_another(tid);
                    Ok(())
                }
                Change::Exec => self.at_exec(tid),
                Change::Syscall => self.at_syscall(tid),
                Change::Exiting => self.at_exit(tid),
                Change::GroupStop(signal) => self.stay(tid).and_then(|()| self.at_group_stop(tid, signal)),
                Change::Trap | Change::Clone => self.stay(tid).and_then(|()| self.resume(tid, 0)),
                Change::Signal(signal) => self.resume(tid, signal),
            };
            match done {
                Ok(()) | Err(Stopped::Gone) => {}
                Err(stopped) => return Err(stopped),
            }
        }
    }

    fn tell(&self, notice: Notice) {
        // Nobody listens once leaktrace has finished with the command; it is seen through all the same.
        let _ = self.notices.send_blocking(notice);
    }

    /// Waits for the word that ends a hold.
    fn await_word(&mut self) -> Result<Word, Stopped> {
        loop {
            return match self.words.recv() {
                Ok(Word::Stop) => {
                    self.bell.heard();
                    self.is_to_stop = true;
                    continue;
                }
                Ok(word) => Ok(word),
                Err(_) if self.released => Ok(Word::GoOn),
                Err(_) => Err(Stopped::Abandoned),
            };
        }
    }

    /// Has the command stop, if that is what words say that came meanwhile.
    fn heed(&mut self) {
        while let Ok(word) = self.words.try_recv() {
            if word == Word::Stop {
                self.bell.heard();
                self.is_to_stop = true;
            }
        }
        // Interrupting once more what is about to stop changes nothing.
        if self.is_to_stop && ptrace::interrupt(self.traced).is_err() {
            self.is_to_stop = false;
            self.tell(Notice::Stopped(None));
        }
    }

    /// Leaves the thread in its stop until the word comes, if it was to stop.
    fn stay(&mut self, tid: pid_t) -> Result<(), Stopped> {
        // Where nobody waits for it any more, nobody would let it go soon.
        if !mem::take(&mut self.is_to_stop) || !self.bell.take() {
            return Ok(());
        }
        let thread = self.read(tid);
        let is_stopped = thread.is_some();
        self.tell(Notice::Stopped(thread));
        if is_stopped {
            self.await_word()?;
        }
        // If it was killed meanwhile, it may be stopped at its exit by now, which must not be passed over.
        match ptrace::change_of(tid)? {
            Some(Change::Trap | Change::GroupStop(_)) => Ok(()),
            _ => Err(Stopped::Gone),
        }
    }

    /// The thread, which is stopped.
    fn read(&self, tid: pid_t) -> Option<Box<StoppedThread>> {
        let thread = StoppedThread::read(tid, threads::comm(self.pid, tid), &mut Room::new());
        thread.inspect_err(|error| log::debug!("no registers of thread {tid}: {error}")).ok().map(Box::new)
    }

    /// Lets the thread run, at full speed or from system call to system call.
    fn resume(&self, tid: pid_t, signal: c_int) -> Result<(), Stopped> {
        let resume = if self.linking.is_some() { ptrace::resume_to_syscall } else { ptrace::resume };
        resume(tid, signal)?;
        Ok(())
    }

    fn hold(&mut self, tid: pid_t, at: HeldAt) -> Result<(), Stopped> {
        ptrace::take(tid)?;
        self.linking = None;
        self.tell(Notice::Held(at));
        let word = self.await_word()?;
        self.released = true;
        // If it was killed while it was held, it may be stopped at its exit by now, which must not be passed over.
        if ptrace::change_of(tid)?.is_some() {
            return Ok(());
        }
        if word == Word::LeaveAlone {
            // Its stops are not seen any more: the terminal's are to reach us as they reach it.
            self.jobs = None;
            return Ok(ptrace::detach(tid, 0)?);
        }
        self.resume(tid, 0)
    }

    fn at_exec(&mut self, tid: pid_t) -> Result<(), Stopped> {
        if !self.released || self.hold_later_programs {
            match plan(self.pid) {
                Plan::HoldNow => return self.hold(tid, HeldAt::Exec),
                Plan::Watch(watch) => self.linking = Some(watch),
            }
        }
        ptrace::take(tid)?;
        self.resume(tid, 0)
    }

    fn at_syscall(&mut self, tid: pid_t) -> Result<(), Stopped> {
        let step = match (&self.linking, ptrace::syscall_entry(tid)?) {
            (Some(watch), Some(call)) => watch.judge(&call),
            _ => Step::GoOn,
        };
        match step {
            Step::GoOn => self.resume(tid, 0),
            Step::Hold(at) => self.hold(tid, at),
        }
    }

    fn at_exit(&mut self, tid: pid_t) -> Result<(), Stopped> {
        self.linking = None;
        if threads::process_ends_with(self.pid, tid) {
            self.tell(Notice::Exiting(self.read(tid)));
            // Without a listener there is no report to wait for.
            self.await_word()?;
            self.is_to_stop = false;
            return self.resume(tid, 0);
        }
        // The process outlives its first thread. Let that go before another is taken up: if the other one is executing a
        // program, it holds a lock that seizing needs until the first has gone.
        ptrace::detach(tid, 0)?;
        self.follow_another(tid);
        Ok(())
    }

    /// Takes up a thread that is still alive, so that the end of the process is not missed. `gone` is the one that was
    /// traced so far: it may still look alive, or its number may by now be that of the thread that executed a program.
    fn follow_another(&mut self, gone: pid_t) {
        loop {
            let mut alive = threads::alive(self.pid);
            alive.sort_by_key(|&tid| tid == gone);
            if alive.is_empty() {
                return;
            }
            for tid in alive {
                match ptrace::seize(tid) {
                    Ok(()) => {
                        self.traced = tid;
                        return;
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => {
                        log::debug!("thread {tid} of process {} cannot be followed: {error}", self.pid);
                        return;
                    }
                }
            }
        }
    }

    fn at_group_stop(&mut self, tid: pid_t, signal: c_int) -> Result<(), Stopped> {
        match self.jobs.as_ref().filter(|jobs| jobs.concerns(self.pid, signal)) {
            // While we are stopped nobody could tend the command, so it is left to itself until we go on.
            Some(jobs) if self.linking.is_none() => {
                ptrace::detach(tid, 0)?;
                jobs.stop_ourselves(self.pid);
                if let Err(error) = ptrace::seize(tid) {
                    // It went on with us and has ended by now, or a debugger was quicker. Its end is seen in any case.
                    log::debug!("process {} is not held again: {error}", self.pid);
                }
            }
            // Left to itself, it could run past the place where it is to be held.
            Some(jobs) => {
                jobs.stop_ourselves(self.pid);
                ptrace::listen(tid)?;
            }
            None => ptrace::listen(tid)?,
        }
        Ok(())
    }
}

/// What to do at the `exec` at which process `pid` is stopped.
fn plan(pid: pid_t) -> Plan {
    let look = || -> io::Result<Plan> {
        // The class of the ELF file; addresses of 32-bit programs are laid out differently, and are not traced anyway.
        let mut ident = [0; Ident::LENGTH];
        io::Read::read_exact(&mut std::fs::File::open(format!("/proc/{pid}/exe"))?, &mut ident)?;
        if !Ident::parse(&ident).is_ok_and(|ident| ident.is_64_bit) {
            return Ok(Plan::HoldNow);
        }
        let auxv = Auxv::parse(&std::fs::read(format!("/proc/{pid}/auxv"))?);
        let memory = Reader::open(Pid(pid as u32)).map_err(io::Error::other)?;
        Ok(linker::plan(&auxv, |address, buffer| memory.read_exact(Address(address), buffer).is_ok()))
    };
    look().unwrap_or(Plan::HoldNow)
}
