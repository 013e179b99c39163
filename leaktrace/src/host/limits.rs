//! Limits that leaktrace changes for itself.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the runtime takes at its start: it panics where it gets none.
const OF_RUNTIME: u64 = 16;

/// Checks that there is room for the runtime's own descriptors.
///
/// # Errors
/// `EMFILE`.
pub fn require_descriptors() -> io::Result<()> {
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if allowed < OF_RUNTIME { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(()) }
}

/// The limits of open files, soft and hard, that we were started with, once they are changed.
static FILES_AT_START: OnceLock<(u64, u64)> = OnceLock::new();

/// Allows as many open files as root or the administrator allows: a descriptor is held for each traced file.
pub fn allow_many_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        FILES_AT_START.get_or_init(|| (soft, hard));
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

/// Gives the calling process the limits that we were started with: for a forked child. Async-signal-safe.
pub fn restore() {
    if let Some((soft, hard)) = FILES_AT_START.get() {
        // Lowering the soft limit is always allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard);
    }
}

/// Makes a limit on the size of files (`RLIMIT_FSIZE`) an error of whoever writes, and not the end of the program.
pub fn outlive_file_size() {
    // SAFETY: no handler is set. What a command inherits was read before `main`.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
