//! Test cases that fail are run once more, alone, and the last lines name those that passed only in the second run.
//!
//! The end-to-end tests trace real processes, many at a time and on a busy machine. A case that fails among the others and
//! passes alone still shows a defect, of the test or of leaktrace, and must be investigated; but it does not block an
//! unrelated change. If more than a few cases fail at once, or a case about exact numbers or a process' health, there is no
//! second run.

use crate::{shell, workspace};
use anyhow::{Context as _, Result, bail};
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitStatus, Stdio};

/// If more cases than this fail, none is run again.
pub const MOST: usize = 3;

/// Groups of cases about exact numbers or the traced process' health. These cases exist to find failures that appear once in
/// many runs: none of them is run again.
pub const STRICT: [&str; 18] = [
    "abandoned",
    "accounting",
    "capacity",
    "command",
    "diff",
    "holder",
    "hostile_files",
    "lifecycle",
    "lives",
    "lost_records",
    "overwritten",
    "set_up",
    "threads",
    "wide",
    // Groups of the test program `launch`, whose name cargo does not print.
    "endings",
    "holding",
    "likeness",
    "survival",
];

/// The results that test programs have printed for their cases.
#[derive(Default, Debug, PartialEq)]
struct Verdicts {
    failed: Vec<String>,
    /// The totals that the programs print.
    counted_passed: usize,
    counted_failed: usize,
}

impl Verdicts {
    /// `test NAME ... FAILED`, and `test result: FAILED. 211 passed; 1 failed; ...` at the end of each program.
    fn take(&mut self, line: &str) {
        let Some(said) = line.strip_prefix("test ") else { return };
        if let Some(counts) = said.strip_prefix("result: ") {
            let count = |of: &str| {
                let before = counts.split_once(of)?.0;
                before.rsplit([' ', '.']).next()?.parse::<usize>().ok()
            };
            self.counted_passed += count(" passed").unwrap_or(0);
            self.counted_failed += count(" failed").unwrap_or(0);
        } else if let Some((name, "FAILED")) = said.trim_end().split_once(" ... ") {
            self.failed.push(name.to_owned());
        }
    }
}

/// Runs a `cargo test` without arguments for the test programs, and once more for the few cases that failed.
///
/// # Errors
/// A case failed twice, or so many failed that running them again would show nothing.
pub fn run(command: &mut Command) -> Result<()> {
    let (status, first) = observe(command)?;
    if status.success() {
        return Ok(());
    }
    let failed = first.failed;
    // A program that was aborted has printed no totals.
    if failed.is_empty() || failed.len() != first.counted_failed || failed.len() > MOST {
        bail!("the tests ended with {status}");
    }
    if let Some(strict) = failed.iter().find(|name| is_strict(name)) {
        bail!(
            "the tests ended with {status}; {strict} is about exact numbers or a process' health, and has no second time"
        );
    }
    shell::step(&format!("once more, alone: {}", failed.join(", ")));
    let (status, second) = observe(command.args(["--", "--exact", "--test-threads", "1"]).args(&failed))?;
    if !status.success() || second.counted_passed != failed.len() {
        bail!("failed twice, the second time alone: {}", failed.join(", "));
    }
    println!("\nPASSED ONLY WHEN RUN AGAIN, ALONE; find out why: {}", failed.join(", "));
    remember(&failed)
}

/// Whether a case, named by its path, is in one of the strict groups.
fn is_strict(name: &str) -> bool {
    name.split("::").any(|group| STRICT.contains(&group))
}

/// Adds the cases to `target/second-runs.txt`, a line each with the time: a case that appears there repeatedly has a real
/// defect.
fn remember(cases: &[String]) -> Result<()> {
    let path = workspace::target_dir().join("second-runs.txt");
    let now = jiff::Timestamp::now();
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    cases.iter().try_for_each(|case| writeln!(file, "{now:.0} {case}")).with_context(|| path.display().to_string())
}

/// Runs the command, forwards its standard output, and collects the verdicts.
fn observe(command: &mut Command) -> Result<(ExitStatus, Verdicts)> {
    println!("   $ {}", shell::display(command));
    let program = command.get_program().to_owned();
    let running = || format!("running {}", program.display());
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(running)?;
    let mut output = BufReader::new(child.stdout.take().context("standard output was not given to us")?);
    let mut verdicts = Verdicts::default();
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes).with_context(running)? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        print!("{line}");
        verdicts.take(&line);
        bytes.clear();
    }
    Ok((child.wait().with_context(running)?, verdicts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_test_programs_say_is_understood() {
        let mut verdicts = Verdicts::default();
        for line in [
            "running 3 tests\n",
            "test threads::one ... ok\n",
            "test threads::two ... FAILED\n",
            "test threads::three ... ignored\n",
            "test result: FAILED. 211 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 270.49s\n",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
        ] {
            verdicts.take(line);
        }
        let expected = Verdicts { failed: vec!["threads::two".to_owned()], counted_passed: 223, counted_failed: 1 };
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn cases_about_exactness_and_health_have_no_second_time() {
        for name in ["threads::two", "lifecycle::a_killed_tracer", "lost_records::x", "holding::x"] {
            assert!(is_strict(name), "{name}");
        }
        for name in ["outputs::threads_are_shown", "sampling::x", "a"] {
            assert!(!is_strict(name), "{name}");
        }
        let script = "echo 'test lives::a ... FAILED'; [ $# = 0 ] || exit 0; echo 'test result: FAILED. 4 passed; 1 failed;'; exit 101";
        assert!(run(Command::new("sh").args(["-c", script, "sh"])).is_err());
    }

    /// A program that runs case `a` among others, and says that it failed and `first`; asked for it alone, `second`.
    fn of(first: &str, second: &str) -> Result<()> {
        let script = format!("[ $# = 0 ] || {{ {second}; }}; echo 'test a ... FAILED'; {first}");
        run(Command::new("sh").args(["-c", &script, "sh"]))
    }

    #[test]
    fn a_case_has_passed_if_it_passes_alone() {
        let first = "echo 'test result: FAILED. 4 passed; 1 failed;'; exit 101";
        assert!(of("exit 0", "exit 1").is_ok());
        assert!(of(first, "echo 'test result: ok. 1 passed; 0 failed;'; exit 0").is_ok());
        assert!(of(first, "true").is_err(), "it fails again");
        assert!(
            of(first, "echo 'test result: ok. 0 passed; 0 failed;'; exit 0").is_err(),
            "there is none of that name"
        );
        assert!(of("exit 134", "echo 'test result: ok. 1 passed; 0 failed;'; exit 0").is_err(), "a program crashed");
    }
}
