//! Debug information that distributions keep apart from the program: found by build id or by debug link, as gdb does
//! ("Debugging Information in Separate Files" in its manual), or packed into the program as `.gnu_debugdata`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf::Elf;
use crate::process::maps::{Object, Root};

/// Unpacked, bytes: the symbol table of the largest programs is some tens of MiB.
const MAX_MINI: u64 = 256 * 1024 * 1024;
/// What unpacking may take, KiB: `xz -9` needs 65 MiB.
const MAX_MINI_MEMORY: u32 = 128 * 1024;

/// A separate debug file.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub(super) path: PathBuf,
    /// Whether this system's administrator installed the file; otherwise it came with the program.
    pub(super) installed: bool,
    pub(super) file: Arc<File>,
    pub(super) elf: Elf,
}

/// Looks for an object's debug file in `directories` (such as `/usr/lib/debug`) and beside the object, in the root of the
/// process that mapped it and then in our own. Files that exist but belong to another build are returned separately.
pub(super) fn find(
    object: &Object,
    elf: &Elf,
    own: &Root,
    directories: &[PathBuf],
) -> (Option<DebugFile>, Vec<PathBuf>) {
    let mut foreign = Vec::new();
    let link = elf.named_data(".gnu_debuglink").and_then(|section| DebugLink::parse(&section));
    let mut candidates = Vec::new();
    if let Some(id) = object.build_id() {
        candidates.extend(by_build_id(id, directories).map(|path| (path, None)));
    }
    if let Some(link) = &link {
        candidates.extend(by_link(&link.name, object.path(), directories).map(|path| (path, Some(link.crc))));
    }
    for (root, ours) in object.root().map(|root| (root, false)).into_iter().chain([(own, true)]) {
        for (path, crc) in &candidates {
            let Ok(file) = root.open(path) else { continue };
            let file = Arc::new(file);
            match check(object, &file, *crc) {
                Ok(elf) => {
                    let installed = ours && directories.iter().any(|directory| path.starts_with(directory));
                    return (Some(DebugFile { path: path.clone(), installed, file, elf }), foreign);
                }
                Err(_) => foreign.push(path.clone()),
            }
        }
    }
    (None, foreign)
}

/// The file that a debuginfod server gave for an object, if it belongs to the object's build.
pub(super) fn fetched(object: &Object, file: &Arc<File>) -> Option<DebugFile> {
    let elf = check(object, file, None).ok()?;
    Some(DebugFile { path: PathBuf::from("(debuginfod)"), installed: false, file: Arc::clone(file), elf })
}

/// Whether a file has an object's build id.
pub(super) fn belongs(object: &Object, file: &Arc<File>) -> bool {
    check(object, file, None).is_ok()
}

/// `.build-id/ab/cdef….debug` under each directory.
fn by_build_id<'a>(id: &[u8], directories: &'a [PathBuf]) -> impl Iterator<Item = PathBuf> + use<'a> {
    let hex = id.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let name = hex.split_at_checked(2).filter(|(_, rest)| !rest.is_empty());
    let name = name.map(|(first, rest)| format!(".build-id/{first}/{rest}.debug"));
    directories.iter().filter_map(move |directory| Some(directory.join(name.as_ref()?)))
}

/// Beside the object, in `.debug` beside it, and under each directory at the object's place, with and without the `/usr`
/// that distributions merged into `/`.
fn by_link(name: &Path, object: &Path, directories: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let beside = object.parent().filter(|parent| parent.is_absolute());
    let mut paths = Vec::new();
    if let Some(beside) = beside {
        paths.push(beside.join(name));
        paths.push(beside.join(".debug").join(name));
        for directory in directories {
            let place = beside.strip_prefix("/").unwrap_or(beside);
            paths.push(directory.join(place).join(name));
            paths.extend(place.strip_prefix("usr").ok().map(|place| directory.join(place).join(name)));
        }
    }
    paths.into_iter()
}

