//! Which words are worth a look: a bit for each that is near the blocks in any of the ways to read it.
//!
//! Few words of a heap are, and all have to be looked at while a process stands still: this is the loop that takes the time. A bit
//! too many costs some time; none is missing.

/// The bits of a word that are an address. Programs keep tags in the others.
const ADDRESS: u64 = (1 << 48) - 1;
/// By how many bits glibc rotates a pointer that it has mangled (`PTR_MANGLE` of
/// `sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`).
const ROTATION: u32 = 17;
/// Words whose bits are found together.
const GROUP: usize = u64::BITS as usize;

/// The ways to read a word, and where an address must lie to be near.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sieve {
    low: u64,
    span: u64,
    /// What glibc mangles pointers with that it keeps in a `jmp_buf`.
    guard: Option<u64>,
    #[cfg(target_arch = "x86_64")]
    has_avx2: bool,
}

/// A pointer without what a program keeps in its upper bits.
#[inline]
pub(super) fn untagged(word: u64) -> u64 {
    word & ADDRESS
}

/// A pointer that lies in two words.
#[inline]
pub(super) fn halves(before: u64, word: u64) -> u64 {
    before >> 32 | word << 32
}

impl Sieve {
    /// For blocks that lie in `span` bytes from `low` on.
    pub(super) fn new(low: u64, span: u64, guard: Option<u64>) -> Self {
        Self {
            low,
            span,
            guard,
            #[cfg(target_arch = "x86_64")]
            has_avx2: is_x86_feature_detected!("avx2"),
        }
    }

    /// Whether a block may lie at an address.
    #[inline]
    pub(super) fn is_near(&self, address: u64) -> bool {
        address.wrapping_sub(self.low) < self.span
    }

    /// A pointer as it was before glibc mangled it.
    #[inline]
    pub(super) fn demangled(&self, word: u64) -> Option<u64> {
        self.guard.map(|guard| word.rotate_right(ROTATION) ^ guard)
    }

    /// Replaces `bits` by those of words that follow each other, from the lowest bit of the first on.
    pub(super) fn sift(&self, words: &[u64], bits: &mut Vec<u64>) {
        bits.clear();
        let (first, _) = words.split_at(words.len().min(GROUP));
        let Some(last) = first.len().checked_sub(1) else { return };
        bits.push(self.sift_each(0, first));
        // Each group after the word before it.
        let mut rest = &words[last..];
        while let Some(group) = rest.first_chunk() {
            bits.push(self.sift_group(group));
            rest = &rest[GROUP..];
        }
        if let [before, group @ ..] = rest
            && !group.is_empty()
        {
            bits.push(self.sift_each(*before, group));
        }
    }

    /// The bits of at most a group.
    fn sift_each(&self, before: u64, words: &[u64]) -> u64 {
        let is_near = |before: u64, word: u64| {
            self.is_near(untagged(word))
                || self.is_near(halves(before, word))
                || self.demangled(word).is_some_and(|address| self.is_near(address))
        };
        let before = std::iter::once(before).chain(words.iter().copied());
        let near = words.iter().zip(before).map(|(word, before)| u64::from(is_near(before, *word)));
        near.enumerate().fold(0, |bits, (at, bit)| bits | bit << at)
    }

    fn sift_group(&self, words: &[u64; GROUP + 1]) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.has_avx2 {
            // SAFETY: the processor has these instructions.
            return unsafe { self.sift_by_avx2(words) };
        }
        self.sift_each(words[0], &words[1..])
    }

    /// Four words at once.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn sift_by_avx2(&self, words: &[u64; GROUP + 1]) -> u64 {
        use std::arch::x86_64::{
            __m256i, _mm256_and_si256, _mm256_castsi256_pd, _mm256_cmpgt_epi64, _mm256_loadu_si256, _mm256_movemask_pd,
            _mm256_or_si256, _mm256_set1_epi64x, _mm256_slli_epi64, _mm256_srli_epi64, _mm256_sub_epi64,
            _mm256_xor_si256,
        };
        // There is only a comparison of signed words.
        const SIGN: u64 = 1 << 63;
        let all = |word: u64| _mm256_set1_epi64x(word.cast_signed());
        let (low, span, address) = (all(self.low ^ SIGN), all(self.span ^ SIGN), all(ADDRESS));
        let is_near = |addresses| _mm256_cmpgt_epi64(span, _mm256_sub_epi64(addresses, low));
        let read = |byte: usize| -> __m256i {
            debug_assert!(byte + size_of::<__m256i>() <= size_of_val(words), "beyond the group");
            // SAFETY: these bytes are words of the group, as the callers below have it.
            unsafe { _mm256_loadu_si256(words.as_ptr().byte_add(byte).cast()) }
        };
        let mut bits = 0;
        for at in (0..GROUP).step_by(4) {
            let four = read(8 * at + 8);
            let mut near = is_near(_mm256_and_si256(four, address));
            // Of each of them the lower half, behind the upper half of the one before.
            near = _mm256_or_si256(near, is_near(read(8 * at + 4)));
            if let Some(guard) = self.guard {
                const DOWN: i32 = ROTATION.cast_signed();
                const UP: i32 = 64 - DOWN;
                let rotated = _mm256_or_si256(_mm256_srli_epi64::<DOWN>(four), _mm256_slli_epi64::<UP>(four));
                near = _mm256_or_si256(near, is_near(_mm256_xor_si256(rotated, all(guard))));
            }
            let four_bits = _mm256_movemask_pd(_mm256_castsi256_pd(near)).cast_unsigned();
            bits |= u64::from(four_bits) << at;
        }
        bits
    }
}

