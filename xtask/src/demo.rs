//! `cargo xtask demo`: leaktrace at work on a small service that leaks, from nothing to a flame graph.
//!
//! In: the working tree. Out: the text report on standard output, and `leaktrace-demo.svg` in the current directory.

use crate::{root, setup, shell, workspace};
use anyhow::{Context as _, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PICTURE: &str = "leaktrace-demo.svg";
const DURATION: &str = "5s";

/// Builds leaktrace, starts a small service that leaks, traces it, prints the report and leaves leaktrace-demo.svg
#[derive(clap::Args)]
pub struct Args {}

/// The service, killed when this is dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(_: &Args) -> Result<()> {
    setup::ensure(setup::Tier::Build)?;

    shell::step("building leaktrace");
    // What the tests need as well, and in half the time of a release build: what is hot runs in the kernel.
    shell::run(shell::cargo().args(["build", "--locked", "--package", "leaktrace"]))?;
    let leaktrace = workspace::target_dir().join("debug/leaktrace");

    shell::step("building and starting a service that leaks (xtask/demo/service.c)");
    let program = workspace::target_dir().join("demo-service");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]);
    // So that the report shows paths within the repository, not the repository's own path.
    compiler.arg(format!("-fdebug-prefix-map={}=.", workspace::root().display()));
    compiler.current_dir(workspace::root()).args(["-o".as_ref(), program.as_os_str(), "xtask/demo/service.c".as_ref()]);
    shell::run(&mut compiler)?;
    let service = Command::new(&program).stdin(Stdio::null()).spawn();
    let service = Service(service.with_context(|| format!("starting {}", program.display()))?);

    shell::step(&format!("tracing it for {DURATION}"));
    let mut trace = root::command(&leaktrace.to_string_lossy(), "trace a process")?;
    trace.args(["--pid", &service.0.id().to_string(), "--duration", DURATION, "--flamegraph", PICTURE]);
    shell::run(&mut trace)?;
    drop(service);

    let here = std::env::current_dir().context("the current directory")?;
    give_to_user(&here.join(PICTURE))?;
    println!("\nThe flame graph is {}: open it in a browser.", here.join(PICTURE).display());
    Ok(())
}

/// The picture belongs to the user who ran the chore, not to root.
fn give_to_user(picture: &Path) -> Result<()> {
    if root::is_root()? {
        return Ok(());
    }
    let me = std::fs::metadata("/proc/self").context("reading /proc/self")?;
    let owner = format!("{}:{}", me.uid(), me.gid());
    shell::run(root::command("chown", "hand over the flame graph")?.arg(owner).arg(picture))
}
