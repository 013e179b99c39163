//! Whether a site's stack is all there.

use serde::{Deserialize, Serialize};

/// What a stack lacks; the more it lacks the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StackState {
    /// Nothing: every frame from the caller of the allocation function to the outermost.
    #[default]
    Whole,
    /// A frame pointer was followed on its way, in code without a table, to the outermost frame: it may have passed callers by.
    Guessed,
    /// It was followed by frame pointers for want of a table that was still to come, and these may skip callers.
    Gap,
    /// What lies where some of its frames are was replaced while it was being recorded: they may be called after what came later,
    /// or summed with it.
    Unsure,
    /// Its outer frames, or all of them.
    Cut,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}
