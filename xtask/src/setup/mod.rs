//! `cargo xtask setup`: finds out what this machine lacks for the chores and installs it, by the distribution's packages or
//! by rustup and cargo, whichever road is open. Doing it again does nothing.
//!
//! In: a [`Tier`], that is, what one is about to do. Out: a machine that can do it, or an error with what to install by hand.
//! Must never: start a service, ask a question, or replace what is there.

pub mod apt;
pub mod bpf;
mod kernel;
mod needs;

use crate::shell::{self, find};
use anyhow::{Result, bail};
use std::process::Command;

/// Finds out what is missing here for the tests (and with --bpf for building the BPF object), and installs it
#[derive(clap::Args)]
pub struct Args {
    /// Also what it takes to build the BPF object: a Rust with `core` for bpfel-unknown-none, and bpf-linker
    #[arg(long)]
    bpf: bool,
}

/// What is about to be done; each tier includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Building with stable Rust, and the demo's C program.
    Build,
    /// Everything `cargo xtask test` runs: victims, real programs to trace, rustfmt and clippy.
    Test,
    /// Booting other kernels, too.
    Machines,
}

pub fn run(args: &Args) -> Result<()> {
    ensure(Tier::Test)?;
    if args.bpf {
        let toolchain = bpf::ensure()?;
        println!("   BPF toolchain: {toolchain}");
    }
    Ok(())
}

/// Installs what the tier lacks.
pub fn ensure(tier: Tier) -> Result<()> {
    shell::step("setup");
    let (found, missing): (Vec<_>, Vec<_>) =
        needs::ALL.iter().filter(|need| need.tier <= tier).partition(|need| need.is_met());
    println!("   found: {}", join(&found));
    if !missing.is_empty() {
        println!("   missing: {}", join(&missing));
        install(&missing)?;
    }
    if tier >= Tier::Test {
        rust_components()?;
    }
    kernel::mount_what_is_missing()
}

fn join(needs: &[&needs::Need]) -> String {
    if needs.is_empty() {
        "nothing".into()
    } else {
        needs.iter().map(|need| need.program).collect::<Vec<_>>().join(", ")
    }
}

fn install(missing: &[&needs::Need]) -> Result<()> {
    if find("apt-get").is_none() {
        let packages = |of: fn(&needs::Need) -> &'static [&'static str]| {
            missing.iter().flat_map(|need| of(need)).copied().collect::<Vec<_>>().join(" ")
        };
        bail!(
            "this machine has no apt-get; install what is missing and run this again:\n  \
             Fedora, RHEL: dnf install {}\n  Arch: pacman -S {}",
            packages(|need| need.dnf),
            packages(|need| need.pacman),
        );
    }
    apt::install(&missing.iter().flat_map(|need| need.apt).copied().collect::<Vec<_>>(), "install packages")?;
    let services: Vec<_> = missing.iter().filter_map(|need| need.service).collect();
    apt::keep_from_starting_at_boot(&services)?;
    if let Some(still) = missing.iter().find(|need| !need.is_met()) {
        bail!("{} is still not found after installing {}", still.program, still.apt.join(" "));
    }
    Ok(())
}

/// rustfmt and clippy: part of rustup's default profile, absent from its minimal one.
fn rust_components() -> Result<()> {
    let missing: Vec<_> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(subcommand, _)| shell::output(shell::cargo().args([subcommand, "--version"])).is_err())
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("rustup").is_none() {
        bail!("{} not found, and no rustup to add it: install your distribution's package of it", missing.join(", "));
    }
    shell::run(Command::new("rustup").args(["component", "add"]).args(missing))
}
