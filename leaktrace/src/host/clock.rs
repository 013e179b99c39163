//! The clock of the kernel's `ktime`, by which the programs and the kernel's records tell time.

use anyhow::{Context, Result};

/// `CLOCK_BOOTTIME`, nanoseconds: `CLOCK_MONOTONIC` and the time for which the machine was suspended.
///
/// # Errors
/// The clock cannot be read.
pub fn since_boot_ns() -> Result<u64> {
    read(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// `CLOCK_MONOTONIC`, nanoseconds.
///
/// # Errors
/// The clock cannot be read.
pub fn monotonic_ns() -> Result<u64> {
    read(nix::time::ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME`, nanoseconds: the clock of files' times.
///
/// # Errors
/// The clock cannot be read.
pub fn realtime_ns() -> Result<u64> {
    read(nix::time::ClockId::CLOCK_REALTIME)
}

fn read(clock: nix::time::ClockId) -> Result<u64> {
    let now = nix::time::clock_gettime(clock).context("cannot read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
