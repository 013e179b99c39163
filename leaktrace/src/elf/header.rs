//! The file header: what a file is, and where its other headers are.
//!
//! Only 64-bit little-endian files, the only kind whose processes are traced; of other files only the machine is read.

use std::fmt;
use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, SectionHeader64};
use object::pod;

use super::bytes::Bytes;
use super::sections::{self, Section};
use super::segments::{self, Segment};

/// Bytes of a file header.
pub const HEADER_SIZE: u64 = size_of::<FileHeader64<LE>>() as u64;
const PROGRAM_HEADER: u64 = segments::PROGRAM_HEADER_SIZE as u64;
const SECTION_HEADER: u64 = size_of::<SectionHeader64<LE>>() as u64;

const BAD_SEGMENTS: &str = "bad program headers";
const BAD_SECTIONS: &str = "bad section headers";

/// The most headers of either kind that are read: as many as the file header can count. A linked program has some fifteen
/// program headers and forty sections.
const MAX_HEADERS: u64 = 0xffff;

/// Why a file cannot be read as ELF.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, or its headers lead outside of it.
    #[error("not a readable ELF image: {0}")]
    Malformed(&'static str),
    /// ELF of another machine or word size.
    #[error("{0} code cannot be traced, only x86-64 and aarch64")]
    Foreign(String),
}

/// Instruction sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64 with 64-bit pointers: neither i386 nor x32.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
    /// Any other, by its number, and whether it is of 64 bits.
    Other {
        /// `e_machine`
        number: u16,
        /// Whether the file is of class 64.
        wide: bool,
    },
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "aarch64",
            Self::Other { number, wide } => match elf::Machine(number) {
                elf::EM_386 => "i386",
                elf::EM_X86_64 if !wide => "x32",
                elf::EM_ARM => "32-bit ARM",
                elf::EM_RISCV => "RISC-V",
                elf::EM_PPC64 => "PowerPC",
                elf::EM_S390 => "s390",
                elf::Machine(number) => return write!(f, "machine {number}"),
            },
        })
    }
}

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A program for a fixed address (`ET_EXEC`).
    Fixed,
    /// A library, or a program for any address (`ET_DYN`).
    Shared,
    /// Neither: an object that is not linked, a core file.
    Other,
}

/// The first bytes of any ELF file (System V ABI, `e_ident`), which tell machines apart before anything else is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ident {
    /// Whether it is of class 64.
    pub is_64_bit: bool,
    is_little_endian: bool,
    number: u16,
}

impl Ident {
    /// How many bytes must be there.
    pub const LENGTH: usize = 16;
    const CLASS: usize = 4;
    const DATA: usize = 5;
    /// How many bytes of a file are enough.
    pub const ENOUGH: usize = 20;

    /// Reads it from a file's beginning, of which [`Self::LENGTH`] bytes must be there.
    ///
    /// # Errors
    /// It is no ELF file.
    pub fn parse(start: &[u8]) -> Result<Self, ElfError> {
        let ident = start.get(..Self::LENGTH).ok_or(ElfError::Malformed("too short"))?;
        if ident[..4] != elf::ELFMAG {
            return Err(ElfError::Malformed("no ELF header"));
        }
        Ok(Self {
            is_64_bit: ident[Self::CLASS] == elf::ELFCLASS64.0,
            is_little_endian: ident[Self::DATA] == elf::ELFDATA2LSB.0,
            number: start.get(18..20).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]])),
        })
    }

    /// The instruction set.
    #[must_use]
    pub fn machine(&self) -> Machine {
        match elf::Machine(self.number) {
            elf::EM_X86_64 if self.is_wide() => Machine::X86_64,
            elf::EM_AARCH64 if self.is_wide() => Machine::Aarch64,
            _ => Machine::Other { number: self.number, wide: self.is_64_bit },
        }
    }

    /// Whether its structures are those that are read here.
    fn is_wide(self) -> bool {
        self.is_64_bit && self.is_little_endian
    }
}

/// Where a table of headers is, as the file header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    count: u16,
    entry_size: u16,
}

/// A file header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    machine: Machine,
    kind: FileKind,
    segments: Place,
    sections: Place,
    names: u16,
}

