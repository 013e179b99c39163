//! `cargo xtask build-ebpf`: compiles leaktrace-ebpf for every architecture, and records the result.
//!
//! In: the sources of leaktrace-ebpf and leaktrace-common. Out: `leaktrace/prebuilt/leaktrace-ARCH.bpf.o`, which the program
//! embeds, and `record.json` beside them ([`record`]). The bytes depend only on the sources and the toolchain, never on the
//! machine, so that anybody with the recorded toolchain can verify that the committed objects are what the sources compile
//! to.

mod compile;
mod record;
mod strip;

use crate::setup::bpf::{self, Toolchain};
use crate::{shell, workspace};
use anyhow::{Result, bail};
use record::Record;
use std::path::PathBuf;

/// The architectures whose userspace the object reads: registers and calling conventions differ.
pub const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Compiles the BPF object for every architecture into leaktrace/prebuilt and records what it was made from
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing: compare the committed objects with what their sources give
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.check {
        check()?;
        return Ok(());
    }
    let toolchain = bpf::ensure()?;
    shell::step("build-ebpf");
    let objects = compile::all(&toolchain)?;
    for (architecture, bytes) in &objects {
        let path = committed(architecture);
        let verb = if shell::write_if_changed(&path, bytes)? { "written" } else { "unchanged" };
        println!("   {verb}: {} ({} bytes)", path.display(), bytes.len());
    }
    Record::new(&objects, &toolchain)?.write()
}

/// The object that is committed for this architecture.
fn committed(architecture: &str) -> PathBuf {
    workspace::prebuilt().join(format!("leaktrace-{architecture}.bpf.o"))
}

/// Compiles the object from the sources as they are and returns the path of this machine's, under `target/`.
pub fn fresh() -> Result<PathBuf> {
    let toolchain = bpf::ensure()?;
    shell::step("building the BPF object afresh");
    compile::one(&toolchain, std::env::consts::ARCH)
}

/// The result of a check of the committed objects that found nothing wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Compiled again they are the same, byte by byte.
    SameBytes,
    /// Another toolchain made them than this machine has.
    NotComparable,
}

/// Fails if the committed objects are not what the sources compile to, as far as this machine can tell.
pub fn check() -> Result<Checked> {
    let recorded = Record::read()?;
    recorded.verify()?;
    println!("   the committed objects and the sources are the recorded ones");
    let toolchain = bpf::ensure()?;
    shell::step("build-ebpf --check");
    let objects = compile::all(&toolchain)?;
    if recorded.toolchain != toolchain.to_string() {
        println!(
            "   built, but not comparable byte by byte: the committed objects were made by\n     {}\n   and here is\n     {toolchain}",
            recorded.toolchain
        );
        return Ok(Checked::NotComparable);
    }
    compare(&objects, &toolchain)?;
    Ok(Checked::SameBytes)
}

fn compare(objects: &compile::Objects, toolchain: &Toolchain) -> Result<()> {
    for (architecture, bytes) in objects {
        let path = committed(architecture);
        if &shell::read(&path)? != bytes {
            bail!(
                "{} is not what its sources give with {toolchain}; next: cargo xtask build-ebpf, and commit leaktrace/prebuilt",
                path.display()
            );
        }
        println!("   the same bytes: {}", path.display());
    }
    Ok(())
}
