//! Places at which a program tells of a sample of its allocations that it draws itself: USDT probes of the provider `otel_memory`
//! (OpenTelemetry's memory profiling), `alloc` with block, size and the bytes that the block stands for, and `free` with the block.
//!
//! In: an image. Out: a probe for each place, or why it has none.

mod arguments;

use leaktrace_common::drawn::SampleArguments;

use super::{Skipped, Why};
use crate::elf::{self, Bytes, Section, SectionKind};
use crate::probes::image::Image;
use arguments::Arguments;

const PROVIDER: &[u8] = b"otel_memory";
/// More than the notes of any program, bytes.
const MOST_NOTES: u64 = 16 << 20;
/// More than an allocator has; each is a probe.
const MAX_PLACES: usize = 256;

/// What is told at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SamplePoint {
    /// A block was drawn for the sample.
    Alloc,
    /// Such a block is about to be freed.
    Free,
}

impl SamplePoint {
    fn arguments(self) -> usize {
        match self {
            Self::Alloc => 3,
            Self::Free => 1,
        }
    }
}

/// A place to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleProbe {
    /// What is told there.
    pub point: SamplePoint,
    /// Its place in the file, bytes.
    pub offset: u64,
    /// Where in the file the counter of its tracers is; `None` if it tells whether there are any or not.
    pub semaphore: Option<u64>,
    /// Where its arguments are.
    pub arguments: SampleArguments,
}

/// A note of systemtap's `sdt.h`: addresses of the place, of the section `.stapsdt.base` and of the semaphore when the program was
/// linked, then provider, name and arguments, each with a zero behind it.
struct Note<'a> {
    place: u64,
    base: u64,
    semaphore: u64,
    name: &'a [u8],
    arguments: &'a [u8],
}

impl<'a> Note<'a> {
    /// If it is of our provider.
    fn parse(content: &'a [u8]) -> Option<Self> {
        let (words, text) = content.split_at_checked(24)?;
        let mut words = words.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let (place, base, semaphore) = (words.next()?, words.next()?, words.next()?);
        let mut text = text.split(|byte| *byte == 0);
        let (provider, name, arguments) = (text.next()?, text.next()?, text.next()?);
        (provider == PROVIDER).then_some(Self { place, base, semaphore, name, arguments })
    }
}

/// All of them, and places that cannot be probed.
pub(super) fn find(image: &Image<'_>) -> (Vec<SampleProbe>, Vec<Skipped>) {
    let (mut probes, mut skipped) = (Vec::new(), Vec::new());
    let (contents, base) = image.probe_points();
    for note in contents.filter_map(Note::parse) {
        let point = match note.name {
            b"alloc" => SamplePoint::Alloc,
            b"free" => SamplePoint::Free,
            // Of a later version of the contract.
            _ => continue,
        };
        if probes.len() + skipped.len() == MAX_PLACES {
            break;
        }
        match probe(image, point, &note, base) {
            Ok(probe) => probes.push(probe),
            Err(why) => {
                let name = format!("otel_memory:{}", String::from_utf8_lossy(note.name));
                skipped.push(Skipped { names: vec![name], why });
            }
        }
    }
    // What is drawn and never freed would look like a leak.
    let has = |point| probes.iter().any(|probe: &SampleProbe| probe.point == point);
    if has(SamplePoint::Alloc) && (!has(SamplePoint::Free) || !skipped.is_empty()) {
        skipped.push(Skipped { names: vec!["otel_memory:alloc".to_owned()], why: Why::NoFrees });
        probes.clear();
    }
    (probes, skipped)
}

fn probe(image: &Image<'_>, point: SamplePoint, note: &Note<'_>, base: Option<u64>) -> Result<SampleProbe, Why> {
    // Whoever moves a linked program leaves the notes as they are.
    let moved = base.filter(|_| note.base != 0).map_or(0, |base| base.wrapping_sub(note.base));
    let offset = image.file_offset(note.place.wrapping_add(moved)).ok_or(Why::NotThere)?;
    let semaphore = match note.semaphore {
        0 => None,
        address => Some(image.variable_offset(address.wrapping_add(moved)).ok_or(Why::NotThere)?),
    };
    let arguments = Arguments::parse(note.arguments, image.machine(), point.arguments()).ok_or(Why::Arguments)?;
    Ok(SampleProbe { point, offset, semaphore, arguments: arguments.0 })
}

/// The variable by which leaktrace's sampler tells of itself.
const OWN_STATE: &[u8] = b"leaktrace_sampler_state";

/// Where the books of leaktrace's own sampler are, if the image has that in it.
pub(super) fn own_state(image: &Image<'_>) -> Option<u64> {
    image.exported(OWN_STATE)
}

/// Whether a file with these sections tells of drawn blocks somewhere.
#[must_use]
pub fn has_sample_points(bytes: &impl Bytes, sections: &[Section]) -> bool {
    let notes = sections.iter().filter(|section| section.kind == SectionKind::Notes && section.size <= MOST_NOTES);
    notes.filter_map(|section| Some((section.data(bytes).ok()?, section.align))).any(|(notes, align)| {
        elf::probe_points(&notes, align).filter_map(Note::parse).any(|note| note.name == b"alloc")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(words: [u64; 3], text: &[u8]) -> Vec<u8> {
        let mut content: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        content.extend(text);
        content
    }

    #[test]
    fn a_note_is_read_by_its_layout() {
        let content = note([0x1120, 0x2000, 0x4010], b"otel_memory\0alloc\08@%rdi 8@%rsi 8@%rdx\0");
        let parsed = Note::parse(&content).unwrap();
        assert_eq!((parsed.place, parsed.base, parsed.semaphore), (0x1120, 0x2000, 0x4010));
        assert_eq!((parsed.name, parsed.arguments), (&b"alloc"[..], &b"8@%rdi 8@%rsi 8@%rdx"[..]));
        assert!(Note::parse(&note([1, 2, 3], b"libc\0alloc\0\0")).is_none(), "another provider");
        assert!(Note::parse(&content[..20]).is_none() && Note::parse(b"").is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_content_makes_it_panic(content: Vec<u8>) {
            let _ = Note::parse(&content);
        }
    }
}
