//! The memory of another process: where pointers to its heap can be, which pages of that are there, and their contents.
//!
//! In: the id of a process, which is stopped if what is read is to belong together. Out: [`Region`]s, [`Run`]s of pages, words.
//! **Never** a page that is not there: it would be made (which counts as the process' memory), filled by a file system that may
//! not answer, or asked of a thread of the process (userfaultfd), which may be stopped. Only [`Reader::read_exact`] does not care:
//! it is for programs that are about to begin. Never the memory of a device, where reading can have an effect.
//!
//! - [`regions()`] reads and judges the list of mappings.
//! - [`Pages`] asks the kernel for the pages of a region, [`Survey`] for those of all regions.
//! - [`Unseen`] has what is in shared memory beside these pages.
//! - [`Marks`] tells which pages have changed, where the kernel does.
//! - [`Batches`] cuts runs into portions of the size of a [`Buffer`], and [`Reader`] fills it.
//!
//! Can reading block? The pages that a stopped process has in memory are copied at once, and swapped ones are read from the swap
//! device, as they are for the process itself. In a process that runs, a page may go between the survey and the reading; then
//! the kernel may ask a file system or a userfaultfd handler for it. The same is possible for pages that a process has given
//! back by `MADV_FREE`, which the kernel takes when it needs them. So the process must run again after some time whatever becomes
//! of the reading (`stop::Limits::hold_at_most`), and whoever has to be in time reads in a thread through `host::patience`.

mod batches;
mod buffer;
mod changes;
mod pages;
mod reader;
mod regions;
mod unseen;
mod watch;

use std::io;
use std::ops::Range;

pub use batches::Batches;
pub use buffer::{Buffer, back_by_large_pages};
pub use changes::{Marks, has_huge_pages};
pub use pages::{Pages, Run, page_size};
pub use reader::{Filled, Reader};
use regions::Mapped;
pub use regions::{Region, RegionKind, regions};
pub use unseen::Unseen;

use crate::model::Pid;

/// Why nothing of a process' memory can be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It is gone.
    #[error("process {0} has ended: its memory is no longer there")]
    Ended(Pid),
    /// Another user's, or protected.
    #[error(
        "no permission to read {what} of process {pid}; run leaktrace as root, or, if that is root, with the rights that a \
         container or a security module denies"
    )]
    Permission {
        /// The process.
        pid: Pid,
        /// Which of its files in /proc.
        what: &'static str,
    },
    /// Something that should not fail did.
    #[error("cannot read {what} of process {pid}: {error}")]
    Unreadable {
        /// The process.
        pid: Pid,
        /// Which of its files in /proc.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl MemoryError {
    fn of(pid: Pid, what: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Ended(pid),
            Some(libc::EACCES | libc::EPERM) => Self::Permission { pid, what },
            _ => Self::Unreadable { pid, what, error },
        }
    }
}

/// All that is to be read of a process to find the pointers to its heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// By address.
    pub regions: Vec<Region>,
    /// The pages of all regions that are in memory or swapped out, by address; each run lies within one region.
    pub runs: Vec<Run>,
    /// Where code of files is, by address. It is not to be read.
    pub code: Vec<Range<u64>>,
    /// Bytes of regions whose pages the kernel did not tell.
    pub unknown_bytes: u64,
}

impl Survey {
    /// Asks the kernel. Takes some microseconds for each mapping, and a few milliseconds for each GB in memory.
    ///
    /// # Errors
    /// The list of mappings or the page tables cannot be read at all.
    pub fn of(pid: Pid) -> Result<Self, MemoryError> {
        let Mapped { regions, code } = Mapped::of(pid)?;
        let mut pages = Pages::of(pid)?;
        let (mut runs, mut unknown_bytes) = (Vec::new(), 0);
        for region in &regions {
            if let Err(error) = pages.runs(region, &mut runs) {
                log::debug!(
                    "the pages of {} at {} are not known: {error}",
                    region.name.display().display(),
                    region.start
                );
                unknown_bytes += region.bytes();
            }
        }
        Ok(Self { regions, runs, code, unknown_bytes })
    }

    /// Bytes that are in memory, from which the time to read them can be estimated.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.runs.iter().filter(|run| !run.swapped).map(Run::bytes).sum()
    }

    /// Bytes that are swapped out. Reading them takes the time of the swap device, so it is better done before a stop.
    #[must_use]
    pub fn swapped_bytes(&self) -> u64 {
        self.runs.iter().filter(|run| run.swapped).map(Run::bytes).sum()
    }
}
