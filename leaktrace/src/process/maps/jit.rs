//! What a just-in-time compiler says of its code: `/tmp/perf-PID.map`, as `perf` defines it
//! (tools/perf/Documentation/jit-interface.txt in the kernel's sources).
//!
//! One line per function, `START SIZE NAME` with hexadecimal numbers, appended as functions are compiled. The file is
//! held open from when the process is seen, so that it is readable after the process' end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{Budget, Permit, ProcessDir, Root, Stamp};

/// Read at most so much of one file, bytes: a traced process may write without end. Node's maps are some MiB.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// And so much in all, where it is written anew again and again.
const MAX_TOTAL: u64 = 4 * MAX_FILE;
/// Functions that are kept of one process. Node's has some hundred thousand.
const MAX_SYMBOLS: usize = if cfg!(test) { 1 << 15 } else { 1 << 20 };
/// Read so much at once, bytes.
const CHUNK: usize = 1024 * 1024;
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
    /// Addresses that functions of different names have had, which lie in this order and not over each other: by start, with
    /// their ends.
    reused: BTreeMap<u64, u64>,
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    file: File,
    stamp: Stamp,
    /// Read so far, bytes; always at a line's start.
    position: u64,
    /// How much was read of it in all, bytes: it may be written anew without end.
    total: u64,
    _permit: Permit,
}

impl JitSymbols {
    /// The function at `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&JitSymbol> {
        let (_, symbol) = self.by_start.range(..=address).next_back()?;
        (address < symbol.end).then_some(symbol)
    }

    /// Whether functions of different names have lain at `address`: when which did the map does not tell.
    #[must_use]
    pub fn is_reused(&self, address: u64) -> bool {
        self.reused.range(..=address).next_back().is_some_and(|(_, end)| address < *end)
    }

    /// Whether there are such addresses.
    #[must_use]
    pub fn has_reused(&self) -> bool {
        !self.reused.is_empty()
    }

    /// Opens the process' map if there is one, or a new one that took its place.
    pub(super) fn follow(&mut self, process: &ProcessDir, budget: &Arc<Budget>) -> io::Result<()> {
        let path = map_path(process)?;
        let file = match Root::of(process)?.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // As perf does it (`maps__load_map` and `dso__load_perf_map`): in /tmp anybody may write a file of that name.
        let (owner, user) = (file.metadata()?.uid(), process.user()?);
        if owner != 0 && owner != user {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, not to {user}"),
            ));
        }
        let stamp = Stamp::of(&file)?;
        if self.source.as_ref().is_some_and(|held| held.stamp.is_same_file(&stamp)) {
            return Ok(());
        }
        // What the old one said last is still true of what is in memory.
        self.refresh()?;
        let Some(permit) = budget.take() else {
            return Err(io::Error::other("no descriptor left to hold it"));
        };
        self.source = Some(Source { file, stamp, position: 0, total: 0, _permit: permit });
        Ok(())
    }

    /// Reads what was written since the last time.
    pub fn refresh(&mut self) -> io::Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        // Written anew from the start, as agents for Java do at each request.
        if source.file.metadata()?.len() < source.position {
            source.position = 0;
        }
        let mut chunk = Vec::new();
        let mut kept = 0;
        while source.position < MAX_FILE && source.total < MAX_TOTAL {
            if self.by_start.len() + self.reused.len() >= MAX_SYMBOLS {
                break;
            }
            chunk.resize(kept + CHUNK, 0);
            let read = source.file.read_at(&mut chunk[kept..], source.position + kept as u64)?;
            chunk.truncate(kept + read);
            // An unfinished line is left for the next time, unless it is longer than any line is.
            let whole = match chunk.iter().rposition(|&byte| byte == b'\n') {
                Some(newline) => newline + 1,
                None if chunk.len() > CHUNK => chunk.len(),
                None => 0,
            };
            for line in chunk[..whole].split(|&byte| byte == b'\n') {
                insert(&mut self.by_start, &mut self.reused, line);
            }
            source.position += whole as u64;
            source.total += whole as u64;
            chunk.drain(..whole);
            kept = chunk.len();
            if read == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes the text of a map in.
    pub fn extend(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            insert(&mut self.by_start, &mut self.reused, line);
        }
    }
}

/// The compiler names its map after the pid that it sees itself.
fn map_path(process: &ProcessDir) -> io::Result<PathBuf> {
    let mut status = Vec::new();
    process.read("status", &mut status)?;
    let pid = String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last()?.parse::<u32>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no NSpid in status"))?;
    Ok(PathBuf::from(format!("/tmp/perf-{pid}.map")))
}

fn insert(by_start: &mut BTreeMap<u64, JitSymbol>, reused: &mut BTreeMap<u64, u64>, line: &[u8]) {
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
    by_start.insert(start, symbol);
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
    fn what_is_appended_or_written_anew_is_read_and_an_unfinished_line_waits() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        std::fs::write(&path, "1000 10 first\n1010 10 half").expect("written");
        let file = File::open(&path).expect("open");
        let (stamp, permit) = (Stamp::of(&file).expect("stamp"), Budget::new(1).take().expect("one"));
        let source = Some(Source { file, stamp, position: 0, total: 0, _permit: permit });
        let mut symbols = JitSymbols { source, ..JitSymbols::default() };
        let mut after = |text: &str| {
            std::fs::write(&path, text).expect("written");
            symbols.refresh().expect("read");
            [0x1000, 0x1010].map(|address| symbols.find(address).map(|symbol| symbol.name.to_string()))
        };
        let name = |text: &str| Some(text.to_owned());
        assert_eq!(after("1000 10 first\n1010 10 half"), [name("first"), None]);
        assert_eq!(after("1000 10 first\n1010 10 halfway\n"), [name("first"), name("halfway")]);
        assert_eq!(after("1000 20 anew\n"), [name("anew"), name("anew")]);
    }

    #[test]
    fn a_map_that_is_written_anew_without_end_is_not_read_without_end() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        std::fs::write(&path, "1000 10 first\n1010 10 another\n").expect("written");
        let file = File::open(&path).expect("open");
        let (stamp, permit) = (Stamp::of(&file).expect("stamp"), Budget::new(1).take().expect("one"));
        let source = Some(Source { file, stamp, position: 0, total: MAX_TOTAL - 20, _permit: permit });
        let mut symbols = JitSymbols { source, ..JitSymbols::default() };
        symbols.refresh().expect("read");
        assert!(symbols.find(0x1000).is_some());
        std::fs::write(&path, "5000 10 anew\n").expect("written");
        symbols.refresh().expect("read");
        assert_eq!(symbols.find(0x5000), None);
    }

    #[test]
    fn no_more_functions_are_kept_than_there_is_room_for() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        let line = |number: usize| format!("{:x} 8 f\n", 0x1000 + 16 * number);
        std::fs::write(&path, (0..8 * MAX_SYMBOLS).map(line).collect::<String>()).expect("written");
        let file = File::open(&path).expect("open");
        let (stamp, permit) = (Stamp::of(&file).expect("stamp"), Budget::new(1).take().expect("one"));
        let source = Some(Source { file, stamp, position: 0, total: 0, _permit: permit });
        let mut symbols = JitSymbols { source, ..JitSymbols::default() };
        symbols.refresh().expect("read");
        // And those of the chunk with which that is exceeded, whose lines are ten bytes and more.
        let kept = symbols.by_start.len();
        assert!((MAX_SYMBOLS..MAX_SYMBOLS + CHUNK / 10).contains(&kept), "{kept}");
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
