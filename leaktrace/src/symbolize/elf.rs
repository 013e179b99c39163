//! The sections of an ELF file, read by offset.
//!
//! Files of traced processes are read with `pread(2)` and never mapped here: whoever shortens a mapped file kills its
//! reader. What a header claims is believed as far as the file reaches, and what takes longer the more headers point at the
//! same bytes is bounded. Only 64-bit little-endian programs and libraries, the only kind whose processes are traced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use object::elf::{ET_DYN, ET_EXEC, FileHeader64, SHF_COMPRESSED, SHF_EXECINSTR, SHT_NOBITS, SectionHeader64};
use object::read::elf::{FileHeader, SectionHeader};
use object::{LittleEndian, pod};

/// A linked program has some forty sections; what the file header can count is the most that is read.
const MAX_SECTIONS: u64 = 0xffff;

/// The most that is read of one section, bytes: a file may claim terabytes of holes.
const MAX_READ: u64 = 1 << 30;
/// The longest file whose checksum is taken, bytes.
const MAX_SUMMED: u64 = 4 << 30;

/// An ELF file's section table and access to what it lists.
#[derive(Debug)]
pub(super) struct Elf {
    bytes: Bytes,
    sections: Vec<Section>,
}

#[derive(Debug)]
enum Bytes {
    File { file: Arc<File>, size: u64 },
    Memory(Vec<u8>),
}

/// A section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) address: u64,
    pub(super) size: u64,
    /// Index of the section that this one refers to: the strings of a symbol table, the symbols of a relocation table.
    pub(super) link: usize,
    /// Bytes per entry, 0 where it has none.
    pub(super) entry_size: u64,
    /// Whether it holds code.
    pub(super) code: bool,
    /// Whether its bytes are packed, after a header that says how.
    pub(super) compressed: bool,
    offset: u64,
    /// Takes no room in the file, as all of a debug file's code does.
    absent: bool,
}

impl Elf {
    pub(super) fn read(file: Arc<File>) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Self::new(Bytes::File { file, size })
    }

    pub(super) fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        Self::new(Bytes::Memory(bytes))
    }

    fn new(bytes: Bytes) -> io::Result<Self> {
        let sections = sections(&bytes)?;
        Ok(Self { bytes, sections })
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether it carries DWARF of its own.
    pub(super) fn has_debug_info(&self) -> bool {
        self.section(".debug_info").is_some_and(|section| !section.absent)
    }

    /// A section's bytes, as they lie in the file; none where it takes no room there.
    pub(super) fn data(&self, section: &Section) -> io::Result<Vec<u8>> {
        if section.absent { Ok(Vec::new()) } else { self.bytes.read(section.offset, section.size) }
    }

    /// The first bytes of a section.
    pub(super) fn start(&self, section: &Section, length: u64) -> io::Result<Vec<u8>> {
        self.bytes.read(section.offset, length.min(section.size))
    }

    /// The bytes of the section of that name, if there is one that can be read.
    pub(super) fn named_data(&self, name: &str) -> Option<Vec<u8>> {
        self.section(name).and_then(|section| self.data(section).ok()).filter(|data| !data.is_empty())
    }

    /// CRC-32 of the whole file, as a debug link records it.
    pub(super) fn crc32(&self) -> io::Result<u32> {
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(crc32fast::hash(bytes)),
            Bytes::File { size, .. } if *size > MAX_SUMMED => Err(io::Error::other("it is longer than 4 GiB")),
            Bytes::File { file, size } => {
                let mut hasher = crc32fast::Hasher::new();
                let mut chunk = vec![0; 1024 * 1024];
                let mut position = 0;
                // No further than it reached when it was opened: it may grow as fast as it is read.
                while position < *size {
                    let wanted = chunk.len().min((*size - position) as usize);
                    let read = file.read_at(&mut chunk[..wanted], position)?;
                    if read == 0 {
                        break;
                    }
                    hasher.update(&chunk[..read]);
                    position += read as u64;
                }
                Ok(hasher.finalize())
            }
        }
    }
}

