//! Limits that leaktrace changes for itself.

use std::io;

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

/// Allows as many open files as root or the administrator allows: a descriptor is held for each traced file.
pub fn allow_many_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

/// Makes a limit on the size of files (`RLIMIT_FSIZE`) an error of whoever writes, and not the end of the program.
pub fn outlive_file_size() {
    // SAFETY: no handler is set. What a command inherits was read before `main`.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
