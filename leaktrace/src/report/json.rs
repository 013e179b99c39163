//! The snapshot as JSON, schema `leaktrace/1`: one line, so that interval reports on one stream are JSON Lines.

use std::io::{self, Write};

use crate::model::Snapshot;

/// Writes the snapshot and a newline. The order of keys is the model's and does not change within a schema.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, snapshot)?;
    out.write_all(b"\n")
}
