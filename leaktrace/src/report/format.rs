//! The formats that a report can have beside the text on standard output: each with its option and its writer.

use std::io::{self, Write};

use super::style::TextStyle;
use super::{Measure, flamegraph, folded, json, lsan, text, timeline};
use crate::model::{Schema, Snapshot, Written};

/// The formats of one kind of content.
pub trait Form: Copy {
    /// What is written: a snapshot, or what differs between two.
    type Content;

    /// The option that asks for it.
    fn option(self) -> &'static str;

    /// Whether a reader can separate consecutive reports, so that one stream may carry several.
    fn can_follow_itself(self) -> bool;

    /// Writes the content in this format.
    ///
    /// # Errors
    /// What `out` reports.
    fn write(self, content: &Self::Content, out: &mut dyn Write) -> io::Result<()>;

    /// Writes the content as text for people.
    ///
    /// # Errors
    /// What `out` reports.
    fn write_text(content: &Self::Content, style: TextStyle, out: &mut dyn Write) -> io::Result<()>;

    /// Whether no other content follows.
    fn is_last(content: &Self::Content) -> bool;
}

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
    /// An SVG of memory over time.
    Timeline,
}

impl Form for Format {
    type Content = Snapshot;

    fn option(self) -> &'static str {
        match self {
            Self::Flamegraph(_) => "--flamegraph",
            Self::Folded => "--folded",
            Self::Json { .. } => "--json",
            Self::Lsan { .. } => "--lsan",
            Self::Timeline => "--timeline",
        }
    }

    fn can_follow_itself(self) -> bool {
        matches!(self, Self::Json { .. })
    }

    fn write(self, snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Flamegraph(measure) => flamegraph::write(snapshot, measure, out),
            Self::Folded => folded::write(snapshot, out),
            Self::Timeline => timeline::write(snapshot, out),
            Self::Lsan { objects } => lsan::write(snapshot, objects, out),
            Self::Json { schema, all_sites } => json::write(&Written { snapshot, schema, all_sites }, out),
        }
    }

    fn write_text(snapshot: &Snapshot, style: TextStyle, out: &mut dyn Write) -> io::Result<()> {
        text::write(snapshot, style, out)
    }

    fn is_last(snapshot: &Snapshot) -> bool {
        snapshot.is_final
    }
}
