//! The rules about third-party crates: each crate that a manifest names is used, and its licence permits our users
//! everything that our own licence does.
//!
//! In: what `cargo metadata` says, and the words of our sources. Out: a line for each crate that is not so.

use super::rust::Word;
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Licences (SPDX) that require no more of our users than MIT or Apache-2.0, and inferno's, whose conditions apply only to
/// changes of its own files.
const LICENCES: [&str; 9] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unicode-3.0", "Unlicense", "Zlib", "CDDL-1.0"];

/// The part of `cargo metadata` that the rules need.
#[derive(Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
}

impl Metadata {
    /// The workspace's packages, with the dependencies that builds on this machine have.
    pub fn read() -> Result<Self> {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut cargo = crate::shell::cargo();
        cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &target]);
        serde_json::from_str(&crate::shell::output(&mut cargo)?).context("the output of `cargo metadata`")
    }

    fn is_ours(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }

    /// The crates whose licence is not permitted.
    pub fn unlicensed(&self) -> impl Iterator<Item = String> {
        self.packages.iter().filter(|package| !self.is_ours(package)).filter_map(|package| {
            let licence = package.license.as_deref().unwrap_or("no licence");
            (!is_permitted(licence))
                .then(|| format!("{} {}: {licence} is not among the permitted licences", package.name, package.version))
        })
    }

    /// The crates that a member's manifest names and its sources do not. `words` has the words of each member's sources, by
    /// the member's directory.
    pub fn unused(&self, words: &BTreeMap<String, Vec<Word>>) -> impl Iterator<Item = String> {
        self.packages.iter().filter(|package| self.is_ours(package)).flat_map(|package| {
            let words = words.get(&package.name).map_or(&[][..], Vec::as_slice);
            let unused = package.dependencies.iter().filter(|dependency| !is_named(dependency, words));
            unused.map(|dependency| format!("{} depends on {} and never names it", package.name, dependency.name))
        })
    }
}

/// Whether one of the ways in which a licence expression can be satisfied needs permitted licences only. Understands what
/// the registry has: `A OR B`, the older `A/B`, `A AND B`, parentheses around an `OR` inside an `AND`.
fn is_permitted(expression: &str) -> bool {
    let term = |text: &str| LICENCES.contains(&text.trim());
    let any = |text: &str| text.replace('/', " OR ").split(" OR ").any(term);
    if expression.contains('(') {
        return expression.split(" AND ").all(|part| any(part.trim_matches(['(', ')', ' '])));
    }
    any(expression) || expression.split(" AND ").all(term)
}

fn is_named(dependency: &Dependency, words: &[Word]) -> bool {
    let name = dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_");
    words.iter().any(|word| word.text.split("::").next() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::is_permitted;

    #[test]
    fn licence_expressions_are_understood() {
        for expression in [
            "MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "MIT AND Zlib",
            "GPL-3.0 OR MIT",
        ] {
            assert!(is_permitted(expression), "{expression}");
        }
        for expression in ["GPL-2.0-only", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND AGPL-3.0", "no licence"] {
            assert!(!is_permitted(expression), "{expression}");
        }
    }
}
