//! The signal dispositions and the signal mask that leaktrace was started with.
//!
//! A command must find them as it would without us, but by the time it is started they are gone: Rust's runtime ignores
//! SIGPIPE before `main`, and our own handlers replace what `nohup` or a shell without job control had set to ignore.
//! So they are read before `main`, by a function that the dynamic linker calls with the other constructors.

use std::ptr;
use std::sync::OnceLock;

use libc::{c_int, c_long, c_void};

/// The highest signal number on Linux.
const LAST_SIGNAL: c_int = 64;

/// `struct sigaction` as `rt_sigaction(2)` takes it: the handler, flags, the restorer, and the mask.
///
/// The C library's functions refuse the two signals that it keeps for its threads, but they too are passed on.
type Action = [u64; 4];

/// The size in bytes of a signal set in the kernel.
const SET_SIZE: usize = size_of::<u64>();

/// What a process passes on to the programs it executes.
pub(super) struct Inherited {
    /// Bit n-1 is set where signal n is ignored.
    ignored: u64,
    /// Bit n-1 is set where signal n is blocked.
    mask: u64,
}

/// `rt_sigaction(2)`. Async-signal-safe.
///
/// # Safety
/// `new` is null or points to an action without a handler of ours; `old` is null or writable.
unsafe fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_long {
    // SAFETY: by the contract above.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new.cast::<c_void>(), old.cast::<c_void>(), SET_SIZE) }
}

static AT_START: OnceLock<Inherited> = OnceLock::new();

#[used]
#[unsafe(link_section = ".init_array")]
static READ_AT_START: extern "C" fn() = {
    extern "C" fn read() {
        AT_START.get_or_init(Inherited::read);
    }
    read
};

/// Makes sure that the ends of our children are kept for us, which is not so where we were started with SIGCHLD ignored.
pub(super) fn see_children_end() {
    if Inherited::at_start().ignores(libc::SIGCHLD) {
        // SAFETY: replaces "ignore" by the default, which does nothing either.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
}

impl Inherited {
    /// As leaktrace was started.
    pub(super) fn at_start() -> &'static Self {
        AT_START.get_or_init(Self::read)
    }

    fn read() -> Self {
        let mut ignored = 0;
        for signal in 1..=LAST_SIGNAL {
            let mut action = Action::default();
            // SAFETY: only reads the disposition; where that fails the zeroes stay, which mean the default.
            unsafe { sigaction(signal, ptr::null(), &raw mut action) };
            if action[0] == libc::SIG_IGN as u64 {
                ignored |= 1 << (signal - 1);
            }
        }
        let mut mask = 0_u64;
        let (nothing, here) = (ptr::null::<c_void>(), (&raw mut mask).cast::<c_void>());
        // SAFETY: only reads the mask, into a set of the size given.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, nothing, here, SET_SIZE) };
        Self { ignored, mask }
    }

    fn ignores(&self, signal: c_int) -> bool {
        self.ignored & (1 << (signal - 1)) != 0
    }

    /// Gives every signal the disposition it had. Async-signal-safe.
    pub(super) fn restore_dispositions(&self) {
        for signal in 1..=LAST_SIGNAL {
            let disposition = if self.ignores(signal) { libc::SIG_IGN } else { libc::SIG_DFL };
            let action = [disposition as u64, 0, 0, 0];
            // SAFETY: no handler is set. SIGKILL and SIGSTOP are refused, and need nothing.
            unsafe { sigaction(signal, &raw const action, ptr::null_mut()) };
        }
    }

    /// Gives the calling thread the mask it had. Async-signal-safe.
    pub(super) fn restore_mask(&self) {
        let (mask, nothing) = ((&raw const self.mask).cast::<c_void>(), ptr::null_mut::<c_void>());
        // SAFETY: reads a set of the size given.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, mask, nothing, SET_SIZE) };
    }
}
