//! An ELF image as far as probing needs it: symbols, code, file offsets, what it links to.
//!
//! Anybody may have written the bytes: every offset, size and count is checked before it is followed, work is bounded by the
//! length of the image, and what cannot be read is treated as absent. Nothing here knows an allocator.

mod links;
mod symbols;

pub use links::Links;
pub use symbols::{Extent, Symbol};

use super::site::Machine;
use crate::elf::{self, Dynamic, Elf, ElfError, FileKind, Section, SectionKind, Segment, SegmentKind};

/// Linkers make one or two; every symbol is looked up in all of them.
const MAX_CODE_SEGMENTS: usize = 64;

/// A loaded segment of code.
#[derive(Debug, Clone, Copy)]
struct Code<'a> {
    address: u64,
    offset: u64,
    bytes: &'a [u8],
}

/// A parsed image. Borrows its bytes.
#[derive(Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    machine: Machine,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    code: Vec<Code<'a>>,
    dynamic: Dynamic,
    has_interpreter: bool,
    fixed_address: bool,
}

impl<'a> Image<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// If this is no ELF image of a program or library for a machine we trace.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let elf = Elf::read(bytes)?;
        let machine = match elf.machine() {
            elf::Machine::X86_64 => Machine::X86_64,
            elf::Machine::Aarch64 => Machine::Aarch64,
            other @ elf::Machine::Other { .. } => return Err(ElfError::Foreign(other.to_string())),
        };
        if elf.kind() == FileKind::Other {
            return Err(ElfError::Malformed("neither a program nor a shared object"));
        }
        let segments = elf.segments()?;
        let mut image = Self {
            bytes,
            machine,
            // Section headers are not needed to run a program, so they may be anything.
            sections: elf.sections().unwrap_or_default(),
            code: Vec::new(),
            dynamic: Dynamic::default(),
            has_interpreter: segments.iter().any(|segment| segment.kind == SegmentKind::Interpreter),
            fixed_address: elf.kind() == FileKind::Fixed,
            segments,
        };
        image.code = image.code_segments()?;
        image.dynamic = image.read_dynamic();
        Ok(image)
    }

    /// The instruction set.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Whether the image asks for a dynamic linker. Programs do unless they are static; of libraries only glibc's own does.
    #[must_use]
    pub fn has_interpreter(&self) -> bool {
        self.has_interpreter
    }

    /// Whether the image names other libraries that it needs.
    #[must_use]
    pub fn needs_others(&self) -> bool {
        self.dynamic.needs_others
    }

    /// Whether the image is a library: it has a SONAME, or exports functions and cannot be run.
    #[must_use]
    pub fn is_library(&self) -> bool {
        self.soname().is_some() || (!self.fixed_address && !self.has_interpreter && self.exports_functions())
    }

    /// The name by which other objects ask for this library.
    #[must_use]
    pub fn soname(&self) -> Option<&'a [u8]> {
        let strings = self.at_address(self.dynamic.strings?, self.dynamic.strings_size)?;
        let name = strings.get(usize::try_from(self.dynamic.soname?).ok()?..)?;
        // Longer than any path component: no name.
        elf::terminated(name, 255)
    }

    /// The code segments, each with the address of its first byte.
    pub fn code_ranges(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.code.iter().map(|code| (code.address, code.bytes))
    }

    /// The bytes of read-only data and code, segment by segment, as far as they are in the file.
    pub fn constant_ranges(&self) -> impl Iterator<Item = &'a [u8]> {
        let constant = self.loaded().filter(|segment| !segment.writable);
        constant.filter_map(|segment| segment.data(&self.bytes))
    }

    /// Where in the file the code at this address is: what a uprobe is attached to.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let code = self.code_at(address)?;
        Some(code.offset + (address - code.address))
    }

    /// The code from this address on, `length` bytes or as many as the segment has.
    #[must_use]
    pub fn code(&self, address: u64, length: usize) -> Option<&'a [u8]> {
        let code = self.code_at(address)?;
        let rest = &code.bytes[(address - code.address) as usize..];
        Some(&rest[..length.min(rest.len())])
    }

    /// The build id, by which the same build is recognised wherever it lies.
    #[must_use]
    pub fn build_id(&self) -> Option<&'a [u8]> {
        let in_segments = self.note_segments().find_map(|(notes, align)| elf::build_id(notes, align));
        in_segments.or_else(|| {
            let notes = self.sections.iter().filter(|section| section.kind == SectionKind::Notes);
            notes
                .filter_map(|section| Some((section.data(&self.bytes).ok()?, section.align)))
                .find_map(|(notes, align)| elf::build_id(notes, align))
        })
    }

    /// Where in the file the variable at this address is: `None` where it has no place there, or cannot be written to.
    #[must_use]
    pub fn variable_offset(&self, address: u64) -> Option<u64> {
        let segment = self.loaded().find(|segment| segment.writable && segment.holds_address(address))?;
        Some(segment.address_to_offset(address))
    }

    /// The content of each note by which the image tells where tracers may probe, and the address of the section
    /// `.stapsdt.base`, if it has one.
    pub fn probe_points(&self) -> (impl Iterator<Item = &'a [u8]>, Option<u64>) {
        let notes = self.sections.iter().filter(|section| section.kind == SectionKind::Notes);
        let notes = notes.filter_map(|section| Some((section.data(&self.bytes).ok()?, section.align)));
        let base = self.sections.iter().find(|section| section.name == ".stapsdt.base");
        (notes.flat_map(|(notes, align)| elf::probe_points(notes, align)), base.map(|base| base.address))
    }

    /// Whether the image has a note with this owner.
    #[must_use]
    pub fn has_note_of(&self, owner: &[u8]) -> bool {
        self.note_segments().any(|(notes, align)| elf::has_note_of(owner, notes, align))
    }

    fn note_segments(&self) -> impl Iterator<Item = (&'a [u8], u64)> {
        let notes = self.segments.iter().filter(|segment| segment.kind == SegmentKind::Notes);
        notes.filter_map(|segment| Some((segment.data(&self.bytes)?, segment.align)))
    }

    fn loaded(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == SegmentKind::Load)
    }

    fn code_at(&self, address: u64) -> Option<&Code<'a>> {
        self.code.iter().find(|code| address.checked_sub(code.address).is_some_and(|at| at < code.bytes.len() as u64))
    }

    /// Segments that are mapped executable. Together they are not longer than the file, unless it is hostile.
    fn code_segments(&self) -> Result<Vec<Code<'a>>, ElfError> {
        let mut code = Vec::new();
        let mut total = 0;
        for segment in self.loaded().filter(|segment| segment.executable) {
            let Some(bytes @ [_, ..]) = segment.data(&self.bytes) else { continue };
            let (address, offset) = (segment.address, segment.offset);
            if address.checked_add(bytes.len() as u64).is_none() {
                return Err(ElfError::Malformed("a segment wraps around the address space"));
            }
            total += bytes.len();
            if total > self.bytes.len() || code.len() == MAX_CODE_SEGMENTS {
                return Err(ElfError::Malformed("too many code segments"));
            }
            code.push(Code { address, offset, bytes });
        }
        Ok(code)
    }

    /// The bytes at a virtual address, from whichever segment has them in the file.
    fn at_address(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.loaded().find_map(|segment| segment.data_at(&self.bytes, address, size))
    }

    /// The bytes from a virtual address to the end of its segment.
    fn rest_at_address(&self, address: u64) -> Option<&'a [u8]> {
        self.loaded().filter_map(|segment| segment.rest_at(&self.bytes, address)).find(|bytes| !bytes.is_empty())
    }

    fn read_dynamic(&self) -> Dynamic {
        let entries = self.segments.iter().find(|segment| segment.kind == SegmentKind::Dynamic);
        entries.and_then(|segment| segment.data(&self.bytes)).map(Dynamic::parse).unwrap_or_default()
    }
}
