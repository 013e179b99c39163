//! Starting a program with everything as if no one stood between it and the shell, but seized before its first
//! instruction.
//!
//! In: a command that was found. Out: a seized process at its `exec`, or why there is none.
//!
//! The child is forked, waits on a pipe until it is seized, and executes the program. It shares our process group, session,
//! terminal, directory, environment and descriptors, and gets back the signal mask and dispositions that we were started
//! with. If we die before it was seized it ends without having run anything.

use std::ffi::{CString, c_char};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::{fs, ptr};

use libc::{c_int, pid_t};
use nix::fcntl::OFlag;

use super::LaunchError;
use super::command::{CommandError, Executable};
use super::inherited::Inherited;
use crate::process::ptrace::{self, Change, Ending};

/// What an unstarted child exits with; nobody sees it, because the error came through the pipe.
pub(super) const NOT_STARTED: c_int = 127;

/// Starts `executable` and returns its pid, stopped at the end of its `exec` and traced by the calling thread.
pub(super) fn start(executable: &Executable) -> Result<pid_t, LaunchError> {
    let own = executable.environment.as_deref().map(pointers);
    let environment = own.as_ref().map_or_else(environment, Vec::as_ptr);
    let argv = pointers(&executable.argv);
    let script = executable.script.as_ref().map(|(shell, argv)| (shell.as_ptr(), pointers(argv)));
    let (go_read, go_write) = pipe()?;
    let (error_read, error_write) = pipe()?;
    let program = Program {
        image: Image {
            path: executable.path.as_ptr(),
            argv: argv.as_ptr(),
            environment,
            script: script.as_ref().map(|(shell, argv)| (*shell, argv.as_ptr())),
        },
        inherited: Inherited::at_start(),
        go: go_read.as_raw_fd(),
        // The child's own copy of this end must not keep the pipe open when we are gone.
        not_ours: go_write.as_raw_fd(),
        error: error_write.as_raw_fd(),
    };
    // SAFETY: the child calls nothing but `Program::run`, which is async-signal-safe.
    let pid = unsafe { fork_with_signals_blocked(|| program.run()) }.map_err(LaunchError::Fork)?;
    drop((go_read, error_write));

    if let Err(error) = ptrace::seize(pid) {
        // Without the word to go it ends by itself.
        drop(go_write);
        let _ = ptrace::take(pid);
        return Err(LaunchError::Ptrace(error));
    }
    let mut go = fs::File::from(go_write);
    // A child that was killed meanwhile is reported below.
    let _ = go.write_all(&[1]);
    drop(go);
    let ended = wait_for_exec(pid)?;
    let Some(ending) = ended else { return Ok(pid) };
    let mut errno = [0; 4];
    match fs::File::from(error_read).read_exact(&mut errno) {
        Ok(()) => Err(CommandError::Refused { path: executable.file(), errno: i32::from_ne_bytes(errno) }.into()),
        Err(_) => Err(LaunchError::Ended(ending)),
    }
}

/// Follows a seized child to its `exec`; gives its ending if it does not get there.
fn wait_for_exec(pid: pid_t) -> Result<Option<Ending>, LaunchError> {
    loop {
        let (changed, change) = match ptrace::wait_any() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            change => change.map_err(LaunchError::Wait)?,
        };
        // An error means that it was killed while it was stopped; the next change says so.
        let _ = match change {
            Change::Exec => return Ok(None),
            Change::Ended(ending) => {
                ptrace::take(changed).map_err(LaunchError::Wait)?;
                return Ok(Some(ending));
            }
            Change::Signal(signal) => ptrace::resume(pid, signal),
            Change::GroupStop(_) => ptrace::listen(pid),
            Change::Exiting | Change::Trap | Change::Clone | Change::Syscall => ptrace::resume(pid, 0),
        };
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| LaunchError::Fork(error.into()))
}

/// A NULL-terminated array of pointers into `words`.
pub(super) fn pointers(words: &[CString]) -> Vec<*const c_char> {
    words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect()
}

/// Our environment exactly as it is, entries without `=` included.
fn environment() -> *const *const c_char {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: the C library defines it; Rust programs that write to it say so with `unsafe`, and we have none.
    unsafe { environ }
}

/// Forks; the child runs `child` with all signals blocked, so that no handler of ours runs in it.
///
/// # Safety
/// `child` must be async-signal-safe: other threads' locks stay locked in the child.
pub(super) unsafe fn fork_with_signals_blocked(child: impl FnOnce() -> c_int) -> io::Result<pid_t> {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are writable, and the first is filled before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: the caller vouches for what the child does.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = child();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(status) };
    }
    let error = io::Error::last_os_error();
    // SAFETY: the mask was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    if pid == -1 { Err(error) } else { Ok(pid) }
}

/// All that the child needs, prepared where memory may still be allocated.
struct Program {
    image: Image,
    inherited: &'static Inherited,
    go: RawFd,
    not_ours: RawFd,
    error: RawFd,
}

impl Program {
    /// Becomes the program; returns only if that failed. Async-signal-safe.
    fn run(&self) -> c_int {
        self.inherited.restore_dispositions();
        // SAFETY: descriptors and buffers are valid, and the arrays are NULL-terminated and outlive the call.
        unsafe {
            libc::close(self.not_ours);
            if !is_let_go(self.go) {
                return NOT_STARTED;
            }
            self.inherited.restore_mask();
            self.image.execute(self.error);
        }
        NOT_STARTED
    }
}

/// A program with its words and environment, as execve(2) takes them.
pub(super) struct Image {
    /// The file.
    pub path: *const c_char,
    /// Its words.
    pub argv: *const *const c_char,
    /// Its environment.
    pub environment: *const *const c_char,
    /// The shell and its words, if the file may be a script without a `#!` line.
    pub script: Option<(*const c_char, *const *const c_char)>,
}

impl Image {
    /// Becomes the program, or writes to `error` why not. Async-signal-safe.
    ///
    /// # Safety
    /// The pointers are valid, and the arrays are NULL-terminated.
    pub(super) unsafe fn execute(&self, error: RawFd) {
        // SAFETY: by the contract above.
        unsafe {
            libc::execve(self.path, self.argv, self.environment);
            let mut errno = *libc::__errno_location();
            if let (libc::ENOEXEC, Some((shell, argv))) = (errno, self.script) {
                libc::execve(shell, argv, self.environment);
                errno = *libc::__errno_location();
            }
            libc::write(error, (&raw const errno).cast(), size_of::<c_int>());
        }
    }
}

/// Waits for the word to go, by a pipe; whether it has come: without it we have died. Async-signal-safe.
pub(super) fn is_let_go(go: RawFd) -> bool {
    let mut word = 0_u8;
    loop {
        // SAFETY: the buffer has room for a byte.
        let read = unsafe { libc::read(go, (&raw mut word).cast(), 1) };
        // SAFETY: this thread's own errno.
        let is_interrupted = read == -1 && unsafe { *libc::__errno_location() } == libc::EINTR;
        if !is_interrupted {
            return read == 1;
        }
    }
}
