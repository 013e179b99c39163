//! The text of `/proc/PID/maps`, and the address space that is made of it.

use leaktrace::model::{Address, Pid};
use leaktrace::process::maps::{AddressSpace, Mapping, MappingName, ObjectStore, parse};
use std::os::unix::ffi::OsStrExt as _;

pub const WORDS: &[&str] = &[
    "[heap]",
    "[vdso]",
    "[anon:x]",
    "/memfd:jit (deleted)",
    " (deleted)",
    "\\012",
    "\\",
    "//anon",
    "anon_inode:[perf_event]",
    "\n",
    " ",
    "-",
    ":",
    "r-xp",
    "--xs",
    "ffffffffffffffff",
    "\u{1b}[2J",
    "\u{202e}",
    "/proc/self/exe",
];
/// No process has this pid: the kernel's are at most 2^22.
const NOBODY: Pid = Pid(u32::MAX);

pub fn run(input: &[u8]) {
    let mut lines = 0;
    let mut noted = Vec::new();
    for line in parse(input) {
        lines += 1;
        let Ok(mapping) = line else { continue };
        assert!(mapping.start < mapping.end);
        reads_back(&mapping);
        noted.push(mapping);
    }
    assert_eq!(lines, input.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count());
    // The kernel shows no process its own vdso's content but by reading that process, which is this one here.
    noted.retain(|mapping| mapping.name != MappingName::Vdso);
    space(&noted);
}

/// What the kernel would print of this mapping is read as the same.
fn reads_back(mapping: &Mapping<'_>) {
    let (permissions, device) = (mapping.permissions, mapping.device);
    let letter = |set, letter| if set { letter } else { '-' };
    let mut line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        mapping.start.0,
        mapping.end.0,
        letter(permissions.read, 'r'),
        letter(permissions.write, 'w'),
        letter(permissions.execute, 'x'),
        if permissions.shared { 's' } else { 'p' },
        mapping.offset,
        device.major,
        device.minor,
        mapping.inode
    )
    .into_bytes();
    if mapping.name != MappingName::Anonymous {
        line.extend([b' '; 20]);
        for &byte in mapping.name.display().as_os_str().as_bytes() {
            if byte == b'\n' { line.extend(b"\\012") } else { line.push(byte) }
        }
        if matches!(mapping.name, MappingName::Memfd(_) | MappingName::File { deleted: true, .. }) {
            line.extend(b" (deleted)");
        }
    }
    let mut again = parse(&line);
    assert_eq!(again.next().as_ref(), Some(&Ok(mapping.clone())), "{:?}", String::from_utf8_lossy(&line));
    assert_eq!(again.next(), None);
}

/// Each address is in the mapping that was noted last of those that hold it.
fn space(noted: &[Mapping<'_>]) {
    let store = ObjectStore::with_limit(0);
    let mut space = AddressSpace::empty(NOBODY);
    let code: Vec<_> = noted.iter().filter(|mapping| mapping.permissions.execute).collect();
    for (time_ns, mapping) in (1..).zip(&code) {
        space.note(mapping, time_ns, &store);
    }
    let all: Vec<_> = space.mappings().map(|known| (known.start, known.end)).collect();
    assert!(all.iter().all(|(start, end)| start < end) && all.is_sorted_by(|a, b| a.1 <= b.0), "they overlap: {all:?}");
    let probes = code
        .iter()
        .flat_map(|mapping| [mapping.start.0.wrapping_sub(1), mapping.start.0, mapping.end.0 - 1, mapping.end.0]);
    for address in probes {
        let expected = code.iter().rfind(|mapping| mapping.start.0 <= address && address < mapping.end.0);
        let found = space.locate(Address(address));
        assert_eq!(found.is_some(), expected.is_some(), "at {address:#x}");
        if let (Some(found), Some(expected)) = (found, expected) {
            assert_eq!(**found.module, *expected.name.display(), "at {address:#x}");
            let offset = expected.offset.wrapping_add(address - expected.start.0);
            assert_eq!(found.offset, offset, "at {address:#x}");
        }
    }
}
