//! Words of a process' memory that it never writes to: they are as in the files that it has loaded.
//!
//! In: addresses. Out: the words there, read from the files. Pages of files are never read from the process itself: that would
//! make pages that it has not used.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::analysis::reachability::Memory;
use crate::host::patience::{self, About};
use crate::process::maps::{AddressSpace, Object};

const WORD: u64 = 8;

/// An address in a process, the place in the file, and how many bytes are wanted.
type Wanted = (u64, u64, u64);

/// Some words, by address.
#[derive(Debug, Default)]
pub struct FileWords(HashMap<u64, u64>);

impl FileWords {
    /// Reads what lies in these ranges of addresses, multiples of 8 bytes, in parts of files that cannot be written to. Waits for
    /// their file systems, but not for long.
    #[must_use]
    pub fn read(space: &AddressSpace, ranges: &[Range<u64>]) -> Self {
        let loaded = space.loaded();
        let mut wanted: HashMap<_, (Arc<Object>, Vec<Wanted>)> = HashMap::new();
        for range in ranges {
            let Some(place) = loaded.at(range.start) else { continue };
            let mut segments = place.object.segments().iter();
            let Some(segment) = segments.find(|part| !part.writable && part.holds_address(place.address)) else {
                continue;
            };
            let length = (range.end - range.start).min(segment.end() - place.address) / WORD * WORD;
            let of = wanted.entry(place.object.id()).or_insert_with(|| (Arc::clone(place.object), Vec::new()));
            of.1.push((range.start, segment.address_to_offset(place.address), length));
        }
        let mut words = HashMap::new();
        for (object, wanted) in wanted.into_values() {
            let (device, inode) = object.inode().unwrap_or_default();
            let question = move || read(&object, &wanted);
            words.extend(
                patience::within(patience::ANSWERS_WITHIN, About::File(device, inode), question).unwrap_or_default(),
            );
        }
        Self(words)
    }
}

fn read(object: &Object, wanted: &[Wanted]) -> Vec<(u64, u64)> {
    let Ok(file) = object.open() else { return Vec::new() };
    let mut words = Vec::new();
    for (address, offset, length) in wanted {
        let mut bytes = vec![0; *length as usize];
        if file.read_exact_at(&mut bytes, *offset).is_ok() {
            let (chunks, _) = bytes.as_chunks::<{ WORD as usize }>();
            words.extend((*address..).step_by(WORD as usize).zip(chunks.iter().map(|word| u64::from_le_bytes(*word))));
        }
    }
    words
}

impl Memory for FileWords {
    fn read(&self, address: u64, words: &mut [u64]) -> u64 {
        let mut unread = 0;
        for (word, at) in words.iter_mut().zip((address..).step_by(WORD as usize)) {
            let known = self.0.get(&at);
            *word = known.copied().unwrap_or_default();
            unread += if known.is_none() { WORD } else { 0 };
        }
        unread
    }
}
