//! What a just-in-time compiler writes about its code, as `perf` defines it (tools/perf/Documentation/jit-interface.txt in the
//! kernel's sources): one line per function, `START SIZE NAME` with hexadecimal numbers, appended as functions are compiled.
//!
//! In: text. Out: names for addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Functions that are kept of one process. Node's has some hundred thousand.
const MAX_SYMBOLS: usize = if cfg!(test) { 1 << 15 } else { 1 << 20 };
/// Bytes of names that are kept of one process.
const MAX_BYTES: usize = 64 << 20;
/// A longer name is cut, bytes.
const MAX_NAME: usize = 4096;

/// A function that a just-in-time compiler placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitSymbol {
    /// One past its last address.
    pub end: u64,
    /// Its name, as the compiler wrote it.
    pub name: Arc<str>,
}

/// The functions of one process' just-in-time compilers. Where two claim an address, the one written later has it.
#[derive(Debug, Default)]
pub struct JitSymbols {
    by_start: BTreeMap<u64, JitSymbol>,
    /// Ranges in which functions of different names have lain, without overlap: by start, with their ends.
    reused: BTreeMap<u64, u64>,
    /// Bytes of the names in `by_start`.
    bytes: usize,
}

impl JitSymbols {
    /// The function at `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&JitSymbol> {
        let (_, symbol) = self.by_start.range(..=address).next_back()?;
        (address < symbol.end).then_some(symbol)
    }

    /// Whether functions of different names have lain at `address`: the map does not tell which one when.
    #[must_use]
    pub fn is_reused(&self, address: u64) -> bool {
        self.reused.range(..=address).next_back().is_some_and(|(_, end)| address < *end)
    }

    /// Whether there are such addresses.
    #[must_use]
    pub fn has_reused(&self) -> bool {
        !self.reused.is_empty()
    }

    /// Whether no more functions are kept: a map that is written anew again and again has no end of them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.by_start.len() + self.reused.len() >= MAX_SYMBOLS || self.bytes >= MAX_BYTES
    }

    /// Takes the text of a map in, as far as there is room for functions.
    pub fn extend(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            if self.is_full() {
                return;
            }
            self.insert(line);
        }
    }

    fn insert(&mut self, line: &[u8]) {
        let Self { by_start, reused, bytes } = self;
        let Some((start, symbol)) = entry(line) else { return };
        let before = by_start.range(..start).next_back().into_iter().chain(by_start.range(start..symbol.end));
        for (old_start, old) in before.filter(|(_, old)| old.end > start && old.name != symbol.name) {
            add_range(reused, start.max(*old_start), symbol.end.min(old.end));
        }
        // Cut what the new function's memory was before.
        if let Some((_, before)) = by_start.range_mut(..start).next_back()
            && before.end > start
        {
            let rest = (before.end > symbol.end).then(|| before.clone());
            before.end = start;
            if let Some(rest) = rest {
                *bytes += rest.name.len();
                by_start.insert(symbol.end, rest);
            }
        }
        let covered: Vec<u64> = by_start.range(start..symbol.end).map(|(&start, _)| start).collect();
        for old in covered {
            if let Some(old) = by_start.remove(&old)
                && old.end > symbol.end
            {
                by_start.insert(symbol.end, old);
            }
        }
        *bytes += symbol.name.len();
        by_start.insert(start, symbol);
    }
}

/// Adds addresses to ranges that do not touch each other.
fn add_range(ranges: &mut BTreeMap<u64, u64>, mut start: u64, mut end: u64) {
    while let Some((&known, &known_end)) =
        ranges.range(..=end).next_back().filter(|(_, known_end)| **known_end >= start)
    {
        (start, end) = (start.min(known), end.max(known_end));
        ranges.remove(&known);
    }
    ranges.insert(start, end);
}

