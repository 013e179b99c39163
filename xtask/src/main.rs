//! The project's chores, run as `cargo xtask CHORE`: they find out what is needed, install it, build, demonstrate and check,
//! so that a newcomer needs Rust and nothing else, and CI runs what a developer runs.
//!
//! Each chore is a module of its own with its arguments and its `run`; what they share is in [`shell`] (running programs),
//! [`root`] (getting root, and saying so), and [`workspace`] (where things are).
//!
//! Must never: need an answer from whoever runs it (beyond sudo's password), or be needed for `cargo build`.

mod bare;
mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod fuzz;
mod root;
mod second_run;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm_test;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "leaktrace's chores", version)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Demo(demo::Args),
    Test(test::Args),
    Fuzz(fuzz::Args),
    Bench(bench::Args),
    VmTest(vm_test::Args),
    Bare(bare::Args),
    Ci(ci::Args),
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Setup(args) => setup::run(&args),
        Chore::BuildEbpf(args) => build_ebpf::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::VmTest(args) => vm_test::run(&args),
        Chore::Bare(args) => bare::run(&args),
        Chore::Ci(args) => ci::run(&args),
        Chore::Tidy(args) => tidy::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
