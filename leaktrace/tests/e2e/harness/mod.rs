//! What the end-to-end tests are made of: victims, the tracer, and the comparison of what both say.
//!
//! In: the paths cargo gives the tests. Out: [`Victim`], [`Tracer`], [`Snapshot`] and the assertions on them.
//! Invariant: nothing here waits by the clock for something that announces itself; every wait has a deadline after
//! which the test fails and says what it was waiting for.

pub mod account;
pub mod build;
pub mod confined;
pub mod debuginfod;
pub mod late;
pub mod lines;
pub mod locks;
pub mod memory;
pub mod snapshot;
pub mod tracer;
pub mod victim;

pub use account::Accounts;
pub use late::Late;
pub use snapshot::Snapshot;
pub use tracer::{Finished, Tracer, leaktrace, trace_command};
pub use victim::Victim;

use std::path::Path;
use std::time::Duration;

/// Longer than anything here takes on a slow machine: reached only by something that hangs.
pub const DEADLINE: Duration = Duration::from_mins(10);

/// Fails the test, with the next step, where it cannot run: it never passes without having tested anything.
pub fn require_privileges() {
    let root = nix::unistd::geteuid().is_root();
    let uprobes = Path::new("/sys/bus/event_source/devices/uprobe/type").exists();
    let bpf = Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists();
    assert!(
        root && uprobes && bpf,
        "this test needs root and a kernel with BPF and uprobes: run it by `cargo xtask test`"
    );
}

/// The ways of attaching probes that this kernel has, as `LEAKTRACE_ATTACH` names them, each with the version that has it (`leaktrace
/// doctor`).
pub fn techniques() -> impl Iterator<Item = &'static str> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let kernel = (numbers.next().unwrap(), numbers.next().unwrap());
    let all = [("sessions", (6, 13)), ("multi", (6, 10)), ("perf", (0, 0))];
    all.into_iter().filter(move |(_, since)| kernel >= *since).map(|(technique, _)| technique)
}