impl Header {
    /// Reads the header at the beginning of `start`.
    ///
    /// # Errors
    /// It is none, or of a file that is not of 64 bits and little-endian.
    pub fn parse(start: &[u8]) -> Result<Self, ElfError> {
        let ident = Ident::parse(start)?;
        if !ident.is_wide() {
            return Err(ElfError::Foreign(ident.machine().to_string()));
        }
        let bad = || ElfError::Malformed("bad ELF header");
        let (header, _) = pod::from_bytes::<FileHeader64<LE>>(start).map_err(|()| bad())?;
        if header.e_ident.version != elf::EV_CURRENT {
            return Err(bad());
        }
        Ok(Self {
            machine: ident.machine(),
            kind: match header.e_type.get(LE) {
                elf::ET_EXEC => FileKind::Fixed,
                elf::ET_DYN => FileKind::Shared,
                _ => FileKind::Other,
            },
            segments: Place {
                offset: header.e_phoff.get(LE),
                count: header.e_phnum.get(LE),
                entry_size: header.e_phentsize.get(LE),
            },
            sections: Place {
                offset: header.e_shoff.get(LE),
                count: header.e_shnum.get(LE),
                entry_size: header.e_shentsize.get(LE),
            },
            names: header.e_shstrndx.get(LE).0,
        })
    }

    /// Where in the file the program headers are, if their number fits this header.
    ///
    /// # Errors
    /// They are not of the size that the format gives them.
    pub fn program_headers(&self) -> Result<Range<u64>, ElfError> {
        self.segments.range(self.segments.count.into(), PROGRAM_HEADER, BAD_SEGMENTS)
    }
}

impl Place {
    /// The bytes of the table; none where there is no table.
    fn range(&self, count: u64, entry: u64, bad: &'static str) -> Result<Range<u64>, ElfError> {
        if self.offset == 0 || count == 0 {
            return Ok(0..0);
        }
        if u64::from(self.entry_size) != entry || count > MAX_HEADERS {
            return Err(ElfError::Malformed(bad));
        }
        let end = self.offset.checked_add(count * entry).ok_or(ElfError::Malformed(bad))?;
        Ok(self.offset..end)
    }
}

/// An ELF file: its header, and its bytes to read the rest from.
#[derive(Debug)]
pub struct Elf<B> {
    bytes: B,
    header: Header,
}

