//! How much memory the traced processes have, read on a thread: the kernel walks through all of it, which takes it tenths of a
//! second for a large process, and a lock that the process may hold.
//!
//! In: running lives with their processes. Out: the memory use of those that still existed. One reading at a time; between reports
//! one as often as takes a two-hundredth of the time.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::model::{MemoryUse, Pid};
use crate::process::facts;
use crate::workers;

/// Lives by their numbers, with their processes.
type Lives = Vec<(u32, Pid)>;
/// The memory use of each life.
pub type Memory = Vec<(u32, MemoryUse)>;

/// Between two readings that no report asks for, at least.
const BETWEEN: Duration = Duration::from_secs(1);
/// Reading takes at most this part of the time, but for reports.
const SHARE: u32 = 200;

/// The thread that reads.
pub struct MemoryReader {
    jobs: Sender<Lives>,
    results: async_channel::Receiver<Memory>,
    /// Readings that were ordered and are not done.
    pending: u32,
    ordered: Instant,
    due: Instant,
}

impl MemoryReader {
    /// Starts it.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start() -> Result<Self> {
        let (sender, results) = async_channel::unbounded();
        let jobs = workers::start("memory", 1, &sender, read, |_, _| Memory::new())
            .context("cannot start the thread that reads how much memory processes have")?;
        let now = Instant::now();
        Ok(Self { jobs, results, pending: 0, ordered: now, due: now + BETWEEN })
    }

    /// Orders one reading of these lives.
    pub fn order(&mut self, lives: Lives) {
        if self.jobs.send(lives).is_ok() {
            self.pending += 1;
        }
        self.ordered = Instant::now();
    }

    /// Whether anything that was ordered is not done yet.
    pub fn is_reading(&self) -> bool {
        self.pending > 0
    }

    /// When the next reading is due; `None` while one is under way.
    pub fn due(&self) -> Option<Instant> {
        (!self.is_reading()).then_some(self.due)
    }

    /// Orders a reading of these lives, after pending ones, and waits for it.
    pub async fn read(&mut self, lives: Lives) -> Memory {
        while self.is_reading() {
            self.done().await;
        }
        self.order(lives);
        self.done().await
    }

    /// Waits for what was ordered first. May be cancelled.
    pub async fn done(&mut self) -> Memory {
        let memory = self.results.recv().await.unwrap_or_default();
        self.pending = self.pending.saturating_sub(1);
        self.due = Instant::now() + BETWEEN.max(self.ordered.elapsed() * SHARE);
        memory
    }
}

/// Processes that are gone are left out.
fn read(lives: &Lives) -> Memory {
    lives.iter().filter_map(|(number, pid)| Some((*number, facts::memory(*pid)?))).collect()
}
