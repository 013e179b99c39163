//! The ptrace and wait requests that holding a command and stopping a process need, as safe functions with typed results.
//!
//! In: thread ids. Out: what became of them. Raw requests rather than nix's, whose `Signal` knows no real-time signals
//! and so could neither report nor pass one on.
//!
//! Every request must come from the thread that seized: the kernel keeps ptrace relations per thread.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;

use libc::{c_int, c_long, pid_t};

/// Set in the stop signal of a system-call stop where `PTRACE_O_TRACESYSGOOD` is on (ptrace(2)).
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// What a command is seized with.
///
/// `TRACESYSGOOD` is what makes a system-call stop survivable: a stop left behind by a tracer that was killed is turned
/// into the signal it was reported with. That is SIGTRAP without the option, which kills, and no signal at all with it.
/// Breakpoints, debug registers and single steps leave a real SIGTRAP behind (tried on 6.18: the target dies), which is
/// why none of them is used here.
const OPTIONS: c_int = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEEXEC;

/// How the process that was launched ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It left by `exit`, `_exit` or `return` with this status.
    Exited(u8),
    /// A signal killed it.
    Killed {
        /// The signal's number.
        signal: i32,
        /// Whether it left a core dump.
        dumped: bool,
    },
}

impl Ending {
    /// The status as a shell shows it: the command's own, or 128 plus the signal that killed it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            // Signals go up to 64.
            Self::Killed { signal, .. } => 128_u8.wrapping_add(signal as u8),
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed { signal, dumped } => {
                match nix::sys::signal::Signal::try_from(signal) {
                    Ok(name) => write!(f, "killed by {name}")?,
                    Err(_) => write!(f, "killed by signal {signal}")?,
                }
                if dumped { write!(f, " (core dumped)") } else { Ok(()) }
            }
        }
    }
}

/// What happened to a child or to a thread that we trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is gone and waits to be reaped.
    Ended(Ending),
    /// It entered or left a system call.
    Syscall,
    /// A new program has replaced the old one; nothing of it has run yet.
    Exec,
    /// It has created a process and is still within the call that does.
    Clone,
    /// The thread is about to exit; its memory is still there.
    Exiting,
    /// The whole process is stopped by this signal (job control).
    GroupStop(c_int),
    /// A stop without meaning of its own: it was interrupted, or its group stop is over.
    Trap,
    /// This signal is about to be delivered.
    Signal(c_int),
}

impl Change {
    /// Decodes `si_code` and `si_status` as waitid(2) and ptrace(2) define them.
    fn from_wait(code: c_int, status: c_int) -> Self {
        match code {
            libc::CLD_EXITED => return Self::Ended(Ending::Exited(status as u8)),
            libc::CLD_KILLED => return Self::Ended(Ending::Killed { signal: status, dumped: false }),
            libc::CLD_DUMPED => return Self::Ended(Ending::Killed { signal: status, dumped: true }),
            _ => {}
        }
        let signal = status & 0xff;
        match status >> 8 {
            libc::PTRACE_EVENT_EXEC => Self::Exec,
            libc::PTRACE_EVENT_CLONE => Self::Clone,
            libc::PTRACE_EVENT_EXIT => Self::Exiting,
            libc::PTRACE_EVENT_STOP => match signal {
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Self::GroupStop(signal),
                _ => Self::Trap,
            },
            0 if signal == SYSCALL_STOP => Self::Syscall,
            0 => Self::Signal(signal),
            _ => Self::Trap,
        }
    }
}

/// Waits until a child or tracee of this very thread has changed, and says which and how, without taking the change.
///
/// Not taking it matters: a signal that is about to be delivered stays so if we are killed before we passed it on.
///
/// # Errors
/// `ECHILD` where this thread has no child left, `EINTR` where a signal came that this thread handles.
pub(super) fn wait_any() -> io::Result<(pid_t, Change)> {
    wait_once(libc::P_ALL, 0, ENDS_AND_STOPS | libc::WNOWAIT)
}

/// What has become of `tid` since its last change was taken, without taking it or waiting for it.
///
/// # Errors
/// `ECHILD` where this very thread has no such child or tracee, or none any more.
pub(super) fn change_of(tid: pid_t) -> io::Result<Option<Change>> {
    let (changed, change) = wait(libc::P_PID, tid, libc::WNOWAIT | libc::WNOHANG)?;
    // With WNOHANG the number stays 0 where nothing has changed.
    Ok((changed != 0).then_some(change))
}

/// Takes the change of `pid` that was seen: an end, so that the number may be used again, or an `exec`, which the kernel
/// wants taken before it obeys the next request if it was not the first thread's (`looks_like_a_spurious_pid` in
/// kernel/ptrace.c).
pub(super) fn take(pid: pid_t) -> io::Result<()> {
    wait(libc::P_PID, pid, 0).map(|_| ())
}

