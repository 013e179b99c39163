//! A separate process that sets probes in targets and holds them; it outlives this one until they are removed.
//!
//! In: a program, an open file and places in it. Out: [`Held`] probes, removed when that is dropped, or when this process is
//! gone.
//!
//! While a process is being killed it cannot take a breakpoint out of another's memory: the kernel refuses whoever has a fatal
//! signal pending (`__get_user_pages` in mm/gup.c), says "failed to unregister, leaking uprobe", and the breakpoint stays for
//! as long as its target lives. This would happen however leaktrace ended while one of its threads sets or removes probes. So
//! the holder has a session of its own, ignores all signals that can be ignored, completes what it has begun, and then finds
//! that the other end of its socket is closed.

mod links;
mod process;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::iter;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, shutdown, socketpair};
use serde::{Deserialize, Serialize};

use crate::host::bpf::{AttachType, Places};
use crate::host::file_id::{Content, Excerpt, FileId, Version};
use crate::model::Pid;
pub use process::{NAME, main};

/// How long to wait for the removal of probes, which then goes on by itself.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for the holder's end, which then comes by itself.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// The highest number of a signal.
const LAST_SIGNAL: libc::c_int = 64;

/// A request to the holder. Each comes with a stream of its own and is all that is written to it.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A link of the first descriptor, a program, to places in the second, a file.
    Link(AttachType, Places, Condition),
    /// A perf event that runs the first descriptor, a program, at the only place in the second, a file.
    PerfEvent(Places, Condition),
    /// The end of what these numbers stand for.
    Remove(Vec<Number>),
    /// Device and inode of each file whose probes are removed since somebody is going to write to it, a line each, until the
    /// stream is closed.
    Watch,
}

/// What must hold for a link to be made; otherwise the error is `ETXTBSY`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Condition {
    /// The content that its places are for.
    version: Version,
    /// What must be at its places. Checked where there can be a lease, under which it stays so.
    excerpts: Vec<Excerpt>,
    /// The file's server may not answer, and there is no lease to be had.
    is_served: bool,
    /// A link in the same file that must still be there: all of a file's probes are in place, or none.
    beside: Option<Number>,
}

impl Condition {
    fn of(content: &Content, places: &Places, beside: Option<&Held>) -> Self {
        let excerpts = places.offsets.iter().filter_map(|offset| content.excerpts.get(offset));
        Self {
            version: content.version,
            excerpts: excerpts.cloned().collect(),
            is_served: content.is_served,
            beside: beside.and_then(|held| held.number),
        }
    }
}

/// Stands for a link; none is given out twice.
type Number = u32;

/// A number for what was made, or the kernel's error number.
type Answer = Result<Number, i32>;

/// The holder, as this process sees it.
pub struct Holder {
    socket: OwnedFd,
    /// Whether the holder was told to end.
    is_over: AtomicBool,
    child: Mutex<Child>,
    pid: Pid,
}

/// Probes that are in place until this is dropped; waits for the kernel then.
pub struct Held {
    holder: Arc<Holder>,
    /// `None` once [`Held::remove_all`] removes them.
    number: Option<Number>,
}

