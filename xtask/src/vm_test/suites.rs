//! Which tests run in which machine.
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
    /// Calls of the allocator in tests with many threads. An emulated processor does a twentieth of a real one's work.
    operations: &'static str,
    /// Instead of tests.
    shell: Option<String>,
    /// Names of tests or parts of names.
    tests: Vec<String>,
}

/// Groups that need what a machine does not have: third-party programs and libraries, the sources, and a compiler.
const NOT_HERE: [&str; 8] = [
    "debuginfod::",
    "real_programs::",
    "linked_allocators::",
    "places::",
    "sampler::",
    "everything::",
    "committed_object::",
    "victims::",
];

/// What runs in `cargo xtask ci`, by group or by name: short tests that depend on how this kernel verifies programs,
/// attaches them, and reports forks, execs and exits.
const IN_CI: [&str; 12] = [
    "abandoned::a_thread_that_dies",
    "accounting::every_function_of_the_family",
    "annotations::a_forked_child",
    "command::constructors_of_libraries_are_traced",
    "doctor::",
    "failures::failed_allocations_leave_no_trace_when_launched",
    "following::every_kind_of_child_of_a_command_is_booked_exactly",
    "lifecycle::a_killed_tracer_leaves_nothing_behind",
    "processes::exec_begins_a_life_of_its_own",
    "reachability::live::what_is_lost_is_found_in_a_process_that_runs",
    "samples::what_a_program_draws",
    "threads::sixteen_threads",
];

/// Twelve threads on one processor, on which the kernel may preempt BPF programs at any point: this crashes kernels from
/// 6.13 on that give a program a private stack per processor.
const STORM: &str = "threads::twelve_threads_on_one_processor_are_booked_exactly";

/// The suites for a kernel.
pub fn of(series: Series, args: &Args) -> Vec<Suite> {
    let (tests, limit) = match (args.full, args.tests.as_slice()) {
        (true, _) => (Vec::new(), Duration::from_hours(1)),
        (false, []) => (IN_CI.map(str::to_owned).to_vec(), Duration::from_mins(25)),
        (false, chosen) => (chosen.to_vec(), Duration::from_mins(25)),
    };
    let tests = Suite {
        name: "tests",
        options: "",
        processors: 2,
        limit,
        operations: "50000",
        shell: args.shell.clone(),
        tests,
    };
    let storm = Suite {
        name: "storm",
        options: "preempt=full",
        processors: 1,
        limit: Duration::from_mins(10),
        operations: "200000",
        shell: None,
        tests: vec![STORM.to_owned()],
    };
    match (args.storm, &args.shell, args.tests.is_empty()) {
        (true, _, _) => vec![storm],
        (false, None, true) if series == super::kernels::NEWEST => vec![tests, storm],
        _ => vec![tests],
    }
}

impl Suite {
    /// These of its cases, in the same machine.
    pub fn again(&self, cases: &[String]) -> Self {
        Self { name: "again", shell: None, tests: cases.to_vec(), ..*self }
    }

    /// What its programs find in their environment.
    pub fn environment(&self, parts: &Parts) -> Vec<(String, String)> {
        let leaktrace = parts.leaktrace.to_string_lossy();
        let directory = parts.leaktrace.parent().unwrap_or(&parts.leaktrace).to_string_lossy();
        let path = format!("/bin:{directory}:{VICTIMS}");
        [
            ("PATH", path.as_str()),
            ("HOME", "/"),
            ("RUST_BACKTRACE", "0"),
            ("LEAKTRACE_VICTIMS", VICTIMS),
            ("LEAKTRACE_BIN", &*leaktrace),
            ("LEAKTRACE_TEST_OPERATIONS", self.operations),
            ("LEAKTRACE_TEST_EARLY_STACKS", "counted"),
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
        command.extend(NOT_HERE.iter().flat_map(|name| ["--skip".to_owned(), (*name).to_owned()]));
        let doctor = vec![parts.leaktrace.to_string_lossy().into_owned(), "doctor".to_owned()];
        // The preemption mode: `full` in parentheses, if the command line has had its effect.
        let preemption = ["/bin/cat", "/sys/kernel/debug/sched/preempt"].map(str::to_owned).to_vec();
        vec![
            Run { title: "preemption".to_owned(), command: preemption },
            Run { title: "leaktrace doctor".to_owned(), command: doctor },
            Run { title: "end-to-end tests".to_owned(), command },
        ]
    }
}
