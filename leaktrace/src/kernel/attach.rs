//! Attaches the allocation functions of one file: probes at their entries and returns, and their removal.
//!
//! In: an open file and the probes to set in it. Out: handles of the probes, which another process (`holder/`) owns, so that no
//! breakpoint is left in a target however this process ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use leaktrace_common::abi;

use super::Kernel;
use super::probe::Probe;
use super::programs::{ByHand, Technique, load_by_aya};
use crate::holder::{Held, Holder};
use crate::host::bpf::Places;
use crate::host::errno;
use crate::host::file_id::{self, FileId};
use crate::model::Pid;

/// The processes in which a file's probes take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Only this process; nothing is recorded of others that map the file.
    Process(Pid),
    /// All processes that map the file, now and later.
    AllProcesses,
}

impl Scope {
    /// The pid filter of a link or perf event; 0 is every process.
    fn pid(self) -> u32 {
        match self {
            Self::Process(pid) => pid.0,
            Self::AllProcesses => 0,
        }
    }
}

/// One program at one end of some functions.
struct Step<'a> {
    program: &'static str,
    returns: bool,
    /// Whether a session may run the program, if the kernel has sessions. In a session the program chooses per call whether it
    /// wants the return. In processes excluded by the link's pid filter it never runs, and the kernel installs a return probe
    /// on every call.
    in_session: bool,
    probes: Vec<&'a Probe>,
}

impl Step<'_> {
    /// The counters of its probes, if any has one.
    fn semaphores(&self) -> Vec<u64> {
        let all = self.probes.iter().map(|probe| probe.semaphore.unwrap_or(0));
        if self.probes.iter().any(|probe| probe.semaphore.is_some()) { all.collect() } else { Vec::new() }
    }

    /// Whether only names depend on this step: accounts are exact without it.
    fn tells_layouts(&self) -> bool {
        self.program == "linker"
    }
}

/// Without the linker's probes, stacks through code that lies where other code lay are marked.
fn warn_of_layouts(error: &anyhow::Error) {
    log::warn!("code that is unloaded cannot be told from what is loaded in its place: {error:#}");
}

/// Whether the holder set no probe since somebody has the file open for writing, or has written to it.
pub fn is_written_to(error: &anyhow::Error) -> bool {
    errno::of(error) == Some(libc::ETXTBSY)
}

/// An open file, and the content that probes are planned for.
pub type Content<'a> = (BorrowedFd<'a>, &'a file_id::Content);

/// Probes in place.
#[derive(Default)]
pub struct Attachments {
    held: Vec<(Scope, FileId, Held)>,
}

