//! What somebody needs to know who repeats a trace.
//!
//! In: the processes of a report. Out: the command line and the machine, the build ids of their programs, and by which variables they
//! were told how to allocate: names alone, since a value may be a secret.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::host::version;
use crate::model::{ProgramVersion, RawProcess, Reproduction, Target, TraceMode};
use crate::process::facts;
use crate::process::maps::AddressSpace;
use crate::symbolize::debuginfod::hex;

/// Programs that are listed, at most.
const PROGRAMS: usize = 32;
/// Processes whose environment is read for each report, at most.
const ENVIRONMENTS: usize = 8;

/// No further one is read after so long: one may lie in a file of a file system that does not answer.
const ENVIRONMENTS_WITHIN: Duration = Duration::from_millis(200);

/// That of these processes, of whose lives there are address spaces.
pub fn of<'a>(
    processes: &[RawProcess],
    space: &impl Fn(u32) -> Option<&'a AddressSpace>,
    target: &Target,
) -> Reproduction {
    let mut reproduction = version::reproduction();
    let programs: BTreeSet<_> = processes.iter().filter_map(|process| program(process, space(process.life)?)).collect();
    if let Some(versions) = &mut reproduction.versions {
        versions.programs = programs.into_iter().take(PROGRAMS).collect();
    }
    let mut names = BTreeSet::new();
    let mut is_known = target.mode == TraceMode::Command;
    if is_known {
        names.extend(facts::own_variables());
    }
    let running = processes.iter().filter(|process| !process.exited && process.merged == 0);
    let began = Instant::now();
    for process in running.take(ENVIRONMENTS).take_while(|_| began.elapsed() < ENVIRONMENTS_WITHIN) {
        let Some(its) = facts::variables(process.pid) else { continue };
        is_known = true;
        names.extend(its);
    }
    reproduction.environment = is_known.then(|| names.into_iter().collect());
    reproduction
}

/// The build id of a process' executable.
fn program(process: &RawProcess, space: &AddressSpace) -> Option<ProgramVersion> {
    let exe = process.exe.as_deref()?;
    let (object, _) = space.objects().find(|(object, _)| object.path() == exe)?;
    Some(ProgramVersion { exe: exe.to_string_lossy().into_owned(), build_id: hex(object.build_id()?) })
}
