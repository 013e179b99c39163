//! Where things are in the repository. All paths are absolute, so that a chore may be run from any directory of it.

use std::path::{Path, PathBuf};

/// The repository's root: the directory of the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    // CARGO_MANIFEST_DIR is xtask/, and a path always has a parent but for `/`.
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds, as the user's environment has it.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where the committed BPF objects and their record live.
pub fn prebuilt() -> PathBuf {
    root().join("leaktrace/prebuilt")
}
