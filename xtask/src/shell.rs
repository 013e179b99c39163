//! Running other programs: each is printed before it runs, and a failure names the command that failed.
//!
//! In: a [`Command`]. Out: its success, or its standard output. Never goes through `sh`, so nothing needs quoting.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A headline for the step that follows.
pub fn step(title: &str) {
    println!("\n== {title}");
}

/// The command as one would type it: the variables it sets, the program, its arguments.
pub fn display(command: &Command) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"\\$".contains(c)) {
            format!("{word:?}")
        } else {
            word.into_owned()
        }
    };
    let set = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy().replace('\x1f', " ");
        Some(format!("{}={}", name.to_string_lossy(), quoted(OsStr::new(&value))))
    });
    let cargo = std::env::var_os("CARGO");
    let short = |word| if Some(word) == cargo.as_deref() { OsStr::new("cargo") } else { word };
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(short).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// Prints the command, runs it with this program's own output, and fails where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    println!("   $ {}", display(command));
    run_unannounced(command)
}

/// The same without printing the command, for commands that do not interest people.
pub fn run_unannounced(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", display(command));
    }
    Ok(())
}

/// Runs the command quietly and returns its standard output; its standard error is part of the error where it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("running `{}`", display(command)))?;
    if !out.status.success() {
        bail!("`{}` ended with {}: {}", display(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    String::from_utf8(out.stdout).with_context(|| format!("the output of `{}`", display(command)))
}

/// The full path of a program, if there is one of that name on PATH (or the name is a path to a file).
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    // Administrators' programs are not on every user's PATH.
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The cargo that runs us, so that a toolchain chosen for the chore is kept for what it starts.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    command
}

/// The compiler beside the cargo that runs us.
pub fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

/// Reads a file, naming it where that fails.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file only if its bytes change, so that nothing is rebuilt needlessly; returns whether it did.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}
