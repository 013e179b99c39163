//! Patterns of names: text with wildcards.

/// A pattern that a whole name matches or does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Piece {
    /// This byte.
    Byte(u8),
    /// Any byte: `?`.
    One,
    /// Any bytes, or none: `*`. Never two in a row.
    Many,
}

impl Pattern {
    /// A pattern of Valgrind's: `*` stands for any text and `?` for any byte, and it covers the whole name.
    pub fn of_valgrind(text: &str) -> Self {
        Self::of(text.bytes().map(|byte| match byte {
            b'*' => Piece::Many,
            b'?' => Piece::One,
            byte => Piece::Byte(byte),
        }))
    }

    /// A pattern of LeakSanitizer's: `*` stands for any text, and it covers any part of a name, unless `^` ties it to the name's
    /// begin or `$` to its end. What follows a `$` has no meaning, there as here.
    pub fn of_lsan(text: &str) -> Self {
        let (begin, text) = match text.strip_prefix('^') {
            Some(rest) => (None, rest),
            None => (Some(Piece::Many), text),
        };
        let (text, end) = match text.split_once('$') {
            Some((tied, _)) => (tied, None),
            None => (text, Some(Piece::Many)),
        };
        let pieces = text.bytes().map(|byte| if byte == b'*' { Piece::Many } else { Piece::Byte(byte) });
        Self::of(begin.into_iter().chain(pieces).chain(end))
    }

    fn of(pieces: impl Iterator<Item = Piece>) -> Self {
        let mut pieces: Vec<_> = pieces.collect();
        pieces.dedup_by(|a, b| *a == Piece::Many && *b == Piece::Many);
        Self(pieces)
    }

    /// The only name that matches, where there are no wildcards.
    pub fn literal(&self) -> Option<Vec<u8>> {
        let byte = |piece: &Piece| if let Piece::Byte(byte) = piece { Some(*byte) } else { None };
        self.0.iter().map(byte).collect()
    }

    /// Whether a name matches. Takes at most as many steps as the product of both lengths.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut piece, mut at) = (0, 0);
        // The piece behind the last `*`, and where in the name it was tried. An earlier `*` never has to take more: whatever
        // it could reach, the last one reaches too.
        let mut again: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(piece), name.get(at)) {
                (None, None) => return true,
                (Some(Piece::Many), _) => {
                    piece += 1;
                    again = Some((piece, at));
                    if piece == self.0.len() {
                        return true;
                    }
                }
                (Some(Piece::One), Some(_)) => {
                    piece += 1;
                    at += 1;
                }
                (Some(Piece::Byte(wanted)), Some(byte)) if wanted == byte => {
                    piece += 1;
                    at += 1;
                }
                (_, found) => match &mut again {
                    // If the name has ended, moving on makes it only shorter.
                    Some((behind, tried)) if found.is_some() => {
                        *tried += 1;
                        (piece, at) = (*behind, *tried);
                    }
                    _ => return false,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn valgrind(pattern: &str, name: &str) -> bool {
        Pattern::of_valgrind(pattern).matches(name.as_bytes())
    }

    fn lsan(pattern: &str, name: &str) -> bool {
        Pattern::of_lsan(pattern).matches(name.as_bytes())
    }

    #[test]
    fn patterns_of_valgrind_cover_the_whole_name() {
        assert!(valgrind("malloc", "malloc") && !valgrind("malloc", "xmalloc") && !valgrind("malloc", "malloc2"));
        assert!(valgrind("*alloc", "malloc") && valgrind("*alloc", "alloc") && !valgrind("*alloc", "alloca"));
        assert!(
            valgrind("/lib*/libc-2.?.so", "/lib64/libc-2.9.so") && !valgrind("/lib*/libc-2.?.so", "/lib/libc-2.19.so")
        );
        assert!(valgrind("*a*b*c", "xxaxbxbxc") && !valgrind("*a*b*c", "xxaxcxb"));
        assert!(valgrind("**", "") && valgrind("*", "anything") && !valgrind("?", ""));
        assert!(valgrind("a*b*ab", "abbbab") && valgrind("*ab?", "ababx"));
    }

    #[test]
    fn patterns_of_leak_sanitizer_cover_a_part_unless_tied() {
        assert!(lsan("foo", "a_foo_b") && !lsan("^foo", "a_foo_b") && !lsan("foo$", "a_foo_b"));
        assert!(
            lsan("^foo$", "foo") && !lsan("^foo$", "foo2") && lsan("a*c$", "xxabcbc") && lsan("^lib*.so", "libx.so.1")
        );
        assert!(lsan("*", "x") && lsan("f?o", "f?o") && !lsan("f?o", "foo"));
    }

    /// What a pattern means, as briefly as it can be said; takes exponential time.
    fn means(pieces: &[Piece], name: &[u8]) -> bool {
        match (pieces, name) {
            ([], []) => true,
            ([Piece::Many, rest @ ..], _) => means(rest, name) || (!name.is_empty() && means(pieces, &name[1..])),
            ([Piece::One, rest @ ..], [_, behind @ ..]) => means(rest, behind),
            ([Piece::Byte(wanted), rest @ ..], [byte, behind @ ..]) => wanted == byte && means(rest, behind),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_patterns_mean(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let pattern = Pattern::of_valgrind(&pattern);
            prop_assert_eq!(pattern.matches(name.as_bytes()), means(&pattern.0, name.as_bytes()));
        }

        #[test]
        fn no_pattern_and_no_name_panics(pattern: String, name: Vec<u8>) {
            Pattern::of_valgrind(&pattern).matches(&name);
            Pattern::of_lsan(&pattern).matches(&name);
        }
    }

    #[test]
    fn many_wildcards_take_no_exponential_time() {
        let name = "a".repeat(10_000);
        let pattern = "*a".repeat(500) + "b";
        let begun = Instant::now();
        assert!(!valgrind(&pattern, &name) && !lsan(&pattern, &name));
        // Five million steps, where backtracking through every wildcard would take longer than the universe has.
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
