//! What just-in-time compilers write: `/tmp/perf-PID.map`.

use leaktrace::process::maps::JitSymbols;

pub const WORDS: &[&str] =
    &["0x", "\n", " ", "\r", "0", "ffffffffffffffff", "7fffffffffffffff", "LazyCompile:*f /a.js:1:1", "\u{1b}", "é"];
/// At so many places the answer is compared, at most.
const MOST_PLACES: usize = 256;

pub fn run(input: &[u8]) {
    let mut symbols = JitSymbols::default();
    symbols.extend(input);
    // By lines, as they are read from a file that grows.
    let mut by_lines = JitSymbols::default();
    input.split_inclusive(|&byte| byte == b'\n').for_each(|line| by_lines.extend(line));

    let entries: Vec<_> = input.split(|&byte| byte == b'\n').filter_map(entry).collect();
    let bounds = entries.iter().flat_map(|(start, end, _)| [start.wrapping_sub(1), *start, end - 1, *end]);
    for address in bounds.take(MOST_PLACES) {
        let found = symbols.find(address);
        assert_eq!(found, by_lines.find(address), "at {address:#x}");
        // What was written last holds.
        let expected = entries.iter().rfind(|(start, end, _)| *start <= address && address < *end);
        assert_eq!(found.map(|it| it.name.to_string()), expected.map(|it| it.2.clone()), "at {address:#x}");
        assert!(found.is_none_or(|it| address < it.end && it.name.len() <= 4096));
    }
}

/// Start, end and name, by the words of a line.
fn entry(line: &[u8]) -> Option<(u64, u64, String)> {
    let line = String::from_utf8_lossy(line);
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (start, size) = (number(start)?, number(size)?);
    let name = name.trim();
    let mut cut = name.len().min(4096);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then(|| (start, end, name[..cut].to_owned()))
}
