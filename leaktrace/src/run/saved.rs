//! Saved snapshots.
//!
//! In: a file's name, or standard input. Out: a snapshot, or one line that names the file, what is wrong with it and the next step.
//! Whatever the file is, no more is read than there is memory for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

use crate::host::memory;
use crate::model::Snapshot;
use crate::report::human::Bytes;
use crate::report::output::reason;

/// The largest file that is read. A million sites of 30 frames each take 250 MB, and 6 GB with all frames of each (schema 1).
const LARGEST: u64 = 8 << 30;

/// Reads the snapshot in a file, or on standard input where there is no path.
pub fn read(path: Option<&Path>) -> anyhow::Result<Snapshot> {
    let bytes = match path {
        Some(path) => bytes_of(path)?,
        None => all(io::stdin().lock(), limit()).context("cannot read standard input")?,
    };
    Snapshot::from_json(&bytes).with_context(|| cannot_use(path))
}

/// The beginning of what is to be said of a snapshot that does not fit.
pub fn cannot_use(path: Option<&Path>) -> String {
    format!("cannot use the snapshot {}", name(path))
}

/// What messages call it.
pub fn name(path: Option<&Path>) -> String {
    path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
}

fn bytes_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = |error: &io::Error| {
        let reason = reason(error);
        anyhow::anyhow!("cannot read {}: {reason}; name a file that --json wrote", path.display())
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let limit = limit();
    if size > limit {
        return Err(failed(&too_large(limit)));
    }
    all(file, limit).map_err(|error| failed(&error))
}

/// Everything up to the limit; more is an error.
fn all(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

/// The text and what is made of it are in memory at the same time.
fn limit() -> u64 {
    memory::available().map_or(LARGEST, |available| LARGEST.min(available / 2))
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {}, for which there is memory", Bytes(limit)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_at_the_limit() {
        assert_eq!(all(io::repeat(b'{').take(10), 10).unwrap().len(), 10);
        let error = all(io::repeat(b'{'), 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 1.0 MiB, for which there is memory");
    }
}
