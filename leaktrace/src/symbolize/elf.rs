//! The sections of an ELF file, read by offset.
//!
//! Files of traced processes are read with `pread(2)` and never mapped here: whoever truncates a mapped file kills its
//! reader.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::elf::{self, Bytes, ElfError, FileKind, Section, SectionKind, Stored};

/// An ELF file's section table and access to what it lists.
#[derive(Debug)]
pub(super) struct Elf {
    elf: elf::Elf<Stored>,
    sections: Vec<Section>,
}

impl Elf {
    pub(super) fn read(file: Arc<File>) -> io::Result<Self> {
        Self::new(Stored::file(file)?)
    }

    pub(super) fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        Self::new(Stored::Memory(bytes))
    }

    fn new(bytes: Stored) -> io::Result<Self> {
        let invalid = |error: ElfError| io::Error::new(io::ErrorKind::InvalidData, error);
        let elf = elf::Elf::read(bytes).map_err(invalid)?;
        if elf.kind() == FileKind::Other {
            return Err(invalid(ElfError::Malformed("neither a program nor a shared object")));
        }
        let sections = elf.sections().map_err(invalid)?;
        Ok(Self { elf, sections })
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether it carries DWARF of its own.
    pub(super) fn has_debug_info(&self) -> bool {
        self.section(".debug_info").is_some_and(|section| section.kind != SectionKind::Absent)
    }

    /// A section's bytes, as they lie in the file; none where it takes no room there.
    pub(super) fn data(&self, section: &Section) -> io::Result<Vec<u8>> {
        section.data(self.elf.bytes())
    }

    /// As many bytes of the file.
    pub(super) fn bytes_at(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        self.elf.bytes().run(offset, length)
    }

    /// What a packed section says that it unpacks to, bytes.
    pub(super) fn unpacked_size(&self, section: &Section) -> u64 {
        elf::unpacked_size(self.elf.bytes(), section)
    }

    /// The bytes of the section of that name, if there is one that can be read.
    pub(super) fn named_data(&self, name: &str) -> Option<Vec<u8>> {
        self.section(name).and_then(|section| self.data(section).ok()).filter(|data| !data.is_empty())
    }

    /// The build id, where its note has a section.
    pub(super) fn build_id(&self) -> Option<Vec<u8>> {
        let section = self.section(".note.gnu.build-id")?;
        elf::build_id(&self.data(section).ok()?, section.align).map(<[u8]>::to_vec)
    }

    /// CRC-32 of the whole file, as a debug link records it.
    pub(super) fn crc32(&self) -> io::Result<u32> {
        self.elf.bytes().crc32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Elf::parse(bytes.clone());
            let _ = Elf::parse([b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0", &bytes[..]].concat());
        }
    }
}
