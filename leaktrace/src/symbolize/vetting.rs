//! What debug information must satisfy before a DWARF reader reads it.
//!
//! A traced program controls its files. They must not crash the tracer, and neither a stack overflow nor a failed allocation
//! can be caught. Any other defect makes the reader return an error, or take so long that it is abandoned.

use gimli::{DebugAbbrev, DebugInfo, LittleEndian as Little};

use super::elf::Elf;
use crate::elf;

/// Inlined calls are read by recursion, one level for each entry nested in another. The deepest nesting in this program's
/// own dependencies is 54.
pub(super) const MAX_DEPTH: isize = 1024;
/// What the debug sections of one file may unpack to, bytes.
const MAX_UNPACKED: u64 = 4 << 30;

/// Whether debug information can be given to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Sound,
    /// It can, but without its inlined calls.
    TooDeep,
    /// Unpacked it would exhaust the memory.
    TooLarge,
    /// Parts of it are in another file that the reader would look for by itself.
    Elsewhere,
}

/// `installed` says that the file is one of this system's own debug files, whose references to others can be trusted.
pub(super) fn vet(elf: &Elf, installed: bool) -> Verdict {
    if !installed && [".gnu_debugaltlink", ".debug_sup"].iter().any(|name| elf.section(name).is_some()) {
        return Verdict::Elsewhere;
    }
    let packed = elf.sections().iter().filter(|section| section.compressed);
    let unpacked = packed.map(|section| elf.unpacked_size(section)).fold(0, u64::saturating_add);
    if unpacked > MAX_UNPACKED {
        return Verdict::TooLarge;
    }
    let (Some(info), Some(abbreviations)) = (unpack(elf, ".debug_info"), unpack(elf, ".debug_abbrev")) else {
        // Sections that cannot be read here cannot be read by the reader either.
        return Verdict::Sound;
    };
    if is_deeper_than(MAX_DEPTH, &info, &abbreviations) { Verdict::TooDeep } else { Verdict::Sound }
}

fn unpack(elf: &Elf, name: &str) -> Option<Vec<u8>> {
    let section = elf.section(name)?;
    let data = elf.data(section).ok()?;
    if section.compressed { elf::unpack(&data) } else { Some(data) }
}

/// Whether any entry of any unit is nested in more than `limit` others. A unit that ends in an error is judged by the
/// entries before it: the reader gets no further either.
fn is_deeper_than(limit: isize, info: &[u8], abbreviations: &[u8]) -> bool {
    let abbreviations = DebugAbbrev::new(abbreviations, Little);
    let mut units = DebugInfo::new(info, Little).units();
    while let Ok(Some(unit)) = units.next() {
        let Ok(known) = unit.abbreviations(&abbreviations) else { continue };
        let Ok(mut entries) = unit.entries_raw(&known, None) else { continue };
        while !entries.is_empty() {
            if entries.next_depth() > limit {
                return true;
            }
            match entries.read_abbreviation() {
                Ok(Some(entry)) if entries.skip_attributes(entry.attributes()).is_ok() => {}
                Ok(None) => {}
                _ => break,
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kinds of entry without attributes: 1 holds others, 2 does not.
    const ABBREVIATIONS: [u8; 11] = [1, 0x11, 1, 0, 0, 2, 0x1d, 0, 0, 0, 0];

    fn unit(entries: &[u8]) -> Vec<u8> {
        // DWARF 4: version, abbreviations at 0, addresses of 8 bytes.
        let header = [4, 0, 0, 0, 0, 0, 8];
        let length = u32::try_from(header.len() + entries.len()).expect("short");
        [&length.to_le_bytes()[..], &header, entries].concat()
    }

    #[test]
    fn depth_is_counted_and_not_the_number_of_entries() {
        let deep = |levels: usize| unit(&[vec![1; levels], vec![2], vec![0; levels]].concat());
        assert!(!is_deeper_than(5, &deep(5), &ABBREVIATIONS));
        assert!(is_deeper_than(5, &deep(6), &ABBREVIATIONS));
        let wide = unit(&[vec![1], [1, 0].repeat(1000), vec![2; 1000], vec![0]].concat());
        assert!(!is_deeper_than(5, &wide, &ABBREVIATIONS));
        assert!(is_deeper_than(5, &[wide, deep(6)].concat(), &ABBREVIATIONS), "in a later unit");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(info: Vec<u8>, abbreviations: Vec<u8>) {
            let _ = is_deeper_than(5, &info, &abbreviations);
            let _ = is_deeper_than(5, &unit(&info), &abbreviations);
            let _ = is_deeper_than(5, &unit(&info), &ABBREVIATIONS);
        }
    }
}
