//! Finds what unwinding needs in an ELF object: its executable segments and its `.eh_frame`.
//!
//! The section headers are tried first, since they give the section's length. If they are stripped or broken, the section is
//! found by the segment `PT_GNU_EH_FRAME`, as the C++ runtime finds it.

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian, Pointer};

use super::TableError;
use crate::elf::{Elf, ElfError, Machine, Section, SectionKind, Segment, SegmentKind};

/// Smallest page; segments are mapped from a page's start.
const PAGE: u64 = 4096;

/// More program headers than any linker makes (about 15).
const MAX_SEGMENTS: usize = 1024;

/// Bytes of unwind information allowed for an object without text; real ones take 10 to 25 % of the text.
const MIN_SECTION_LIMIT: u64 = 64 << 10;

/// Bytes of unwind information allowed for any object: Chromium's 260 MiB of text take 27 MiB.
const MAX_SECTION_LIMIT: u64 = 128 << 20;

/// An object's code and the unwind information for it.
#[derive(Debug)]
pub(super) struct Unwindable<'data> {
    /// Executable segments, by address.
    pub text: Vec<Segment>,
    /// The address that row addresses count from: the lowest executable page.
    pub base: u64,
    /// `.eh_frame`.
    pub eh_frame: &'data [u8],
    /// The address of `.eh_frame`, and the addresses that its pointers may be relative to.
    pub bases: BaseAddresses,
    /// Whether the section's end is known, so that entries after a terminator still belong to it.
    pub exact_length: bool,
}

impl<'data> Unwindable<'data> {
    pub fn parse(data: &'data [u8]) -> Result<Self, TableError> {
        let elf = Elf::read(data).map_err(not_elf)?;
        if elf.machine() != Machine::X86_64 {
            return Err(TableError::NotElf(elf.machine().to_string()));
        }
        let segments = elf.segments().map_err(not_elf)?;
        if segments.len() > MAX_SEGMENTS {
            return Err(TableError::NotElf("more than 1,024 program headers".to_owned()));
        }

        let is_text = |segment: &&Segment| segment.kind == SegmentKind::Load && segment.executable && segment.size > 0;
        let mut text: Vec<Segment> = segments.iter().filter(is_text).copied().collect();
        text.sort_by_key(|segment| segment.address);
        let base = text.first().ok_or(TableError::NoText)?.address & !(PAGE - 1);

        let (eh_frame, bases, exact_length) =
            section(&elf, data).or_else(|| segment(&segments, data)).ok_or(TableError::NoUnwindInformation)?;

        let found = eh_frame.len() as u64;
        let limit = text_size(&text).clamp(MIN_SECTION_LIMIT, MAX_SECTION_LIMIT);
        if found > limit && exact_length {
            return Err(TableError::TooLarge { what: ".eh_frame's length", found, limit });
        }
        let eh_frame = &eh_frame[..found.min(limit) as usize];
        Ok(Self { text, base, eh_frame, bases, exact_length })
    }

    /// Bytes of executable code.
    pub fn text_size(&self) -> u64 {
        text_size(&self.text)
    }

    /// True where `start..end` lies in one executable segment.
    pub fn is_text(&self, start: u64, end: u64) -> bool {
        let after = self.text.partition_point(|segment| segment.address <= start);
        after.checked_sub(1).is_some_and(|i| end <= self.text[i].end())
    }
}

fn text_size(text: &[Segment]) -> u64 {
    text.iter().fold(0, |sum: u64, s| sum.saturating_add(s.size))
}

type Found<'data> = (&'data [u8], BaseAddresses, bool);

fn not_elf(error: ElfError) -> TableError {
    TableError::NotElf(match error {
        ElfError::Foreign(machine) => machine,
        ElfError::Malformed(_) => error.to_string(),
    })
}

/// `.eh_frame` by the section headers.
fn section<'data>(elf: &Elf<&'data [u8]>, data: &'data [u8]) -> Option<Found<'data>> {
    let sections = elf.sections().ok()?;
    let section = |name: &str| sections.iter().find(|section| section.name == name);
    let address = |name| section(name).map_or(0, |section: &Section| section.address);
    let eh_frame = section(".eh_frame")?;
    // A separate debug file has the headers of sections whose content it does not have.
    if eh_frame.kind == SectionKind::Absent {
        return None;
    }
    let bytes = eh_frame.data(&data).ok()?;
    let bases =
        BaseAddresses::default().set_eh_frame(eh_frame.address).set_text(address(".text")).set_got(address(".got"));
    Some((bytes, bases, true))
}

/// `.eh_frame` by `PT_GNU_EH_FRAME`: from where that header points to, to the end of the segment it points into.
fn segment<'data>(segments: &[Segment], data: &'data [u8]) -> Option<Found<'data>> {
    let header = segments.iter().find(|segment| segment.kind == SegmentKind::UnwindHeader)?;
    let header_bytes = header.data(&data)?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.address);
    let parsed = EhFrameHdr::new(header_bytes, LittleEndian).parse(&bases, 8).ok()?;
    let Pointer::Direct(address) = parsed.eh_frame_ptr() else { return None };
    let holder = segments.iter().find(|segment| segment.kind == SegmentKind::Load && segment.holds_address(address))?;
    Some((holder.rest_at(&data, address)?, bases.set_eh_frame(address), false))
}
