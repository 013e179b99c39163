//! String tables: names that end at a zero.

/// A string table. Its strings may overlap, but their total length is limited: otherwise entries that all point at one long
/// string would each cost its whole length.
#[derive(Debug)]
pub struct Strings<'a> {
    table: &'a [u8],
    budget: usize,
}

impl<'a> Strings<'a> {
    /// The strings in these bytes.
    #[must_use]
    pub fn new(table: &'a [u8]) -> Self {
        // Linkers share the tails of strings, which makes the sum of all lengths some ten percent larger than the table.
        Self { table, budget: table.len().saturating_mul(4).saturating_add(1 << 20) }
    }

    /// The bytes from `offset` up to the next zero.
    pub fn get(&mut self, offset: usize) -> Option<&'a [u8]> {
        let rest = self.table.get(offset..)?;
        let rest = &rest[..rest.len().min(self.budget)];
        let end = rest.iter().position(|&byte| byte == 0);
        self.budget -= end.map_or(rest.len(), |end| end + 1);
        Some(&rest[..end?])
    }
}

/// The string at the beginning, if it ends within `longest` bytes.
#[must_use]
pub fn terminated(bytes: &[u8], longest: usize) -> Option<&[u8]> {
    let window = &bytes[..bytes.len().min(longest.saturating_add(1))];
    let end = window.iter().position(|byte| *byte == 0)?;
    Some(&window[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_zero_and_may_share_their_tails() {
        let mut strings = Strings::new(b"\0malloc\0open");
        assert_eq!(strings.get(0), Some(&b""[..]));
        assert_eq!(strings.get(1), Some(&b"malloc"[..]));
        assert_eq!(strings.get(4), Some(&b"loc"[..]));
        assert_eq!(strings.get(8), None, "no zero ends it");
        assert_eq!(strings.get(100), None);
    }

    #[test]
    fn one_long_string_is_not_read_again_and_again() {
        let table = vec![b'x'; 1 << 20];
        let mut strings = Strings::new(&table);
        let start = std::time::Instant::now();
        assert!((0..1_000_000).all(|offset| strings.get(offset).is_none()));
        // A million times half a megabyte would take minutes.
        assert!(start.elapsed() < std::time::Duration::from_secs(20));
    }

    #[test]
    fn a_string_longer_than_asked_for_is_none() {
        assert_eq!(terminated(b"malloc\0free\0", 6), Some(&b"malloc"[..]));
        assert_eq!(terminated(b"malloc\0free\0", 5), None);
        assert_eq!(terminated(b"malloc", usize::MAX), None);
    }
}
