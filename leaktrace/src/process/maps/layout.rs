//! Where an ELF file's segments lie, read once when the file is first seen: the little that turns a file offset into the
//! object's own address even when nothing else of it can be read later.
//!
//! Only 64-bit little-endian files: the only kind whose processes are traced.

use std::fs::File;

use crate::elf::{self, Bytes, Elf, Opened, Segment, SegmentKind};

/// Notes of real files take some hundred bytes.
const MAX_NOTES: u64 = 64 * 1024;

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
    /// Those that are loaded.
    pub(super) segments: Vec<Segment>,
    pub(super) build_id: Option<Vec<u8>>,
    /// What each thread has of its variables, bytes with the alignment.
    pub(super) thread_local_bytes: u64,
}

impl Layout {
    pub(super) fn read(file: &File) -> Self {
        Self::of(Opened::new(file))
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self::of(bytes)
    }

    fn of(bytes: impl Bytes) -> Self {
        let Ok(elf) = Elf::read(bytes) else { return Self::default() };
        let mut segments = elf.segments().unwrap_or_default();
        let notes = segments.iter().filter(|segment| segment.kind == SegmentKind::Notes && segment.size <= MAX_NOTES);
        let build_id = notes
            .filter_map(|segment| Some((segment.data(elf.bytes())?, segment.align)))
            .find_map(|(notes, align)| elf::build_id(&notes, align).map(<[u8]>::to_vec));
        let thread_local = segments.iter().find(|segment| segment.kind == SegmentKind::ThreadLocal);
        let thread_local_bytes = thread_local.map_or(0, |segment| segment.memory_size.saturating_add(segment.align));
        segments.retain(|segment| segment.kind == SegmentKind::Load);
        Self { segments, build_id, thread_local_bytes }
    }

    /// The executable segment that holds the offset, or the one whose first or last page does.
    pub(super) fn virtual_address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| segment.holds_offset(offset);
        let code = || self.segments.iter().filter(|segment| segment.executable);
        let segment = code()
            .find(holds)
            .or_else(|| code().find(|segment| segment.shares_page_with_offset(offset)))
            .or_else(|| self.segments.iter().find(holds))?;
        Some(segment.address_of(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(segments: &[(u64, u64, u64, bool)]) -> Layout {
        let segments = segments
            .iter()
            .map(|&(offset, size, address, executable)| Segment {
                kind: SegmentKind::Load,
                offset,
                size,
                address,
                memory_size: size,
                align: 0x1000,
                executable,
                writable: !executable,
            })
            .collect();
        Layout { segments, ..Layout::default() }
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
