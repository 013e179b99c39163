//! Starting a program that is not traced: beside the trace, of which it holds nothing.
//!
//! In: words and variables. Out: a process in a session of its own, so that neither Ctrl-C nor the terminal's end reaches it,
//! with the signals, limits, directory and environment that we were started with, standard input empty, standard output where our
//! standard error is, and no other descriptor. It goes on when we end, also by SIGKILL.
//!
//! Starting blocks: while memory is copied, and for as long as the file's file system likes. So it is for threads on which nobody
//! waits.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use libc::c_int;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd;

use super::command::{CommandError, Executable};
use super::inherited::{self, Inherited};
use super::spawn::{self, Image, NOT_STARTED, fork_with_signals_blocked, is_let_go, pointers};
use super::{Ending, LaunchError};
use crate::host::limits;
use crate::model::Pid;

/// The descriptor by which a child says why it could not execute the program.
const ERROR: RawFd = 3;

/// A program that was started. It is to be waited for, lest it stay a zombie.
#[derive(Debug)]
pub struct Background(unistd::Pid);

/// Whether the file that these words name can be executed, as far as that is known before.
///
/// # Errors
/// Why not.
pub fn check(words: &[OsString]) -> Result<(), CommandError> {
    Executable::find(words, std::env::var_os("PATH").as_deref()).map(|_| ())
}

/// Starts a program with these variables beside those of our own environment. `begun` is called with its pid before it
/// executes anything.
///
/// # Errors
/// There is nothing to execute, or it cannot be executed.
pub fn start(
    words: &[OsString],
    variables: &[(&str, OsString)],
    begun: impl FnOnce(Pid),
) -> Result<Background, LaunchError> {
    let executable = Executable::find(words, std::env::var_os("PATH").as_deref())?;
    inherited::see_children_end();
    let environment = environment(variables);
    let (argv, envp) = (pointers(&executable.argv), pointers(&environment));
    let script = executable.script.as_ref().map(|(shell, argv)| (shell.as_ptr(), pointers(argv)));
    let nothing = File::open("/dev/null").map_err(LaunchError::Fork)?;
    let (go_read, go_write) = spawn::pipe()?;
    let (error_read, error_write) = spawn::pipe()?;
    let program = Program {
        image: Image {
            path: executable.path.as_ptr(),
            argv: argv.as_ptr(),
            environment: envp.as_ptr(),
            script: script.as_ref().map(|(shell, argv)| (*shell, argv.as_ptr())),
        },
        inherited: Inherited::at_start(),
        nothing: nothing.as_raw_fd(),
        go: go_read.as_raw_fd(),
        not_ours: go_write.as_raw_fd(),
        error: error_write.as_raw_fd(),
    };
    // SAFETY: the child calls nothing but `Program::run`, which is async-signal-safe.
    let pid = unsafe { fork_with_signals_blocked(|| program.run()) }.map_err(LaunchError::Fork)?;
    drop((go_read, error_write, nothing));
    begun(Pid(pid as u32));
    let started = Background(unistd::Pid::from_raw(pid));
    // A child that was killed meanwhile is seen by its end.
    let _ = File::from(go_write).write_all(&[1]);
    let mut errno = [0; 4];
    match File::from(error_read).read_exact(&mut errno) {
        Ok(()) => {
            started.wait();
            Err(CommandError::Refused { path: executable.file(), errno: i32::from_ne_bytes(errno) }.into())
        }
        Err(_) => Ok(started),
    }
}

impl Background {
    /// Waits for its end; `None` where how it ended is not known, since somebody else has reaped it.
    #[expect(clippy::must_use_candidate, reason = "what counts may be the end alone")]
    pub fn wait(self) -> Option<Ending> {
        loop {
            match waitpid(self.0, None) {
                Ok(WaitStatus::Exited(_, status)) => return Some(Ending::Exited(status as u8)),
                Ok(WaitStatus::Signaled(_, signal, dumped)) => {
                    return Some(Ending::Killed { signal: signal as i32, dumped });
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Our environment with these variables in the place of any of the same name.
fn environment(variables: &[(&str, OsString)]) -> Vec<CString> {
    let is_replaced = |name: &OsStr| variables.iter().any(|(new, _)| *new == name);
    let ours = std::env::vars_os().filter(|(name, _)| !is_replaced(name));
    let ours = ours.map(|(name, value)| joined(&name, &value));
    // No value has a NUL byte: ours come from an environment, and those of others from the kernel's strings.
    ours.chain(variables.iter().map(|(name, value)| joined(OsStr::new(name), value))).filter_map(Result::ok).collect()
}

fn joined(name: &OsStr, value: &OsStr) -> Result<CString, std::ffi::NulError> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
}

/// All that the child needs, prepared where memory may still be allocated.
struct Program {
    image: Image,
    inherited: &'static Inherited,
    nothing: RawFd,
    go: RawFd,
    not_ours: RawFd,
    error: RawFd,
}

impl Program {
    /// Becomes the program; returns only if that failed. Async-signal-safe.
    fn run(&self) -> c_int {
        // SAFETY: descriptors and buffers are valid, and the arrays are NULL-terminated and outlive the call.
        unsafe {
            libc::setsid();
            libc::close(self.not_ours);
            // If we have died meanwhile, nobody knows whose program this is.
            if !is_let_go(self.go) {
                return NOT_STARTED;
            }
            libc::dup2(self.nothing, libc::STDIN_FILENO);
            libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO);
            if self.error != ERROR {
                libc::dup3(self.error, ERROR, libc::O_CLOEXEC);
            }
            // Not by execve: where that waits for a file system, the child would hold our end of the socket by which the process
            // that holds probes knows that we live.
            libc::syscall(libc::SYS_close_range, ERROR + 1, u32::MAX, 0);
            limits::restore();
            self.inherited.restore_dispositions();
            self.inherited.restore_mask();
            self.image.execute(ERROR);
        }
        NOT_STARTED
    }
}