/// The positions from `from` on and below `to` that have a bit.
pub(super) fn set(bits: &[u64], from: usize, to: usize) -> impl Iterator<Item = usize> + '_ {
    let groups = from / GROUP..to.div_ceil(GROUP);
    groups.flat_map(move |group| {
        let begin = group * GROUP;
        let mut left = bits.get(group).copied().unwrap_or_default();
        left &= u64::MAX << from.saturating_sub(begin);
        left &= u64::MAX >> (begin + GROUP).saturating_sub(to).min(GROUP - 1);
        std::iter::from_fn(move || {
            let at = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(begin + at as usize)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const LOW: u64 = 0x5555_0000_1000;
    const SPAN: u64 = 0x12_3456_7000;

    fn sifted(sieve: Sieve, words: &[u64]) -> Vec<usize> {
        let mut bits = vec![7];
        sieve.sift(words, &mut bits);
        assert_eq!(bits.len(), words.len().div_ceil(GROUP));
        set(&bits, 0, words.len()).collect()
    }

    #[test]
    fn positions_are_those_of_the_bits_in_a_range() {
        let bits = [1 << 63 | 1 << 5 | 1, 0, 3];
        let of = |from, to| set(&bits, from, to).collect::<Vec<_>>();
        assert_eq!(of(0, 192), [0, 5, 63, 128, 129]);
        assert_eq!((of(0, 5), of(1, 6), of(5, 63)), (vec![0], vec![5], vec![5]));
        assert_eq!((of(63, 129), of(64, 128), of(129, 130)), (vec![63, 128], vec![], vec![129]));
        assert_eq!((of(0, 0), of(64, 64), of(130, 1000)), (vec![], vec![], vec![]));
    }

    proptest! {
        #[test]
        fn each_word_near_the_blocks_has_its_bit_wherever_it_lies(
            length in 0usize..200,
            seed in any::<u64>(),
            guard in proptest::option::of(any::<u64>()),
            is_low in any::<bool>(),
        ) {
            // Of each kind some, and words just outside.
            let low = if is_low { 0x1000 } else { LOW };
            let sieve = Sieve::new(low, SPAN, guard);
            let mut random = seed | 1;
            let mut words = Vec::new();
            while words.len() < length {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let address = low.wrapping_sub(2).wrapping_add(random % (SPAN + 4));
                match random >> 32 & 7 {
                    0 => words.push(address),
                    1 => words.push(address | random << 48),
                    2 => words.extend([address << 32, address >> 32]),
                    3 => words.push((address ^ guard.unwrap_or_default()).rotate_left(ROTATION)),
                    4 => words.extend([low, low + SPAN - 1, low + SPAN, low - 1]),
                    5 => words.push(random),
                    _ => words.push(random % 3),
                }
            }
            let before = |at: usize| at.checked_sub(1).map_or(0, |before| words[before]);
            let is_near = |address: u64| (low..low + SPAN).contains(&address);
            let expected = (0..words.len()).filter(|at| {
                let word = words[*at];
                is_near(word & ADDRESS)
                    || is_near(before(*at) >> 32 | word << 32)
                    || guard.is_some_and(|guard| is_near(word.rotate_right(17) ^ guard))
            });
            prop_assert_eq!(sifted(sieve, &words), expected.collect::<Vec<_>>());
        }
    }
}
