//! Lives, for the question whether they were traced, and since when.

use super::Processes;
use crate::lives::life::{Beginning, Life};
use crate::model::Pid;
use crate::process::maps::AddressSpace;

/// A life, for the question whether it was traced and since when.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The process.
    pub pid: Pid,
    /// The kernel's short name of it.
    pub comm: String,
    /// Its mappings.
    pub space: AddressSpace,
    /// When it began at the earliest, by `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// Until when it was held so that it could allocate nothing; 0 if it never was.
    pub held_ns: u64,
    /// Whether something was booked for it.
    pub is_booked: bool,
    /// Whether it is over.
    pub has_ended: bool,
}

impl Processes {
    /// Lives that are not forgotten and whose records are not taken out of the tables.
    pub fn seen(&self) -> impl Iterator<Item = Seen> {
        self.lives.values().filter(|life| life.remains.is_none()).map(Life::seen)
    }

    /// Whether a life, by its number in [`RawProcess::life`](crate::model::RawProcess::life), could call functions of its own before
    /// this moment, by `CLOCK_MONOTONIC`.
    pub fn ran_before(&self, life: u32, moment_ns: u64) -> bool {
        self.lives.get(&life).is_some_and(|life| life.held_ns == 0 && life.started_ns < moment_ns)
    }

    /// Whether a life has no blocks from before this moment, by `CLOCK_MONOTONIC`, nor any of a parent's.
    pub fn is_known_from_its_beginning(&self, life: u32, moment_ns: u64) -> bool {
        let is_of_exec = |life: &Life| life.beginning == Beginning::Exec && life.started_ns >= moment_ns;
        self.lives.get(&life).is_some_and(|life| life.held_ns != 0 || is_of_exec(life))
    }

    /// The life in a slot.
    pub fn seen_in(&self, slot: u32) -> Option<Seen> {
        self.by_slot.get(&slot).and_then(|number| self.lives.get(number)).map(Life::seen)
    }
}

impl Life {
    pub(super) fn seen(&self) -> Seen {
        Seen {
            pid: self.pid,
            comm: self.comm.clone(),
            space: self.space.clone(),
            started_ns: self.started_ns,
            held_ns: self.held_ns,
            is_booked: self.slot.is_some() || self.remains.is_some(),
            has_ended: self.ended,
        }
    }
}
