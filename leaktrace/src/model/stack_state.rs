//! Whether a site's stack is complete.

use serde::{Deserialize, Serialize};

/// What a stack lacks; later variants lack more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StackState {
    /// Nothing: every frame from the caller of the allocation function to the outermost.
    #[default]
    Whole,
    /// Complete up to the outermost frame, but in code without a table the walk followed a frame pointer, which may have
    /// skipped callers.
    Guessed,
    /// The walk followed frame pointers since a table was not built yet, and may have skipped callers.
    Gap,
    /// The code at some of its frames was replaced during the trace: these frames may have the names of later code, or be
    /// summed with it.
    Unsure,
    /// Its outer frames, or all frames.
    Cut,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}