impl<B: Bytes> Elf<B> {
    /// Reads the header.
    ///
    /// # Errors
    /// See [`Header::parse`].
    pub fn read(bytes: B) -> Result<Self, ElfError> {
        let whole = bytes.run(0, HEADER_SIZE).ok();
        let header = match &whole {
            Some(start) => Header::parse(start)?,
            // Too short for a header, but perhaps long enough to tell which kind of file it is not.
            None => match [Ident::ENOUGH, Ident::LENGTH].iter().find_map(|length| bytes.run(0, *length as u64).ok()) {
                Some(start) => Header::parse(&start)?,
                None => return Err(ElfError::Malformed("too short")),
            },
        };
        Ok(Self { bytes, header })
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// The instruction set.
    pub fn machine(&self) -> Machine {
        self.header.machine
    }

    /// What kind of file.
    pub fn kind(&self) -> FileKind {
        self.header.kind
    }

    /// What the program headers say.
    ///
    /// # Errors
    /// They lie outside of the file or are not of the size that the format gives them.
    pub fn segments(&self) -> Result<Vec<Segment>, ElfError> {
        let range = match self.header.segments.count {
            // If their number does not fit the file header, the first section has it.
            elf::PN_XNUM => {
                let count = self.first_section()?.map_or(u64::MAX, |first| first.sh_info.get(LE).into());
                self.header.segments.range(count, PROGRAM_HEADER, BAD_SEGMENTS)?
            }
            _ => self.header.program_headers()?,
        };
        let table = self.table(&range, BAD_SEGMENTS)?;
        Ok(table.as_deref().map_or_else(Vec::new, segments::parse))
    }

    /// The section headers. They are not needed to run a program, so they may have any content.
    ///
    /// # Errors
    /// They lie outside of the file or are not of the size that the format gives them.
    pub fn sections(&self) -> Result<Vec<Section>, ElfError> {
        let range = self.section_headers()?;
        let Some(table) = self.table(&range, BAD_SECTIONS)? else { return Ok(Vec::new()) };
        let names = match elf::SymbolSection(self.header.names) {
            elf::SHN_XINDEX => self.first_section()?.map_or(0, |first| first.sh_link.get(LE)),
            index => index.0.into(),
        };
        Ok(sections::parse(&table, names as usize, |offset, size| self.bytes.run(offset, size).ok()))
    }

    /// Where in the file the section headers are.
    ///
    /// # Errors
    /// They are not of the size that the format gives them, or too many.
    pub fn section_headers(&self) -> Result<Range<u64>, ElfError> {
        let count = match self.header.sections.count {
            0 => self.first_section()?.map_or(0, |first| first.sh_size.get(LE)),
            count => count.into(),
        };
        self.header.sections.range(count, SECTION_HEADER, BAD_SECTIONS)
    }

    /// Where in the file the program headers are, if their number fits the file header; nowhere if they cannot be read.
    pub fn program_headers(&self) -> Range<u64> {
        self.header.program_headers().unwrap_or_default()
    }

    /// Where the first section header is, which counts what does not fit the file header.
    pub fn first_section_header(&self) -> Range<u64> {
        let offset = self.header.sections.offset;
        offset..if offset == 0 { 0 } else { offset.saturating_add(SECTION_HEADER) }
    }

    fn first_section(&self) -> Result<Option<SectionHeader64<LE>>, ElfError> {
        let Some(bytes) = self.table(&self.first_section_header(), BAD_SECTIONS)? else { return Ok(None) };
        Ok(pod::from_bytes::<SectionHeader64<LE>>(&bytes).ok().map(|(first, _)| *first))
    }

    fn table(&self, range: &Range<u64>, bad: &'static str) -> Result<Option<B::Run>, ElfError> {
        if range.is_empty() {
            return Ok(None);
        }
        self.bytes.run(range.start, range.end - range.start).map(Some).map_err(|_| ElfError::Malformed(bad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An x86-64 library's header, with this much of it.
    fn header() -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        bytes.resize(64, 0);
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        Elf::read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn other_machines_are_told_apart_by_the_first_twenty_bytes() {
        assert_eq!(Elf::read(&*header()).unwrap().machine(), Machine::X86_64);
        let machine = |class: u8, number: u8| {
            let mut bytes = header();
            (bytes[4], bytes[18]) = (class, number);
            bytes.truncate(20);
            Ident::parse(&bytes).unwrap().machine().to_string()
        };
        let names =
            [(1, 3), (1, 62), (1, 40), (2, 62), (2, 183), (2, 243), (2, 8)].map(|(class, it)| machine(class, it));
        assert_eq!(names, ["i386", "x32", "32-bit ARM", "x86-64", "aarch64", "RISC-V", "machine 8"]);
        let mut i386 = header();
        (i386[4], i386[18]) = (1, 3);
        assert_eq!(refused(&i386[..20]), "i386 code cannot be traced, only x86-64 and aarch64");
        assert_eq!(refused(&header()[..40]), "not a readable ELF image: bad ELF header");
        assert_eq!(refused(b"#!/bin/sh\nexit 0\n"), "not a readable ELF image: no ELF header");
        assert_eq!(refused(b"\x7fELF"), "not a readable ELF image: too short");
    }

    #[test]
    fn numbers_that_do_not_fit_the_header_are_in_the_first_section() {
        let mut bytes = header();
        // Section headers at 64, none counted; program headers at 64 as well, whose number is elsewhere.
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..60].copy_from_slice(&[56, 0, 0xff, 0xff, 64, 0]);
        bytes.resize(64 + 3 * 64, 0);
        // sh_size and sh_info of the first.
        bytes[64 + 32] = 3;
        bytes[64 + 44] = 2;
        let elf = Elf::read(&*bytes).unwrap();
        assert_eq!(elf.sections().unwrap().len(), 3);
        assert_eq!(elf.segments().unwrap().len(), 2);
        bytes[64 + 34] = 1;
        assert!(Elf::read(&*bytes).unwrap().sections().is_err(), "65,539 sections are not there, and are too many");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, rest: Vec<u8>, places: [u8; 40]) {
            let _ = Elf::read(&*bytes);
            let mut whole = header();
            whole[24..].copy_from_slice(&places);
            whole.extend(rest);
            let elf = Elf::read(&*whole).unwrap();
            let _ = (elf.segments(), elf.sections());
        }
    }
}
