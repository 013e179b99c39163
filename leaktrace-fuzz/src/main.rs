//! `leaktrace-fuzz TARGET`: feeds one of leaktrace's readers with damaged input and fails at the first that it does not bear.
//!
//! In: the seeds of the target, committed here, and what earlier runs kept (`--corpus`). Out: how many inputs were tried; or
//! the input that broke the reader, in a file, and how to run it again. `cargo xtask fuzz` builds this with coverage counters,
//! which stable Rust can make, and runs the targets side by side; without counters it works too, and only mutates seeds.
//!
//! The inputs are tried in a process of their own ([`engine`]), since a stack that overflows or memory that cannot be had ends
//! the process. The input under test lies in a file that both map ([`slot`]), and so outlives it.
//!
//! Must never: touch anything but its own files.

mod corpus;
mod coverage;
mod engine;
mod limits;
mod mutate;
mod random;
mod slot;
mod targets;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use slot::Slot;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use targets::Target;

#[global_allocator]
static ALLOCATOR: limits::Bounded = limits::Bounded;

/// Feeds one of leaktrace's readers with damaged input.
#[derive(Parser)]
pub struct Args {
    /// The reader
    #[arg(value_parser = targets::find)]
    target: &'static Target,
    /// For how long, in seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// What the choices are derived from; by default the time
    #[arg(long)]
    seed: Option<u64>,
    /// Where a failing input is written to
    #[arg(long, value_name = "DIR", default_value = ".")]
    failures: PathBuf,
    /// A directory with more seeds, which also gets the inputs that reach new code
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Run these inputs, once each, instead
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "corpus")]
    replay: Vec<PathBuf>,
    /// Used by the program itself: try inputs, and keep the one under test in this file
    #[arg(long, value_name = "FILE", hide = true)]
    slot: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.slot {
        _ if !args.replay.is_empty() => replay(&args),
        Some(slot) => engine::run(&args, slot),
        None => supervise(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has another process try inputs, and keeps the one that ended it.
fn supervise(args: &Args) -> Result<()> {
    let name = args.target.name;
    let seed = args.seed.unwrap_or_else(random::seed);
    std::fs::create_dir_all(&args.failures).with_context(|| format!("creating {}", args.failures.display()))?;
    let path = args.failures.join(format!("{name}.now"));
    let slot = Slot::create(&path)?;
    let mut worker = Command::new(std::env::current_exe().context("finding this program")?);
    worker.arg(name).arg("--for").arg(args.seconds.to_string()).arg("--seed").arg(seed.to_string());
    worker.arg("--slot").arg(&path);
    if let Some(corpus) = &args.corpus {
        worker.arg("--corpus").arg(corpus);
    }
    let status = worker.env("RUST_BACKTRACE", "1").status().context("starting this program again")?;
    let input = slot.read();
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    if status.success() {
        return Ok(());
    }
    let Some(input) = input else { bail!("{name}: ended with {status} before the first input") };
    let failing = args.failures.join(corpus::name(name, &input));
    std::fs::write(&failing, &input).with_context(|| format!("writing {}", failing.display()))?;
    bail!(
        "{name}: {status} at an input of {} bytes, kept as {failing}; this run had --seed {seed}\n\
         again: cargo xtask fuzz {name} --replay {failing}",
        input.len(),
        failing = failing.display(),
    )
}

/// Runs inputs of files in this process, which fails as the reader does.
fn replay(args: &Args) -> Result<()> {
    for path in &args.replay {
        let input = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        println!("{}: {} bytes", path.display(), input.len());
        let target = args.target;
        engine::on_small_stack(move || {
            limits::guard(target);
            limits::one(|| (target.run)(&input));
        })?;
    }
    Ok(())
}
