//! Allocation functions as a source of events: which files have them, and their probes.
//!
//! In: files that processes have mapped. Out: probes in place, and what was found and what was not.

mod layers;
mod planner;
mod prober;

pub(crate) use planner::Planned;
pub(crate) use prober::{Found, Lateness, Prober, Request};
