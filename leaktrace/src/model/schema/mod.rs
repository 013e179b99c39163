//! The JSON that `--json` writes and `report` reads: the types in memory do not depend on it.
//!
//! `forms` has the fields of a file, `write` makes a file from a snapshot, `read` makes a snapshot from a file and says what
//! is wrong with a file that is not a snapshot. `diff` has the form of what differs between two, which is written only.

mod diff;
mod forms;
mod read;
mod write;

pub use diff::WrittenDiff;
pub use read::SnapshotError;
pub use write::Written;

/// The form of a snapshot in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schema {
    /// `leaktrace/1`: each stack holds its frames, every site is there.
    V1,
    /// `leaktrace/2`: a table of frames and stacks of places in it.
    #[default]
    V2,
}

impl Schema {
    /// What stands in a file under `schema`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "leaktrace/1",
            Self::V2 => "leaktrace/2",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|schema| schema.name() == name)
    }
}
