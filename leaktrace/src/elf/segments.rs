//! Program headers: which parts of a file go where in memory.

use object::LittleEndian as LE;
use object::elf::{self, ProgramHeader64};
use object::pod;

use super::bytes::Bytes;

/// Smallest page. The kernel maps whole pages, so that a mapping starts up to a page before its segment.
const PAGE: u64 = 4096;

/// Bytes of a program header.
pub const PROGRAM_HEADER_SIZE: usize = size_of::<ProgramHeader64<LE>>();

/// What a segment is for, as far as anybody here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// Mapped when the object is loaded (`PT_LOAD`).
    Load,
    /// What the dynamic linker reads (`PT_DYNAMIC`).
    Dynamic,
    /// The path of the dynamic linker (`PT_INTERP`).
    Interpreter,
    /// Notes, the build id among them (`PT_NOTE`).
    Notes,
    /// The program headers themselves (`PT_PHDR`).
    ProgramHeaders,
    /// The header that leads to `.eh_frame` (`PT_GNU_EH_FRAME`).
    UnwindHeader,
    /// Copied for each thread (`PT_TLS`).
    ThreadLocal,
    /// Made read-only once it is relocated (`PT_GNU_RELRO`).
    ReadOnlyLater,
    /// Something else.
    Other,
}

/// A program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// What it is for.
    pub kind: SegmentKind,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Virtual address of the first byte, in the object's own numbering.
    pub address: u64,
    /// Bytes in memory; those beyond the file's are zeros.
    pub memory_size: u64,
    /// What its place is a multiple of.
    pub align: u64,
    /// Whether it holds code.
    pub executable: bool,
    /// Whether it can be written to.
    pub writable: bool,
}

impl Segment {
    /// First address after what of it is in the file.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }

    /// Whether the byte at this address is in the file, in this segment.
    #[must_use]
    pub const fn holds_address(&self, address: u64) -> bool {
        self.address <= address && address < self.end()
    }

    /// Whether this byte of the file is in the segment.
    #[must_use]
    pub const fn holds_offset(&self, offset: u64) -> bool {
        self.offset <= offset && offset - self.offset < self.size
    }

    /// Whether this byte of the file is in the segment or on the page that it starts on.
    #[must_use]
    pub const fn holds_offset_from_its_page(&self, offset: u64) -> bool {
        self.offset & !(PAGE - 1) <= offset && offset < self.offset.saturating_add(self.size)
    }

    /// Whether this byte of the file is on one of the pages that the segment lies on.
    #[must_use]
    pub const fn shares_page_with_offset(&self, offset: u64) -> bool {
        let end = self.offset.saturating_add(self.size).div_ceil(PAGE).saturating_mul(PAGE);
        self.offset & !(PAGE - 1) <= offset && offset < end
    }

    /// The address of this byte of the file, as if the segment went on to it.
    #[must_use]
    pub const fn address_of(&self, offset: u64) -> u64 {
        offset.wrapping_sub(self.offset).wrapping_add(self.address)
    }

    /// Where in the file the byte at this address is, as if the segment went on to it.
    #[must_use]
    pub const fn address_to_offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.address).wrapping_add(self.offset)
    }

    /// Its bytes, if all of them are in the file.
    pub fn data<B: Bytes>(&self, bytes: &B) -> Option<B::Run> {
        bytes.run(self.offset, self.size).ok()
    }

    /// The `size` bytes at an address.
    #[must_use]
    pub fn data_at<'a>(&self, bytes: &&'a [u8], address: u64, size: u64) -> Option<&'a [u8]> {
        self.rest_at(bytes, address)?.get(..usize::try_from(size).ok()?)
    }

    /// The bytes from an address to the segment's end.
    #[must_use]
    pub fn rest_at<'a>(&self, bytes: &&'a [u8], address: u64) -> Option<&'a [u8]> {
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.data(bytes)?.get(at..)
    }
}

/// The program headers in these bytes; an incomplete one at the end is left out.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<Segment> {
    let (headers, _) =
        pod::slice_from_bytes::<ProgramHeader64<LE>>(table, table.len() / PROGRAM_HEADER_SIZE).unwrap_or_default();
    headers.iter().map(segment).collect()
}

fn segment(header: &ProgramHeader64<LE>) -> Segment {
    let flags = header.p_flags.get(LE);
    Segment {
        kind: match header.p_type.get(LE) {
            elf::PT_LOAD => SegmentKind::Load,
            elf::PT_DYNAMIC => SegmentKind::Dynamic,
            elf::PT_INTERP => SegmentKind::Interpreter,
            elf::PT_NOTE => SegmentKind::Notes,
            elf::PT_PHDR => SegmentKind::ProgramHeaders,
            elf::PT_GNU_EH_FRAME => SegmentKind::UnwindHeader,
            elf::PT_TLS => SegmentKind::ThreadLocal,
            elf::PT_GNU_RELRO => SegmentKind::ReadOnlyLater,
            _ => SegmentKind::Other,
        },
        offset: header.p_offset.get(LE),
        size: header.p_filesz.get(LE),
        address: header.p_vaddr.get(LE),
        memory_size: header.p_memsz.get(LE),
        align: header.p_align.get(LE),
        executable: flags.contains(elf::PF_X),
        writable: flags.contains(elf::PF_W),
    }
}
