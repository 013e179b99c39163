//! The process that sets probes in targets and holds them: ours to ask, but not ours to take along when we die.
//!
//! In: a program, an open file and places in it. Out: [`Held`] probes, removed when that is dropped, or when we are gone.
//!
//! While a process is being killed it cannot take a breakpoint out of another's memory: the kernel refuses whoever has a
//! fatal signal pending (`__get_user_pages` in mm/gup.c), says "failed to unregister, leaking uprobe", and the breakpoint
//! stays for as long as its target lives. So it would be wherever we end, by `SIGKILL` or by ourselves, while a thread of ours
//! sets probes or removes them. The holder's life is its own: it has a session of its own and ignores all signals that can be
//! ignored, ends what it has begun, and then finds that the other end of its socket is closed.

mod process;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde::{Deserialize, Serialize};

use crate::host::bpf::AttachType;
use crate::model::Pid;
pub use process::{NAME, main};

/// What may stop or end a process that does nothing about it; the rest cannot be ignored.
const IGNORED: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// What the holder is asked for, on a stream of its own for each request.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A link of the first descriptor, a program, to places in the second, a file.
    Link {
        attach_type: AttachType,
        offsets: Vec<u64>,
        cookies: Vec<u64>,
        /// 0 for all.
        pid: u32,
        returns: bool,
    },
    /// A perf event that runs the first descriptor, a program, at a place in the second, a file.
    PerfEvent {
        offset: u64,
        cookie: u64,
        /// 0 for all.
        pid: u32,
        returns: bool,
    },
    /// The end of what these numbers stand for.
    Remove(Vec<RawFd>),
}

/// A number for what was made, or the kernel's for why it was not.
type Answer = Result<RawFd, i32>;

/// Places of a file, and for whom.
#[derive(Debug)]
pub struct Places {
    /// Offsets in the file, each once.
    pub offsets: Vec<u64>,
    /// A cookie for each offset.
    pub cookies: Vec<u64>,
    /// The process to be probed; 0 for all.
    pub pid: u32,
    /// At the functions' returns rather than there.
    pub returns: bool,
}

/// The other process.
pub struct Holder {
    /// Closed first: the holder ends by that.
    socket: Option<OwnedFd>,
    child: Mutex<Child>,
    pid: Pid,
}

/// Probes that are in place until this is dropped; waits for the kernel then.
pub struct Held {
    holder: Arc<Holder>,
    /// `None` where somebody else removes them.
    number: Option<RawFd>,
}

impl Holder {
    /// Starts it.
    ///
    /// # Errors
    /// No process can be made, or it cannot execute our own file.
    pub fn start() -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("no socket")?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(NAME)
            .arg(std::process::id().to_string())
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: system calls only, none of which takes a lock or memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // Stays so across the execution.
                for ignored in IGNORED {
                    signal(ignored, SigHandler::SigIgn)?;
                }
                // What we were started with is nobody's but ours: a lock, the end of a pipe.
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start the process that sets probes")?;
        let pid = Pid(child.id());
        Ok(Self { socket: Some(ours), child: Mutex::new(child), pid })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Attaches a program of that attach type to places in a file.
    ///
    /// # Errors
    /// The kernel refuses it, or the holder is gone.
    pub fn link(
        self: &Arc<Self>,
        program: BorrowedFd<'_>,
        attach_type: AttachType,
        file: BorrowedFd<'_>,
        places: Places,
    ) -> io::Result<Held> {
        let Places { offsets, cookies, pid, returns } = places;
        let request = Request::Link { attach_type, offsets, cookies, pid, returns };
        self.hold(&request, program, file)
    }

    /// Attaches a program to one place in a file by a perf event.
    ///
    /// # Errors
    /// The kernel refuses it, or the holder is gone.
    pub fn perf_event(
        self: &Arc<Self>,
        program: BorrowedFd<'_>,
        file: BorrowedFd<'_>,
        (offset, cookie): (u64, u64),
        pid: u32,
        returns: bool,
    ) -> io::Result<Held> {
        self.hold(&Request::PerfEvent { offset, cookie, pid, returns }, program, file)
    }

    fn hold(self: &Arc<Self>, request: &Request, program: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<Held> {
        let number = self.ask(request, &[program, file])?;
        Ok(Held { holder: Arc::clone(self), number: Some(number) })
    }

    fn remove(&self, numbers: Vec<RawFd>) {
        // Where it has ended they are removed.
        if let Err(error) = self.ask(&Request::Remove(numbers), &[]) {
            log::debug!("probes are not removed: {error}");
        }
    }

    fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).ok_or_else(ended)
    }

    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<RawFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let sent: Vec<RawFd> =
            [theirs.as_raw_fd()].into_iter().chain(descriptors.iter().map(AsRawFd::as_raw_fd)).collect();
        let message = [ControlMessage::ScmRights(&sent)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket()?.as_raw_fd(), &[io::IoSlice::new(&[0])], &message, flags, None)
            .map_err(|error| if error == nix::Error::EPIPE { ended() } else { error.into() })?;
        drop(theirs);
        serde_json::to_writer(&ours, request)?;
        ours.shutdown(Shutdown::Write)?;
        // Nothing comes where the holder ends before it has answered.
        let answer: Answer = serde_json::from_reader(&ours).map_err(|_| ended())?;
        answer.map_err(io::Error::from_raw_os_error)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.socket.take());
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = child.wait() {
            log::debug!("the process that sets probes is not waited for: {error}");
        }
    }
}

impl Held {
    /// Removes all of these at once. The kernel waits for a grace period for each, side by side.
    pub fn remove_all(mut held: Vec<Self>) {
        let numbers = held.iter_mut().filter_map(|held| held.number.take()).collect();
        if let Some(Self { holder, .. }) = held.first() {
            holder.remove(numbers);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.holder.remove(vec![number]);
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the process that sets probes has ended")
}
