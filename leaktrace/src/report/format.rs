//! The formats that a report can have beside the text on standard output: each with its option and its writer.

use std::io::{self, Write};

use super::{Measure, flamegraph, folded, json, lsan};
use crate::model::{Schema, Snapshot, Written};

/// A format, as settled by the options that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An SVG whose widths stand for this.
    Flamegraph(Measure),
    /// Folded stacks.
    Folded,
    /// The snapshot itself.
    Json {
        /// In this form.
        schema: Schema,
        /// With the sites that have nothing outstanding.
        all_sites: bool,
    },
    /// LeakSanitizer's text.
    Lsan {
        /// With the blocks of each leak.
        objects: bool,
    },
}

impl Format {
    /// The option that asks for it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Flamegraph(_) => "--flamegraph",
            Self::Folded => "--folded",
            Self::Json { .. } => "--json",
            Self::Lsan { .. } => "--lsan",
        }
    }

    /// Whether a reader can separate consecutive reports, so that one stream may carry several.
    #[must_use]
    pub fn can_follow_itself(self) -> bool {
        matches!(self, Self::Json { .. })
    }

    /// Writes a snapshot in this format.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write(self, snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Flamegraph(measure) => flamegraph::write(snapshot, measure, out),
            Self::Folded => folded::write(snapshot, out),
            Self::Lsan { objects } => lsan::write(snapshot, objects, out),
            Self::Json { schema, all_sites } => json::write(&Written { snapshot, schema, all_sites }, out),
        }
    }
}
