//! Finds what unwinding needs in an ELF object: its executable segments and its `.eh_frame`.
//!
//! Section headers are asked first, as they know the section's length; where they are stripped or broken, the segment
//! `PT_GNU_EH_FRAME` leads to it, as it leads the C++ runtime.

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian, Pointer};
use object::elf::{EM_X86_64, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian as Little, ReadRef};

use super::TableError;

/// Smallest page; segments are mapped from a page's start.
const PAGE: u64 = 4096;

/// More program headers than any linker makes (about 15).
const MAX_SEGMENTS: u32 = 1024;

/// More section headers than a linked object has; `-ffunction-sections` objects that could have more are not linked.
const MAX_SECTIONS: u32 = 1 << 16;

/// Bytes of unwind information allowed for an object without text; real ones take 10 to 25 % of the text.
const MIN_SECTION_LIMIT: u64 = 64 << 10;

/// Bytes of unwind information allowed for any object: Chromium's 260 MiB of text take 27 MiB.
const MAX_SECTION_LIMIT: u64 = 128 << 20;

/// An executable `PT_LOAD` segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSegment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Where it starts in the object's own numbering.
    pub vaddr: u64,
    /// Bytes of it that are in the file.
    pub size: u64,
}

impl TextSegment {
    /// First address after it.
    pub(super) const fn end(&self) -> u64 {
        self.vaddr.saturating_add(self.size)
    }

    /// True for a file offset inside the segment or on the page it starts on.
    pub(super) const fn holds_offset(&self, offset: u64) -> bool {
        offset >= self.offset & !(PAGE - 1) && offset < self.offset.saturating_add(self.size)
    }
}

/// An object's code and the unwind information for it.
#[derive(Debug)]
pub(super) struct Unwindable<'data> {
    /// Executable segments, by address.
    pub text: Vec<TextSegment>,
    /// The address that row addresses count from: the lowest executable page.
    pub base: u64,
    /// `.eh_frame`.
    pub eh_frame: &'data [u8],
    /// Its address, and those of what its pointers may be relative to.
    pub bases: BaseAddresses,
    /// True where the section's end is known, so that what follows a terminator is still part of it.
    pub exact_length: bool,
}

impl<'data> Unwindable<'data> {
    pub fn parse<R: ReadRef<'data>>(data: R) -> Result<Self, TableError> {
        let not_elf = |e: object::Error| TableError::NotElf(e.to_string());
        let header = FileHeader64::<Little>::parse(data).map_err(not_elf)?;
        if header.e_machine(Little) != EM_X86_64 {
            return Err(TableError::NotElf(format!("machine {}", header.e_machine(Little).0)));
        }
        if header.phnum(Little, data).map_err(not_elf)? > MAX_SEGMENTS {
            return Err(TableError::NotElf("more than 1,024 program headers".to_owned()));
        }
        let segments = header.program_headers(Little, data).map_err(not_elf)?;

        let mut text: Vec<TextSegment> = segments
            .iter()
            .filter(|s| s.p_type(Little) == PT_LOAD && s.p_flags(Little).contains(PF_X))
            .map(|s| TextSegment { offset: s.p_offset(Little), vaddr: s.p_vaddr(Little), size: s.p_filesz(Little) })
            .filter(|s| s.size > 0)
            .collect();
        text.sort_by_key(|s| s.vaddr);
        let base = text.first().ok_or(TableError::NoText)?.vaddr & !(PAGE - 1);

        let (eh_frame, bases, exact_length) =
            section(header, data).or_else(|| segment(segments, data)).ok_or(TableError::NoUnwindInformation)?;

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
        let after = self.text.partition_point(|s| s.vaddr <= start);
        after.checked_sub(1).is_some_and(|i| end <= self.text[i].end())
    }
}

fn text_size(text: &[TextSegment]) -> u64 {
    text.iter().fold(0, |sum: u64, s| sum.saturating_add(s.size))
}

type Found<'data> = (&'data [u8], BaseAddresses, bool);

/// `.eh_frame` by the section headers.
fn section<'data, R: ReadRef<'data>>(header: &FileHeader64<Little>, data: R) -> Option<Found<'data>> {
    if header.shnum(Little, data).ok()? > MAX_SECTIONS {
        return None;
    }
    let sections = header.sections(Little, data).ok()?;
    let address = |name| sections.section_by_name(Little, name).map(|(_, s)| s.sh_addr(Little));
    let (_, eh_frame) = sections.section_by_name(Little, b".eh_frame")?;
    // A file of split debug information keeps the headers of what it does not hold.
    if eh_frame.sh_type(Little) == SHT_NOBITS {
        return None;
    }
    let bytes = eh_frame.data(Little, data).ok()?;
    let bases = BaseAddresses::default()
        .set_eh_frame(eh_frame.sh_addr(Little))
        .set_text(address(b".text").unwrap_or(0))
        .set_got(address(b".got").unwrap_or(0));
    Some((bytes, bases, true))
}

/// `.eh_frame` by `PT_GNU_EH_FRAME`: from where that header points to, to the end of the segment it points into.
fn segment<'data, R: ReadRef<'data>>(segments: &[ProgramHeader64<Little>], data: R) -> Option<Found<'data>> {
    let hdr = segments.iter().find(|s| s.p_type(Little) == PT_GNU_EH_FRAME)?;
    let hdr_bytes = hdr.data(Little, data).ok()?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(hdr.p_vaddr(Little));
    let parsed = EhFrameHdr::new(hdr_bytes, LittleEndian).parse(&bases, 8).ok()?;
    let Pointer::Direct(address) = parsed.eh_frame_ptr() else { return None };
    let holder = segments.iter().find(|s| {
        let start = s.p_vaddr(Little);
        s.p_type(Little) == PT_LOAD && start <= address && address < start.saturating_add(s.p_filesz(Little))
    })?;
    let bytes = holder.data(Little, data).ok()?;
    let bytes = bytes.get((address - holder.p_vaddr(Little)) as usize..)?;
    Some((bytes, bases.set_eh_frame(address), false))
}
