//! Notes: what a linker or compiler has left in a file about it.

use object::LittleEndian as LE;
use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID};
use object::read::elf::NoteIterator;

/// A note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note<'a> {
    /// Who left it, without the zeros at its end.
    owner: &'a [u8],
    /// What it is, by its owner's numbers.
    kind: u32,
    content: &'a [u8],
}

/// The notes in the bytes of a segment or section, up to the first that cannot be read. `align` is the segment's or section's.
fn notes(bytes: &[u8], align: u64) -> impl Iterator<Item = Note<'_>> {
    let notes = NoteIterator::<FileHeader64<LE>>::new(LE, align, bytes).ok();
    notes.into_iter().flatten().map_while(Result::ok).map(|note| Note {
        owner: note.name(),
        kind: note.n_type(LE).0,
        content: note.desc(),
    })
}

/// The build id among these notes, by which the same build is recognised wherever it lies.
#[must_use]
pub fn build_id(bytes: &[u8], align: u64) -> Option<&[u8]> {
    let is_id = |note: &Note<'_>| note.owner == ELF_NOTE_GNU && note.kind == NT_GNU_BUILD_ID.0;
    notes(bytes, align).find(is_id).map(|note| note.content)
}

/// What those of these notes say by which systemtap's `sdt.h` tells where tracers may probe (`NT_STAPSDT`).
pub fn probe_points(bytes: &[u8], align: u64) -> impl Iterator<Item = &[u8]> {
    const NT_STAPSDT: u32 = 3;
    notes(bytes, align).filter(|note| note.owner == b"stapsdt" && note.kind == NT_STAPSDT).map(|note| note.content)
}

/// Whether one of these notes has this owner.
#[must_use]
pub fn has_note_of(owner: &[u8], bytes: &[u8], align: u64) -> bool {
    notes(bytes, align).any(|note| note.owner == owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note as linkers write it: sizes of name and content, type, name, content, each padded.
    fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [owner.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [owner, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let bytes = [note(b"GNU\0", 1, &[0; 16]), note(b"Go\0", 3, b"x"), note(b"GNU\0", 3, &[0xab, 0xcd])].concat();
        assert_eq!(build_id(&bytes, 4), Some(&[0xab, 0xcd][..]));
        assert!(has_note_of(b"Go", &bytes, 4) && !has_note_of(b"G", &bytes, 4));
        assert_eq!(build_id(&bytes[..bytes.len() - 4], 4), None, "cut off");
        assert_eq!(build_id(&bytes, 3 << 20), None, "aligned as no note is");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, align: u64) {
            let _ = (build_id(&bytes, align), build_id(&bytes, 4), build_id(&bytes, 8));
            let _ = probe_points(&bytes, 4).count();
        }
    }
}
