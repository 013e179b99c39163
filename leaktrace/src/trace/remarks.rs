//! What a report has to say of what cannot be traced in the processes that it is about.
//!
//! In: the processes of a capture, their mappings, the plans of what they map. Out: notes, for runtimes that keep heaps of
//! their own, and warnings, for allocators that are there and cannot be found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::lives::processes::Processes;
use crate::model::{Pid, RawProcess};
use crate::probes::plan::Runtime;
use crate::sources::allocators::Prober;

/// Processes named in one remark.
const NAMED: usize = 4;

/// What there is to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// One for each runtime.
    pub notes: Vec<String>,
    /// One for each file with an allocator that has no names.
    pub warnings: Vec<String>,
}

/// Looks at what these processes map, or mapped.
pub fn of(reported: &[RawProcess], processes: &Processes, prober: &Prober) -> Remarks {
    let mut runtimes: BTreeMap<Runtime, BTreeSet<Pid>> = BTreeMap::new();
    let mut hidden: BTreeMap<String, BTreeSet<Pid>> = BTreeMap::new();
    for process in reported {
        let Some(space) = processes.space(process.life) else { continue };
        let found = prober.found(space);
        for runtime in found.runtimes {
            if !shows_everything(runtime, process) {
                runtimes.entry(runtime).or_default().insert(process.pid);
            }
        }
        for (path, allocator) in found.hidden {
            let what = format!("{allocator} in {} has no symbols to find it by", path.display());
            hidden.entry(what).or_default().insert(process.pid);
        }
    }
    let notes = runtimes.into_iter().map(|(runtime, pids)| format!("{} ({})", runtime.note(), named(&pids))).collect();
    let warning = |(what, pids)| {
        format!("{what}: what it allocates is not seen ({}); trace a build that is not stripped", named(&pids))
    };
    Remarks { notes, warnings: hidden.into_iter().map(warning).collect() }
}

/// Whether a process was started so that its runtime's heap is traced as well. Of one that has ended nobody knows.
fn shows_everything(runtime: Runtime, process: &RawProcess) -> bool {
    let environment = || fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
    runtime == Runtime::CPython
        && !process.exited
        && environment().split(|byte| *byte == 0).any(|variable| variable.starts_with(b"PYTHONMALLOC=malloc"))
}

fn named(pids: &BTreeSet<Pid>) -> String {
    let shown: Vec<String> = pids.iter().take(NAMED).map(ToString::to_string).collect();
    let more = pids.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("pid {}{more}", shown.join(", "))
}
