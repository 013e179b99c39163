//! Tests that a system-wide trace would disturb, or that are system-wide themselves, keep out of each other's way.

use std::fs::File;
use std::path::Path;

/// Held while a test runs; released with the file.
pub struct Machine(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

fn lock_file() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine.lock");
    File::create(path).expect("the target directory is writable")
}

/// For tests that probe every process of the machine.
pub fn whole_machine() -> Machine {
    let file = lock_file();
    file.lock().expect("flock works on the target directory");
    Machine(file)
}

/// For tests that must see no probes but their own: several of them may run at once.
pub fn no_system_wide_trace() -> Machine {
    let file = lock_file();
    file.lock_shared().expect("flock works on the target directory");
    Machine(file)
}
