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
}

impl<'a> Reader<'a> {
    pub(super) fn new(blocks: &'a Blocks, guard: Option<u64>) -> Self {
        let bounds = blocks.bounds();
        Self { blocks, low: bounds.start, span: bounds.end - bounds.start, guard }
    }

    #[inline]
    fn is_near(&self, address: u64) -> bool {
        address.wrapping_sub(self.low) < self.span
    }

    /// Calls `found` for each block that the words point to, with the word's position.
    ///
    /// A pointer that lies in two words is found at the second. `before` is the word before the first, if a pointer may begin
    /// in it.
    #[inline]
    pub(super) fn read(&self, before: Option<u64>, words: &[u64], mut found: impl FnMut(usize, Target)) {
        let (mut has_before, mut high) = (before.is_some(), before.unwrap_or(0) >> 32);
        for (position, &word) in words.iter().enumerate() {
            let halves = high | word << 32;
            high = word >> 32;
            let untagged = word & ADDRESS;
            if self.is_near(untagged) {
                self.find(untagged, untagged != word, |target| found(position, target));
            }
            if self.is_near(halves) && has_before {
                self.find(halves, true, |target| found(position, target));
            }
            has_before = true;
            if let Some(guard) = self.guard {
                // PTR_MANGLE of glibc's sysdeps/unix/sysv/linux/x86_64/pointer_guard.h.
                let demangled = word.rotate_right(17) ^ guard;
                if self.is_near(demangled) {
                    self.find(demangled, false, |target| found(position, target));
                }
            }
        }
    }

    fn find(&self, address: u64, doubtful: bool, found: impl FnOnce(Target)) {
        if let Some((block, offset)) = self.blocks.find(address) {
            found(Target { block, offset, doubtful });
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
        let mut found = Vec::new();
        Reader::new(&blocks, guard).read(before, words, |at, target| found.push((at, target.offset, target.doubtful)));
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
