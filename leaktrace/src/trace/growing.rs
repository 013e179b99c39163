//! How much memory the traced processes had when they were first seen, for the case that it grows by other means than malloc.
//!
//! In: the running lives, once a second and before a report. Out: those that were looked at and still run, with the memory that
//! they had then; for a program that was seen to begin, what it began with, however late the look. The kernel walks through all
//! of a process' memory for each look, so the number of processes is limited.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use procfs::process::Process;

use super::Trace;
use crate::config::{Filters, Whom};
use crate::kernel::selection;
use crate::lives::life::{Beginning, Life};
use crate::lives::processes::Processes;
use crate::model::Pid;
use crate::process::growth::Resident;

/// Processes that are looked at, at most.
const MAX_WATCHED: usize = 64;
/// How long the looks of one time may take in all, after which there is another each second: everything else waits for them.
const WITHIN: Duration = Duration::from_millis(20);
/// The same before tracing begins, when nothing has to wait.
pub(super) const AT_FIRST: Duration = Duration::from_millis(500);
/// Lives that are remembered as excluded by the filters.
const MAX_PASSED_OVER: usize = 1 << 16;

/// A life by its process and when it began.
type Key = (Pid, u64);

fn key(life: &Life) -> Key {
    (life.pid, life.started_ns)
}

/// Lives that were looked at, with their memory at that time.
#[derive(Debug, Default)]
pub struct Growth {
    watched: Vec<(Key, Resident)>,
    passed_over: HashSet<Key>,
    /// Whether any process passed the filters so far.
    any_passed: bool,
    /// Whether the last look came to all processes.
    is_thorough: bool,
}

impl Growth {
    /// Whether all processes were looked at and none ever passed the filters.
    pub fn none_passed(&self) -> bool {
        self.is_thorough && !self.any_passed
    }

    /// The memory at the first look of those of these lives that were looked at.
    pub fn then<'a>(&self, alive: impl Iterator<Item = &'a Life>) -> Vec<(Pid, &Resident)> {
        let alive: HashSet<Key> = alive.map(key).collect();
        let present = self.watched.iter().filter(|(life, _)| alive.contains(life));
        present.map(|((pid, _), resident)| (*pid, resident)).collect()
    }
}

impl Trace {
    /// Looks at the memory of traced processes that have not been looked at.
    pub(super) fn watch_growth(&mut self) {
        self.watch_growth_within(WITHIN);
    }

    /// The same in so much time.
    pub(super) fn watch_growth_within(&mut self, within: Duration) {
        let filters = match &self.config.whom {
            // Where every process is traced, some of them always allocate.
            Whom::System => return,
            Whom::Filtered(filters) => Some(filters),
            Whom::Pids(_) | Whom::Command(_) => None,
        };
        let until = Instant::now() + within;
        let lives = self.processes.going_on();
        let alive: HashSet<Key> = lives.clone().map(key).collect();
        let Growth { watched, passed_over, any_passed, is_thorough } = &mut self.growth;
        *is_thorough = false;
        watched.retain(|(life, _)| alive.contains(life));
        passed_over.retain(|life| alive.contains(life));
        let known: HashSet<Key> = watched.iter().map(|(life, _)| *life).collect();
        let mut groups = None;
        for life in lives.filter(|life| !known.contains(&key(life))) {
            if watched.len() >= MAX_WATCHED || passed_over.len() >= MAX_PASSED_OVER || Instant::now() >= until {
                return;
            }
            if passed_over.contains(&key(life)) {
                continue;
            }
            let members =
                |filters: &Filters| filters.cgroups.iter().flat_map(|path| selection::members(path)).collect();
            let passes = filters.is_none_or(|filters| {
                let groups = groups.get_or_insert_with(|| members(filters));
                passes(filters, life, groups)
            });
            *any_passed |= passes;
            if !passes {
                passed_over.insert(key(life));
            } else if let Some(resident) = Resident::of(life.pid) {
                let began = life.beginning == Beginning::Exec;
                watched.push((key(life), if began { resident.at_exec() } else { resident }));
            }
        }
        *is_thorough = true;
    }
}

/// The running processes that the filters choose.
pub(super) fn chosen<'a>(filters: &Filters, processes: &'a Processes) -> Vec<&'a Life> {
    let groups = filters.cgroups.iter().flat_map(|path| selection::members(path)).collect();
    processes.going_on().filter(|life| passes(filters, life, &groups)).collect()
}

/// Whether a process passes the filters as they are applied at its first event; `groups` are the processes of the control groups.
fn passes(filters: &Filters, life: &Life, groups: &HashSet<Pid>) -> bool {
    let uid = || Some(Process::new(life.pid.0 as i32).ok()?.status().ok()?.ruid);
    (filters.comms.is_empty() || filters.comms.contains(&life.comm))
        && (filters.cgroups.is_empty() || groups.contains(&life.pid))
        && (filters.uids.is_empty() || uid().is_some_and(|uid| filters.uids.contains(&uid)))
}