/// Takes the end of `tid`, which another thread of this process traces, if it has ended.
///
/// # Errors
/// `ECHILD` where no thread of this process has such a child or tracee.
pub(super) fn take_end_for_another(tid: pid_t) -> io::Result<()> {
    let flags = libc::WEXITED | libc::__WALL | libc::WNOHANG;
    // A stop would be taken as well, and with it the signal that waits in it.
    let (changed, change) = wait_with(libc::P_PID, tid, flags | libc::WNOWAIT)?;
    if changed != 0 && matches!(change, Change::Ended(_)) {
        wait_with(libc::P_PID, tid, flags)?;
    }
    Ok(())
}

/// What this very thread waits for: ends and ptrace stops, but no job-control stops of children that are not traced. ptrace stops
/// are reported without WSTOPPED as well (`wait_task_stopped` in kernel/exit.c).
const ENDS_AND_STOPS: c_int = libc::WEXITED | libc::__WALL | libc::__WNOTHREAD;

fn wait(kind: libc::idtype_t, pid: pid_t, flags: c_int) -> io::Result<(pid_t, Change)> {
    wait_with(kind, pid, ENDS_AND_STOPS | flags)
}

fn wait_with(kind: libc::idtype_t, pid: pid_t, flags: c_int) -> io::Result<(pid_t, Change)> {
    loop {
        match wait_once(kind, pid, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// waitid(2).
fn wait_once(kind: libc::idtype_t, pid: pid_t, flags: c_int) -> io::Result<(pid_t, Change)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is writable and as large as the kernel expects.
    if unsafe { libc::waitid(kind, pid as libc::id_t, info.as_mut_ptr(), flags) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled it; zeroes are valid as well.
    let info = unsafe { info.assume_init() };
    // SAFETY: after waitid these are the fields in use.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid, Change::from_wait(info.si_code, status)))
}

/// One ptrace request whose `addr` is unused.
fn request(request: libc::c_uint, tid: pid_t, data: c_int) -> io::Result<()> {
    // SAFETY: none of the requests made through here lets the kernel read or write our memory: `data` is a number.
    let result = unsafe { libc::ptrace(request, tid, ptr::null_mut::<libc::c_void>(), c_long::from(data)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts tracing `tid`, a command's thread, without stopping it.
pub(super) fn seize(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, OPTIONS)
}

/// Starts tracing `tid` without stopping it and without any option: nothing that it does stops it by itself but a signal.
/// Waits while the process executes a program.
pub(super) fn seize_plainly(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0)
}

/// Stops a seized `tid` as soon as it leaves the kernel or an interruptible wait. The stop is seen by [`change_of`].
pub(super) fn interrupt(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0)
}

/// Lets a stopped `tid` run, delivering `signal` (0: none).
pub(super) fn resume(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, signal)
}

/// Lets a stopped `tid` run to its next system call's entry or exit, delivering `signal` (0: none).
pub(super) fn resume_to_syscall(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, signal)
}

/// Leaves `tid` in its group stop, to be told when that is over.
pub(super) fn listen(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0)
}

/// Ends the tracing of a stopped `tid`, which goes on as it would have, delivering `signal` (0: none).
pub(super) fn detach(tid: pid_t, signal: c_int) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, signal)
}

/// Reads a set of registers of a stopped `tid` by its note type (`NT_PRSTATUS` and so on, include/uapi/linux/elf.h) and
/// gives the number of bytes that the kernel wrote.
///
/// # Errors
/// `ESRCH` where the thread is not stopped any more, `ENODEV` or `EINVAL` where the processor has no such registers.
pub(super) fn register_set(tid: pid_t, note: c_int, words: &mut [u64]) -> io::Result<usize> {
    let mut place = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: mem::size_of_val(words) };
    // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, which are the words, and their number to `iov_len`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, c_long::from(note), &raw mut place) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(place.iov_len) }
}

/// Sets the options of a stopped `tid`, in place of those that it had.
pub(super) fn set_options(tid: pid_t, options: c_int) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, options)
}

/// The process that a `tid` in its [`Change::Clone`] has created.
pub(super) fn created(tid: pid_t) -> io::Result<pid_t> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long to `message`.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, ptr::null_mut::<libc::c_void>(), &raw mut message) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(message as pid_t) }
}

/// Words of a register set within one page. The kernel takes them one by one; if it had to wait for a page between two of them
/// while we are killed, the thread would be left with a part of the registers (`genregs_set` in arch/x86/kernel/ptrace.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(256))]
pub(super) struct Words<const COUNT: usize>(pub(super) [u64; COUNT]);

