//! Processes that were in the trace's way and of which nothing could be recorded, with the reason.
//!
//! In: lives that have ended without an event, those that go on without one, and what was found to probe in them. Out: a list
//! that is short, however many they are: those of one name and one reason are one line beyond the first few.

use std::collections::BTreeMap;

use crate::model::{Pid, Untraced};
use crate::process::maps::AddressSpace;
use crate::sources::allocators::Prober;

/// Processes of one name and one reason that are listed one by one.
const LISTED: usize = 3;
/// Names and reasons that are kept; beyond them processes are counted together.
const MAX_KINDS: usize = 256;
/// The name of what is beyond.
const OTHERS: &str = "others";

/// What was found so far.
#[derive(Debug, Default)]
pub struct UntracedProcesses {
    ended: BTreeMap<(String, String), Kind>,
}

#[derive(Debug, Default, Clone)]
struct Kind {
    pids: Vec<Pid>,
    more: u64,
}

impl Kind {
    fn add(&mut self, pid: Pid) {
        if self.pids.contains(&pid) {
            return;
        }
        if self.pids.len() < LISTED { self.pids.push(pid) } else { self.more += 1 }
    }
}

impl UntracedProcesses {
    /// A life ended of which nothing was booked. Whether it is known by now what there was to trace in it.
    pub fn ended(&mut self, pid: Pid, comm: &str, space: &AddressSpace, prober: &Prober) -> bool {
        let found = prober.found(space);
        if let Some(reason) = found.untraceable().filter(|_| has_code(space)) {
            add(&mut self.ended, pid, comm, reason);
        }
        !found.is_pending
    }

    /// A process could not be probed, for this reason.
    pub fn refused(&mut self, pid: Pid, comm: &str, reason: String) {
        add(&mut self.ended, pid, comm, reason);
    }

    /// Those that were forgotten, and those of these that are not.
    #[must_use]
    pub fn list<'a>(
        &self,
        present: impl Iterator<Item = (Pid, &'a str, &'a AddressSpace)>,
        prober: &Prober,
    ) -> Vec<Untraced> {
        let mut kinds = self.ended.clone();
        for (pid, comm, space) in present {
            let found = prober.found(space);
            let early = || "its files were still being read at the end".to_owned();
            let reason = found.untraceable().or_else(|| (found.objects.is_empty() && found.is_pending).then(early));
            if let Some(reason) = reason.filter(|_| has_code(space)) {
                add(&mut kinds, pid, comm, reason);
            }
        }
        let mut list = Vec::new();
        for ((comm, reason), Kind { pids, more }) in kinds {
            let count = pids.len();
            list.extend(pids.into_iter().enumerate().map(|(index, pid)| Untraced {
                pid,
                comm: comm.clone(),
                reason: reason.clone(),
                more: if index + 1 == count { more } else { 0 },
            }));
        }
        list
    }
}

fn add(kinds: &mut BTreeMap<(String, String), Kind>, pid: Pid, comm: &str, reason: String) {
    let key = (comm.to_owned(), reason);
    let key = if kinds.len() < MAX_KINDS || kinds.contains_key(&key) {
        key
    } else {
        (OTHERS.to_owned(), "more names and reasons than are kept apart".to_owned())
    };
    kinds.entry(key).or_default().add(pid);
}

/// Kernel threads have no code of their own, and a process that has just begun another program has none yet.
fn has_code(space: &AddressSpace) -> bool {
    space.mappings().any(|location| location.object.is_some())
}