impl Attachments {
    /// Sets `probes` in `file` by perf events, one after the other.
    ///
    /// # Errors
    /// The first probe that the kernel refuses; those set before it stay, held by `self`.
    pub fn open(
        &mut self,
        kernel: &mut Kernel,
        (file, inode): (Content<'_>, FileId),
        probes: &[Probe],
        scope: Scope,
    ) -> Result<()> {
        let first = self.held.len();
        for step in steps(probes, Technique::PerfEvents) {
            match self.open_perf_events(kernel, (file, inode), &step, scope, first) {
                // What is written to is probed again later.
                Err(error) if step.tells_layouts() && !is_written_to(&error) => warn_of_layouts(&error),
                opened => opened?,
            }
        }
        Ok(())
    }

    /// Keeps the links that [`links`] returned.
    pub fn hold(&mut self, links: Vec<Held>, scope: Scope, inode: FileId) {
        self.held.extend(links.into_iter().map(|link| (scope, inode, link)));
    }

    fn open_perf_events(
        &mut self,
        kernel: &mut Kernel,
        (file, inode): (Content<'_>, FileId),
        step: &Step<'_>,
        scope: Scope,
        first: usize,
    ) -> Result<()> {
        let holder = Arc::clone(&kernel.holder);
        let program = load_by_aya(&mut kernel.ebpf, step.program)?.fd()?.as_fd();
        for probe in &step.probes {
            let cookie = if step.returns { 0 } else { probe.program().1 };
            let (offsets, cookies) = (vec![probe.offset], vec![cookie]);
            let semaphores = probe.semaphore.into_iter().collect();
            let place = Places { offsets, cookies, semaphores, pid: scope.pid(), returns: step.returns };
            let beside = self.held.get(first).map(|(_, _, held)| held);
            let held = holder.perf_event(program, file, place, beside).with_context(|| {
                format!("the kernel refuses a probe on {} at file offset {:#x}", probe.function, probe.offset)
            })?;
            self.held.push((scope, inode, held));
        }
        Ok(())
    }

    /// Takes out the probes of this scope.
    #[must_use]
    pub fn take(&mut self, scope: Scope) -> Self {
        Self { held: self.held.extract_if(.., |(of, _, _)| *of == scope).collect() }
    }

    /// Takes all out.
    #[must_use]
    pub fn take_all(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Takes out the probes of this file.
    #[must_use]
    pub fn take_file(&mut self, inode: FileId) -> Self {
        Self { held: self.held.extract_if(.., |(_, of, _)| *of == inode).collect() }
    }

    /// Takes out the probes of this file that are for this scope.
    #[must_use]
    pub fn take_file_in(&mut self, inode: FileId, scope: Scope) -> Self {
        Self { held: self.held.extract_if(.., |(of, file, _)| (*of, *file) == (scope, inode)).collect() }
    }
}

impl Drop for Attachments {
    /// Removes all at once: the kernel waits for a grace period per probe, side by side.
    fn drop(&mut self) {
        Held::remove_all(self.held.drain(..).map(|(_, _, held)| held).collect());
    }
}

/// Sets `probes` in `file`: the links that hold them.
///
/// # Errors
/// The first step that the kernel refuses; the links made before it are dropped, and their probes removed.
pub fn links(
    holder: &Arc<Holder>,
    programs: &ByHand,
    file: Content<'_>,
    probes: &[Probe],
    scope: Scope,
) -> Result<Vec<Held>> {
    let technique = programs.technique();
    let link = |step: Step<'_>, beside: Option<&Held>| {
        let attach_type = technique.attach_type(step.program, step.in_session).context("perf events are no links")?;
        let offsets = step.probes.iter().map(|probe| probe.offset).collect();
        let cookies = step.probes.iter().map(|probe| probe.program().1).collect();
        let semaphores = step.semaphores();
        let places = Places { offsets, cookies, semaphores, pid: scope.pid(), returns: step.returns };
        holder
            .link(programs.program(step.program, attach_type)?.as_fd(), attach_type, file, places, beside)
            .with_context(|| format!("the kernel refuses probes on {}", names(&step.probes)))
    };
    let mut links = Vec::new();
    for step in steps(probes, technique) {
        let tells = step.tells_layouts();
        match link(step, links.first()) {
            Ok(made) => links.push(made),
            // What is written to is probed again later.
            Err(error) if tells && !is_written_to(&error) && !holder.is_over() => warn_of_layouts(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(links)
}

/// What to attach, in an order in which no block is booked whose free could go unseen, and no entry is remembered whose return
/// could not be seen.
fn steps(probes: &[Probe], technique: Technique) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut add = |program: &'static str, returns: bool, wanted: &dyn Fn(&Probe) -> bool| {
        for in_session in [true, false] {
            let wanted = |probe: &&Probe| probe.bears_return() == in_session && wanted(probe);
            let probes: Vec<&Probe> = probes.iter().filter(wanted).collect();
            if !probes.is_empty() {
                steps.push(Step { program, returns, in_session, probes });
            }
        }
    };
    // First, so that everything recorded from then on is kept apart by layout.
    add("linker", false, &Probe::is_linkers);
    // Before any block is recorded of which they may say something.
    add("annotation", false, &Probe::is_annotation);
    for program in ["free", "call"] {
        add(program, false, &|probe| probe.frees() && probe.program().0 == program);
    }
    for kind in [abi::FUNCTION_SAMPLE_FREED, abi::FUNCTION_SAMPLED] {
        add("sample", false, &|probe| probe.kind == kind);
    }
    if technique != Technique::Sessions {
        add("returned", true, &|probe| probe.allocates() && probe.bears_return());
    }
    add("call", false, &Probe::exits);
    add("call", false, &Probe::reallocates);
    add("allocated", false, &Probe::ends);
    add("allocated", false, &|probe| probe.is_inside() && !probe.ends());
    for program in ["call", "malloc"] {
        add(program, false, &|probe| probe.allocates() && !probe.reallocates() && probe.program().0 == program);
    }
    steps
}

fn names(probes: &[&Probe]) -> String {
    probes.iter().map(|probe| probe.function.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use leaktrace_common::cookie::{self, Register};

    use super::*;

    fn probe(function: &str, kind: u32, placement: Option<u64>) -> Probe {
        Probe {
            function: function.to_owned(),
            kind,
            offset: 0x1000,
            placement,
            leaf: true,
            has_exits: false,
            ..Probe::default()
        }
    }

    fn order(technique: Technique) -> Vec<(String, bool)> {
        let probes = [
            probe("malloc", abi::FUNCTION_MALLOC, None),
            probe("moved_free", abi::FUNCTION_FREE, cookie::encode([Register::RDI; 3], 24)),
            probe("realloc", abi::FUNCTION_REALLOC, None),
            probe("calloc", abi::FUNCTION_CALLOC, None),
            probe("free", abi::FUNCTION_FREE, None),
        ];
        steps(&probes, technique).iter().map(|step| (names(&step.probes), step.returns)).collect()
    }

    fn at(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
        expected.iter().map(|(names, returns)| ((*names).to_owned(), *returns)).collect()
    }

    #[test]
    fn frees_come_first_and_mallocs_last() {
        let expected =
            [("free", false), ("moved_free", false), ("realloc", false), ("calloc", false), ("malloc", false)];
        assert_eq!(order(Technique::Sessions), at(&expected));
    }

    #[test]
    fn without_sessions_returns_are_watched_before_entries() {
        let expected = [
            ("free", false),
            ("moved_free", false),
            ("malloc, realloc, calloc", true),
            ("realloc", false),
            ("calloc", false),
            ("malloc", false),
        ];
        for technique in [Technique::Multi, Technique::PerfEvents] {
            assert_eq!(order(technique), at(&expected));
        }
    }

    #[test]
    fn what_may_throw_and_its_ways_out_are_in_no_session() {
        let throwing = Probe { has_exits: true, ..probe("operator new", abi::FUNCTION_MALLOC, None) };
        let probes = [throwing, Probe::exit("operator new", 0x2000), probe("calloc", abi::FUNCTION_CALLOC, None)];
        for step in steps(&probes, Technique::Sessions) {
            assert_eq!(step.in_session, names(&step.probes) == "calloc", "{}", names(&step.probes));
        }
    }
}
