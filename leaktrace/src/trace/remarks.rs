//! Remarks of a report on what cannot be traced in its processes.
//!
//! In: the processes of a capture, their mappings, the plans of what they map. Out: notes, for runtimes that keep heaps of
//! their own and for what programs may have called no leak before the trace, and warnings, for functions that are there and cannot
//! be found or probed and for code that cannot be read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::lives::processes::Processes;
use crate::model::{Pid, RawProcess, Silence};
use crate::probes::plan::Runtime;
use crate::process::facts;
use crate::process::growth::{Kind, Resident};
use crate::process::standing;
use crate::sources::allocators::Prober;

/// Processes named in one remark.
const NAMED: usize = 4;

/// The remarks of one report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// One for each runtime, and one for programs that may have disabled leaks before.
    pub notes: Vec<String>,
    /// One for each file with an allocator that has no names, with functions that say what is no leak and cannot be probed, and for
    /// each that cannot be opened.
    pub warnings: Vec<String>,
}

/// What was found in the processes of a report that concerns its reader.
#[derive(Default)]
pub struct Found {
    runtimes: BTreeMap<Runtime, BTreeSet<Pid>>,
    hidden: BTreeMap<String, BTreeSet<Pid>>,
    unopened: BTreeMap<String, BTreeSet<Pid>>,
    unseen_annotations: BTreeMap<String, BTreeSet<Pid>>,
    disabled_before: BTreeSet<Pid>,
}

impl Found {
    /// Adds what one process maps, or mapped. Recording began at `begun_ns`.
    pub fn add(&mut self, process: &RawProcess, processes: &Processes, prober: &Prober, begun_ns: u64) {
        let Some(space) = processes.space(process.life) else { return };
        let found = prober.found(space);
        for runtime in found.runtimes {
            // The environment of a program that merely embeds a runtime was not read before.
            let known = processes.environment(process.life).map(<[_]>::to_vec);
            let environment = known.or_else(|| (!process.exited).then(|| facts::environment(process.pid))?);
            if !shows_everything(runtime, environment.as_deref()) {
                self.runtimes.entry(runtime).or_default().insert(process.pid);
            }
        }
        for (path, allocator) in found.hidden {
            let what = format!("{allocator} in {} has no symbols to find it by", path.display());
            self.hidden.entry(what).or_default().insert(process.pid);
        }
        for (path, what) in found.unseen_annotations {
            let what = format!("{what} in {}", path.display());
            self.unseen_annotations.entry(what).or_default().insert(process.pid);
        }
        if found.annotated && processes.ran_before(process.life, begun_ns) {
            self.disabled_before.insert(process.pid);
        }
        for (path, error) in processes.unopened(space) {
            let what = format!("{} cannot be opened ({error})", path.display());
            self.unopened.entry(what).or_default().insert(process.pid);
        }
    }

    /// What there is to say of it.
    pub fn remarks(self) -> Remarks {
        let note = |(runtime, pids): (Runtime, _)| format!("{} ({})", runtime.note(), named(&pids));
        let warning = |(what, pids)| {
            format!("{what}: what it allocates is not seen ({}); trace a build that is not stripped", named(&pids))
        };
        let unopened = |(what, pids)| {
            format!(
                "{what}: its functions have no names, and what an allocator in it gives is not seen ({})",
                named(&pids)
            )
        };
        let unseen = |(what, pids)| {
            format!("{what} cannot be probed: what the program calls no leak by it may be reported ({})", named(&pids))
        };
        let warnings = self.hidden.into_iter().map(warning).chain(self.unopened.into_iter().map(unopened));
        let warnings = warnings.chain(self.unseen_annotations.into_iter().map(unseen));
        let mut notes: Vec<_> = self.runtimes.into_iter().map(note).collect();
        if !self.disabled_before.is_empty() {
            notes.push(format!(
                "threads that had called __lsan_disable before the trace began are not known: what they allocated until \
                 __lsan_enable may be reported ({})",
                named(&self.disabled_before)
            ));
        }
        Remarks { notes, warnings: warnings.collect() }
    }
}

