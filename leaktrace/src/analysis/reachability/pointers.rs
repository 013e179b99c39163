//! Which blocks a word may point to: as it is, and by the ways in which programs and C libraries disguise pointers.

use std::ops::Range;

use super::blocks::Blocks;
use super::edges::Part;
use super::sieve::{self, Sieve};

/// What a word points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) block: u32,
    /// Where in the block, bytes.
    pub(super) offset: u64,
    /// The pointer is disguised in a way that no rule of a library explains: it may be chance.
    pub(super) doubtful: bool,
}

impl Target {
    /// What a pointer says of its block.
    pub(super) fn part(self) -> Part {
        if self.doubtful { Part::Inside } else { Part::of(self.offset) }
    }
}

/// Words that follow each other in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) all: &'a [u64],
    /// A bit for each that is worth a look ([`Reader::sift`]).
    pub(super) bits: &'a [u64],
}

/// How the words of a process are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    blocks: &'a Blocks,
    sieve: Sieve,
}

impl<'a> Reader<'a> {
    pub(super) fn new(blocks: &'a Blocks, guard: Option<u64>) -> Self {
        let bounds = blocks.bounds();
        Self { blocks, sieve: Sieve::new(bounds.start, bounds.end - bounds.start, guard) }
    }

    /// Finds the words that are worth a look.
    pub(super) fn sift(&self, words: &[u64], bits: &mut Vec<u64>) {
        self.sieve.sift(words, bits);
    }

    /// Picks what the words in a range may point to, and calls `found` for those of which it is known, with whose they are and their
    /// positions: what is left is found later ([`Reader::find`]), so that the processor waits for several accesses to the index at
    /// once.
    ///
    /// A pointer that lies in two words is found at the second, if both are in the range, or the first is the word before it and
    /// `is_continued`.
    pub(super) fn read(
        &self,
        near: &mut Picked,
        whose: u32,
        words: Words<'_>,
        range: Range<usize>,
        is_continued: bool,
        found: &mut impl FnMut(u32, usize, Target),
    ) {
        near.whose = whose;
        for position in sieve::set(words.bits, range.start, range.end) {
            let word = words.all[position];
            if let Some(before) = position.checked_sub(1).filter(|before| is_continued || *before >= range.start) {
                let halves = sieve::halves(words.all[before], word);
                if self.sieve.is_near(halves) {
                    near.add(halves, position, true);
                }
            }
            let untagged = sieve::untagged(word);
            if self.sieve.is_near(untagged) {
                near.add(untagged, position, untagged != word);
            }
            if let Some(demangled) = self.sieve.demangled(word).filter(|address| self.sieve.is_near(*address)) {
                near.add(demangled, position, false);
            }
            if near.count > NEAR - WAYS {
                self.find(near, found);
            }
        }
    }

    /// Looks up what was picked.
    pub(super) fn find(&self, near: &mut Picked, found: &mut impl FnMut(u32, usize, Target)) {
        let picked = &near.places[..near.count];
        for Near { address, .. } in picked {
            self.blocks.prefetch(*address);
        }
        for Near { address, whose, position, doubtful } in picked {
            if let Some((block, offset)) = self.blocks.find(*address) {
                found(*whose, *position as usize, Target { block, offset, doubtful: *doubtful });
            }
        }
        near.count = 0;
    }
}

/// What these words, which follow each other, may point to: addresses near the blocks, whatever way to read them gives them.
#[must_use]
pub fn addresses(words: &[u64], blocks: &Blocks, guard: Option<u64>) -> Vec<u64> {
    let Reader { sieve, .. } = Reader::new(blocks, guard);
    let mut bits = Vec::new();
    sieve.sift(words, &mut bits);
    let ways = |position: usize| {
        let word = words[position];
        let before = position.checked_sub(1).map(|before| words[before]);
        [Some(sieve::untagged(word)), before.map(|before| sieve::halves(before, word)), sieve.demangled(word)]
    };
    let found = sieve::set(&bits, 0, words.len()).flat_map(ways).flatten();
    found.filter(|address| sieve.is_near(*address)).collect()
}

