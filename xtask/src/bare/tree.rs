//! The bare root directory: a minimal Debian, the checkout, and the places where Rust and caches are mounted.
//!
//! The Debian is made once by debootstrap, without anything that this machine's root has, and copied for each run.

use super::enter;
use crate::setup::apt;
use crate::vm_test::kernels;
use crate::{shell, workspace};
use anyhow::{Context as _, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the working tree lies in the root.
pub const CHECKOUT: &str = "/root/leaktrace";
/// Where Rust lies in the root.
pub const RUST: &str = "/opt/rust";
/// The Debian that the README names.
const SUITE: &str = "bookworm";
/// Files of this machine that the root gets: for access to the network, and for the certificates trusted there.
const COPIED: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];

/// A root directory that goes when this is dropped.
pub struct Tree {
    root: PathBuf,
    keep: bool,
}

impl Tree {
    /// Makes a tree, after removing those that killed runs have left.
    pub fn make(keep: bool) -> Result<Self> {
        let home = home();
        let debian = debian(&home)?;
        for left in fs::read_dir(&home).with_context(|| format!("reading {}", home.display()))?.flatten() {
            let name = left.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("run-").and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                enter::end_all_in(&left.path())?;
                remove(&left.path())?;
            }
        }
        let tree = Self { root: home.join(format!("run-{}", std::process::id())), keep };
        shell::run(Command::new("cp").args(["-a", "--reflink=auto", "--"]).args([&debian, &tree.root]))?;
        for file in COPIED {
            let to = tree.root.join(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap_or(&tree.root)).context("making a directory in the root")?;
            if Path::new(file).exists() {
                fs::copy(file, &to).with_context(|| format!("copying {file}"))?;
            }
        }
        let (mirror, mut sources) = (kernels::mirror()?, String::new());
        for suite in [SUITE, &format!("{SUITE}-updates")] {
            let _ = writeln!(sources, "deb {mirror} {suite} main");
        }
        // Part of every Debian; without this repository some packages are older, or absent.
        if let Some(security) = kernels::repository("Debian-Security", "/debian-security")? {
            let _ = writeln!(sources, "deb {security} {SUITE}-security main");
        }
        fs::write(tree.root.join("etc/apt/sources.list"), sources).context("naming apt's sources")?;
        for (from, to) in shared()? {
            fs::create_dir_all(&from).with_context(|| format!("creating {}", from.display()))?;
            let to = tree.root.join(to.trim_start_matches('/'));
            fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        }
        tree.check_out()?;
        Ok(tree)
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Copies the working tree: the files that git tracks or would add, as they are.
    fn check_out(&self) -> Result<()> {
        let mut files = Command::new("git");
        files.current_dir(workspace::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let files = shell::output(&mut files)?;
        let checkout = self.root.join(CHECKOUT.trim_start_matches('/'));
        for file in files.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (workspace::root().join(file), checkout.join(file));
            // Deleted from the tree, but not yet from git's index.
            if !from.is_file() {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&checkout)).with_context(|| format!("creating {file}'s place"))?;
            fs::copy(&from, &to).with_context(|| format!("copying {file}"))?;
        }
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.keep {
            println!("   kept: {}", self.root.display());
        } else if let Err(error) = remove(&self.root) {
            eprintln!("   {error:#}");
        }
    }
}

/// Directories of this machine that are mounted into the root, with where: the Rust that runs us, and what would otherwise be
/// fetched from the network each time.
pub fn shared() -> Result<Vec<(PathBuf, String)>> {
    let rust = shell::output(Command::new(shell::rustc()).args(["--print", "sysroot"]))?;
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo"),
        PathBuf::from,
    );
    Ok(vec![
        (PathBuf::from(rust.trim()), RUST.to_owned()),
        (cargo.join("registry"), "/root/.cargo/registry".to_owned()),
        (home().join("archives"), "/var/cache/apt/archives".to_owned()),
        (home().join("vm"), format!("{CHECKOUT}/target/vm")),
    ])
}

fn home() -> PathBuf {
    workspace::target_dir().join("bare")
}

/// A minimal Debian, made on the first run.
fn debian(home: &Path) -> Result<PathBuf> {
    let (debian, unfinished) = (home.join(SUITE), home.join(format!("{SUITE}.unfinished")));
    if debian.is_dir() {
        return Ok(debian);
    }
    if shell::find("debootstrap").is_none() {
        apt::install(&["debootstrap"], "make a bare machine")?;
    }
    fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
    if unfinished.exists() {
        remove(&unfinished)?;
    }
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", SUITE]).arg(&unfinished).arg(kernels::mirror()?);
    println!("   $ {}", shell::display(&make));
    // debootstrap prints three hundred lines about what it unpacks; on failure they are part of the error.
    shell::output(&mut make)?;
    let policy = unfinished.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n").context("keeping services from being started")?;
    shell::run_unannounced(Command::new("chmod").arg("755").arg(&policy))?;
    fs::rename(&unfinished, &debian).with_context(|| format!("keeping {}", debian.display()))?;
    Ok(debian)
}

/// Removes a root, on this file system only: anything still mounted in it would be left alone.
fn remove(root: &Path) -> Result<()> {
    ensure!(root.starts_with(home()), "{} is none of ours", root.display());
    shell::run_unannounced(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(root))
}
