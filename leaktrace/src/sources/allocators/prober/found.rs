//! What there is to probe in a process, why nothing is, and what the user named and no file has.
//!
//! In: its mappings, and the plans of what they map. Out: facts for reports and refusals.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Named, Planned, Planning, Prober, Unplanned, objects};
use crate::probes::plan::{self, Allocator, Runtime, Seen};
use crate::process::maps::{AddressSpace, ObjectId};

/// Why a process is not traced of which only a sample could be.
const NO_SAMPLER: &str = "it has no sampler: it was started without, is static, or dropped the environment or its user";

/// What there is to probe in a process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// Files with allocation functions.
    pub objects: Vec<PathBuf>,
    /// Allocators that are there but have no names to find them by.
    pub hidden: Vec<(PathBuf, Allocator)>,
    /// Runtimes that keep heaps of their own.
    pub runtimes: Vec<Runtime>,
    /// It has functions by which it says what is no leak.
    pub annotated: bool,
    /// Such functions that cannot be probed, with the reason.
    pub unseen_annotations: Vec<(PathBuf, String)>,
    /// LeakSanitizer is in it.
    pub leak_sanitizer: bool,
    /// Its machine or word size, if that is not ours.
    pub foreign: Option<String>,
    /// Files that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Whose allocators are in it.
    pub allocators: BTreeSet<Allocator>,
    /// How allocations are to be seen.
    pub seen: Seen,
    /// Whether some of its files are still being read.
    pub is_pending: bool,
}

impl Found {
    /// Whether glibc alone allocates in it.
    #[must_use]
    pub fn is_glibc(&self) -> bool {
        self.hidden.is_empty() && self.allocators.iter().eq([&Allocator::Glibc])
    }

    /// Why nothing of the process can be traced, as half a sentence; `None` where something can, or where that is not known yet.
    #[must_use]
    pub fn untraceable(&self) -> Option<String> {
        if !self.objects.is_empty() || self.is_pending {
            return None;
        }
        if let Some(machine) = &self.foreign {
            return Some(format!(
                "it is a program of {machine}, and leaktrace traces 64-bit programs of this machine only"
            ));
        }
        if let Some((path, allocator)) = self.hidden.first() {
            return Some(format!("{allocator} in {} has no symbols to find it by", path.display()));
        }
        if let Some(runtime) = self.runtimes.first() {
            return Some(format!("it is run by {runtime}, which has a heap of its own"));
        }
        if let Some((path, error)) = self.unreadable.first() {
            return Some(format!("{} cannot be read ({error})", path.display()));
        }
        Some(
            if self.seen == Seen::Samples { NO_SAMPLER } else { "no allocator that we know was found in it" }
                .to_owned(),
        )
    }
}

impl Prober {
    /// What there is to probe in a process, as far as it is planned.
    pub fn found(&self, space: &AddressSpace) -> Found {
        let mut found = Found { seen: self.wanted.seen, ..Found::default() };
        let planned: Vec<&Planned> = objects(space)
            .into_iter()
            .filter_map(|object| match self.plans.get(&object.id())? {
                Planning::Done(planned) => planned.as_deref().ok(),
                Planning::Pending(_) => None,
            })
            .collect();
        for object in objects(space) {
            match self.plans.get(&object.id()) {
                Some(Planning::Done(Err(Unplanned::Foreign(machine)))) => found.foreign = Some(machine.clone()),
                Some(Planning::Done(Err(Unplanned::Unreadable(error)))) => {
                    found.unreadable.push((object.path().to_path_buf(), error.clone()));
                }
                Some(Planning::Done(Ok(_))) => {}
                Some(Planning::Pending(_)) | None => found.is_pending = true,
            }
        }
        for planned in &planned {
            if let Some(allocator) = planned.plan.hidden {
                found.hidden.push((planned.path.clone(), allocator));
            }
            found.runtimes.extend(planned.plan.runtime);
            found.leak_sanitizer |= planned.plan.leak_sanitizer;
            found.annotated |= planned.is_annotated();
            let unseen = planned.plan.unseen_annotations().map(|what| (planned.path.clone(), what));
            found.unseen_annotations.extend(unseen);
        }
        found.allocators = planned.iter().filter_map(|planned| planned.plan.role.allocator()).collect();
        found.objects = plan::choose(planned.iter().map(|planned| (planned.path.clone(), &planned.plan)))
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        found
    }

    /// Whether an object is a library that tells of drawn blocks: what it calls for that is no part of their stacks.
    pub fn draws(&self, object: ObjectId) -> bool {
        let Some(Planning::Done(Ok(planned))) = self.plans.get(&object) else { return false };
        planned.plan.is_library && (!planned.plan.samples.is_empty() || planned.plan.sampler_state.is_some())
    }

    /// Whether there is such a library.
    pub fn any_draws(&self) -> bool {
        self.plans.keys().any(|object| self.draws(*object))
    }

    /// The address of the books of leaktrace's sampler in the numbering of an object that has it.
    pub fn sampler_state(&self, object: ObjectId) -> Option<u64> {
        let Some(Planning::Done(Ok(planned))) = self.plans.get(&object) else { return None };
        planned.plan.sampler_state
    }

    /// Whether every object that tells of drawn blocks tells of the frees of those too that were drawn before the trace.
    pub fn tell_earlier(&self) -> bool {
        let planned = self.plans.values().filter_map(|planning| match planning {
            Planning::Done(planned) => planned.as_deref().ok(),
            Planning::Pending(_) => None,
        });
        planned.filter(|planned| !planned.plan.samples.is_empty()).all(|planned| planned.plan.sampler_state.is_some())
    }

    /// What the user named by `--alloc-symbols` and `--symbols-prefix` and no file has, a sentence each; none as long as it is not
    /// known of every file.
    pub fn missing(&self) -> Vec<String> {
        let planned = self.plans.values().map(|planning| match planning {
            Planning::Done(planned) => Some(planned.as_deref().ok()),
            Planning::Pending(_) => None,
        });
        let Some(planned) = planned.collect::<Option<Vec<_>>>() else { return Vec::new() };
        // What a file that was named (`--object`) and not mapped has is not kept.
        let is_mapped = |named: &Named| self.attached.values().any(|asked| asked.file == Some(named.file));
        let planned: Vec<_> = planned.into_iter().flatten().collect();
        if planned.is_empty() || self.written.has_named() || !self.named.iter().all(is_mapped) {
            return Vec::new();
        }
        self.wanted.missing_in(&planned)
    }
}
