//! `cargo xtask ci`: what the project's CI runs, from a bare machine, and what anybody can run before sending a change.

use crate::{build_ebpf, setup, shell, test};
use anyhow::Result;
use std::process::Command;

/// Everything of `test`, the committed BPF objects against their sources, and the end-to-end tests on a fresh object
#[derive(clap::Args)]
pub struct Args {
    /// Leave out what `cargo xtask test` does, for whoever has just run it
    #[arg(long)]
    tested: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if !args.tested {
        test::run(&test::Args::default())?;
    }
    setup::bpf::ensure()?;
    build_ebpf::check()?;
    test::end_to_end_on_fresh_object()?;
    lints_of_dependencies()
}

/// Checks by tools that not everybody has; each says so where it is left out.
fn lints_of_dependencies() -> Result<()> {
    shell::step("checks by optional tools");
    let tools: [(&str, &[&str]); 3] = [
        ("cargo-deny", &["--offline", "check", "bans", "licenses", "sources"]),
        ("cargo-machete", &[]),
        ("typos", &[]),
    ];
    for (tool, args) in tools {
        if shell::find(tool).is_none() {
            println!("   {tool} is not installed: left out");
            continue;
        }
        shell::run(Command::new(tool).args(args).current_dir(crate::workspace::root()))?;
    }
    Ok(())
}
