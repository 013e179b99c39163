//! The record beside the committed BPF objects: their sources, their toolchain, and their hashes.
//!
//! Its test needs only stable Rust, so that `cargo test` on any machine fails if a source of the objects was changed and the
//! objects were not rebuilt.

use super::{committed, compile};
use crate::setup::bpf::Toolchain;
use crate::{shell, workspace};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const NEXT: &str = "next: cargo xtask build-ebpf, and commit leaktrace/prebuilt";

/// `leaktrace/prebuilt/record.json`.
#[derive(Serialize, Deserialize)]
pub struct Record {
    /// SHA-256 over everything the objects are made from; see [`sources`].
    pub sources_sha256: String,
    /// SHA-256 of each architecture's object.
    pub objects_sha256: BTreeMap<String, String>,
    /// The versions of rustc, its LLVM, and bpf-linker with the LLVM it uses.
    pub toolchain: String,
}

impl Record {
    /// The record of these objects, made from the present sources.
    pub fn new(objects: &compile::Objects, toolchain: &Toolchain) -> Result<Self> {
        let objects = objects.iter().map(|(architecture, bytes)| ((*architecture).to_owned(), sha256(bytes)));
        Ok(Self {
            sources_sha256: sources_sha256()?,
            objects_sha256: objects.collect(),
            toolchain: toolchain.to_string(),
        })
    }

    fn path() -> PathBuf {
        workspace::prebuilt().join("record.json")
    }

    /// The committed record.
    pub fn read() -> Result<Self> {
        let path = Self::path();
        serde_json::from_slice(&shell::read(&path)?).with_context(|| format!("{}", path.display()))
    }

    pub fn write(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        shell::write_if_changed(&Self::path(), text.as_bytes())?;
        println!("   recorded: {}", Self::path().display());
        Ok(())
    }

    /// Fails where the sources or the committed objects are not those of the record.
    pub fn verify(&self) -> Result<()> {
        ensure!(
            self.sources_sha256 == sources_sha256()?,
            "the sources of the committed BPF objects have changed since those were built; {NEXT}"
        );
        for (architecture, recorded) in &self.objects_sha256 {
            let path = committed(architecture);
            ensure!(&sha256(&shell::read(&path)?) == recorded, "{} is not the recorded object; {NEXT}", path.display());
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// One hash over the names, lengths and bytes of all sources, the flags, and what the crates inherit from the workspace.
fn sources_sha256() -> Result<String> {
    let root = workspace::root();
    let mut hash = Sha256::new();
    let mut add = |name: &str, bytes: &[u8]| {
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(bytes);
    };
    for path in sources()? {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        add(&name, &shell::read(&path)?);
    }
    add("flags", compile::FLAGS.join(" ").as_bytes());
    let manifest = String::from_utf8(shell::read(&root.join("Cargo.toml"))?)?;
    let manifest: toml_edit::DocumentMut = manifest.parse().context("Cargo.toml")?;
    // Edition and version go into code and symbol names.
    let inherited = manifest.get("workspace").and_then(|workspace| workspace.get("package")).context("Cargo.toml")?;
    add("workspace.package", inherited.to_string().as_bytes());
    Ok(sha256(&hash.finalize()))
}

/// The files that the objects are made from, sorted.
fn sources() -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let mut files = ["leaktrace-ebpf/Cargo.toml", "leaktrace-ebpf/Cargo.lock", "leaktrace-common/Cargo.toml"]
        .map(|file| root.join(file))
        .to_vec();
    for dir in ["leaktrace-ebpf/src", "leaktrace-common/src"] {
        files_below(&root.join(dir), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_objects_are_built_from_the_present_sources() {
        Record::read().unwrap().verify().unwrap();
    }

    #[test]
    fn every_architecture_has_its_object() {
        let recorded: Vec<_> = Record::read().unwrap().objects_sha256.into_keys().collect();
        let mut expected = super::super::ARCHITECTURES.to_vec();
        expected.sort_unstable();
        assert_eq!(recorded, expected);
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
