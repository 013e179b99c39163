//! Reports of what differs between two snapshots, in each format that `leaktrace diff` writes.
//!
//! In: a [`Diff`]. Out: bytes. Whatever makes the comparison doubtful is said in every format (`doubts`).

mod doubts;
mod flamegraph;
mod folded;
mod text;
mod words;

use std::io::{self, Write};

pub use doubts::doubts;

use super::style::TextStyle;
use super::{Form, Measure, json};
use crate::model::{Diff, WrittenDiff};

/// A format of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffFormat {
    /// A differential flame graph.
    Flamegraph(Measure),
    /// Folded stacks with two numbers, before and after.
    Folded,
    /// The difference itself.
    Json,
}

impl Form for DiffFormat {
    type Content = Diff;

    fn option(self) -> &'static str {
        match self {
            Self::Flamegraph(_) => "--flamegraph",
            Self::Folded => "--folded",
            Self::Json => "--json",
        }
    }

    fn can_follow_itself(self) -> bool {
        false
    }

    fn write(self, diff: &Diff, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Flamegraph(measure) => flamegraph::write(diff, measure, out),
            Self::Folded => folded::write(diff, out),
            Self::Json => json::write(&WrittenDiff { diff, warnings: &doubts(diff) }, out),
        }
    }

    fn write_text(diff: &Diff, style: TextStyle, out: &mut dyn Write) -> io::Result<()> {
        text::write(diff, style, out)
    }

    fn is_last(_: &Diff) -> bool {
        true
    }
}
