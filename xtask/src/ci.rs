//! `cargo xtask ci`: what the project's CI runs, from a bare machine, and what anybody can run before sending a change.

use crate::{build_ebpf, fuzz, setup, test, vm_test};
use anyhow::Result;

/// Everything of `test`, the readers with damaged input, the committed BPF objects against their sources, the end-to-end tests
/// on a fresh object, and other kernels
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
    fuzz::run(&fuzz::Args::default())?;
    setup::bpf::ensure()?;
    build_ebpf::check()?;
    test::end_to_end_on_fresh_object()?;
    vm_test::run(&vm_test::Args::default())
}
