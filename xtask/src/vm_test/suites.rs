//! What is run in which machine.
//!
//! In: a series and what the user asked for. Out: suites, each of which gets a machine of its own.

use super::Args;
use super::image::{Parts, VICTIMS};
use super::kernels::Series;
use super::plan::Run;
use std::time::Duration;

/// Test cases and the machine they want.
pub struct Suite {
    pub name: &'static str,
    /// For the kernel's command line.
    pub options: &'static str,
    pub processors: usize,
    pub limit: Duration,
    /// Instead of tests.
    shell: Option<String>,
    /// Names of tests or parts of names.
    tests: Vec<String>,
    /// The same, for those that are left out.
    but: &'static [&'static str],
}

/// What a machine of ours does not have: other people's programs, the sources, and a compiler.
const NOT_HERE: &[&str] = &["real_programs::", "committed_object::", "victims::"];

/// The groups that run in `cargo xtask ci`: those that depend most on the kernel, and that take little time.
const IN_CI: [&str; 3] = ["accounting::", "doctor::", "processes::"];

/// The suites for a kernel.
pub fn of(_series: Series, args: &Args) -> Vec<Suite> {
    let tests = match (args.full, args.tests.as_slice()) {
        (true, _) => Vec::new(),
        (false, []) => IN_CI.map(str::to_owned).to_vec(),
        (false, chosen) => chosen.to_vec(),
    };
    let limit = Duration::from_mins(if args.full { 60 } else { 15 });
    vec![Suite { name: "tests", options: "", processors: 2, limit, shell: args.shell.clone(), tests, but: NOT_HERE }]
}

impl Suite {
    /// What its programs find in their environment.
    pub fn environment(parts: &Parts) -> Vec<(String, String)> {
        let leaktrace = parts.leaktrace.to_string_lossy();
        let directory = parts.leaktrace.parent().unwrap_or(&parts.leaktrace).to_string_lossy();
        let path = format!("/bin:{directory}:{VICTIMS}");
        [
            ("PATH", path.as_str()),
            ("HOME", "/"),
            ("RUST_BACKTRACE", "0"),
            ("LEAKTRACE_VICTIMS", VICTIMS),
            ("LEAKTRACE_BIN", &*leaktrace),
            // An emulated processor does a twentieth of a real one's work.
            ("LEAKTRACE_TEST_OPERATIONS", "200000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Its programs.
    pub fn runs(&self, parts: &Parts) -> Vec<Run> {
        if let Some(line) = &self.shell {
            let command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
            return vec![Run { title: line.clone(), command }];
        }
        let mut command = vec![parts.tests.to_string_lossy().into_owned()];
        command.extend(self.tests.iter().cloned());
        command.extend(self.but.iter().flat_map(|name| ["--skip".to_owned(), (*name).to_owned()]));
        let doctor = vec![parts.leaktrace.to_string_lossy().into_owned(), "doctor".to_owned()];
        vec![
            Run { title: "leaktrace doctor".to_owned(), command: doctor },
            Run { title: "end-to-end tests".to_owned(), command },
        ]
    }
}
