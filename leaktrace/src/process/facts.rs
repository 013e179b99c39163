//! What /proc says of a living process.

use std::path::PathBuf;

use jiff::Timestamp;
use procfs::process::Process;

use crate::host::clock::monotonic_ns;
use crate::model::Pid;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set.
    pub rss_bytes: Option<u64>,
    /// Proportional set: shared pages count in part.
    pub pss_bytes: Option<u64>,
}

/// Which process it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The kernel's short name of it.
    pub comm: String,
    /// Path of its executable.
    pub exe: Option<PathBuf>,
    /// When it started.
    pub start_time: Option<Timestamp>,
}

/// Reads which process it is; `None` where it is gone.
pub fn identity(pid: Pid) -> Option<Identity> {
    let process = Process::new(pid.0 as i32).ok()?;
    let stat = process.stat().ok()?;
    Some(Identity { exe: process.exe().ok(), start_time: since_boot(stat.starttime), comm: stat.comm })
}

/// Reads how much memory it has, which takes the kernel a walk through all of it; `None` where it is gone.
pub fn memory(pid: Pid) -> Option<Memory> {
    let rollup = Process::new(pid.0 as i32).ok()?.smaps_rollup().ok()?;
    let values = &rollup.memory_map_rollup.0.first()?.extension.map;
    let bytes = |name: &str| values.get(name).copied();
    Some(Memory { rss_bytes: bytes("Rss"), pss_bytes: bytes("Pss") })
}

/// The moment of a reading of `CLOCK_MONOTONIC`.
pub fn moment(monotonic: u64) -> Option<Timestamp> {
    let ago = jiff::SignedDuration::from_nanos(i64::try_from(monotonic_ns().ok()?.checked_sub(monotonic)?).ok()?);
    Timestamp::now().checked_sub(ago).ok()
}

/// From clock ticks since boot.
fn since_boot(ticks: u64) -> Option<Timestamp> {
    let boot = procfs::boot_time_secs().ok()?;
    let per_second = procfs::ticks_per_second();
    let millis = ticks.checked_mul(1000)? / per_second;
    Timestamp::from_millisecond(i64::try_from(boot * 1000 + millis).ok()?).ok()
}
