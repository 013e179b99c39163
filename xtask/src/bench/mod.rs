//! `cargo xtask bench`: what tracing costs, measured against nothing, against empty probes, and against others.
//!
//! In: this machine. Out: docs/BENCHMARKS.md, and the same on standard output. The programs that are measured run side by
//! side from start to end and idle between their turns; tracers come and go, one at a time, in rounds ([`rounds`]).
//!
//! Must never: report what was not measured in this run, or measure a tracer that did not trace.

mod catalog;
mod machine;
mod redis;
mod report;
mod results;
mod rounds;
mod scale;
mod sites;
mod stats;
mod table;
mod tracer;
mod victim;

use crate::{root, setup, shell, workspace};
use anyhow::{Context as _, Result, bail};
use catalog::WORKLOADS;
use report::Report;
use rounds::Effort;
use std::path::PathBuf;
use tracer::Tracers;
use victim::Setting;

const DOCUMENT: &str = "docs/BENCHMARKS.md";

/// Measures what tracing costs, prints it and writes docs/BENCHMARKS.md (wants a quiet machine)
#[derive(clap::Args)]
pub struct Args {
    /// Fewer and shorter rounds: some two minutes
    #[arg(long)]
    quick: bool,
    /// Measure this workload only, and write nothing; may be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(names()))]
    only: Vec<String>,
    /// Take leaktrace and examples/floor from here instead of building them
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Tier::Build)?;
    let built = match &args.built {
        Some(built) => built.canonicalize().with_context(|| built.display().to_string())?,
        None => build()?,
    };
    shell::step("preparing");
    let scratch = workspace::target_dir().join("bench");
    let setting = Setting::prepare(&built, &scratch)?;
    let tracers = Tracers::find(&built, &scratch)?;
    // Whatever needs a password is asked for before anything is measured.
    shell::output(&mut root::command("true", "trace processes")?)?;

    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let workloads: Vec<_> = WORKLOADS.iter().filter(|workload| wanted(workload.name)).collect();
    let watch = machine::Watch::start()?;
    let outcome = rounds::measure(&workloads, &setting, &tracers, effort)?;
    let figures = if wanted(scale::NAME) {
        scale::measure(&setting, &tracers, if args.quick { scale::Effort::QUICK } else { scale::Effort::FULL })?
    } else {
        Vec::new()
    };
    let load = watch.end()?;

    let mut command = String::from("cargo xtask bench");
    if args.quick {
        command.push_str(" --quick");
    }
    for only in &args.only {
        command.push_str(" --only ");
        command.push_str(only);
    }
    let facts = machine::facts(&versions());
    let text = Report {
        results: &outcome.results,
        scale: &figures,
        facts: &facts,
        load: &load,
        command: &command,
        remarks: &outcome.remarks,
    }
    .render();
    println!("\n{text}");
    println!("   measured in {:.0} s", load.seconds);
    if args.only.is_empty() {
        shell::write_if_changed(&workspace::root().join(DOCUMENT), text.as_bytes())?;
        println!("   written to {DOCUMENT}");
    }
    Ok(())
}

/// What `--only` takes.
fn names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|workload| workload.name).chain([scale::NAME]).collect()
}

/// leaktrace as people build it, and the floor beside it. Where they are.
fn build() -> Result<PathBuf> {
    shell::step("building leaktrace and the floor");
    let what = ["--package", "leaktrace", "--package", "leaktrace-sampler", "--lib", "--bins", "--example", "floor"];
    shell::run(shell::cargo().args(["build", "--release", "--locked"]).args(what))?;
    let built = workspace::target_dir().join("release");
    if !built.join("leaktrace").is_file() {
        bail!("cargo has not put leaktrace into {}", built.display());
    }
    Ok(built)
}

fn versions() -> Vec<(&'static str, &'static str)> {
    let all = [
        ("Python", "/usr/bin/python3"),
        ("redis", "redis-server"),
        ("heaptrack", "heaptrack"),
        ("Valgrind", "valgrind"),
    ];
    all.into_iter().filter(|(_, program)| shell::find(program).is_some()).collect()
}
