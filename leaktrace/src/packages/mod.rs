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
    /// The file belongs to this package, whose debug information is in none of the configured archives.
    Elsewhere(String),
    /// The file belongs to this package; whether there is debug information for it was not found out in time.
    OfPackage(String),
    /// The file belongs to no package, or there is no package manager.
    Nothing,
}

/// Asks the installed package managers, for this time in total; an answer for each file.
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
