//! Whether the allocators of a process were probed when it could first call them, and whether what the user named was found at all.
//!
//! In: its mappings, and when it began to run in them. Out: the worst result among its allocators.

use super::{Asked, Place, Planning, Prober};
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
    /// What the user named by `--alloc-symbols` and `--symbols-prefix` and no file has, a sentence each; none as long as it is not
    /// known of every file.
    pub fn missing(&self) -> Vec<String> {
        let planned = self.plans.values().map(|planning| match planning {
            Planning::Done(planned) => Some(planned.as_deref().ok()),
            Planning::Pending(_) => None,
        });
        let Some(planned) = planned.collect::<Option<Vec<_>>>() else { return Vec::new() };
        // What a file that was named (`--object`) and not mapped has is not kept.
        let is_mapped = |inode| self.attached.values().any(|asked| asked.file == Some(inode));
        let planned: Vec<_> = planned.into_iter().flatten().collect();
        if planned.is_empty() || !self.files.keys().all(|(file, _)| is_mapped(*file)) {
            return Vec::new();
        }
        self.wanted.missing_in(&planned)
    }

    /// The worst result among the allocators of a process. `since` turns the time at which an allocator was first mapped, where
    /// that is known, into the time from which on the process can have called it; both by `CLOCK_MONOTONIC`.
    pub fn lateness(&self, space: &AddressSpace, scope: Scope, since: impl Fn(Option<u64>) -> u64) -> Lateness {
        let (mut worst, mut is_open) = (Lateness::InTime, false);
        for (object, first_mapped) in space.objects() {
            match self.plans.get(&object.id()) {
                Some(Planning::Done(Ok(planned))) if planned.allocates_itself() => {}
                Some(Planning::Done(_)) => continue,
                Some(Planning::Pending(_)) | None => {
                    is_open = true;
                    continue;
                }
            }
            let place = match self.attached.get(&(object.id(), scope)) {
                Some(Asked { file: Some(file), .. }) => self.files.get(&(*file, scope)),
                Some(Asked { file: None, .. }) => Some(&Place::Never),
                None => None,
            };
            match place {
                Some(Place::Since(placed_ns)) if *placed_ns <= since(first_mapped) => {}
                Some(Place::Never) => worst = Lateness::Never,
                Some(Place::Since(_) | Place::OnTheWay) if worst == Lateness::InTime => worst = Lateness::Late,
                Some(Place::Since(_) | Place::OnTheWay) => {}
                None => is_open = true,
            }
        }
        if is_open && worst == Lateness::InTime { Lateness::NotYet } else { worst }
    }
}
