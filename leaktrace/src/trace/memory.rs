//! How much memory the traced processes have, read on a thread: the kernel walks through all of it, which takes it tenths of a
//! second for a large process, and a lock that the process may hold.
//!
//! In: running lives with their processes. Out: the memory use of those that still existed. One reading at a time.

use std::sync::mpsc::Sender;

use anyhow::{Context, Result};

use crate::model::{MemoryUse, Pid};
use crate::process::facts;
use crate::workers;

/// Lives by their numbers, with their processes.
type Lives = Vec<(u32, Pid)>;
/// The memory use of each life.
pub type Memory = Vec<(u32, MemoryUse)>;

/// The thread that reads.
pub struct MemoryReader {
    jobs: Sender<Lives>,
    results: async_channel::Receiver<Memory>,
    is_reading: bool,
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
        Ok(Self { jobs, results, is_reading: false })
    }

    /// Orders one reading of these lives.
    pub fn order(&mut self, lives: Lives) {
        self.is_reading = self.jobs.send(lives).is_ok();
    }

    /// Whether it is reading.
    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Orders a reading of these lives, after a pending one, and waits for it.
    pub async fn read(&mut self, lives: Lives) -> Memory {
        if self.is_reading {
            self.done().await;
        }
        self.order(lives);
        self.done().await
    }

    /// Waits for what was ordered. May be cancelled.
    pub async fn done(&mut self) -> Memory {
        let memory = self.results.recv().await.unwrap_or_default();
        self.is_reading = false;
        memory
    }
}

/// Processes that are gone are left out.
fn read(lives: &Lives) -> Memory {
    lives.iter().filter_map(|(number, pid)| Some((*number, facts::memory(*pid)?))).collect()
}
