//! Threads that read files and plan their probes, so that a large one holds up no other.
//!
//! In: objects. Out: their plans, in the order in which they are ready.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::elf;
use crate::probes::functions::AllocSymbol;
use crate::probes::plan::{self, Plan, PlanOptions, Role};
use crate::probes::site::Emulation;
use crate::process::maps::{Object, ObjectId};

/// More than the processors of a small machine: the kernel shares them out, and small files wait for no large one.
const THREADS: usize = 4;

/// A planned file.
#[derive(Debug)]
pub struct Planned {
    /// Its path, for messages.
    pub path: PathBuf,
    /// Its probes.
    pub plan: Plan,
}

/// What is planned for an object; `None` for one that cannot be read or is no program or library.
pub type Outcome = (ObjectId, Option<Arc<Planned>>);

/// What to look for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Those of `--symbols-prefix`.
    pub prefixes: Vec<String>,
    /// Those of `--alloc-symbols`.
    pub symbols: Vec<AllocSymbol>,
    /// What the running kernel emulates.
    pub emulation: Emulation,
}

/// The threads.
pub struct Planner {
    orders: Sender<Arc<Object>>,
    outcomes: UnboundedReceiver<Outcome>,
}

impl Planner {
    /// Starts them; they end when this is dropped.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(wanted: &Wanted) -> io::Result<Self> {
        let (orders, incoming) = channel();
        let (outgoing, outcomes) = unbounded_channel();
        let incoming = Arc::new(Mutex::new(incoming));
        for _ in 0..THREADS {
            let (wanted, incoming, outgoing) = (wanted.clone(), Arc::clone(&incoming), outgoing.clone());
            thread::Builder::new().name("plan".to_owned()).spawn(move || work(&wanted, &incoming, &outgoing))?;
        }
        Ok(Self { orders, outcomes })
    }

    /// Has an object planned.
    pub fn order(&self, object: &Arc<Object>) {
        // The threads are there as long as we are.
        let _ = self.orders.send(Arc::clone(object));
    }

    /// Waits for the next plan. May be cancelled.
    pub async fn next(&mut self) -> Outcome {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

fn work(wanted: &Wanted, orders: &Mutex<Receiver<Arc<Object>>>, outcomes: &UnboundedSender<Outcome>) {
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(object) = order else { return };
        let planned = object
            .open()
            .map_err(anyhow::Error::from)
            .and_then(|file| wanted.plan(&file, object.path()))
            .inspect_err(|error| log::debug!("{} is not probed: {error:#}", object.path().display()))
            .ok()
            .map(Arc::new);
        if outcomes.send((object.id(), planned)).is_err() {
            return;
        }
    }
}

impl Wanted {
    /// Plans one file.
    ///
    /// # Errors
    /// It cannot be read, or is no program or library.
    pub fn plan(&self, file: &File, path: &Path) -> Result<Planned> {
        let bytes = elf::what_is_loaded(file)?;
        let options = |prefix| PlanOptions { prefix, symbols: &self.symbols, emulation: self.emulation };
        let mut plan = plan::plan(&bytes, &options(None))?;
        for prefix in &self.prefixes {
            let more = plan::plan(&bytes, &options(Some(prefix)))?;
            for probe in more.probes {
                if plan.probes.iter().all(|known| known.offset != probe.offset) {
                    plan.probes.push(probe);
                }
            }
            if plan.role == Role::None {
                plan.role = more.role;
            }
        }
        Ok(Planned { path: path.to_path_buf(), plan })
    }
}
