//! `cargo xtask fuzz`: feeds leaktrace's readers with damaged input.
//!
//! In: the targets and seeds of `leaktrace-fuzz`. Out: success after the given time, or the input that broke a reader, in
//! `target/fuzz/failures`. As many targets run in parallel as there are processors. Needs nothing but stable Rust: the
//! coverage counters, which show the inputs that reach new code, are a pass of LLVM that the compiler's own options turn on.

use crate::{shell, workspace};
use anyhow::{Context as _, Result, bail};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Feeds the readers of files and texts with damaged input, each for a minute
#[derive(clap::Args)]
pub struct Args {
    /// The readers; all of them by default
    targets: Vec<String>,
    /// For how long each, such as 90s, 10m or 1h
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    time: Duration,
    /// What the choices are derived from, as a failing run has printed it
    #[arg(long)]
    seed: Option<u64>,
    /// Run these inputs, once each, instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    replay: Vec<PathBuf>,
    #[arg(skip = Build::Whole)]
    build: Build,
}

impl Args {
    /// All readers, for so long each, with what is built quickly.
    pub fn all(time: Duration) -> Self {
        Self { targets: Vec::new(), time, seed: None, replay: Vec::new(), build: Build::Quick }
    }
}

/// LLVM's options for a counter in every branch, one byte each.
const COUNTERS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters";
/// One directory for each target.
const SEEDS: &str = "leaktrace-fuzz/seeds";

pub fn run(args: &Args) -> Result<()> {
    let failed = explore(args)?;
    if !failed.is_empty() {
        bail!("these targets failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Fuzzes the targets, and returns those that failed.
pub fn explore(args: &Args) -> Result<Vec<String>> {
    let mut targets = args.targets.clone();
    if targets.is_empty() {
        targets = all_targets()?;
    }
    shell::step("fuzzing: building");
    let dir = workspace::target_dir().join("fuzz");
    let program = build(&dir, args.build)?;
    if !args.replay.is_empty() {
        let [target] = &targets[..] else { bail!("name the one target that the files are for") };
        shell::run(Command::new(program).arg(target).arg("--replay").args(&args.replay))?;
        return Ok(Vec::new());
    }
    shell::step(&format!("fuzzing: {} s each of {}", args.time.as_secs(), targets.join(", ")));
    let queue = Mutex::new(VecDeque::from(targets));
    let failed = Mutex::new(Vec::new());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let Some(target) = next() {
                    if let Err(error) = one(&program, &dir, &target, args) {
                        eprintln!("{error:#}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(target);
                    }
                }
            });
        }
    });
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Prints the inputs that broke a reader, for a machine whose files are gone afterwards.
pub fn print_failures() -> Result<()> {
    for entry in std::fs::read_dir(workspace::target_dir().join("fuzz/failures"))? {
        let path = entry?.path();
        println!("{}, for base64 -d:", path.display());
        shell::run(Command::new("base64").arg(&path))?;
    }
    Ok(())
}

/// Every target, by its directory of seeds.
fn all_targets() -> Result<Vec<String>> {
    let dir = workspace::root().join(SEEDS);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().is_dir() {
            targets.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// How the fuzzing program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// With counters in all crates, optimised, in a target directory of its own: takes five minutes of two processors.
    Whole,
    /// With counters in this workspace's crates, beside the dependencies that a debug build has compiled: half a minute.
    Quick,
}

/// The fuzzing program with its counters.
fn build(dir: &Path, how: Build) -> Result<PathBuf> {
    match how {
        Build::Whole => build_whole(dir),
        Build::Quick => build_quick(dir),
    }
}

/// The compiler of this workspace's crates adds the options; other crates are compiled without them, so that cargo takes those that are
/// there.
fn build_quick(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let wrapper = dir.join("rustc-with-counters");
    let script = format!("#!/bin/sh\nexec \"$@\" {COUNTERS}\n");
    std::fs::write(&wrapper, script).with_context(|| format!("writing {}", wrapper.display()))?;
    shell::run(Command::new("chmod").arg("+x").arg(&wrapper))?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", "leaktrace-fuzz"]);
    shell::run(cargo.env("RUSTC_WORKSPACE_WRAPPER", &wrapper))?;
    // The next debug build puts its own there.
    let program = dir.join("leaktrace-fuzz-quick");
    let built = workspace::target_dir().join("debug/leaktrace-fuzz");
    std::fs::copy(&built, &program).with_context(|| format!("copying {}", built.display()))?;
    Ok(program)
}

fn build_whole(dir: &Path) -> Result<PathBuf> {
    let version = shell::output(Command::new(shell::rustc()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--locked", "--package", "leaktrace-fuzz", "--profile", "fuzz"]);
    // With an explicit target, build scripts and macros are compiled without the options.
    cargo.args(["--target", host, "--target-dir"]).arg(dir);
    shell::run(cargo.env("RUSTFLAGS", COUNTERS).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(dir.join(host).join("fuzz/leaktrace-fuzz"))
}

fn one(program: &Path, dir: &Path, target: &str, args: &Args) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(target).arg("--for").arg(args.time.as_secs().to_string());
    command.arg("--failures").arg(dir.join("failures"));
    if let Some(seed) = args.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    shell::run(&mut command)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time such as 90s, 10m or 1h"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is no time such as 90s, 10m or 1h")),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::parse_time;
    use std::time::Duration;

    #[test]
    fn times_have_a_number_and_a_unit() {
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_hours(2)));
        for bad in ["", "s", "5", "1.5h", "-1s", "9d"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
