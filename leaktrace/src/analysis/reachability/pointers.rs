//! Which blocks a word may point to: as it is, and by the ways in which programs and C libraries disguise pointers.

use super::blocks::Blocks;
use super::edges::Part;

/// The bits of a word that are an address. Programs keep tags in the others.
const ADDRESS: u64 = (1 << 48) - 1;

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

/// How the words of a process are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    blocks: &'a Blocks,
    low: u64,
    span: u64,
    /// What glibc mangles pointers with that it keeps in a `jmp_buf`.
    guard: Option<u64>,
    #[cfg(target_arch = "x86_64")]
    has_avx2: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(blocks: &'a Blocks, guard: Option<u64>) -> Self {
        let bounds = blocks.bounds();
        Self {
            blocks,
            low: bounds.start,
            span: bounds.end - bounds.start,
            guard,
            #[cfg(target_arch = "x86_64")]
            has_avx2: is_x86_feature_detected!("avx2"),
        }
    }

    #[expect(clippy::inline_always, reason = "it must become code of the function with AVX2")]
    #[inline(always)]
    fn is_near(&self, address: u64) -> bool {
        address.wrapping_sub(self.low) < self.span
    }

    /// Picks what the words may point to, and calls `found` for those of which it is known, with whose they are and their positions:
    /// what is left is found later ([`Reader::find`]), so that the processor waits for several accesses to the index at once.
    ///
    /// A pointer that lies in two words is found at the second. `before` is the word before the first, if a pointer may begin
    /// in it.
    pub(super) fn read(
        &self,
        near: &mut Picked,
        whose: u32,
        before: Option<u64>,
        words: &[u64],
        found: &mut impl FnMut(u32, usize, Target),
    ) {
        let Some((first, rest)) = words.split_first() else { return };
        near.whose = whose;
        match before {
            Some(before) => self.pick(near, 0, [before, *first]),
            // The lower half of a pointer cannot be in a word that says nothing.
            None => self.pick_plain(near, 0, *first),
        }
        // Behind each word that is read is the one before it.
        for (number, group) in rest.chunks(GROUP).enumerate() {
            let begin = number * GROUP;
            let with_before = &words[begin..=begin + group.len()];
            if let Ok(whole) = <&[u64; GROUP + 1]>::try_from(with_before)
                && !self.has_near(whole)
            {
                continue;
            }
            self.make_room(near, found);
            for (place, pair) in with_before.array_windows().enumerate() {
                self.pick(near, begin + place + 1, *pair);
            }
        }
        self.make_room(near, found);
    }

    /// Makes room for what a group of words and the first one of the next words may stand for.
    fn make_room(&self, near: &mut Picked, found: &mut impl FnMut(u32, usize, Target)) {
        if near.count > NEAR - 3 * (GROUP + 1) {
            self.find(near, found);
        }
    }

    /// Whether a word behind the first is near the blocks.
    #[inline]
    fn has_near(&self, words: &[u64; GROUP + 1]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.has_avx2 {
            // SAFETY: the processor has these instructions.
            return unsafe { self.has_near_by_avx2(words) };
        }
        self.has_near_anywhere(words)
    }

    /// The same, compiled for vectors of four words.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn has_near_by_avx2(&self, words: &[u64; GROUP + 1]) -> bool {
        self.has_near_anywhere(words)
    }

    #[expect(clippy::inline_always, reason = "it must become code of the function with AVX2")]
    #[inline(always)]
    fn has_near_anywhere(&self, words: &[u64; GROUP + 1]) -> bool {
        // Without a guard a word that is plain anyway is looked at twice.
        let (rotation, guard) = self.guard.map_or((0, 0), |guard| (17, guard));
        let mut any = false;
        for place in 1..=GROUP {
            let word = words[place];
            any |= self.is_near(word & ADDRESS);
            any |= self.is_near(words[place - 1] >> 32 | word << 32);
            any |= self.is_near(word.rotate_right(rotation) ^ guard);
        }
        any
    }

    #[inline]
    fn pick_plain(&self, near: &mut Picked, position: usize, word: u64) {
        let untagged = word & ADDRESS;
        if self.is_near(untagged) {
            near.add(untagged, position, untagged != word);
        }
        if let Some(guard) = self.guard {
            // PTR_MANGLE of glibc's sysdeps/unix/sysv/linux/x86_64/pointer_guard.h.
            let demangled = word.rotate_right(17) ^ guard;
            if self.is_near(demangled) {
                near.add(demangled, position, false);
            }
        }
    }

    /// Picks what the second word may stand for, with the word before it.
    #[inline]
    fn pick(&self, near: &mut Picked, position: usize, [before, word]: [u64; 2]) {
        let halves = before >> 32 | word << 32;
        if self.is_near(halves) {
            near.add(halves, position, true);
        }
        self.pick_plain(near, position, word);
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

/// How many words are looked at together.
const GROUP: usize = 8;
/// How many are looked up together, at most.
const NEAR: usize = 256;

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
        read_behind(None, words, guard)
    }

    fn read_behind(before: Option<u64>, words: &[u64], guard: Option<u64>) -> Vec<(usize, u64, bool)> {
        let blocks = Blocks::new([(0x5555_0000_1000, 64)]).unwrap();
        let (mut found, mut near) = (Vec::new(), Picked::new());
        let reader = Reader::new(&blocks, guard);
        let mut add = |_, at, target: Target| found.push((at, target.offset, target.doubtful));
        reader.read(&mut near, 0, before, words, &mut add);
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
        assert_eq!(read_behind(Some(0x0000_1000_0000_0007), &[0x5555], None), [(0, 0, true)]);
    }

    #[test]
    fn a_pointer_that_the_c_library_mangled_is_as_good_as_plain() {
        let guard = 0x1234_5678_9abc_def0;
        let mangled = (0x5555_0000_1000_u64 ^ guard).rotate_left(17);
        assert_eq!(read(&[mangled], Some(guard)), [(0, 0, false)]);
        assert_eq!(read(&[mangled], None), []);
    }
}
