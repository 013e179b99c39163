//! Threads that attach files side by side: the kernel takes tenths of a second for each on a busy machine, most of which it
//! waits, and meanwhile a trace must go on.
//!
//! In: files with the probes to set in them. Out: the links that hold these, or why there are none.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::attach::{Scope, links};
use super::probe::Probe;
use super::programs::ByHand;
use crate::holder::{Held, Holder};
use crate::host::clock::monotonic_ns;
use crate::host::file_id::{Content, FileId};
use crate::workers;

/// They wait for the kernel, not for processors.
const THREADS: usize = 8;

/// A file to be attached.
pub struct Order {
    /// Who sets and holds them.
    pub holder: Arc<Holder>,
    /// The loaded programs.
    pub programs: Arc<ByHand>,
    /// The file.
    pub file: File,
    /// The content that the probes are for.
    pub content: Arc<Content>,
    /// What to set in it.
    pub probes: Vec<Probe>,
    /// The processes in which the probes take effect.
    pub scope: Scope,
    /// What results and messages say of it.
    pub about: About,
}

/// What results and messages say of a file.
#[derive(Debug, Clone)]
pub struct About {
    /// Its path.
    pub path: PathBuf,
    /// Its device and inode.
    pub file: FileId,
    /// When it was mapped, by `CLOCK_MONOTONIC`; 0 if that is long ago.
    pub mapped_ns: u64,
    /// Tells this order from others.
    pub order: u64,
}

/// A file that was attached, or was not.
pub struct Attached {
    /// As ordered.
    pub about: About,
    /// As ordered.
    pub scope: Scope,
    /// How long the kernel took.
    pub took: Duration,
    /// When that was over, by `CLOCK_MONOTONIC`.
    pub placed_ns: u64,
    /// What holds the probes in place.
    pub links: Result<Vec<Held>>,
}

/// Starts the threads that attach; they end when the sender of orders is dropped.
///
/// # Errors
/// No thread can be made.
pub fn start<R: From<Attached> + Send + 'static>(results: &async_channel::Sender<R>) -> io::Result<Sender<Order>> {
    let done = |order: &Order, took, links| {
        // Where the clock cannot be read, the latest there is.
        let placed_ns = monotonic_ns().unwrap_or(u64::MAX);
        R::from(Attached { about: order.about.clone(), scope: order.scope, took, placed_ns, links })
    };
    let work = move |order: &Order| {
        let began = Instant::now();
        let file = (order.file.as_fd(), &*order.content);
        let links = links(&order.holder, &order.programs, file, &order.probes, order.scope);
        done(order, began.elapsed(), links)
    };
    let failed = move |order: &Order, panic| done(order, Duration::ZERO, Err(anyhow!("attaching failed ({panic})")));
    workers::start("attach", THREADS, results, work, failed)
}
