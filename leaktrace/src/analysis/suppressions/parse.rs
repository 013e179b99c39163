//! Reads suppression files: which of the formats a file has is told by its first line that says something.

use super::rules::Rule;
use super::{lsan, valgrind};

/// Most bytes that a suppression file may have: those of browsers have a hundredth of it.
pub const MAX_BYTES: usize = 4 << 20;
/// Most lines that it may have.
const MAX_LINES: usize = 100_000;
/// Most bytes that a line may have: the longest name that is shown.
const MAX_LINE: usize = 16 << 10;

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
        crate::clean::elide(self.text, 60)
    }
}

/// The rules of a file.
///
/// # Errors
/// The first line that is wrong.
pub fn parse(text: &[u8], source: &str) -> Result<Vec<Rule>, Malformed> {
    let lines = lines(text)?;
    match lines.first() {
        None => Ok(Vec::new()),
        Some(first) if first.text == "{" => valgrind::parse(&lines, source),
        Some(first) if first.text.contains(':') => lsan::parse(&lines, source),
        Some(first) => first.wrong(format!(
            "`{}` begins no suppression; write leak:PATTERN as for LeakSanitizer, or {{ as for Valgrind",
            first.shown()
        )),
    }
}

/// The lines that are neither empty nor comments.
fn lines(text: &[u8]) -> Result<Vec<TextLine<'_>>, Malformed> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        parse(text.as_bytes(), "test").unwrap_err().to_string()
    }

    fn names(text: &str) -> Vec<String> {
        parse(text.as_bytes(), "test").unwrap().iter().map(|rule| rule.known.name.clone()).collect()
    }

    const BLOCK: &str = "{\n one\n Memcheck:Leak\n fun:malloc\n fun:f\n}\n";

    #[test]
    fn the_first_line_that_says_something_tells_the_format() {
        assert_eq!(names("# a comment\n\n  leak:libfoo.so\r\nleak:^bar$\n"), ["leak:libfoo.so", "leak:^bar$"]);
        assert_eq!(names(&format!("# a comment\n{BLOCK}")), ["one"]);
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("# nothing but a comment"), [""; 0]);
        assert_eq!(
            message("main\n"),
            "line 1: `main` begins no suppression; write leak:PATTERN as for LeakSanitizer, or { as for Valgrind"
        );
    }

    #[test]
    fn both_formats_in_one_file_are_an_error() {
        assert_eq!(
            message(&format!("leak:f\n{BLOCK}")),
            "line 2: a block of Valgrind's among LeakSanitizer's lines; give each format a file of its own"
        );
        assert_eq!(
            message(&format!("{BLOCK}leak:f\n")),
            "line 7: a line of LeakSanitizer's among Valgrind's blocks; give each format a file of its own"
        );
    }

    #[test]
    fn files_are_bounded() {
        assert!(message(&"\n".repeat(MAX_LINES + 1)).contains("100,000 lines"));
        assert!(message(&format!("leak:{}", "x".repeat(MAX_LINE))).contains("16 KiB"));
        assert!(parse(&vec![b'\n'; MAX_BYTES + 1], "test").unwrap_err().to_string().contains("4 MiB"));
        assert!(parse(b"leak:\xff", "test").unwrap_err().to_string().contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            drop(parse(&text, "test"));
        }

        #[test]
        fn no_text_of_such_words_panics(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "name", "Memcheck:Leak", "Memcheck:Cond", "match-leak-kinds:", "match-leak-kinds: all",
                    "match-leak-kinds: definite,x", "fun:", "fun:malloc", "obj:*", "src:a.c:1", "...", "leak:", "leak:a", "#", "",
                ]),
                0..20,
            )
        ) {
            drop(parse(words.join("\n").as_bytes(), "test"));
        }
    }
}
