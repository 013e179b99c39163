//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md that a compiler does not see.
//!
//! In: the files of the repository. Out: a line `file:line: what is wrong` for each breach, and failure where there is one.
//! The rules are in [`rules`] and [`rooms`]; [`rust`] turns a source file into what the rules look at.

mod dependencies;
mod rooms;
mod rules;
mod rust;

use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Checks the invariants that a compiler does not see: who may name what, sizes of files, left-over notes
#[derive(clap::Args)]
pub struct Args {}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach {
    /// Line in the file, from 1; 0 means the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do instead.
    pub what: String,
}

pub fn run(_: &Args) -> Result<()> {
    let mut count = 0;
    let mut words = BTreeMap::<String, Vec<rust::Word>>::new();
    let mut house = rooms::House::default();
    for path in files()? {
        let name = path.strip_prefix(workspace::root()).unwrap_or(&path).to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let member = member(&name);
        let in_file = if rules::extension(&name) == "rs" {
            rust::words(&text).with_context(|| name.clone())?
        } else {
            Vec::new()
        };
        for breach in rules::check(&name, &text, &in_file).with_context(|| name.clone())? {
            println!("{name}:{}: {}", breach.line, breach.what);
            count += 1;
        }
        if let Some(hint) = rules::hint(&name, &text) {
            println!("   {name}: {hint}");
        }
        house.add(&name, &in_file);
        words.entry(member).or_default().extend(in_file);
    }
    for (name, breach) in house.breaches() {
        println!("{name}:{}: {}", breach.line, breach.what);
        count += 1;
    }
    let metadata = dependencies::Metadata::read()?;
    for breach in metadata.unlicensed().chain(metadata.unused(&words)) {
        println!("{breach}");
        count += 1;
    }
    if count > 0 {
        bail!("{count} breaches of the invariants in ARCHITECTURE.md");
    }
    println!("   tidy");
    Ok(())
}

/// The workspace's member that a file belongs to: it has the name of its directory, or is one inside of another.
fn member(file: &str) -> String {
    let mut parts = file.split('/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("leaktrace", Some("sampler")) => "leaktrace-sampler".to_owned(),
        (directory, _) => directory.to_owned(),
    }
}

/// Every file of the repository that people write, found without git.
fn files() -> Result<Vec<PathBuf>> {
    const WRITTEN_BY_HAND: [&str; 10] = ["rs", "toml", "md", "c", "cpp", "h", "S", "yml", "json", "sh"];
    let mut files = Vec::new();
    let mut dirs = vec![workspace::root().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            // The target of a link is checked at its own place.
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if !is_skipped(&path) {
                    dirs.push(path);
                }
            } else if WRITTEN_BY_HAND.contains(&extension.as_str()) || path.ends_with(".ci/run") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_skipped(dir: &Path) -> bool {
    dir.ends_with(".git") || dir == workspace::target_dir() || dir.join("CACHEDIR.TAG").is_file()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        super::run(&super::Args {}).unwrap();
    }
}