/// How many words are looked up together, at most.
const NEAR: usize = 256;
/// In how many ways a word is read.
const WAYS: usize = 3;

/// A word, or what it may stand for, that may point to a block.
#[derive(Debug, Clone, Copy, Default)]
struct Near {
    address: u64,
    whose: u32,
    /// Of the word.
    position: u32,
    doubtful: bool,
}

/// Those that are yet to be looked up.
pub(super) struct Picked {
    places: Box<[Near; NEAR]>,
    count: usize,
    /// Whose words are read now.
    whose: u32,
}

impl Picked {
    pub(super) fn new() -> Self {
        Self { places: Box::new([Near::default(); NEAR]), count: 0, whose: 0 }
    }

    #[inline]
    fn add(&mut self, address: u64, position: usize, doubtful: bool) {
        // There is room: it is looked up before that runs out.
        if let Some(place) = self.places.get_mut(self.count) {
            *place = Near { address, whose: self.whose, position: position as u32, doubtful };
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[u64], guard: Option<u64>) -> Vec<(usize, u64, bool)> {
        read_from(0, false, words, guard)
    }

    fn read_from(first: usize, is_continued: bool, all: &[u64], guard: Option<u64>) -> Vec<(usize, u64, bool)> {
        let blocks = Blocks::new([(0x5555_0000_1000, 64)]).unwrap();
        let (mut found, mut near, mut bits) = (Vec::new(), Picked::new(), Vec::new());
        let reader = Reader::new(&blocks, guard);
        reader.sift(all, &mut bits);
        let mut add = |_, at, target: Target| found.push((at, target.offset, target.doubtful));
        reader.read(&mut near, 0, Words { all, bits: &bits }, first..all.len(), is_continued, &mut add);
        reader.find(&mut near, &mut add);
        found
    }

    #[test]
    fn plain_pointers_are_certain_and_disguised_ones_doubtful() {
        assert_eq!(
            read(&[0, 0x5555_0000_1000, 0x5555_0000_103f, 0x5555_0000_1040], None),
            [(1, 0, false), (2, 63, false)]
        );
        assert_eq!(read(&[0xabcd_5555_0000_1008], None), [(0, 8, true)], "a tag in the high bits");
        assert_eq!(read(&[0x0000_1000_0000_0007, 0x5555], None), [(1, 0, true)], "at a multiple of four bytes");
        assert_eq!(read(&[0x5555, 0x0000_1000_0000_0000], None), [], "halves in the wrong order");
        assert_eq!(read(&[0x5555], None), [], "the first word has none before it");
        assert_eq!(read_from(1, false, &[0x0000_1000_0000_0007, 0x5555], None), [], "that one is another's");
        assert_eq!(read_from(1, true, &[0x0000_1000_0000_0007, 0x5555], None), [(1, 0, true)]);
    }

    #[test]
    fn addresses_are_found_in_every_way_to_read_a_word() {
        let blocks = Blocks::new([(0x5555_0000_1000, 64)]).unwrap();
        let guard = 0x1234_5678_9abc_def0;
        let mangled = (0x5555_0000_1020_u64 ^ guard).rotate_left(17);
        let words =
            [7, 0x5555_0000_1000, 0xabcd_5555_0000_1008, 0x0000_1010_0000_0007, 0x5555, mangled, 0x5555_0000_2000];
        let found = [0x5555_0000_1000, 0x5555_0000_1008, 0x5555_0000_1010, 0x5555_0000_1020];
        assert_eq!(addresses(&words, &blocks, Some(guard)), found);
        assert!(addresses(&[], &blocks, None).is_empty());
    }

    #[test]
    fn a_pointer_that_the_c_library_mangled_is_as_good_as_plain() {
        let guard = 0x1234_5678_9abc_def0;
        let mangled = (0x5555_0000_1000_u64 ^ guard).rotate_left(17);
        assert_eq!(read(&[mangled], Some(guard)), [(0, 0, false)]);
        assert_eq!(read(&[mangled], None), []);
    }
}
