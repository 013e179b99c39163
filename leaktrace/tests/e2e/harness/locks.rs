//! Tests that a system-wide trace would disturb, or that are system-wide themselves, keep out of each other's way.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Weak};

thread_local! {
    /// Whether this thread holds the lock: asking for it a second time would be waiting for oneself.
    static HELD: Cell<bool> = const { Cell::new(false) };
    /// Which side of the flood this thread is on.
    static SIDE: RefCell<Weak<File>> = const { RefCell::new(Weak::new()) };
}

/// A file of the machine's, not of this checkout: somebody may be testing another one.
fn file(name: &str) -> File {
    super::require_privileges();
    let run = Path::new("/run");
    let directory = if run.is_dir() { run } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    File::create(directory.join(name)).expect("root may write there")
}

/// Held while a test runs; released with the file.
pub struct Machine {
    _file: File,
}

impl Machine {
    fn locked(lock: impl FnOnce(&File) -> std::io::Result<()>) -> Self {
        assert!(!HELD.get(), "this test holds the lock already");
        let file = file("leaktrace-tests.lock");
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

/// For tests that flood the kernel's rings of records, in which every tracer of the machine might lose something. Their
/// victims must have been built: who has the machine may be waiting for the end of the flood.
pub fn flood() -> Arc<File> {
    side(File::lock)
}

/// For every tracer, as long as it runs: no flood but this test's own.
pub fn calm() -> Arc<File> {
    SIDE.with_borrow(Weak::upgrade).unwrap_or_else(|| side(File::lock_shared))
}

fn side(lock: impl FnOnce(&File) -> std::io::Result<()>) -> Arc<File> {
    let file = Arc::new(file("leaktrace-flood.lock"));
    lock(&file).expect("flock works there");
    SIDE.set(Arc::downgrade(&file));
    file
}
