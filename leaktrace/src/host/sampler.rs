//! Where leaktrace's sampler is, the library that programs are started with.

use std::env;
use std::io;
use std::path::PathBuf;

/// What the library is called.
pub const FILE: &str = "libleaktrace_sampler.so";
/// Where it is from the directory of our own program: beside it, as it is built, or where distributions put what belongs to one program.
const PLACES: [&str; 3] = ["", "../lib/leaktrace", "../lib"];

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoSampler {
    /// Our own program cannot be found.
    #[error("cannot find leaktrace's own program: {0}")]
    Unknown(#[source] io::Error),
    /// It is in none of the places.
    #[error("{FILE} is not beside {}; `cargo build --release` makes both in target/release, and they belong together", .0.display())]
    Missing(PathBuf),
    /// The dynamic linker takes its path for several.
    #[error("{} cannot be preloaded, since its path has a space or a colon; put leaktrace and it elsewhere", .0.display())]
    Unpreloadable(PathBuf),
}

/// Finds it.
///
/// # Errors
/// It is not there, or cannot be preloaded from there.
pub fn library() -> Result<PathBuf, NoSampler> {
    let program = env::current_exe().map_err(NoSampler::Unknown)?;
    let directory = program.parent().unwrap_or(&program);
    let found = PLACES.iter().find_map(|place| directory.join(place).join(FILE).canonicalize().ok());
    let library = found.ok_or_else(|| NoSampler::Missing(program.clone()))?;
    let is_parted = library.as_os_str().as_encoded_bytes().iter().any(|byte| b" \t:".contains(byte));
    if is_parted { Err(NoSampler::Unpreloadable(library)) } else { Ok(library) }
}
