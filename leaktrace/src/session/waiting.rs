//! Waiting for traced processes to end.

use anyhow::{Context, Result, bail};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pidfd::PidFd;
use crate::model::Pid;

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
    /// There is none of this id.
    pub fn add(&mut self, pid: Pid) -> Result<()> {
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => match error.raw_os_error() {
                Some(libc::ESRCH) => bail!("there is no process {pid}; find the right one with pgrep or ps"),
                Some(libc::EINVAL | libc::ENOENT) => {
                    bail!("{pid} is a thread, not a process; give its process' id, Tgid in /proc/{pid}/status")
                }
                _ => return Err(error).with_context(|| format!("cannot open process {pid}")),
            },
        };
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
