//! Whether the allocators of a process, and the functions by which it says what is no leak, were probed when it could first call
//! them.
//!
//! In: its mappings, and when it began to run in them. Out: the worst result among them.

use super::{Asked, Place, Planned, Planning, Prober};
use crate::kernel::attach::Scope;
use crate::process::maps::AddressSpace;

/// How far the probes of an object in a process are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lateness {
    /// They were there when it was mapped.
    InTime,
    /// They came when it was mapped already, or are still to come.
    Late,
    /// They could not be put in.
    Never,
    /// It is not known yet whether there are any.
    NotYet,
}

impl Prober {
    /// The worst result among the files of a process that are `wanted`. `since` turns the time at which a file was first mapped, where
    /// that is known, into the time from which on the process can have called it; both by `CLOCK_MONOTONIC`.
    pub fn lateness(
        &self,
        space: &AddressSpace,
        scope: Scope,
        since: impl Fn(Option<u64>) -> u64,
        wanted: impl Fn(&Planned) -> bool,
    ) -> Lateness {
        let (mut worst, mut is_open) = (Lateness::InTime, false);
        for (object, first_mapped) in space.objects() {
            match self.plans.get(&object.id()) {
                Some(Planning::Done(Ok(planned))) if wanted(planned) => {}
                Some(Planning::Done(_)) => continue,
                Some(Planning::Pending(_)) | None => {
                    is_open = true;
                    continue;
                }
            }
            let first_ns = since(first_mapped);
            let place = match self.attached.get(&(object.id(), scope)) {
                Some(Asked { file: Some(file), .. }) if self.layered.was_probed(*file, scope, first_ns) => continue,
                Some(Asked { file: Some(file), .. }) => self.files.get(&(*file, scope)),
                Some(Asked { file: None, .. }) => Some(&Place::Never),
                None => None,
            };
            match place {
                Some(Place::Since(placed_ns)) if *placed_ns <= first_ns => {}
                Some(Place::Never) => worst = Lateness::Never,
                Some(Place::Since(_) | Place::OnTheWay(_)) if worst == Lateness::InTime => worst = Lateness::Late,
                Some(Place::Since(_) | Place::OnTheWay(_)) => {}
                None if self.has_lost(object.id()) => worst = Lateness::Never,
                None => is_open = true,
            }
        }
        if is_open && worst == Lateness::InTime { Lateness::NotYet } else { worst }
    }
}
