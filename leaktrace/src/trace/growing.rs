//! How much memory the traced processes had when they were first seen, for the case that it grows by other means than malloc.
//!
//! In: the lives that go on, once a second. Out: those whose memory was looked at and that still go on, with what they had.
//! A look takes the kernel a walk through all of a process' memory, so no more than some processes have one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use procfs::process::Process;

use super::Trace;
use crate::config::{Filters, Whom};
use crate::kernel::selection;
use crate::model::Pid;
use crate::process::growth::Resident;

/// Processes that are looked at.
const MAX_WATCHED: usize = 64;
/// How long the looks of one time may take in all, after which there is another each second: everything else waits for them.
const WITHIN: Duration = Duration::from_millis(20);
/// Lives that are remembered because they are none of those that are traced.
const MAX_PASSED_OVER: usize = 1 << 16;

/// A life by its process and when it began.
type Life = (Pid, u64);

/// What they had.
#[derive(Debug, Default)]
pub struct Growth {
    watched: Vec<(Life, Resident)>,
    passed_over: HashSet<Life>,
}

impl Growth {
    /// What those of these lives had that were looked at.
    pub fn then(&self, alive: impl Iterator<Item = Life>) -> Vec<(Pid, &Resident)> {
        let alive: HashSet<Life> = alive.collect();
        let present = self.watched.iter().filter(|(life, _)| alive.contains(life));
        present.map(|((pid, _), resident)| (*pid, resident)).collect()
    }
}

impl Trace {
    /// Looks at the memory of traced processes that have not been looked at.
    pub(super) fn watch_growth(&mut self) {
        let filters = match &self.config.whom {
            // Where every process is traced, some of them always allocate.
            Whom::System => return,
            Whom::Filtered(filters) => Some(filters),
            Whom::Pids(_) | Whom::Command(_) => None,
        };
        let until = Instant::now() + WITHIN;
        let lives = self.processes.going_on().map(|(pid, started, comm)| ((pid, started), comm));
        let alive: HashSet<Life> = lives.clone().map(|(life, _)| life).collect();
        let Growth { watched, passed_over } = &mut self.growth;
        watched.retain(|(life, _)| alive.contains(life));
        passed_over.retain(|life| alive.contains(life));
        let known: HashSet<Life> = watched.iter().map(|(life, _)| *life).collect();
        let mut groups = None;
        for (life, comm) in lives.filter(|(life, _)| !known.contains(life)) {
            if watched.len() >= MAX_WATCHED || passed_over.len() >= MAX_PASSED_OVER || Instant::now() >= until {
                return;
            }
            if passed_over.contains(&life) {
                continue;
            }
            let members =
                |filters: &Filters| filters.cgroups.iter().flat_map(|path| selection::members(path)).collect();
            let passes = filters.is_none_or(|filters| {
                let groups = groups.get_or_insert_with(|| members(filters));
                passes(filters, life.0, comm, groups)
            });
            if !passes {
                passed_over.insert(life);
            } else if let Some(resident) = Resident::of(life.0) {
                log::debug!("process {}: {} bytes resident", life.0, resident.bytes());
                watched.push((life, resident));
            }
        }
    }
}

/// Whether a process passes the filters as they are applied at its first event; `groups` are the processes of the control groups.
fn passes(filters: &Filters, pid: Pid, comm: &str, groups: &HashSet<Pid>) -> bool {
    let uid = || Some(Process::new(pid.0 as i32).ok()?.status().ok()?.ruid);
    (filters.comms.is_empty() || filters.comms.iter().any(|name| name == comm))
        && (filters.cgroups.is_empty() || groups.contains(&pid))
        && (filters.uids.is_empty() || uid().is_some_and(|uid| filters.uids.contains(&uid)))
}
