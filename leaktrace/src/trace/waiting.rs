//! Waiting: for traced processes to end, for moments that may never come.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, sleep_until};

use crate::model::Pid;
use crate::process::candidate;
use crate::process::pidfd::PidFd;

/// Processes whose ends are waited for.
#[derive(Default)]
pub struct Ends {
    running: Vec<(Pid, AsyncFd<PidFd>)>,
    ended: Vec<Pid>,
}

impl Ends {
    /// Adds a process.
    ///
    /// # Errors
    /// It cannot be traced.
    pub fn add(&mut self, pid: Pid) -> Result<()> {
        let pidfd = candidate::open(pid)?;
        // SAFETY: the pidfd owns its descriptor and keeps it to its end.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .with_context(|| format!("cannot wait for process {pid}"))?;
        self.running.push((pid, pidfd));
        Ok(())
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.ended.is_empty()
    }

    /// Those seen to have ended.
    pub fn ended(&self) -> impl Iterator<Item = Pid> + '_ {
        self.ended.iter().copied()
    }

    /// Waits until all have ended. May be cancelled and called again.
    pub async fn all(&mut self) {
        while let Some((pid, pidfd)) = self.running.last() {
            // An error would come again and again: as good as an end.
            let _ = pidfd.readable().await;
            self.ended.push(*pid);
            self.running.pop();
        }
    }
}

/// Until then, or for ever.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Until the next tick, or for ever.
pub async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}
