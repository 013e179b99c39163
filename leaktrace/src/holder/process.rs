//! The holder's own side: it serves requests until the other end of its socket is closed, then removes all probes and ends.
//!
//! In: requests by the socket that is its standard input. Out: an answer to each, on the stream that came with it.

use std::fs;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::links::{self, Links};
use super::{Answer, Number, Request};
use crate::host::bpf::{self, Places};

/// What the process is called: in lists, and by its first argument, by which our program knows that it is to be the holder.
pub const NAME: &str = "probe-holder";

/// Requests that are served side by side: those of all threads that attach, and some more.
const THREADS: usize = 12;

/// All that the holder does.
#[must_use]
pub fn main() -> ExitCode {
    // Each of these may fail. The holder is small, and targets depend on it: out of memory, the kernel is to kill another
    // process.
    let _ = fs::write("/proc/self/comm", NAME);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = getrlimit(Resource::RLIMIT_CPU).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CPU, hard, hard));
    // Threads have the mask of the one that makes them.
    let _ = links::notice().thread_block();
    let links: &'static Links = Box::leak(Box::default());
    // It never ends by itself. Without it whoever writes to a file waits as long as the kernel has it.
    let _ = thread::Builder::new().spawn(|| links.heed_writers());
    let socket = io::stdin();
    let served = thread::scope(|scope| {
        for _ in 1..THREADS {
            // Where no thread can be made, this one serves alone.
            let _ = thread::Builder::new().spawn_scoped(scope, || serve(socket.as_fd(), links));
        }
        serve(socket.as_fd(), links)
    });
    // Links that another thread was still making when the first thread ended.
    links.end();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // Standard input is no such socket: somebody has started the program by this name.
        Err(_) => ExitCode::from(2),
    }
}

/// Serves one request after the other until the other end is closed. Then all probes go, also where the kernel holds up
/// another thread.
fn serve(socket: BorrowedFd<'_>, links: &Links) -> io::Result<()> {
    while let Some(descriptors) = receive(socket)? {
        let mut descriptors = descriptors.into_iter();
        // Where there is no room for descriptors, the stream is closed, which the other side sees.
        if let Some(stream) = descriptors.next() {
            // An error means that the other side is gone.
            let _ = converse(UnixStream::from(stream), &descriptors.collect::<Vec<_>>(), links);
        }
    }
    links.remove_all();
    Ok(())
}

fn converse(mut stream: UnixStream, descriptors: &[OwnedFd], links: &Links) -> io::Result<()> {
    let mut request = Vec::new();
    stream.read_to_end(&mut request)?;
    let request = serde_json::from_slice(&request)?;
    if let Request::Watch = request {
        return links.watch(stream);
    }
    let answer = answer(request, descriptors, links);
    let answer: Answer = answer.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
    stream.write_all(&serde_json::to_vec(&answer)?)
}

/// The descriptors that came with the next request; `None` when the other end is closed. Where there is no room for all of them,
/// the kernel makes the first ones, the stream among them if possible.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut byte = [0];
    // A stream, a program and a file.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR | Errno::NOMEM | Errno::NOBUFS) => {}
            received => break received?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    Ok((received.bytes > 0).then_some(descriptors))
}

fn answer(request: Request, descriptors: &[OwnedFd], links: &Links) -> io::Result<Number> {
    match request {
        Request::Link(attach_type, places, condition) => {
            let (program, file) = program_and_file(descriptors)?;
            links.add(file, &condition, || bpf::link(program, attach_type, &bpf::path_of(file.as_raw_fd()), &places))
        }
        Request::PerfEvent(place, condition) => {
            let (program, file) = program_and_file(descriptors)?;
            links.add(file, &condition, || link_event(program, file, &place))
        }
        Request::Remove(numbers) => {
            links.remove(&numbers);
            Ok(0)
        }
        // Has no answer.
        Request::Watch => Ok(0),
    }
}

/// A program that was verified to be run by probes, and a file.
///
/// With file capabilities on the executable, any user can start the holder, and the breakpoint is placed before its program is
/// attached: so only who was allowed to load such a program gets a breakpoint.
fn program_and_file(descriptors: &[OwnedFd]) -> io::Result<(BorrowedFd<'_>, BorrowedFd<'_>)> {
    // Where there was no room for them, they are missing.
    let [program, file] = descriptors else { return Err(io::Error::from_raw_os_error(libc::EMFILE)) };
    if bpf::is_probe_program(program.as_fd()) {
        Ok((program.as_fd(), file.as_fd()))
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// The link keeps the event.
fn link_event(program: BorrowedFd<'_>, file: BorrowedFd<'_>, place: &Places) -> io::Result<OwnedFd> {
    let cookie = place.cookies.first().ok_or(io::ErrorKind::InvalidInput)?;
    let event = bpf::uprobe_event(&bpf::path_of(file.as_raw_fd()), place)?;
    bpf::link_event(program, event.as_fd(), *cookie)
}
