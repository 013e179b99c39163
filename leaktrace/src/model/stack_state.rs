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
    /// Outer frames, as far as this walk tells: it stopped early. In captures only; in a snapshot it is `Cut`.
    #[serde(skip)]
    Stopped,
    /// Its outer frames, or all frames.
    Cut,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl StackState {
    /// The state of a stack that two walks found with the same frames.
    ///
    /// Whether the last frame is the outermost depends on its address alone: where one walk came to the outermost frame, another
    /// that stopped there for want of a table lacks nothing either.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Stopped, state) | (state, Self::Stopped) => state,
            (one, other) => one.max(other),
        }
    }

    /// The state of a stack with frames in code that was replaced.
    #[must_use]
    pub fn in_replaced_code(self) -> Self {
        // Its frames may be others' than those of a stack that looks the same.
        if self == Self::Stopped { Self::Cut } else { self.max(Self::Unsure) }
    }

    /// The state as a snapshot has it, when all walks have been joined.
    #[must_use]
    pub fn settled(self) -> Self {
        if self == Self::Stopped { Self::Cut } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::StackState::{Cut, Gap, Guessed, Stopped, Unsure, Whole};

    #[test]
    fn a_walk_that_stopped_where_another_came_to_the_outermost_frame_lacks_nothing() {
        assert_eq!((Whole.join(Stopped), Stopped.join(Whole)), (Whole, Whole));
        assert_eq!(Stopped.join(Guessed), Guessed, "the other may have skipped callers");
        assert_eq!(Whole.join(Cut), Cut, "what is cut by depth goes on");
        assert_eq!((Stopped.join(Stopped).settled(), Stopped.join(Cut)), (Cut, Cut));
        assert_eq!(Whole.join(Stopped.in_replaced_code()), Cut);
        assert_eq!((Guessed.in_replaced_code(), Cut.in_replaced_code()), (Unsure, Cut));
    }

    #[test]
    fn the_order_of_walks_does_not_matter() {
        let all = [Whole, Guessed, Gap, Unsure, Stopped, Cut];
        for a in all {
            for b in all {
                assert_eq!(a.join(b), b.join(a));
                assert!(all.iter().all(|c| a.join(b).join(*c) == a.join(b.join(*c))));
            }
        }
    }
}