/// What to say of files that have no probes while somebody writes to them.
pub fn of_written(paths: &[PathBuf]) -> Option<String> {
    let more = paths.len().saturating_sub(NAMED);
    let named: Vec<_> = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| {
        format!(
            "no probes were in these files while somebody had them open for writing: {}{others}; what running processes allocated \
             and freed by them meanwhile is missing",
            named.join(", ")
        )
    })
}

/// Why no allocation was seen at all, by what was seen instead. `then` is the memory that running processes had when they were
/// first seen, `left_out` the number of their running descendants that are not traced.
pub fn of_silence(then: &[(Pid, &Resident)], left_out: usize) -> Vec<Silence> {
    let mut reasons = Vec::new();
    let grown =
        then.iter().map(|(pid, then)| (*pid, Resident::of(*pid).map(|now| now.since(then)).unwrap_or_default()));
    let sum = |grown: &[(u64, Kind)]| grown.iter().map(|(bytes, _)| bytes).sum::<u64>();
    let mut grown: Vec<_> = grown.map(|(pid, grown)| (sum(&grown), pid, grown)).filter(|(sum, ..)| *sum > 0).collect();
    grown.sort_by_key(|(sum, ..)| Reverse(*sum));
    for (sum, pid, grown) in grown.into_iter().take(NAMED) {
        let parts: Vec<_> = grown.iter().map(|(bytes, what)| format!("{} in {what}", mebibytes(*bytes))).collect();
        reasons.push(Silence::GrewOtherwise { pid, sum: mebibytes(sum), parts: parts.join(", ") });
    }
    if left_out > 0 {
        reasons.push(Silence::DescendantsLeftOut);
    }
    reasons
}

/// That none of these processes runs, which is why no allocation was seen; nothing if one does.
pub fn of_standstill(pids: &[Pid]) -> Vec<Silence> {
    let standing: Option<Vec<_>> =
        pids.iter().map(|pid| standing::of(*pid).map(|how| (*pid, how.to_string()))).collect();
    let named = standing.into_iter().flatten().take(NAMED);
    named.map(|(pid, how)| Silence::Stands { pid, how }).collect()
}

/// What to say of memory that grew far beyond what was ever outstanding: it is not malloc's.
pub fn of_growth(then: &[(Pid, &Resident)], processes: &[RawProcess]) -> Vec<String> {
    /// What allocators keep for themselves at most, beside as much again as was asked for.
    const KEPT: u64 = 16 << 20;
    // A child touches what its parent has allocated.
    let peak = processes.iter().map(|process| process.peak_bytes).max().unwrap_or(0).min(u64::MAX / 2);
    let mut warnings = Vec::new();
    for (pid, then) in then {
        let process = processes.iter().rev().find(|process| process.pid == *pid && !process.exited);
        let own_peak = process.map_or(0, |process| process.peak_bytes);
        let grown = Resident::of(*pid).map(|now| now.since(then)).unwrap_or_default();
        let own: Vec<_> = grown.iter().filter(|(_, kind)| *kind != Kind::File).collect();
        let sum: u64 = own.iter().map(|(bytes, _)| bytes).sum();
        if sum <= KEPT.saturating_add(2 * peak) {
            continue;
        }
        let parts: Vec<_> = own.iter().map(|(bytes, what)| format!("{} in {what}", mebibytes(*bytes))).collect();
        warnings.push(format!(
            "the memory of process {pid} grew by {}, and no more than {} of allocations were ever outstanding: the rest is not \
             malloc's; {}",
            mebibytes(sum),
            mebibytes(own_peak),
            parts.join(", ")
        ));
    }
    warnings
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Whether a process was started so that its runtime's heap is traced as well.
fn shows_everything(runtime: Runtime, environment: Option<&[(&'static str, String)]>) -> bool {
    let is_set = |(name, value): &(&str, String)| *name == "PYTHONMALLOC" && value.starts_with("malloc");
    runtime == Runtime::CPython && environment.is_some_and(|environment| environment.iter().any(is_set))
}

fn named(pids: &BTreeSet<Pid>) -> String {
    let shown: Vec<String> = pids.iter().take(NAMED).map(ToString::to_string).collect();
    let more = pids.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("pid {}{more}", shown.join(", "))
}
