//! The rules of several files.

use super::lines::Malformed;
use super::parse::parse;
use super::rule::Rule;
use crate::model;

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
