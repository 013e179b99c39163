//! A snapshot, or a difference, as JSON: one line, so that interval reports on one stream are JSON Lines.
//!
//! Names are kept whole, but must not control a terminal that prints the line: unsafe characters that JSON itself does not
//! escape are written as `\u….`

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::clean::is_unsafe;

/// Writes the document and a newline. The order of keys does not change within a schema.
///
/// # Errors
/// What `out` reports.
pub fn write(document: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    // The serializer writes each token by itself: into this buffer without a call through `dyn`.
    let mut out = BufWriter::with_capacity(1 << 16, out);
    document.serialize(&mut Serializer::with_formatter(&mut out, Safe(CompactFormatter)))?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Compact, with every unsafe character escaped.
struct Safe(CompactFormatter);

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        // As most are, such as addresses and functions in C.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_string_fragment(out, fragment);
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unsafe) {
            let (before, from) = rest.split_at(at);
            self.0.write_string_fragment(out, before)?;
            let mut characters = from.chars();
            let mut units = [0; 2];
            for unit in characters.next().unwrap_or_default().encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = characters.as_str();
        }
        self.0.write_string_fragment(out, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_comes_back_and_none_acts_on_a_terminal(name: String) {
            let mut line = Vec::new();
            name.serialize(&mut Serializer::with_formatter(&mut line, Safe(CompactFormatter))).unwrap();
            let line = String::from_utf8(line).unwrap();
            prop_assert!(!line.contains(is_unsafe), "{:?}", line);
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), name);
        }
    }

    #[test]
    fn controls_of_direction_and_tags_are_escaped() {
        let mut line = Vec::new();
        "a\u{202e}b\u{e0041}\u{85}"
            .serialize(&mut Serializer::with_formatter(&mut line, Safe(CompactFormatter)))
            .unwrap();
        assert_eq!(line, br#""a\u202eb\udb40\udc41\u0085""#);
    }
}
