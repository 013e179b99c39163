//! The clock of the kernel's `ktime`, by which the programs and the kernel's records tell time.

use anyhow::{Context, Result};

/// `CLOCK_MONOTONIC`, nanoseconds.
///
/// # Errors
/// The clock cannot be read.
pub fn monotonic_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