fn entry(line: &[u8]) -> Option<(u64, JitSymbol)> {
    let line = String::from_utf8_lossy(line);
    let mut parts = line.splitn(3, ' ');
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let start = number(parts.next()?)?;
    let size = number(parts.next()?)?;
    let name = parts.next()?.trim();
    let name = &name[..name.floor_char_boundary(MAX_NAME)];
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then(|| (start, JitSymbol { end, name: Arc::from(name) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, addresses: &[u64]) -> Vec<String> {
        let mut symbols = JitSymbols::default();
        symbols.extend(text.as_bytes());
        let name = |&address| symbols.find(address).map_or_else(|| "-".to_owned(), |symbol| symbol.name.to_string());
        addresses.iter().map(name).collect()
    }

    #[test]
    fn a_function_covers_its_bytes_and_no_more() {
        let text = "1000 10 LazyCompile:*leak /srv/app.js:10:5\n1020 8 b\n";
        assert_eq!(
            names(text, &[0xfff, 0x1000, 0x100f, 0x1010, 0x1020, 0x1028]),
            ["-", "LazyCompile:*leak /srv/app.js:10:5", "LazyCompile:*leak /srv/app.js:10:5", "-", "b", "-"]
        );
    }

    #[test]
    fn what_is_compiled_later_takes_the_memory_over() {
        let text = "1000 100 old\n1040 20 new\n2000 10 x\n1ff0 100 y\n";
        assert_eq!(
            names(text, &[0x1000, 0x1040, 0x105f, 0x1060, 0x10ff, 0x2000, 0x20ef]),
            ["old", "new", "new", "old", "old", "y", "y"]
        );
    }

    #[test]
    fn addresses_of_functions_of_several_names_are_known() {
        let mut symbols = JitSymbols::default();
        symbols.extend(b"1000 100 a\n2000 100 b\n1000 100 a\n");
        assert!(!symbols.has_reused(), "the same once more");
        symbols.extend(b"10f0 20 c\n1ff0 11 d\n1080 10 e\n");
        let reused = [0x107f, 0x1080, 0x108f, 0x1090, 0x10ef, 0x10f0, 0x10ff, 0x1100, 0x1fff, 0x2000, 0x2001];
        let reused = reused.map(|address| symbols.is_reused(address));
        assert_eq!(reused, [false, true, true, false, false, true, true, false, false, true, false]);
        symbols.extend(b"1000 2000 f\n");
        assert!(symbols.is_reused(0x1000) && symbols.is_reused(0x20ff));
        assert!(!symbols.is_reused(0x1200) && symbols.has_reused());
    }

    #[test]
    fn lines_that_say_nothing_are_passed_over() {
        let text = "\n1000\n1000 10\n1000 0 empty\nxyz 10 bad\nffffffffffffffff 10 overflow\n0x2000 0x10 prefixed\n";
        assert_eq!(names(text, &[0x1000, 0x2000, u64::MAX]), ["-", "prefixed", "-"]);
    }

    #[test]
    fn no_more_functions_are_kept_than_there_is_room_for() {
        let mut symbols = JitSymbols::default();
        let line = |number: usize| format!("{:x} 8 f\n", 0x1000 + 16 * number);
        symbols.extend((0..2 * MAX_SYMBOLS).map(line).collect::<String>().as_bytes());
        assert!(symbols.is_full());
        assert_eq!(symbols.by_start.len(), MAX_SYMBOLS);
    }

    proptest::proptest! {
        /// An array with one cell per address, painted line by line, is what the map means.
        #[test]
        fn agrees_with_painting_an_array(entries in proptest::collection::vec((0u64..64, 1u64..32), 0..40)) {
            let (mut painted, mut reused) = ([None; 128], [false; 128]);
            let mut symbols = JitSymbols::default();
            for (index, (start, size)) in entries.iter().enumerate() {
                symbols.extend(format!("{start:x} {size:x} f{index}\n").as_bytes());
                for at in *start as usize..(start + size) as usize {
                    reused[at] |= painted[at].is_some();
                    painted[at] = Some(index);
                }
            }
            for (address, expected) in painted.iter().enumerate() {
                let found = symbols.find(address as u64).map(|symbol| symbol.name.to_string());
                proptest::prop_assert_eq!(found, expected.map(|index| format!("f{index}")));
                proptest::prop_assert_eq!(symbols.is_reused(address as u64), reused[address]);
            }
        }
    }
}
