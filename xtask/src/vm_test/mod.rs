//! `cargo xtask vm-test`: the end-to-end tests on kernels other than this machine's, as Debian ships them, in an emulator.
//!
//! In: the working tree. Out: each machine's result for each test case, and success if all passed. Needs neither root nor
//! KVM: QEMU emulates the processor, so nothing depends on the host's virtualisation, and measured times mean nothing.

mod archive;
mod image;
pub mod kernels;
mod machine;
mod plan;
mod suites;

use crate::{setup, shell, workspace};
use anyhow::{Context as _, Result, bail};
use archive::Archive;
use image::Parts;
use kernels::{ALL, Kernel, Series};
use machine::{Machine, Outcome};
use plan::{PLAN, Plan};
use std::fs;
use std::path::Path;
use suites::Suite;

/// Boots Debian's kernels in an emulator and runs the end-to-end tests there
#[derive(clap::Args, Default)]
pub struct Args {
    /// A kernel to boot: 6.1, 6.12 or newest; may be given more than once [default: 6.1 and newest]
    #[arg(long, value_name = "SERIES", value_parser = Series::named)]
    kernel: Vec<Series>,
    /// All of them
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Every test that needs no program of this machine, instead of those that fit into `cargo xtask ci`
    #[arg(long)]
    pub full: bool,
    /// Only the storm of allocations, which otherwise runs on the newest kernel after the tests
    #[arg(long, conflicts_with_all = ["full", "tests", "shell"])]
    storm: bool,
    /// Run this command line there instead of the tests; leaktrace and the victims are on its PATH
    #[arg(long, value_name = "LINE", conflicts_with_all = ["full", "tests"])]
    pub shell: Option<String>,
    /// Only the tests whose names contain one of these, as `cargo test` takes them
    #[arg(value_name = "TEST", conflicts_with = "full")]
    pub tests: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Tier::Machines)?;
    let series = match (args.all, args.kernel.as_slice()) {
        (true, _) => ALL.to_vec(),
        (false, []) => kernels::IN_CI.to_vec(),
        (false, chosen) => chosen.to_vec(),
    };
    shell::step("Debian's kernels");
    let kernels = series.into_iter().map(Series::fetch).collect::<Result<Vec<Kernel>>>()?;
    for kernel in &kernels {
        println!("   {}: {}", kernel.series.name, kernel.package);
    }
    let parts = Parts::build()?;
    let mut verdicts = Vec::new();
    for kernel in &kernels {
        for suite in suites::of(kernel.series, args) {
            let (label, mut outcome) = boot(kernel, &suite, &parts)?;
            if let Some(failed) = outcome.few_failed() {
                let (label, second) = boot(kernel, &suite.again(failed), &parts)?;
                if second.problem().is_none() && second.passed == failed.len() {
                    outcome.forgive();
                }
                verdicts.push((label, second));
            }
            verdicts.push((label, outcome));
        }
    }
    shell::step("kernels");
    let mut broken = Vec::new();
    for (label, outcome) in &verdicts {
        println!("   {label}: {}", summary(outcome));
        let nothing = || (args.shell.is_none() && outcome.passed == 0).then(|| "not one test ran".to_owned());
        if let Some(problem) = outcome.problem().or_else(nothing) {
            println!("      {problem} (the kernel's words: {})", outcome.console.display());
            if !outcome.done {
                outcome.print_last_words();
            }
            broken.push(label.as_str());
        }
    }
    if !broken.is_empty() {
        bail!("not everything passed on {}", broken.join(", "));
    }
    Ok(())
}

/// Boots one machine for a suite.
fn boot(kernel: &Kernel, suite: &Suite, parts: &Parts) -> Result<(String, Outcome)> {
    let label = format!("{} {}", kernel.series.name, suite.name);
    shell::step(&format!("{label}: {}", kernel.package));
    let initramfs = workspace::target_dir().join("vm").join(format!("{}-{}.initramfs", kernel.series.name, suite.name));
    let mut archive: Archive = parts.archive()?;
    let plan = Plan { environment: suite.environment(parts), runs: suite.runs(parts) };
    let programs = plan.runs.len();
    archive.add(Path::new(PLAN), 0o644, &serde_json::to_vec(&plan)?);
    fs::write(&initramfs, archive.finish()).with_context(|| format!("writing {}", initramfs.display()))?;
    let machine = Machine {
        kernel,
        label: label.clone(),
        initramfs: &initramfs,
        options: suite.options,
        processors: suite.processors,
        programs,
        limit: suite.limit,
    };
    let outcome = machine.run()?;
    // The file is as large as all programs together, and quickly made again.
    fs::remove_file(&initramfs).with_context(|| format!("removing {}", initramfs.display()))?;
    Ok((label, outcome))
}

fn summary(outcome: &Outcome) -> String {
    let Some(boot) = outcome.boot else { return "did not boot".to_owned() };
    let alone = match outcome.passed_alone.as_slice() {
        [] => String::new(),
        cases => format!(", PASSED ONLY WHEN RUN AGAIN, ALONE; find out why: {}", cases.join(", ")),
    };
    format!(
        "Linux {}: {} passed, {} failed{alone}; booted in {:.1} s, worked for {:.1} s",
        outcome.release,
        outcome.passed,
        outcome.failed.len(),
        boot.as_secs_f64(),
        outcome.work.as_secs_f64()
    )
}
