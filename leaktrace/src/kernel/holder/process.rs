//! The holder's own side: it does what it is asked for until nobody can ask any more, then removes all probes and ends.
//!
//! In: requests by the socket that is its standard input. Out: an answer to each, on the stream that came with it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{Answer, Request};
use crate::host::bpf::{self, Places};

/// What the process is called: in lists, and by its first argument, by which our program knows that it is to be the holder.
pub const NAME: &str = "probe-holder";

/// What holds probes, by the number that the other side knows it by.
type Links = Mutex<HashMap<RawFd, Vec<OwnedFd>>>;

/// All that the holder does.
#[must_use]
pub fn main() -> ExitCode {
    // Neither is needed. It is small, and targets need it: where memory runs out, somebody else is to be ended.
    let _ = fs::write("/proc/self/comm", NAME);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let links = Links::default();
    let ended = serve(io::stdin().as_fd(), &links);
    let links = links.into_inner().unwrap_or_else(PoisonError::into_inner);
    close(links.into_values().flatten().collect());
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // Somebody has called our program by this name.
        Err(_) => ExitCode::from(2),
    }
}

/// Serves requests side by side, until the other end is closed and all that had come are answered.
fn serve(socket: BorrowedFd<'_>, links: &Links) -> io::Result<()> {
    thread::scope(|scope| {
        while let Some(mut descriptors) = receive(socket)? {
            if descriptors.is_empty() {
                continue;
            }
            let stream = UnixStream::from(descriptors.remove(0));
            // Where there is no thread to be had, nor is there an answer.
            let _ = thread::Builder::new().spawn_scoped(scope, move || {
                let answer = serde_json::from_reader(&stream)
                    .map_err(io::Error::from)
                    .and_then(|request| answer(request, &descriptors, links));
                let answer: Answer = answer.map_err(|error| error.raw_os_error().unwrap_or(libc::EPROTO));
                // Whoever has asked may be gone.
                let _ = serde_json::to_writer(&stream, &answer);
            });
        }
        Ok(())
    })
}

/// The descriptors that came with the next request; `None` when the other end is closed.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut byte = [0];
    // The stream, a program and a file.
    let mut space = nix::cmsg_space!([RawFd; 3]);
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut space), flags) {
            Err(nix::Error::EINTR) => {}
            message => break message?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let rights = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    // SAFETY: the kernel has just made them, and nobody else knows them.
    Ok(Some(rights.flatten().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()))
}

fn answer(request: Request, descriptors: &[OwnedFd], links: &Links) -> io::Result<RawFd> {
    let links = || links.lock().unwrap_or_else(PoisonError::into_inner);
    let numbers = match request {
        Request::Remove(numbers) => numbers,
        Request::Link { .. } | Request::PerfEvent { .. } => {
            let made = make(&request, descriptors)?;
            let number = made.first().map_or(-1, AsRawFd::as_raw_fd);
            links().insert(number, made);
            return Ok(number);
        }
    };
    let removed: Vec<_> = numbers.iter().filter_map(|number| links().remove(number)).collect();
    close(removed.into_iter().flatten().collect());
    Ok(0)
}

/// What holds the probes asked for.
fn make(request: &Request, descriptors: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let [program, file] = descriptors else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    // By descriptor: the file may lie in another mount namespace, be deleted, or have no name at all.
    let path = bpf::path_of(file.as_raw_fd());
    match request {
        Request::Link { attach_type, offsets, cookies, pid, returns } => {
            let places = Places { path: &path, offsets, cookies, pid: *pid, returns: *returns };
            bpf::link(program.as_fd(), *attach_type, &places).map(|link| vec![link])
        }
        Request::PerfEvent { offset, cookie, pid, returns } => {
            let event = bpf::uprobe_event(&path, *offset, *pid, *returns)?;
            Ok(vec![bpf::link_event(program.as_fd(), event.as_fd(), *cookie)?, event])
        }
        Request::Remove(_) => Ok(Vec::new()),
    }
}

/// Closes each by itself: the kernel waits for a grace period at each.
fn close(descriptors: Vec<OwnedFd>) {
    thread::scope(|scope| {
        for descriptor in descriptors {
            // Where there is no thread to be had it is closed here.
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(descriptor));
        }
    });
}
