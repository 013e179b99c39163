//! The text of `/proc/PID/maps`, as `proc_pid_maps(5)` and the kernel's `show_map_vma` (`fs/proc/task_mmu.c`) define it.
//!
//! Pure: bytes in, mappings out. A line that does not fit is reported by itself and never stops the rest, because a
//! process chooses its file names.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::model::Address;

/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";
/// How memory files made by `memfd_create(2)` show; always followed by [`DELETED`].
const MEMFD: &[u8] = b"/memfd:";

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// First address.
    pub start: Address,
    /// One past the last address.
    pub end: Address,
    /// Access rights.
    pub permissions: Permissions,
    /// Offset in the file, bytes, of what is mapped at `start`.
    pub offset: u64,
    /// Device that holds the file; 0:0 where there is none.
    pub device: Device,
    /// Inode on that device; 0 where there is none.
    pub inode: u64,
    /// What is mapped.
    pub name: MappingName<'a>,
}

/// Access rights of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent letters, as the kernel prints them")]
pub struct Permissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s` rather than `p`
    pub shared: bool,
}

/// A device number as `/proc/PID/maps` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What a mapping shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingName<'a> {
    /// Memory without a file and without a name.
    Anonymous,
    /// A file.
    File {
        /// Its path in the process' mount namespace.
        path: Cow<'a, Path>,
        /// Whether the kernel marked it as having lost its name. A file whose name ends in ` (deleted)` looks the same.
        deleted: bool,
    },
    /// A memory file; the name given to `memfd_create(2)`.
    Memfd(Cow<'a, OsStr>),
    /// The kernel's system call page, `[vdso]`.
    Vdso,
    /// Any other name of the kernel's: `[heap]`, `[stack]`, `[uprobes]`, `[anon:NAME]`, `anon_inode:[perf_event]`, …
    Kernel(Cow<'a, OsStr>),
}

impl Mapping<'_> {
    /// The same without what it was read from.
    #[must_use]
    pub fn to_owned(&self) -> Mapping<'static> {
        let name = match &self.name {
            MappingName::Anonymous => MappingName::Anonymous,
            MappingName::File { path, deleted } => {
                MappingName::File { path: Cow::Owned(path.to_path_buf()), deleted: *deleted }
            }
            MappingName::Memfd(name) => MappingName::Memfd(Cow::Owned(name.to_os_string())),
            MappingName::Vdso => MappingName::Vdso,
            MappingName::Kernel(name) => MappingName::Kernel(Cow::Owned(name.to_os_string())),
        };
        Mapping { name, ..*self }
    }
}

impl MappingName<'_> {
    /// The name to show people: the path as the process sees it, `/memfd:NAME`, or the kernel's name.
    #[must_use]
    pub fn display(&self) -> Cow<'_, Path> {
        match self {
            Self::Anonymous => Cow::Borrowed(Path::new("[anon]")),
            Self::File { path, .. } => Cow::Borrowed(path),
            Self::Memfd(name) => Cow::Owned(PathBuf::from(OsStr::from_bytes(&[MEMFD, name.as_bytes()].concat()))),
            Self::Vdso => Cow::Borrowed(Path::new("[vdso]")),
            Self::Kernel(name) => Cow::Borrowed(Path::new(name)),
        }
    }

    /// Whether a file or memory file stands behind the mapping, so that it can be opened.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Memfd(_))
    }
}

/// A line that is no mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a mapping: {0:?}")]
pub struct Malformed(pub String);

/// Reads every line of `text`.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Result<Mapping<'_>, Malformed>> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| mapping(line).ok_or_else(|| Malformed(String::from_utf8_lossy(line).into_owned())))
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE [padding NAME]`, numbers but the inode in hexadecimal.
fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let (range, rest) = field(line)?;
    let (permissions, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (device, rest) = field(rest)?;
    let (inode, rest) = field(rest)?;

    let (start, end) = split_once(range, b'-')?;
    let (major, minor) = split_once(device, b':')?;
    let (start, end) = (number(start, 16)?, number(end, 16)?);
    if start >= end {
        return None;
    }
    Some(Mapping {
        start: Address(start),
        end: Address(end),
        permissions: rights(permissions)?,
        offset: number(offset, 16)?,
        device: Device {
            major: u32::try_from(number(major, 16)?).ok()?,
            minor: u32::try_from(number(minor, 16)?).ok()?,
        },
        inode: number(inode, 10)?,
        name: name(rest),
    })
}

