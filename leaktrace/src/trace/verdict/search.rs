//! A search of a process' memory while the process goes on, in a thread of its own.
//!
//! In: the process as it was in the moment of a stop, and its blocks. Out: what was found of them.

use std::thread;

use super::findings::Pass;
use super::life::Life;
use super::moment::{KEPT, Moment, holds_pointers};
use super::standstill::{Found, Searchers, Standstill};
use crate::analysis::reachability::Heuristics;
use crate::kernel::drain::TabledBlock;
use crate::kernel::in_flight::InFlight;
use crate::model::LeakCheckMode;
use crate::process::maps::AddressSpace;

/// What one search found.
pub enum Searched {
    /// What is to be joined with later searches.
    Layer(Box<Found>),
    /// A verdict.
    Judged(Box<Pass>),
}

/// A search that goes on in a thread of its own.
pub struct Search(async_channel::Receiver<Result<Searched, String>>);

/// What is searched, and how.
pub struct Task {
    /// The process.
    pub life: Life,
    /// As it was in that moment.
    pub moment: Moment,
    /// Its blocks, by address.
    pub blocks: Vec<TabledBlock>,
    /// Where its code is.
    pub space: Option<AddressSpace>,
    /// Which pointers into blocks are as good as to their start.
    pub heuristics: Heuristics,
    /// Its pages are tracked.
    pub is_tracked: bool,
    /// What its threads were in the midst of in that moment.
    pub in_flight: InFlight,
    /// What was found before it was tracked what has changed.
    pub earlier: Option<Box<Found>>,
}

impl Search {
    /// Searches the memory of a process, which may run meanwhile, for pointers to its blocks.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn begin(task: Task) -> std::io::Result<Self> {
        let (sender, result) = async_channel::bounded(1);
        // Nobody may wait any more.
        let work = move || drop(sender.send_blocking(task.search()));
        thread::Builder::new().name("leak check".to_owned()).spawn(work)?;
        Ok(Self(result))
    }

    /// What it found. May be cancelled and called again.
    ///
    /// # Errors
    /// Why it found nothing, a part of a sentence.
    pub async fn done(&mut self) -> Result<Searched, String> {
        let failed = |_| Err("the thread that searched its memory has ended; please report this".to_owned());
        self.0.recv().await.unwrap_or_else(failed)
    }
}

impl Task {
    fn search(self) -> Result<Searched, String> {
        let Self { life, moment, blocks, space, heuristics, is_tracked, mut in_flight, earlier } = self;
        let Moment { threads, copies, changes, then, copy, is_whole, pause, .. } = moment;
        if let Some((copy, regions)) = &copy {
            let unread = copy.unread().map_err(|refused| refused.to_string())?;
            if holds_pointers(&unread, regions) {
                return Err(KEPT.to_owned());
            }
        }
        // What it makes from now on is not among these blocks, and what it moves there is not read again.
        in_flight.hides_blocks |= copy.is_none() && !is_tracked;
        let still = Standstill {
            pid: life.pid,
            memory: copy.as_ref().map_or(life.pid, |(copy, _)| copy.pid()),
            is_at_rest: copy.is_some(),
            in_flight: &in_flight,
            then: then.as_ref(),
            threads: &threads,
            space: space.as_ref(),
            since_start: life.since_start,
            overlay: &copies,
            heuristics,
            searchers: Searchers::Half,
        };
        let earlier = earlier.map(|found| *found).zip(changes);
        let found = still.search(blocks, earlier, || pause).map_err(|error| error.to_string())?;
        Ok(if is_tracked && !is_whole {
            Searched::Layer(Box::new(found))
        } else {
            let mut pass = found.judge(space.as_ref());
            pass.check.mode = if copy.is_some() { LeakCheckMode::Snapshot } else { LeakCheckMode::Live };
            Searched::Judged(Box::new(pass))
        })
    }
}
