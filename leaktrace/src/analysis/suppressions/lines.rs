//! A suppression file as lines of text, within bounds.

use crate::clean::elide;

/// Most bytes that a suppression file may have: those of browsers have a hundredth of it.
pub const MAX_BYTES: usize = 4 << 20;
/// Most lines that it may have.
pub const MAX_LINES: usize = 100_000;
/// Most bytes that a line may have: the longest name that is shown.
pub const MAX_LINE: usize = 16 << 10;

/// What is wrong with a suppression file: `what` says it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A line that says something, without the space around it, and its number from 1.
#[derive(Debug, Clone, Copy)]
pub struct TextLine<'a> {
    pub number: usize,
    pub text: &'a str,
}

impl TextLine<'_> {
    /// An error of this line.
    pub fn wrong<T>(self, what: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed { line: self.number, what: what.into() })
    }

    /// Its text as messages show it.
    pub fn shown(self) -> String {
        elide(self.text, 60)
    }
}

/// The lines of a file that are neither empty nor comments.
///
/// # Errors
/// The file is larger than any suppression file, or no text.
pub fn lines(text: &[u8]) -> Result<Vec<TextLine<'_>>, Malformed> {
    let wrong = |line: usize, what: &str| Err(Malformed { line, what: what.to_owned() });
    if text.len() > MAX_BYTES {
        return wrong(1, "the file has more than 4 MiB; split it, or name a file with suppressions");
    }
    let mut lines = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if number > MAX_LINES {
            return wrong(number, "the file has more than 100,000 lines; split it");
        }
        if line.len() > MAX_LINE {
            return wrong(number, "the line has more than 16 KiB; shorten its pattern with *");
        }
        let Ok(line) = std::str::from_utf8(line) else {
            return wrong(number, "the line is no text (UTF-8); name a file with suppressions");
        };
        let text = line.trim();
        if !text.is_empty() && !text.starts_with('#') {
            lines.push(TextLine { number, text });
        }
    }
    Ok(lines)
}
