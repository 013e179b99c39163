//! Which package of the distribution has the debug information of a file, by its package manager's own tools.
//!
//! In: files of this machine, with their build ids. Out: what to install for each. The tools are other programs: they are run
//! without a shell, with an environment of their own, and no longer than asked for. **Never** while anything is traced: they take
//! a second or two of processor time.

mod dpkg;
mod rpm;
mod tool;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tool::Tools;

/// A file that lacks debug information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanting {
    /// Where it is on this machine.
    pub path: PathBuf,
    /// In hexadecimal.
    pub build_id: Option<String>,
}

/// What the package manager says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// This command installs its debug information.
    Install(String),
    /// It is of this package, whose debug information is in none of the archives that are set up here.
    Elsewhere(String),
    /// It is of this package; what there is beside it was not to be learnt in time.
    OfPackage(String),
    /// It is of no package, or there is nobody to ask.
    Nothing,
}

/// Asks the package managers that are there, for so long in all; an answer for each file.
#[must_use]
pub fn advise(files: &[Wanting], within: Duration) -> Vec<Advice> {
    let begun = Instant::now();
    let tools = Tools { deadline: begun + within };
    let mut advice = dpkg::advise(files, &tools);
    if advice.iter().all(|advice| *advice == Advice::Nothing) {
        advice = rpm::advise(files, &tools);
    }
    log::info!("package managers asked for {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    advice
}