/// The next word, and what follows the single space after it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (!word.is_empty()).then(|| (word, rest.get(1..).unwrap_or_default()))
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Digits only: `from_str_radix` would take a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.first().is_none_or(|first| !first.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

fn rights(letters: &[u8]) -> Option<Permissions> {
    let &[read, write, execute, shared] = letters else { return None };
    let flag = |letter, set| match letter {
        _ if letter == set => Some(true),
        b'-' => Some(false),
        _ => None,
    };
    Some(Permissions {
        read: flag(read, b'r')?,
        write: flag(write, b'w')?,
        execute: flag(execute, b'x')?,
        shared: match shared {
            b's' => true,
            b'p' => false,
            _ => return None,
        },
    })
}

/// What follows the inode: padding to a fixed column, then the name. No name of the kernel's starts with a space.
fn name(rest: &[u8]) -> MappingName<'_> {
    let start = rest.iter().position(|&byte| byte != b' ').unwrap_or(rest.len());
    let raw = &rest[start..];
    match raw {
        b"" => return MappingName::Anonymous,
        b"[vdso]" => return MappingName::Vdso,
        _ => {}
    }
    if let Some(name) = raw.strip_prefix(MEMFD).and_then(|name| name.strip_suffix(DELETED)) {
        return MappingName::Memfd(unescape(name));
    }
    if raw.first() != Some(&b'/') {
        return MappingName::Kernel(unescape(raw));
    }
    let (path, deleted) = match raw.strip_suffix(DELETED) {
        Some(path) => (path, true),
        None => (raw, false),
    };
    let path = match unescape(path) {
        Cow::Borrowed(path) => Cow::Borrowed(Path::new(path)),
        Cow::Owned(path) => Cow::Owned(PathBuf::from(path)),
    };
    MappingName::File { path, deleted }
}

