//! Waiting: for traced processes to end, for moments that may never come.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, sleep_until};

use crate::model::Pid;
use crate::process::candidate;
use crate::process::launch::{Event, Launched};
use crate::process::pidfd::PidFd;

/// Longer turns of the event loop are logged with `-vv`: meanwhile no other event was handled.
const LONG_TURN: Duration = Duration::from_millis(5);

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

/// What happens to the command next; nothing, where there is none.
pub async fn next_event(launched: &mut Option<Launched>) -> Event {
    match launched {
        Some(launched) => launched.next_event().await,
        None => std::future::pending().await,
    }
}

/// Completes `work`, and says how long it went on without waiting for anything where that was long.
pub async fn noting_long_turns<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let (begun, before) = (Instant::now(), processor_time());
        let polled = work.as_mut().poll(context);
        let (took, worked) = (begun.elapsed(), processor_time().saturating_sub(before));
        if took > LONG_TURN {
            let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
            log::debug!("a turn of the event loop took {:.1} ms, {:.1} on a processor", ms(took), ms(worked));
        }
        polled
    })
    .await
}

/// How long this thread has run so far.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
