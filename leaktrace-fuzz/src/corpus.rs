//! Inputs in files: seeds, what a run keeps, what broke a reader.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the seeds of a target are committed.
pub fn seeds(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

/// All files of a directory, in the order of their names.
pub fn read(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = list().with_context(|| format!("reading {}", dir.display()))?;
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| format!("reading {}", path.display()))).collect()
}

/// A file's name for an input, which is the same for the same bytes (FNV-1a, 64 bits).
pub fn name(target: &str, input: &[u8]) -> String {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{target}-{hash:016x}")
}
