//! Tests that a system-wide trace would disturb, or that are system-wide themselves, keep out of each other's way.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;

thread_local! {
    /// Whether this thread holds the lock: asking for it a second time would be waiting for oneself.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Held while a test runs; released with the file.
pub struct Machine {
    _file: File,
}

impl Machine {
    fn locked(lock: impl FnOnce(&File) -> std::io::Result<()>) -> Self {
        assert!(!HELD.get(), "this test holds the lock already");
        // The machine's, not this checkout's: somebody may be testing another one.
        let run = Path::new("/run");
        let directory = if run.is_dir() { run } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
        let file = File::create(directory.join("leaktrace-tests.lock")).expect("root may write there");
        lock(&file).expect("flock works there");
        HELD.set(true);
        Self { _file: file }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

/// For tests that probe every process of the machine.
pub fn whole_machine() -> Machine {
    Machine::locked(File::lock)
}

/// For tests that must see no probes but their own, and for those that a system-wide trace might lose something by: several
/// of them may run at once.
pub fn no_system_wide_trace() -> Machine {
    Machine::locked(File::lock_shared)
}

/// For what is not part of a test, such as compiling victims: a compiler allocates in more places than a system-wide trace
/// has room for. Nothing where the test itself has the machine.
pub fn no_foreign_system_wide_trace() -> Option<Machine> {
    (!HELD.get()).then(no_system_wide_trace)
}