/// The kernel writes a newline in a name as `\012` and escapes nothing else, not even the backslash, so a name that holds
/// these four characters cannot be told apart.
fn unescape(raw: &[u8]) -> Cow<'_, OsStr> {
    const NEWLINE: &[u8] = br"\012";
    if !raw.windows(NEWLINE.len()).any(|window| window == NEWLINE) {
        return Cow::Borrowed(OsStr::from_bytes(raw));
    }
    let mut name = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(NEWLINE) {
            name.push(b'\n');
            rest = tail;
        } else {
            name.push(byte);
            rest = tail;
        }
    }
    Cow::Owned(std::ffi::OsString::from_vec(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Mapping<'_> {
        let mut all = parse(line.as_bytes());
        let mapping = all.next().expect("one line").expect("well-formed");
        assert_eq!(all.next(), None);
        mapping
    }

    fn file(path: &str, deleted: bool) -> MappingName<'_> {
        MappingName::File { path: Cow::Borrowed(Path::new(path)), deleted }
    }

    #[test]
    fn reads_every_field_of_a_mapped_file() {
        let line = "7f5d2c428000-7f5d2c57d000 r-xp 00028000 fd:01 1835410                    /usr/lib/x86_64-linux-gnu/libc.so.6";
        assert_eq!(
            one(line),
            Mapping {
                start: Address(0x7f5d_2c42_8000),
                end: Address(0x7f5d_2c57_d000),
                permissions: Permissions { read: true, write: false, execute: true, shared: false },
                offset: 0x28000,
                device: Device { major: 0xfd, minor: 1 },
                inode: 1_835_410,
                name: file("/usr/lib/x86_64-linux-gnu/libc.so.6", false),
            }
        );
    }

    #[test]
    fn a_path_keeps_its_spaces_and_gets_its_newlines_back() {
        let name = one(r"400000-401000 r-xp 00000000 00:2a 7        /tmp/a b\012c  d").name;
        assert_eq!(name, file("/tmp/a b\nc  d", false));
    }

    #[test]
    fn a_backslash_is_no_escape_by_itself() {
        let name = one(r"400000-401000 r-xp 00000000 00:2a 7        /tmp/a\b\01\\n").name;
        assert_eq!(name, file(r"/tmp/a\b\01\\n", false));
    }

    #[test]
    fn a_trailing_space_belongs_to_the_path() {
        assert_eq!(one("400000-401000 r-xp 00000000 00:2a 7        /tmp/a ").name, file("/tmp/a ", false));
    }

    #[test]
    fn a_deleted_file_keeps_its_path() {
        let name = one("400000-401000 r-xp 00000000 00:2a 7        /tmp/my app (deleted)").name;
        assert_eq!(name, file("/tmp/my app", true));
        assert_eq!(name.display(), Path::new("/tmp/my app"));
    }

    #[test]
    fn a_path_need_not_be_utf8() {
        let line = b"400000-401000 r-xp 00000000 00:2a 7        /tmp/\xff\xfe";
        let mapping = parse(line).next().expect("one line").expect("well-formed");
        assert_eq!(mapping.name.display().as_os_str().as_bytes(), b"/tmp/\xff\xfe");
    }

    #[test]
    fn memory_files_have_their_own_kind() {
        let name = one("7f0000000000-7f0000001000 r-xs 00000000 00:01 1041       /memfd:doublemapper (deleted)").name;
        assert_eq!(name, MappingName::Memfd(Cow::Borrowed(OsStr::new("doublemapper"))));
        assert_eq!(name.display(), Path::new("/memfd:doublemapper"));
        assert!(name.is_file());
    }

    #[test]
    fn names_of_the_kernel_are_no_files() {
        for kernel in
            ["[heap]", "[stack]", "[vvar]", "[vsyscall]", "[anon:dalvik-main space]", "anon_inode:[perf_event]"]
        {
            let line = format!("7f0000000000-7f0000001000 rw-p 00000000 00:00 0       {kernel}");
            let name = one(&line).name;
            assert_eq!(name, MappingName::Kernel(Cow::Borrowed(OsStr::new(kernel))));
            assert!(!name.is_file());
        }
        assert_eq!(one("7ffc0000-7ffc2000 r-xp 00000000 00:00 0          [vdso]").name, MappingName::Vdso);
    }

    #[test]
    fn memory_without_a_name_is_anonymous_with_and_without_the_trailing_space() {
        for line in ["10000-20000 rwxp 00000000 00:00 0 ", "10000-20000 rwxp 00000000 00:00 0"] {
            assert_eq!(one(line).name, MappingName::Anonymous);
        }
    }

    #[test]
    fn the_highest_address_and_offset_fit() {
        let mapping = one("ffffffffff600000-ffffffffff601000 --xp ffffffffffff000 00:00 0                  [vsyscall]");
        assert_eq!(mapping.end, Address(0xffff_ffff_ff60_1000));
        assert_eq!(mapping.offset, 0xfff_ffff_ffff_f000);
        assert_eq!(mapping.permissions, Permissions { read: false, write: false, execute: true, shared: false });
    }

    #[test]
    fn a_broken_line_is_reported_alone() {
        let text = b"10000-20000 r-xp 00000000 00:00 0 /a\n\
            nonsense\n\
            20000-10000 r-xp 00000000 00:00 0 /reversed\n\
            +1-2 r-xp 0 0:0 0 /sign\n\
            1-2 r?xp 0 0:0 0 /rights\n\
            1-2 r-xp 0 0 0 /device\n\
            1-2 r-xp 0\n\
            1-10000000000000000 r-xp 0 0:0 0 /overflow\n\
            30000-40000 r-xp 00000000 00:00 0 /b\n";
        let (good, bad): (Vec<_>, Vec<_>) = parse(text).partition(Result::is_ok);
        assert_eq!(good.len(), 2);
        assert_eq!(bad.len(), 7);
        assert_eq!(bad[0], Err(Malformed("nonsense".to_owned())));
    }

    #[test]
    fn this_process_reads_whole() {
        let text = std::fs::read("/proc/self/maps").expect("own maps");
        let all: Vec<_> = parse(&text).collect::<Result<_, _>>().expect("every line of the kernel's is well-formed");
        assert_eq!(all.len(), String::from_utf8_lossy(&text).lines().count());
        let here = this_process_reads_whole as fn() as usize as u64;
        let own =
            all.iter().find(|mapping| mapping.start.0 <= here && here < mapping.end.0).expect("own text is mapped");
        assert!(own.permissions.execute);
        assert_eq!(own.name.display(), std::env::current_exe().expect("own path"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            for mapping in parse(&bytes).flatten() {
                proptest::prop_assert!(mapping.start < mapping.end);
            }
        }

        #[test]
        fn what_the_kernel_prints_reads_back(
            start in 0u64..u64::MAX / 2, length in 1u64..1 << 40, offset: u64, major: u32, minor: u32, inode: u64,
            path in "/[^\n\0\\\\]{0,40}",
        ) {
            let end = start + length;
            let line = format!("{start:08x}-{end:08x} r-xp {offset:08x} {major:02x}:{minor:02x} {inode} {path:>40}\n");
            let all: Vec<_> = parse(line.as_bytes()).collect();
            proptest::prop_assert_eq!(all.len(), 1);
            let mapping = all[0].as_ref().map_err(|error| proptest::test_runner::TestCaseError::fail(error.to_string()))?;
            proptest::prop_assert_eq!((mapping.start.0, mapping.end.0, mapping.offset), (start, end, offset));
            proptest::prop_assert_eq!((mapping.device.major, mapping.device.minor, mapping.inode), (major, minor, inode));
            let shown = path.strip_suffix(" (deleted)").unwrap_or(&path);
            let name = mapping.name.display();
            proptest::prop_assert_eq!(name.as_os_str().as_bytes(), shown.as_bytes());
        }
    }
}
