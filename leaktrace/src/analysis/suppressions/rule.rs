//! A rule as its file says it.

use std::sync::Arc;

use super::pattern::Pattern;
use crate::model;
use crate::model::Kinds;

/// A rule: blocks of these kinds under these stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it is known by.
    pub known: Arc<model::Rule>,
    /// The kinds of blocks that it hides, where blocks were judged.
    pub kinds: Kinds,
    /// The stacks.
    pub stacks: Stacks,
}

/// A set of stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stacks {
    /// Those of which any frame's function, file or module matches: LeakSanitizer's.
    Passing(Pattern),
    /// Those that begin, from the allocation function on, with frames that match these lines: memcheck's.
    BeginningWith(Vec<Line>),
}

/// A line of a stack in memcheck's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Any number of frames, or none: `...`.
    Frames,
    /// A frame of which this matches.
    Frame(Part, Pattern),
}

/// What of a frame a pattern is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `fun:`, its function.
    Function,
    /// `obj:`, the path of its module.
    Object,
    /// `src:`, its source file and line.
    Source,
    /// Any of function, source file and module.
    Any,
}
