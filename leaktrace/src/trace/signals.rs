//! The user's wishes: SIGUSR1 asks for a report, and others for the end.
//!
//! Of those that ask for the end, the first signal is handed on, the second ends the program at once, unless the last report is waiting
//! for debug information: then the second ends that, and the third the program.
//!
//! The kernel handles the signal that ends the program: by then the signals are back at their default action, which works even
//! while this program is blocked in a write that nobody reads. The holder removes the probes soon after.

use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Whether one was taken.
    taken: bool,
    /// The handler of each signal that is listened for; it serves one signal only.
    handlers: [Option<(libc::c_int, libc::sigaction)>; ASKING.len()],
}

impl Signals {
    /// From now on the first of them no longer ends the program by itself. A signal that was ignored when we were
    /// started, as `nohup` and shells without job control have it, stays ignored.
    pub fn listen() -> Result<Self> {
        let listen = |number| listener(number).context("cannot listen for signals");
        let [interrupt, terminate, hangup] = ASKING;
        let (interrupt, terminate, hangup) = (listen(interrupt)?, listen(terminate)?, listen(hangup)?);
        let listened = [&interrupt, &terminate, &hangup].map(Option::is_some);
        let mut handlers = [None; ASKING.len()];
        for ((handler, number), is_listened) in handlers.iter_mut().zip(ASKING).zip(listened) {
            *handler = if is_listened { action(number).ok().map(|action| (number, action)) } else { None };
        }
        Ok(Self { interrupt, terminate, hangup, taken: false, handlers })
    }

    /// Whether one was taken: the next ends the program.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// The first. Any later one, of whichever kind, ends the program at once.
    pub async fn next(&mut self) -> libc::c_int {
        let first = self.receive().await;
        self.taken = true;
        self.back_to_default();
        first
    }

    /// Completes `work`. One more signal meanwhile is handed to `asked`, after which the next ends the program at once.
    pub async fn one_more<T>(&mut self, work: impl Future<Output = T>, asked: impl FnOnce()) -> T {
        if self.taken {
            for (number, handler) in self.handlers.iter().flatten() {
                if let Err(error) = set_action(*number, handler) {
                    log::debug!("signal {number} keeps its default: {error}");
                }
            }
        }
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = self.receive() => asked(),
        }
        self.back_to_default();
        work.await
    }

    /// From now on each of them ends the program.
    fn back_to_default(&self) {
        for (number, _) in self.handlers.iter().flatten() {
            // SAFETY: all zeroes are the default action without flags.
            let default: libc::sigaction = unsafe { mem::zeroed() };
            if let Err(error) = set_action(*number, &default) {
                log::debug!("signal {number} keeps its handler: {error}");
            }
        }
    }

    async fn receive(&mut self) -> libc::c_int {
        tokio::select! {
            () = receive(&mut self.interrupt) => libc::SIGINT,
            () = receive(&mut self.terminate) => libc::SIGTERM,
            () = receive(&mut self.hangup) => libc::SIGHUP,
        }
    }
}

/// SIGUSR1 came, perhaps before there was a [`ReportSignal`].
static HAS_COME: AtomicBool = AtomicBool::new(false);

/// Makes SIGUSR1 wait for a [`ReportSignal`], which needs the runtime: by default it would end the program until then. To be called
/// first of all. What is executed later has the default again, since handlers do not outlive that.
pub fn expect_requests() {
    extern "C" fn note(_: libc::c_int) {
        HAS_COME.store(true, Ordering::Relaxed);
    }
    match action(libc::SIGUSR1) {
        Ok(before) if before.sa_sigaction == libc::SIG_DFL => {
            let handler: extern "C" fn(libc::c_int) = note;
            // A call that it interrupts goes on. All signals may come meanwhile.
            let noting = libc::sigaction {
                sa_sigaction: handler as libc::sighandler_t,
                sa_flags: libc::SA_RESTART,
                // SAFETY: all zeroes are an empty set and no restorer.
                ..unsafe { mem::zeroed() }
            };
            // Where that fails it ends the program, as it would without us.
            let _ = set_action(libc::SIGUSR1, &noting);
        }
        // Ignored, as it was when we were started: it stays so.
        _ => {}
    }
}

/// SIGUSR1, which asks for a report at any time.
pub struct ReportSignal {
    listener: Option<Signal>,
    /// It came before.
    is_due: bool,
}

impl ReportSignal {
    /// Listens for it, and takes in whether it came since [`expect_requests`]. Where it was ignored when we were started, it stays so.
    pub fn listen() -> Result<Self> {
        let is_ignored = action(libc::SIGUSR1)?.sa_sigaction == libc::SIG_IGN;
        let listen = || signal(SignalKind::user_defined1()).context("cannot listen for signals");
        let listener = if is_ignored { None } else { Some(listen()?) };
        // The listener calls the handler that was there before, so that none is lost; one that comes here counts twice.
        Ok(Self { listener, is_due: HAS_COME.swap(false, Ordering::Relaxed) })
    }

    /// Waits until it comes. May be cancelled. Several that come at once are one.
    pub async fn next(&mut self) {
        if !mem::take(&mut self.is_due) {
            receive(&mut self.listener).await;
        }
    }
}

/// The error where a signal came before tracing began.
pub fn interrupted(signal: libc::c_int) -> anyhow::Error {
    anyhow::anyhow!("ended by {} before tracing began: nothing was recorded", name(signal))
}

/// What a signal is called.
pub fn name(signal: libc::c_int) -> &'static str {
    nix::sys::signal::Signal::try_from(signal).map_or("a signal", nix::sys::signal::Signal::as_str)
}

/// Listens for one signal, `None` where it is ignored.
fn listener(number: libc::c_int) -> io::Result<Option<Signal>> {
    if action(number)?.sa_sigaction == libc::SIG_IGN {
        return Ok(None);
    }
    let listener = signal(SignalKind::from_raw(number))?;
    // Even if this program never gets to see the first signal, the second ends it.
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
    // SAFETY: the action is the default, one that was in force and only lost its permanence, or only stores a flag.
    let result = unsafe { libc::sigaction(number, action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
