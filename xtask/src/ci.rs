//! `cargo xtask ci`: what the project's CI runs, from a bare machine, and what anybody can run before sending a change.

use crate::{build_ebpf, fuzz, setup, shell, test, vm_test};
use anyhow::Result;
use std::time::Duration;

/// For how long each reader is fed with damaged input.
const FUZZING: Duration = Duration::from_secs(10);

/// Everything of `test`, the readers with damaged input, the committed BPF objects against their sources (the end-to-end tests on
/// fresh ones, where another toolchain made those that are committed), and other kernels
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
    // With a new random seed each time. A failure is usually older than the change under test, so it is named in the last
    // lines and does not fail the run; once its input is among the seeds, it is a test.
    let broken = fuzz::explore(&fuzz::Args::all(FUZZING))?;
    setup::bpf::ensure()?;
    // The same bytes have been tested already.
    if build_ebpf::check()? == build_ebpf::Checked::NotComparable {
        test::end_to_end_on_fresh_object()?;
    }
    vm_test::run(&vm_test::Args::default())?;
    if !broken.is_empty() {
        shell::step(&format!("TO BE MENDED: damaged input broke {}", broken.join(", ")));
        fuzz::print_failures()?;
    }
    Ok(())
}