impl Holder {
    /// Starts the holder.
    ///
    /// # Errors
    /// No process can be made, or it cannot execute our own file.
    pub fn start() -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("no socket")?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(NAME)
            // For readers of process lists.
            .arg(format!("of {}", std::process::id()))
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: system calls only, none of which takes a lock or memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // Should somebody have stopped it by the time that we die, it goes on and ends. Forgotten where the program has
                // rights of its own (file capabilities).
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT);
                for number in 1..=LAST_SIGNAL {
                    // Exec keeps ignored signals ignored. Two cannot be ignored, and the C library reserves two.
                    libc::signal(number, libc::SIG_IGN);
                }
                // The holder must not keep descriptors that we inherited: a lock, the end of a pipe.
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start the process that sets probes")?;
        let pid = Pid(child.id());
        Ok(Self { socket: ours, is_over: AtomicBool::new(false), child: Mutex::new(child), pid })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How the holder has ended, if it has; all probes are gone with it.
    pub fn ended(&self) -> Option<String> {
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
        match status {
            Ok(status) => status.map(|status| format!("by {status}")),
            // Where `SIGCHLD` is ignored, as our parent may have left it, the kernel keeps no exit status of children.
            Err(_) => Some("in a way that is not known".to_owned()),
        }
    }

    /// Whether the holder was told to end, after which it does not answer.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Tells the holder to end, and waits a little until it has removed all probes.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.wake();
        // `shutdown` and not `close`: a process that is being forked may have a copy of the descriptor.
        if let Err(error) = shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both) {
            log::debug!("the process that sets probes is not told to end: {error}");
        }
        let until = Instant::now() + ENDED_WITHIN;
        while self.ended().is_none() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Attaches a program of that attach type to places in a file with this content, `beside` others that are there already.
    ///
    /// # Errors
    /// `ETXTBSY`: the file is written to, or was since. Or the kernel refuses it, or the holder is gone.
    pub fn link(
        self: &Arc<Self>,
        program: BorrowedFd<'_>,
        attach_type: AttachType,
        (file, content): (BorrowedFd<'_>, &Content),
        places: Places,
        beside: Option<&Held>,
    ) -> io::Result<Held> {
        let condition = Condition::of(content, &places, beside);
        self.hold(&Request::Link(attach_type, places, condition), program, file)
    }

    /// Attaches a program to one place in a file by a perf event, under the same conditions.
    ///
    /// # Errors
    /// As for [`Self::link`].
    pub fn perf_event(
        self: &Arc<Self>,
        program: BorrowedFd<'_>,
        (file, content): (BorrowedFd<'_>, &Content),
        place: Places,
        beside: Option<&Held>,
    ) -> io::Result<Held> {
        let condition = Condition::of(content, &place, beside);
        self.hold(&Request::PerfEvent(place, condition), program, file)
    }

    fn hold(self: &Arc<Self>, request: &Request, program: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<Held> {
        let number = self.ask(request, &[program, file], None)?;
        Ok(Held { holder: Arc::clone(self), number: Some(number) })
    }

    fn remove(&self, numbers: Vec<Number>) {
        if let Err(error) = self.ask(&Request::Remove(numbers), &[], Some(REMOVED_WITHIN))
            && self.ended().is_none()
            && !self.is_over()
        {
            log::warn!("probes stay in place until the trace is over: {error}");
        }
    }

    /// Continues the holder, which somebody may have stopped.
    fn wake(&self) {
        // The pid is the holder's until it is reaped, which only `ended` does.
        if self.ended().is_none() {
            let _ = kill(nix::unistd::Pid::from_raw(self.pid.0 as i32), Signal::SIGCONT);
        }
    }

    /// The files whose probes are removed since somebody is going to write to them. Each step blocks, until the holder ends.
    ///
    /// # Errors
    /// The holder does not answer.
    pub fn written(self: &Arc<Self>) -> io::Result<impl Iterator<Item = FileId> + use<>> {
        let lines = BufReader::new(self.send(&Request::Watch, &[])?).lines();
        let files = lines.map_while(Result::ok).filter_map(|line| {
            let (device, inode) = line.split_once(' ')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        let holder = Arc::clone(self);
        let end = iter::from_fn(move || {
            if !holder.is_over() && holder.ended().is_none() {
                log::warn!("files that lose their probes from now on, since they are written to, are in no report");
            }
            None
        });
        Ok(files.chain(end))
    }

    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>], within: Option<Duration>) -> io::Result<Number> {
        let mut stream = self.send(request, descriptors)?;
        stream.set_read_timeout(within)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|_| silent())?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| silent())?;
        answer.map_err(io::Error::from_raw_os_error)
    }

    /// The stream of a request's answer.
    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
        self.wake();
        let (mut ours, theirs) = UnixStream::pair()?;
        let sent: Vec<RawFd> =
            [theirs.as_raw_fd()].into_iter().chain(descriptors.iter().map(AsRawFd::as_raw_fd)).collect();
        let rights = [ControlMessage::ScmRights(&sent)];
        let byte = [io::IoSlice::new(&[0])];
        sendmsg::<()>(self.socket.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None).map_err(|_| silent())?;
        drop(theirs);
        ours.write_all(&serde_json::to_vec(request)?)
            .and_then(|()| ours.shutdown(Shutdown::Write))
            .map_err(|_| silent())?;
        Ok(ours)
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

fn silent() -> io::Error {
    io::Error::other("the process that sets probes does not answer")
}
