//! Waking a thread of ours that waits in the kernel for what becomes of its tracees.
//!
//! In: the wish to wake it. Out: its wait ends with EINTR. By a signal that is sent to the thread alone; nothing else wakes
//! waitid(2) that does not concern a child.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libc::pid_t;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Does nothing by default, so that one that comes late or from somebody else is harmless.
const RING: Signal = Signal::SIGURG;
/// A signal that comes just before the wait begins does not end it, and the next one must.
const AGAIN: Duration = Duration::from_millis(1);
/// Later than this the thread waits for something else, and hears of it then.
const WITHIN: Duration = Duration::from_millis(50);

/// A bell that a thread may hear.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// The thread's id, 0 where none hears it.
    thread: AtomicI32,
    is_heard: AtomicBool,
    /// A stop is asked for that nobody has begun yet.
    is_asked: AtomicBool,
}

impl Bell {
    /// From now on this thread hears it. To be called once, first.
    pub(super) fn hear(&self) {
        let mut ring = SigSet::empty();
        ring.add(RING);
        // Somebody may have started us with the signal blocked.
        if let Err(error) = ring.thread_unblock() {
            log::debug!("the bell may not be heard: {error}");
        }
        // SAFETY: only reads a number.
        self.thread.store(unsafe { libc::gettid() }, Ordering::Release);
    }

    /// Asks for a stop, for which it is to be rung.
    pub(super) fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
    }

    /// Begins the stop that was asked for, or calls it off; whether the other has not come before.
    pub(super) fn take(&self) -> bool {
        self.is_asked.swap(false, Ordering::AcqRel)
    }

    /// Says that what it was rung for is known.
    pub(super) fn heard(&self) {
        self.is_heard.store(true, Ordering::Release);
    }

    /// Rings until it is heard, at most for 50 ms.
    ///
    /// # Errors
    /// The signal cannot be sent: the thread has ended.
    pub(super) fn ring(&self) -> io::Result<()> {
        extern "C" fn nothing(_: libc::c_int) {}
        // Without SA_RESTART, so that waits end. An executed program has the default again.
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing at all.
        unsafe { sigaction(RING, &action) }?;
        // SAFETY: only reads a number.
        let process: pid_t = unsafe { libc::getpid() };
        let begun = Instant::now();
        while !self.is_heard.swap(false, Ordering::Acquire) && begun.elapsed() < WITHIN {
            let thread = self.thread.load(Ordering::Acquire);
            // SAFETY: a signal that does nothing, to a thread of ours. After the thread's end there is none, or another of ours.
            if unsafe { libc::syscall(libc::SYS_tgkill, process, thread, RING as libc::c_int) } == -1 {
                return Err(io::Error::last_os_error());
            }
            thread::sleep(AGAIN);
        }
        Ok(())
    }
}
