//! `leaktrace doctor`: what this machine has and lacks for tracing, and what to do about it.
//!
//! In: the machine. Out: one line per need, what each way to look at a process costs it, and whether tracing would work. Before each trace the same verdicts turn what
//! would fail later into one line that names the obstacle.

mod facts;
mod need;
mod needs;
#[cfg(test)]
mod tests;
mod ways;

use std::io::{self, Write};

use facts::Facts;
use need::Need;
#[cfg(test)]
use need::Verdict;

/// Writes one line per need, the ways to look at a process, and what follows; says whether tracing would work.
///
/// # Errors
/// Those of `out`.
pub fn run(out: &mut dyn Write) -> io::Result<bool> {
    let facts = Facts::gather();
    let needs = needs::all(&facts);
    for need in &needs {
        writeln!(out, "{need}")?;
    }
    writeln!(out)?;
    for line in ways::lines(&facts) {
        writeln!(out, "{line}")?;
    }
    let obstacles = needs.iter().filter(|need| need.is_in_the_way()).count();
    match obstacles {
        0 => writeln!(out, "\nleaktrace can trace here")?,
        1 => writeln!(out, "\nleaktrace cannot trace here: one thing stands in the way")?,
        many => writeln!(out, "\nleaktrace cannot trace here: {many} things stand in the way")?,
    }
    Ok(obstacles == 0)
}

/// What makes a trace impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot trace here: {what}: {found}; {next} (`leaktrace doctor` tells more)")]
pub struct Problem {
    what: &'static str,
    found: String,
    next: String,
}

/// Finds out within a millisecond whether a trace can be tried at all.
///
/// # Errors
/// The first need that stands in the way; with `forced` a kernel that is too old to be tested does not.
pub fn preflight(forced: bool) -> Result<(), Problem> {
    first_problem(&taking_risks(Facts::gather_quickly(), forced))
}

/// With `forced`, takes an untested kernel that may work for the oldest tested one.
fn taking_risks(facts: Facts, forced: bool) -> Facts {
    if forced && (needs::OLDEST..needs::OLDEST_TESTED).contains(&facts.version) {
        return Facts { version: needs::OLDEST_TESTED, ..facts };
    }
    facts
}

fn first_problem(facts: &Facts) -> Result<(), Problem> {
    match needs::all(facts).into_iter().find(Need::is_in_the_way) {
        Some(Need { what, found, next, .. }) => Err(Problem { what, found, next }),
        None => Ok(()),
    }
}
