//! Threads that attach files side by side: the kernel takes tenths of a second for each on a busy machine, most of which it
//! waits, and meanwhile a trace must go on.
//!
//! In: files with the probes to set in them. Out: the links that hold these, or why there are none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::attach::{Scope, links};
use super::probe::Probe;
use super::programs::ByHand;

/// They wait for the kernel, not for processors.
const THREADS: usize = 8;

/// A file to be attached.
pub struct Order {
    /// The loaded programs.
    pub programs: Arc<ByHand>,
    /// The file.
    pub file: File,
    /// What to set in it.
    pub probes: Vec<Probe>,
    /// For whom.
    pub scope: Scope,
    /// What to tell of it.
    pub about: About,
}

/// What is told of a file.
#[derive(Debug, Clone)]
pub struct About {
    /// Its path.
    pub path: PathBuf,
    /// When it was mapped, by `CLOCK_MONOTONIC`; 0 if that is long ago.
    pub mapped_ns: u64,
}

/// A file that was attached, or was not.
pub struct Attached {
    /// As ordered.
    pub about: About,
    /// As ordered.
    pub scope: Scope,
    /// How long the kernel took.
    pub took: Duration,
    /// What holds the probes in place.
    pub links: Result<Vec<OwnedFd>>,
}

/// The threads.
pub struct Attacher {
    orders: Sender<Order>,
    outcomes: UnboundedReceiver<Attached>,
    under_way: usize,
}

impl Attacher {
    /// Starts them; they end when this is dropped.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start() -> io::Result<Self> {
        let (orders, incoming) = channel();
        let (outgoing, outcomes) = unbounded_channel();
        let incoming = Arc::new(Mutex::new(incoming));
        for _ in 0..THREADS {
            let (incoming, outgoing) = (Arc::clone(&incoming), outgoing.clone());
            thread::Builder::new().name("attach".to_owned()).spawn(move || work(&incoming, &outgoing))?;
        }
        Ok(Self { orders, outcomes, under_way: 0 })
    }

    /// Has a file attached.
    pub fn order(&mut self, order: Order) {
        // The threads are there as long as we are.
        self.under_way += usize::from(self.orders.send(order).is_ok());
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Waits for the next file. May be cancelled without losing one.
    pub async fn next(&mut self) -> Attached {
        match self.outcomes.recv().await {
            Some(attached) => {
                self.under_way = self.under_way.saturating_sub(1);
                attached
            }
            None => std::future::pending().await,
        }
    }
}

fn work(orders: &Mutex<Receiver<Order>>, outcomes: &UnboundedSender<Attached>) {
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Order { programs, file, probes, scope, about }) = order else { return };
        let began = Instant::now();
        let links = links(&programs, file.as_fd(), &probes, scope);
        if outcomes.send(Attached { about, scope, took: began.elapsed(), links }).is_err() {
            return;
        }
    }
}
