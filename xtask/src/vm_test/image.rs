//! The content of a machine: the programs under test, the tests, their victims, and the libraries of all of them, at the
//! same paths as on this machine, so that paths compiled into them are valid there too.
//!
//! In: the working tree, which it builds. Out: an archive to which the plan is added.

use super::archive::Archive;
use crate::{root, shell, workspace};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What tests and launched commands call by name.
const PROGRAMS: [&str; 5] = ["sh", "true", "cat", "cp", "sleep"];

/// Where the victims are in the machine.
pub const VICTIMS: &str = "/victims";

/// The pieces of a machine, built.
pub struct Parts {
    init: PathBuf,
    pub leaktrace: PathBuf,
    pub tests: PathBuf,
    victims: PathBuf,
    /// The machine's copy of what the tests lock.
    scratch: PathBuf,
}

impl Parts {
    /// Builds programs, tests and victims.
    pub fn build() -> Result<Self> {
        shell::step("what the machines run");
        let init = executable(&["build", "--package", "xtask", "--bin", "vm-init"], "vm-init")?;
        let leaktrace = executable(&["build", "--package", "leaktrace", "--bin", "leaktrace"], "leaktrace")?;
        let tests = executable(&["test", "--package", "leaktrace", "--test", "e2e", "--no-run"], "e2e")?;
        let victims = workspace::target_dir().join("vm/victims");
        let mut build = command_as_root(&tests)?;
        build
            .args(["--exact", "victims::every_plain_victim_is_built", "--quiet"])
            .env("LEAKTRACE_VICTIMS_INTO", &victims);
        shell::output(&mut build).context("building the victims")?;
        Ok(Self { init, leaktrace, tests, victims, scratch: workspace::target_dir().join("tmp") })
    }

    /// All of it as an archive.
    pub fn archive(&self) -> Result<Archive> {
        let mut archive = Archive::default();
        let mut libraries = BTreeSet::new();
        let mut bring = |archive: &mut Archive, from: &Path, to: &Path| -> Result<()> {
            libraries.extend(libraries_of(from)?);
            archive.copy(from, to)
        };
        bring(&mut archive, &self.init, Path::new("/init"))?;
        bring(&mut archive, &self.leaktrace, &self.leaktrace)?;
        bring(&mut archive, &self.tests, &self.tests)?;
        for program in PROGRAMS {
            let found = shell::find(program).with_context(|| format!("no {program} here"))?;
            bring(&mut archive, &found, &Path::new("/bin").join(program))?;
        }
        for victim in fs::read_dir(&self.victims).with_context(|| format!("reading {}", self.victims.display()))? {
            let victim = victim?;
            bring(&mut archive, &victim.path(), &Path::new(VICTIMS).join(victim.file_name()))?;
        }
        for library in libraries {
            archive.copy(&library, &library)?;
        }
        archive.directory(&self.scratch);
        archive.add(Path::new("/etc/passwd"), 0o644, b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n");
        archive.add(Path::new("/etc/group"), 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        Ok(archive)
    }
}

/// Runs a program as root with our environment.
fn command_as_root(program: &Path) -> Result<Command> {
    let runner = root::runner("run the tests' victims")?;
    let mut words = runner.iter();
    Ok(match words.next() {
        None => Command::new(program),
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(program);
            command
        }
    })
}

/// Builds something and returns the executable of that name.
fn executable(arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(arguments).args(["--locked", "--quiet", "--message-format", "json-render-diagnostics"]);
    for line in shell::output(&mut cargo)?.lines() {
        let message: Value = serde_json::from_str(line).context("what cargo says of a build")?;
        if message["target"]["name"] == name
            && let Some(file) = message["executable"].as_str()
        {
            return Ok(file.into());
        }
    }
    bail!("cargo built no {name}")
}

/// The libraries that the dynamic linker would load for a program, itself included; none for a static one.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("running ldd")?;
    if !output.status.success() {
        // It refuses static programs.
        return Ok(Vec::new());
    }
    let mut libraries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        // `name => /path (address)`, or `/path (address)` for the linker; the kernel's own has neither.
        libraries.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(libraries)
}
