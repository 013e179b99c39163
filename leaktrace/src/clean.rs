//! The one place where untrusted text is made safe before it is written: to standard output and standard error, and to
//! files.
//!
//! Traced processes choose their names, their files' names and their symbols, and these may contain anything: escape
//! sequences that move a terminal's cursor or set its title, line ends, controls that reverse the direction of writing. In:
//! such text. Out: text in which each character only displays itself. Everything written for a person or to a file passes
//! through here.

use std::borrow::Cow;

/// Replaces a character that is not shown.
const REPLACEMENT: &str = "?";

/// The longest text that is shown whole, characters. C++ has function names of some thousand; nobody reads more.
const LONGEST: usize = 16 * 1024;

/// Whether a character does something other than to be shown: controls (C0, DEL, C1), controls of the direction of writing
/// (Unicode Standard Annex #9), line and paragraph separators, invisible characters of no width, annotations, tags, and the
/// noncharacters that XML 1.0 forbids (<https://www.w3.org/TR/xml/#charsets>).
#[must_use]
pub const fn is_unsafe(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{fffe}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// `text` with every unsafe character replaced, and with its middle left out if it is longer than the limit.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    let clean =
        if text.contains(is_unsafe) { Cow::Owned(text.replace(is_unsafe, REPLACEMENT)) } else { Cow::Borrowed(text) };
    if clean.len() > LONGEST { Cow::Owned(elide(&clean, LONGEST)) } else { clean }
}

/// `text` in at most `room` characters, its middle replaced by an ellipsis.
#[must_use]
pub fn elide(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let tail = room.saturating_sub(1) / 2;
    let head = room.saturating_sub(1) - tail;
    let front: String = text.chars().take(head).collect();
    let back: String = text.chars().skip(length - tail).collect();
    format!("{front}…{back}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_or_the_xml_as_control() {
        assert_eq!(clean("a\u{1b}[2Jb\n\u{7f}\u{85}\u{ffff}c"), "a?[2Jb????c");
        assert_eq!(clean("user\u{202e}gpj.exe \u{2066}x\u{2069}\u{200f}\u{feff}\u{2028}"), "user?gpj.exe ?x????");
    }

    #[test]
    fn text_of_any_script_stays_as_it_is() {
        for text in ["größe", "имя", "関数", "פונקציה", "دالة", "क्\u{200d}ष", "👩\u{200d}💻"]
        {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn a_name_of_a_megabyte_is_shown_by_its_ends() {
        let name = format!("begin{}end", "x".repeat(1 << 20));
        let shown = clean(&name);
        assert_eq!(shown.chars().count(), LONGEST);
        assert!(shown.starts_with("begin") && shown.contains('…') && shown.ends_with("end"));
    }

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(elide("abcdefgh", 8), "abcdefgh");
        assert_eq!(elide("abcdefghi", 8), "abcd…ghi");
        assert_eq!(elide("äöüäöü", 5), "äö…öü");
        assert_eq!(elide("abc", 0), "…");
    }

    proptest! {
        #[test]
        fn what_is_clean_is_safe_and_is_left_alone(text: String) {
            let once = clean(&text).into_owned();
            prop_assert!(!once.contains(is_unsafe));
            prop_assert_eq!(clean(&once), once.as_str());
        }
    }
}
