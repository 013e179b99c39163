//! The user's wish to end: the first signal is handed on, the second ends the program at once.
//!
//! The second one is the kernel's business: by then the signals are back at their default action, so that it works
//! whatever this program is doing, be it blocked in a write that nobody reads. Our probes go with us.

use std::{io, mem, ptr};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for an end.
const ASKING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Signals that ask for an end.
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on the first of them no longer ends the program by itself. A signal that was ignored when we were
    /// started, as `nohup` and shells without job control have it, stays ignored.
    pub fn listen() -> Result<Self> {
        let listen = |number| listener(number).context("cannot listen for signals");
        let [interrupt, terminate, hangup] = ASKING;
        Ok(Self { interrupt: listen(interrupt)?, terminate: listen(terminate)?, hangup: listen(hangup)? })
    }

    /// The first. Any later one, of whichever kind, ends the program at once.
    pub async fn next(&mut self) -> libc::c_int {
        let first = tokio::select! {
            () = receive(&mut self.interrupt) => libc::SIGINT,
            () = receive(&mut self.terminate) => libc::SIGTERM,
            () = receive(&mut self.hangup) => libc::SIGHUP,
        };
        let listened = [&self.interrupt, &self.terminate, &self.hangup];
        for (number, _) in ASKING.into_iter().zip(listened).filter(|(_, listener)| listener.is_some()) {
            // SAFETY: all zeroes are the default action without flags.
            let default: libc::sigaction = unsafe { mem::zeroed() };
            if let Err(error) = set_action(number, &default) {
                log::debug!("signal {number} keeps its handler: {error}");
            }
        }
        first
    }
}

/// Listens for one signal, `None` where it is ignored.
fn listener(number: libc::c_int) -> io::Result<Option<Signal>> {
    if action(number)?.sa_sigaction == libc::SIG_IGN {
        return Ok(None);
    }
    let listener = signal(SignalKind::from_raw(number))?;
    // Even if we never come to hear of it, the one after it shall end us.
    let mut once = action(number)?;
    once.sa_flags |= libc::SA_RESETHAND;
    set_action(number, &once)?;
    Ok(Some(listener))
}

async fn receive(listener: &mut Option<Signal>) {
    match listener {
        Some(listener) => {
            listener.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn action(number: libc::c_int) -> io::Result<libc::sigaction> {
    // SAFETY: a plain structure, for which all zeroes are valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only reads the disposition into a structure of ours.
    let result = unsafe { libc::sigaction(number, ptr::null(), &raw mut action) };
    if result == 0 { Ok(action) } else { Err(io::Error::last_os_error()) }
}

fn set_action(number: libc::c_int, action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: the action is the default, or one that was in force and only lost its permanence.
    let result = unsafe { libc::sigaction(number, action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