impl Bytes {
    /// Errors rather than allocates when a header claims more than the file holds.
    fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its headers say");
        let end = offset.checked_add(length).ok_or_else(short)?;
        if length > MAX_READ {
            return Err(io::Error::other("one of its sections is longer than 1 GiB"));
        }
        match self {
            Self::File { file, size } => {
                if end > *size {
                    return Err(short());
                }
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            }
            Self::Memory(bytes) => bytes.get(offset as usize..end as usize).map(<[u8]>::to_vec).ok_or_else(short),
        }
    }
}

fn sections(bytes: &Bytes) -> io::Result<Vec<Section>> {
    type Header = FileHeader64<LittleEndian>;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a 64-bit little-endian ELF file");
    let start = bytes.read(0, size_of::<Header>() as u64).map_err(|_| invalid())?;
    let header = Header::parse(start.as_slice()).map_err(|_| invalid())?;
    let endian = header.endian().map_err(|_| invalid())?;
    if ![ET_EXEC, ET_DYN].contains(&header.e_type(endian)) {
        return Err(invalid());
    }
    let offset = header.e_shoff(endian);
    if offset == 0 {
        return Ok(Vec::new());
    }

    let entry = size_of::<SectionHeader64<LittleEndian>>() as u64;
    let first = bytes.read(offset, entry)?;
    let (first, _) = pod::from_bytes::<SectionHeader64<LittleEndian>>(&first).map_err(|()| invalid())?;
    // Where the counts do not fit the file header, the first section has them.
    let count = match header.e_shnum(endian) {
        0 => first.sh_size(endian),
        count => count.into(),
    };
    if count > MAX_SECTIONS {
        return Err(invalid());
    }
    let names = match u32::from(header.e_shstrndx(endian).0) {
        0xffff => first.sh_link(endian),
        index => index,
    };
    let table = bytes.read(offset, count.saturating_mul(entry))?;
    let (headers, _) =
        pod::slice_from_bytes::<SectionHeader64<LittleEndian>>(&table, count as usize).map_err(|()| invalid())?;
    let names = headers
        .get(names as usize)
        .and_then(|names| bytes.read(names.sh_offset(endian), names.sh_size(endian)).ok())
        .unwrap_or_default();
    let mut names = Strings::new(&names);
    let section = |header: &SectionHeader64<LittleEndian>| Section {
        name: names
            .get(header.sh_name(endian) as usize)
            .map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned()),
        address: header.sh_addr(endian),
        size: header.sh_size(endian),
        link: header.sh_link(endian) as usize,
        entry_size: header.sh_entsize(endian),
        code: header.sh_flags(endian).contains(SHF_EXECINSTR),
        compressed: header.sh_flags(endian).contains(SHF_COMPRESSED),
        offset: header.sh_offset(endian),
        absent: header.sh_type(endian) == SHT_NOBITS,
    };
    Ok(headers.iter().map(section).collect())
}

/// A string table. Its strings may overlap, but only so far: entries that all point at one long string would otherwise cost
/// its length each.
pub(super) struct Strings<'a> {
    table: &'a [u8],
    budget: usize,
}

impl<'a> Strings<'a> {
    pub(super) fn new(table: &'a [u8]) -> Self {
        // Linkers share the tails of strings; that makes their sum some ten percent larger than the table.
        Self { table, budget: table.len().saturating_mul(4).saturating_add(1 << 20) }
    }

    /// The bytes from `offset` up to the next zero.
    pub(super) fn get(&mut self, offset: usize) -> Option<&'a [u8]> {
        let rest = self.table.get(offset..)?;
        let rest = &rest[..rest.len().min(self.budget)];
        let end = rest.iter().position(|&byte| byte == 0);
        self.budget -= end.map_or(rest.len(), |end| end + 1);
        Some(&rest[..end?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_file_that_has_grown_is_that_of_what_was_opened() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdefgh", 0).unwrap();
        let elf = Elf { bytes: Bytes::File { file: Arc::new(file), size: 4 }, sections: Vec::new() };
        assert_eq!(elf.crc32().unwrap(), crc32fast::hash(b"abcd"));
    }

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

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Elf::parse(bytes.clone());
            let _ = Elf::parse([b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0", &bytes[..]].concat());
        }
    }
}