/// Writes the first words of a set of registers of a stopped `tid`, and leaves the others.
pub(super) fn set_register_set<const COUNT: usize>(tid: pid_t, note: c_int, words: &Words<COUNT>) -> io::Result<()> {
    const { assert!(size_of::<Words<COUNT>>() == 256) };
    let mut place = libc::iovec { iov_base: words.0.as_ptr().cast_mut().cast(), iov_len: mem::size_of_val(&words.0) };
    // SAFETY: the kernel only reads at most `iov_len` bytes from `iov_base`, and writes a number to `iov_len`.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, c_long::from(note), &raw mut place) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK` of include/uapi/linux/ptrace.h.
const GET_SIGNAL_MASK: libc::c_uint = 0x420a;
const SET_SIGNAL_MASK: libc::c_uint = 0x420b;

/// The signals that a stopped `tid` blocks, bit n-1 for signal n. Within a call that blocks others for its own time, such as
/// ppoll(2), those that it blocks otherwise.
pub(super) fn signal_mask(tid: pid_t) -> io::Result<u64> {
    let mut mask = 0_u64;
    let size = size_of::<u64>() as *mut libc::c_void;
    // SAFETY: the kernel writes one word to `mask`.
    let result = unsafe { libc::ptrace(GET_SIGNAL_MASK, tid, size, &raw mut mask) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(mask) }
}

/// Sets the signals that a stopped `tid` blocks.
pub(super) fn set_signal_mask(tid: pid_t, mask: u64) -> io::Result<()> {
    let size = size_of::<u64>() as *mut libc::c_void;
    // SAFETY: the kernel reads one word from `mask`.
    let result = unsafe { libc::ptrace(SET_SIGNAL_MASK, tid, size, &raw const mask) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether system calls of a stopped `tid` become signals (prctl(2), `PR_SET_SYSCALL_USER_DISPATCH`). No where the kernel does
/// not tell, which it does from 6.4 on.
pub(super) fn dispatches_calls(tid: pid_t) -> bool {
    // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, whose structure begins with the mode; 0 is off.
    const GET_DISPATCH: libc::c_uint = 0x4211;
    let mut dispatch = [0_u64; 4];
    let size = mem::size_of_val(&dispatch) as *mut libc::c_void;
    // SAFETY: the kernel writes the four words of `struct ptrace_sud_config`.
    let result = unsafe { libc::ptrace(GET_DISPATCH, tid, size, dispatch.as_mut_ptr()) };
    result == 0 && dispatch[0] != 0
}

/// A system call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SyscallEntry {
    /// Its number in the process' own table.
    pub(super) number: u64,
    /// Its six arguments.
    pub(super) args: [u64; 6],
    /// The instruction that makes it (its successor, on x86).
    pub(super) ip: u64,
}

/// The system call at whose entry `tid` is stopped; `None` where it is stopped at an exit.
pub(super) fn syscall_entry(tid: pid_t) -> io::Result<Option<SyscallEntry>> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    // SAFETY: the kernel writes at most the size we give; the structure is plain numbers.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            tid,
            mem::size_of::<libc::ptrace_syscall_info>() as *mut libc::c_void,
            info.as_mut_ptr(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are valid, and so is what the kernel wrote over them.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says which member of the union was written.
    let entry = unsafe { info.u.entry };
    Ok(Some(SyscallEntry { number: entry.nr, args: entry.args, ip: info.instruction_pointer }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_told_apart() {
        let stop = |status| Change::from_wait(libc::CLD_TRAPPED, status);
        // Values as ptrace(2) documents them: the event in the second byte, 128 for PTRACE_EVENT_STOP.
        assert_eq!(stop(5 | 0x80), Change::Syscall);
        assert_eq!(stop(5 | 4 << 8), Change::Exec);
        assert_eq!(stop(5 | 6 << 8), Change::Exiting);
        assert_eq!(stop(5 | 3 << 8), Change::Clone);
        assert_eq!(stop(0x8014), Change::GroupStop(20));
        assert_eq!(stop(5 | 128 << 8), Change::Trap);
        assert_eq!(stop(19), Change::Signal(19), "SIGSTOP about to be delivered is not yet a group stop");
        assert_eq!(stop(5), Change::Signal(5), "a SIGTRAP of the program's own");
        assert_eq!(stop(40), Change::Signal(40), "a real-time signal");
        assert_eq!(Change::from_wait(libc::CLD_EXITED, 255), Change::Ended(Ending::Exited(255)));
    }

    #[test]
    fn codes_are_what_a_shell_shows() {
        assert_eq!(Ending::Exited(3).code(), 3);
        assert_eq!(Ending::Killed { signal: 9, dumped: false }.code(), 137);
        assert_eq!(Ending::Killed { signal: 11, dumped: true }.code(), 139);
        assert_eq!(Ending::Killed { signal: 64, dumped: false }.code(), 192);
        assert_eq!(Ending::Killed { signal: 11, dumped: true }.to_string(), "killed by SIGSEGV (core dumped)");
    }
}
