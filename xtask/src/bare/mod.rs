//! `cargo xtask bare`: runs a command in a root directory that has only a minimal Debian and Rust, so that tools that a
//! developer has installed by hand cannot hide an omission in the project's own set-up.
//!
//! In: the working tree, as git sees it, and this machine's Rust. Out: the command's exit status. By default the commands are
//! those of the README, read out of the README itself.
//!
//! The root is a directory that is made anew each time, in its own mount namespace (see [`enter`]). Neither mounts nor
//! processes are left afterwards; if the chore itself is killed, the next run ends what still runs there.

mod enter;
mod readme;
mod tree;

use crate::{root, shell, workspace};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// Runs the README's two commands on a machine that is bare but for Rust and a C compiler, or COMMAND on one with Rust alone
#[derive(clap::Args)]
pub struct Args {
    /// Afterwards also what CI runs beyond the README's commands
    #[arg(long, conflicts_with = "command")]
    ci: bool,
    /// Keep the root directory, to look at what the commands left
    #[arg(long)]
    keep: bool,
    /// Used by the chore itself: becomes COMMAND in this root
    #[arg(long, value_name = "ROOT", hide = true)]
    enter: Option<PathBuf>,
    /// What to run there instead, in the checkout
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What the README asks for before its commands, beside Rust.
const PREREQUISITES: &str = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -qq install -y \
                             --no-install-recommends gcc libc6-dev >/dev/null";

pub fn run(args: &Args) -> Result<()> {
    if let Some(root) = &args.enter {
        return enter::become_command(root, &args.command);
    }
    if !root::is_root()? {
        bail!("root is needed to make a root directory and mount in it: run this as root");
    }
    let commands = if args.command.is_empty() {
        let readme = shell::read(&workspace::root().join("README.md"))?;
        let mut commands = readme::commands(&String::from_utf8_lossy(&readme))?;
        if args.ci {
            commands.push("cargo xtask ci --tested".to_owned());
        }
        commands.insert(0, PREREQUISITES.to_owned());
        commands.into_iter().map(|command| vec!["sh".to_owned(), "-c".to_owned(), command]).collect()
    } else {
        vec![args.command.clone()]
    };
    shell::step("a bare machine");
    let bare = tree::Tree::make(args.keep)?;
    for command in commands {
        let shown = command.last().filter(|_| args.command.is_empty()).cloned().unwrap_or_else(|| command.join(" "));
        shell::step(&format!("on the bare machine: {shown}"));
        let status = run_in(bare.root(), &command)?;
        if status.success() {
            continue;
        }
        if let (Some(code), false) = (status.code(), args.command.is_empty()) {
            // The user who gave the command wants its exit status.
            drop(bare);
            std::process::exit(code);
        }
        bail!("the command failed on the bare machine ({status}), whatever it does on this one");
    }
    Ok(())
}

/// Runs a command in the root, and ends the processes that it leaves there. Returns its exit status.
fn run_in(root: &Path, command: &[String]) -> Result<ExitStatus> {
    // This path works even if the executable was rebuilt meanwhile.
    let mut inside = Command::new("/proc/self/exe");
    inside.args(["bare", "--enter"]).arg(root).arg("--").args(command);
    let mut child = inside.spawn().context("starting this program again")?;
    let status = child.wait().context("waiting for the command")?;
    enter::end_all_in(root)?;
    Ok(status)
}
