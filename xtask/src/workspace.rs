//! Where things are in the repository. All paths are absolute, so that a chore may be run from any directory of it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The repository's root: the directory of the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo sets the variable for the programs that it runs. Its value at compile time may be another checkout, if two
        // share a target directory.
        let xtask =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        xtask.parent().map_or_else(|| xtask.clone(), Path::to_owned)
    })
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
