//! Root: whether we have it, and how a command gets it.
//!
//! Only tracing and installing packages need root; nothing else runs as root. The first command that needs sudo is preceded
//! by a line that says so and why.

use anyhow::{Context as _, Result, bail};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::Once;

/// Whether this process is root already. `/proc/self` belongs to the effective user of the process.
pub fn is_root() -> Result<bool> {
    Ok(std::fs::metadata("/proc/self").context("reading /proc/self: is /proc mounted?")?.uid() == 0)
}

/// A command that runs `program` as root, through sudo where we are not root. `why` completes "root is needed to …".
pub fn command(program: &str, why: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    announce(why)?;
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// What to put in front of a command line so that it runs as root with our environment, PATH and HOME included (sudo
/// would replace them even when it preserves the rest); empty where we are root.
pub fn runner(why: &str) -> Result<Vec<String>> {
    if is_root()? {
        return Ok(Vec::new());
    }
    announce(why)?;
    let mut words = ["sudo", "--preserve-env", "--", "env"].map(String::from).to_vec();
    // rustup finds its toolchains below HOME.
    for name in ["PATH", "HOME"] {
        words.push(format!("{name}={}", std::env::var(name).with_context(|| format!("reading {name}"))?));
    }
    Ok(words)
}

static ANNOUNCED: Once = Once::new();

fn announce(why: &str) -> Result<()> {
    if crate::shell::find("sudo").is_none() {
        bail!("root is needed to {why}, and there is no sudo here: run this as root, or install sudo");
    }
    ANNOUNCED.call_once(|| println!("   root is needed to {why}: using sudo, which may ask for your password"));
    Ok(())
}
