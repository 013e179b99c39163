//! Reads suppression files: which of the formats a file has is told by its first line that says something.

use super::lines::{Malformed, lines};
use super::rule::Rule;
use super::{lsan, valgrind};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lines::{MAX_BYTES, MAX_LINE, MAX_LINES};
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
