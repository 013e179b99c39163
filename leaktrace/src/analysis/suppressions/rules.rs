//! Rules as their files say them.

use std::sync::Arc;

use super::parse::{Malformed, parse};
use super::pattern::Pattern;
use crate::model;
use crate::model::Kinds;

/// The rules that leaktrace brings along.
const BUILT_IN: &str = include_str!("harmless.supp");

/// Rules in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules themselves.
    pub(super) rules: Vec<Rule>,
    /// The files that were read, also those without a rule.
    pub(super) sources: Vec<String>,
}

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

impl Rules {
    /// Adds the rules of a file behind those that are there. `source` is what reports call the file.
    ///
    /// # Errors
    /// The first line that is in neither format, or not in that of the lines before.
    pub fn add(&mut self, text: &[u8], source: &str) -> Result<(), Malformed> {
        self.rules.extend(parse(text, source)?);
        self.sources.push(source.to_owned());
        Ok(())
    }

    /// Adds the rules that leaktrace brings along.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn add_built_in(&mut self) -> Result<(), Malformed> {
        self.add(BUILT_IN.as_bytes(), model::Rule::BUILT_IN)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}
