//! Where an ELF file's segments lie, read once when the file is first seen: the little that turns a file offset into the
//! object's own address even when nothing else of it can be read later.
//!
//! Only 64-bit little-endian files: the only kind whose processes are traced.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf::{FileHeader64, PF_X, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, pod};

/// The kernel maps in pages, so a mapping starts up to a page before its segment.
const PAGE: u64 = 4096;
/// Notes of real files take some hundred bytes.
const MAX_NOTES: u64 = 64 * 1024;

/// A loadable segment (`PT_LOAD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u64,
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// Whether it holds code.
    pub executable: bool,
}

/// The segments of the file with these bytes, and the object's own addresses of these offsets: what naming a mapping starts
/// from, for the fuzz target that has no process which maps the file.
#[doc(hidden)]
#[must_use]
pub fn read_layout(bytes: &[u8], offsets: &[u64]) -> (Vec<Segment>, Vec<Option<u64>>) {
    let layout = Layout::parse(bytes);
    let addresses = offsets.iter().map(|&offset| layout.virtual_address(offset)).collect();
    (layout.segments, addresses)
}

/// What the program headers say. Empty for anything that is not a readable ELF file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) segments: Vec<Segment>,
    pub(super) build_id: Option<Vec<u8>>,
}

impl Layout {
    pub(super) fn read(file: &File) -> Self {
        let size = file.metadata().map_or(0, |status| status.len());
        Self::from_reader(|offset, length| {
            // A header may claim any length: believe only what the file can hold.
            (offset.checked_add(length)? <= size).then_some(())?;
            let mut bytes = vec![0; usize::try_from(length).ok()?];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Some(bytes)
        })
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self::from_reader(|offset, length| {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            bytes.get(start..end).map(<[u8]>::to_vec)
        })
    }

    fn from_reader(read: impl Fn(u64, u64) -> Option<Vec<u8>>) -> Self {
        Self::try_from_reader(read).unwrap_or_default()
    }

    fn try_from_reader(read: impl Fn(u64, u64) -> Option<Vec<u8>>) -> Option<Self> {
        type Header = FileHeader64<LittleEndian>;
        let start = read(0, size_of::<Header>() as u64)?;
        let header = Header::parse(start.as_slice()).ok()?;
        let endian = header.endian().ok()?;
        let count = header.e_phnum(endian);
        let table = read(header.e_phoff(endian), u64::from(count) * size_of::<ProgramHeader64<LittleEndian>>() as u64)?;
        let (headers, _) = pod::slice_from_bytes::<ProgramHeader64<LittleEndian>>(&table, count.into()).ok()?;

        let segments = headers
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD)
            .map(|header| Segment {
                offset: header.p_offset(endian),
                size: header.p_filesz(endian),
                address: header.p_vaddr(endian),
                executable: header.p_flags(endian).contains(PF_X),
            })
            .collect();
        let build_id = headers
            .iter()
            .filter(|header| header.p_type(endian) == PT_NOTE && header.p_filesz(endian) <= MAX_NOTES)
            .find_map(|header| {
                build_id(&read(header.p_offset(endian), header.p_filesz(endian))?, header.p_align(endian))
            });
        Some(Self { segments, build_id })
    }

    /// The executable segment that holds the offset, or the one whose first or last page does.
    pub(super) fn virtual_address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| offset.checked_sub(segment.offset).is_some_and(|into| into < segment.size);
        let pages = |segment: &&Segment| {
            let first = segment.offset / PAGE * PAGE;
            let end = segment.offset.saturating_add(segment.size).div_ceil(PAGE).saturating_mul(PAGE);
            first <= offset && offset < end
        };
        let code = || self.segments.iter().filter(|segment| segment.executable);
        let segment = code().find(holds).or_else(|| code().find(pages)).or_else(|| self.segments.iter().find(holds))?;
        Some(offset.wrapping_sub(segment.offset).wrapping_add(segment.address))
    }
}

fn build_id(notes: &[u8], align: u64) -> Option<Vec<u8>> {
    let mut notes =
        object::read::elf::NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, align, notes).ok()?;
    while let Some(note) = notes.next().ok()? {
        if note.name() == object::elf::ELF_NOTE_GNU && note.n_type(LittleEndian) == object::elf::NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(segments: &[(u64, u64, u64, bool)]) -> Layout {
        let segments = segments
            .iter()
            .map(|&(offset, size, address, executable)| Segment { offset, size, address, executable })
            .collect();
        Layout { segments, build_id: None }
    }

    #[test]
    fn an_offset_becomes_the_address_its_segment_gives_it() {
        // As lld lays a program out: file offsets run on, addresses skip a page at each segment.
        let layout = layout(&[(0, 0x6b4, 0, false), (0x6c0, 0x1b0, 0x16c0, true), (0x870, 0x220, 0x2870, false)]);
        assert_eq!(layout.virtual_address(0x6c0), Some(0x16c0));
        assert_eq!(layout.virtual_address(0x86f), Some(0x186f));
        // Data is not code, but its page is mapped with the code's: code comes first.
        assert_eq!(layout.virtual_address(0x870), Some(0x1870));
        assert_eq!(layout.virtual_address(0x1000), None);
    }

    #[test]
    fn no_segments_give_no_address() {
        assert_eq!(Layout::default().virtual_address(0), None);
    }

    #[test]
    fn this_program_has_the_segments_and_build_id_that_readelf_shows() {
        let exe = std::env::current_exe().expect("own path");
        let layout = Layout::read(&File::open(&exe).expect("own file"));
        let readelf = std::process::Command::new("readelf").arg("-lnW").arg(&exe).output().expect("readelf");
        let text = String::from_utf8_lossy(&readelf.stdout);
        let loads = text.lines().filter(|line| line.trim_start().starts_with("LOAD")).count();
        assert_eq!(layout.segments.len(), loads);
        assert_eq!(layout.segments.iter().filter(|segment| segment.executable).count(), 1);
        let shown = text.split_once("Build ID: ").map(|(_, rest)| rest.lines().next().unwrap_or_default().to_owned());
        let hex = layout.build_id.map(|id| id.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")));
        assert_eq!(hex, shown);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, offset: u64) {
            let _ = Layout::parse(&bytes).virtual_address(offset);
            let mut header = b"\x7fELF\x02\x01\x01\0".to_vec();
            header.append(&mut bytes);
            let _ = Layout::parse(&header).virtual_address(offset);
        }
    }
}
