//! What /proc says of a living process.

use std::path::PathBuf;

use jiff::Timestamp;
use procfs::process::Process;

use crate::model::Pid;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set.
    pub rss_bytes: Option<u64>,
    /// Proportional set: shared pages count in part.
    pub pss_bytes: Option<u64>,
}

/// A process as it is now.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The kernel's short name of it.
    pub comm: String,
    /// Path of its executable.
    pub exe: Option<PathBuf>,
    /// When it started.
    pub start_time: Option<Timestamp>,
    /// Its memory.
    pub memory: Memory,
}

/// Reads them; `None` where the process is gone.
pub fn read(pid: Pid) -> Option<Facts> {
    let process = Process::new(pid.0 as i32).ok()?;
    let stat = process.stat().ok()?;
    let rollup = process.smaps_rollup().ok();
    let extension = |name: &str| rollup.as_ref()?.memory_map_rollup.0.first()?.extension.map.get(name).copied();
    Some(Facts {
        exe: process.exe().ok(),
        start_time: start_time(stat.starttime),
        memory: Memory { rss_bytes: extension("Rss"), pss_bytes: extension("Pss") },
        comm: stat.comm,
    })
}

/// From clock ticks since boot.
fn start_time(ticks: u64) -> Option<Timestamp> {
    let boot = procfs::boot_time_secs().ok()?;
    let per_second = procfs::ticks_per_second();
    let millis = ticks.checked_mul(1000)? / per_second;
    Timestamp::from_millisecond(i64::try_from(boot * 1000 + millis).ok()?).ok()
}