/// A debug file belongs to an object if their build ids are equal or, if one of them has no build id, if it has the checksum
/// that the object's debug link records.
fn check(object: &Object, file: &Arc<File>, crc: Option<u32>) -> io::Result<Elf> {
    let foreign = || io::Error::new(io::ErrorKind::InvalidData, "belongs to another build");
    let (status, mapped) = (file.metadata()?, object.open()?.metadata()?);
    if (status.dev(), status.ino()) == (mapped.dev(), mapped.ino()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is the object itself"));
    }
    let elf = Elf::read(Arc::clone(file))?;
    let id = elf.build_id();
    let belongs = match (object.build_id(), id, crc) {
        (Some(own), Some(other), _) => own == other,
        (_, _, Some(crc)) => elf.crc32()? == crc,
        _ => false,
    };
    if belongs { Ok(elf) } else { Err(foreign()) }
}

/// `.gnu_debuglink`: a file name, zero, padding to four bytes, CRC-32 of that file.
#[derive(Debug, PartialEq, Eq)]
struct DebugLink {
    name: PathBuf,
    crc: u32,
}

impl DebugLink {
    fn parse(section: &[u8]) -> Option<Self> {
        let end = section.iter().position(|&byte| byte == 0)?;
        let name = Path::new(str::from_utf8(&section[..end]).ok()?);
        // Only a plain file name: a path could lead anywhere.
        if name.file_name() != Some(name.as_os_str()) {
            return None;
        }
        let crc = section.get((end + 1).next_multiple_of(4)..)?.first_chunk()?;
        Some(Self { name: name.to_path_buf(), crc: u32::from_le_bytes(*crc) })
    }
}

/// The symbol table that some distributions pack into stripped programs.
pub(super) fn mini(elf: &Elf) -> io::Result<Option<Elf>> {
    let Some(packed) = elf.named_data(".gnu_debugdata") else { return Ok(None) };
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new_mem_limit(packed.as_slice(), true, MAX_MINI_MEMORY)
        .take(MAX_MINI)
        .read_to_end(&mut unpacked)?;
    Elf::parse(unpacked).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_link_is_a_plain_name_and_a_checksum() {
        let link = |section: &[u8]| DebugLink::parse(section);
        let expected = |name: &str| Some(DebugLink { name: name.into(), crc: 0xa6d4_c469 });
        assert_eq!(link(b"program.debug\0\0\0\x69\xc4\xd4\xa6"), expected("program.debug"));
        assert_eq!(link(b"abc\0\x69\xc4\xd4\xa6"), expected("abc"));
        for bad in
            [&b""[..], b"\0\0\0\0\0\0\0\0", b"name", b"name\0\0\0\0abc", b"../x\0\0\0\0\0\0\0", b"..\0\0\0\0\0\0"]
        {
            assert_eq!(link(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_debug_link_is_looked_for_where_gdb_does() {
        let directories = [PathBuf::from("/usr/lib/debug")];
        let paths: Vec<_> = by_link(Path::new("b.debug"), Path::new("/usr/bin/b"), &directories).collect();
        assert_eq!(
            paths,
            [
                "/usr/bin/b.debug",
                "/usr/bin/.debug/b.debug",
                "/usr/lib/debug/usr/bin/b.debug",
                "/usr/lib/debug/bin/b.debug",
            ]
            .map(PathBuf::from)
        );
        assert_eq!(by_link(Path::new("b.debug"), Path::new("[vdso]"), &directories).count(), 0);
    }

    #[test]
    fn a_build_id_is_a_directory_and_a_name() {
        let directories = [PathBuf::from("/usr/lib/debug")];
        let paths: Vec<_> = by_build_id(&[0xab, 0x0c, 0xde], &directories).collect();
        assert_eq!(paths, [PathBuf::from("/usr/lib/debug/.build-id/ab/0cde.debug")]);
        assert_eq!(by_build_id(&[0xab], &directories).count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = DebugLink::parse(&bytes);
        }
    }
}
