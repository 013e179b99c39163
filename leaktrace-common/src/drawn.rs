//! Samples that programs draw of their own allocations: what a block's record says of one, and where the places at which a program tells
//! of them have what they tell.

use crate::sampling::{BYTES_SHIFT, COUNT_SHIFT, weighted_count};

/// Instead of a mean distance between hits: programs draw blocks themselves, each with a weight of its own ([`Drawn`]).
pub const BY_PROGRAMS: u64 = u64::MAX;

const SIZE_BITS: u32 = 40;
const FRACTION_BITS: u32 = 18;
/// The largest size of such a block, bytes.
pub const MAX_DRAWN_BYTES: u64 = (1 << SIZE_BITS) - 1;
/// The most that one may stand for, bytes.
pub const MAX_DRAWN_WEIGHT: u64 = 1 << 44;

/// A block that a program has drawn for its sample: bytes asked for, and the bytes that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// Bytes asked for.
    pub size: u64,
    /// The bytes that it stands for, to 19 bits.
    pub weight: u64,
}

impl Drawn {
    /// The word that stands in its record in place of a size. The weight is rounded to 2e-6 of itself, so that there is room for
    /// both: 40 bits of size, 6 of an exponent and 18 of a fraction, of which all are 0 where the weight is the size.
    ///
    /// `None` for what no program draws: less weight than size, or more of either than there is.
    #[inline(always)]
    #[must_use]
    pub const fn word(size: u64, weight: u64) -> Option<u64> {
        if size > MAX_DRAWN_BYTES || weight < size || weight > MAX_DRAWN_WEIGHT {
            return None;
        }
        if weight == size || weight < 2 {
            return Some(size);
        }
        let exponent = weight.ilog2();
        let (exponent, fraction) = if exponent <= FRACTION_BITS {
            (exponent, weight << (FRACTION_BITS - exponent))
        } else {
            // Halves up, which may carry into the next power.
            let shift = exponent - FRACTION_BITS;
            let rounded = (weight + (1 << (shift - 1))) >> shift;
            if rounded >> (FRACTION_BITS + 1) == 0 { (exponent, rounded) } else { (exponent + 1, rounded >> 1) }
        };
        let fraction = fraction & ((1 << FRACTION_BITS) - 1);
        Some(((exponent as u64) << FRACTION_BITS | fraction) << SIZE_BITS | size)
    }

    /// What such a word says.
    #[inline(always)]
    #[must_use]
    pub const fn of_word(word: u64) -> Self {
        let (size, code) = (word & MAX_DRAWN_BYTES, word >> SIZE_BITS);
        if code == 0 {
            return Self { size, weight: size };
        }
        let exponent = (code >> FRACTION_BITS) as u32;
        let fraction = code & ((1 << FRACTION_BITS) - 1) | 1 << FRACTION_BITS;
        let weight = if exponent <= FRACTION_BITS {
            fraction >> (FRACTION_BITS - exponent)
        } else {
            fraction << (exponent - FRACTION_BITS)
        };
        Self { size, weight }
    }

    /// The bytes and the number of blocks that it stands for, in units of 1/2^[`BYTES_SHIFT`] and 1/2^[`COUNT_SHIFT`]. A block of no
    /// bytes is only drawn where every block is, and stands for itself.
    #[inline(always)]
    #[must_use]
    pub fn weighted(self) -> (u64, u64) {
        let bytes = self.weight << BYTES_SHIFT;
        if self.size == 0 { (bytes, 1 << COUNT_SHIFT) } else { (bytes, weighted_count(self.size, bytes)) }
    }
}

/// Places that tell of samples, at most.
pub const MAX_SAMPLE_PLACES: u32 = 1024;

/// Where one argument of such a place is.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SampleArgument {
    /// [`ARGUMENT_CONSTANT`] and the like.
    pub kind: u16,
    /// The register that has it, or the first part of its address, as the architecture numbers registers; or [`NO_REGISTER`].
    pub register: u8,
    /// The register that has the second part of its address, or [`NO_REGISTER`].
    pub index: u8,
    /// By how many bits that part is shifted to the left.
    pub shift: u8,
    /// Bytes of it, 1, 2, 4 or 8.
    pub width: u8,
    /// Nonzero if it is extended with its sign.
    pub is_signed: u8,
    /// Explicit padding.
    pub padding: u8,
    /// Added to the address; or the constant.
    pub value: i64,
}

/// The arguments of such a place, in their order; those that it does not have are 0.
pub type SampleArguments = [SampleArgument; 3];

/// The value itself.
pub const ARGUMENT_CONSTANT: u16 = 0;
/// In a register.
pub const ARGUMENT_REGISTER: u16 = 1;
/// In memory.
pub const ARGUMENT_MEMORY: u16 = 2;
/// No register.
pub const NO_REGISTER: u8 = 0xff;

const _: () = assert!(size_of::<SampleArgument>() == 16);

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_that_stands_for_itself_is_exact_whatever_its_size() {
        for size in [0, 1, 2, 64, 4097, (1 << 32) + 12345, MAX_DRAWN_BYTES] {
            let drawn = Drawn::of_word(Drawn::word(size, size).unwrap());
            assert_eq!(drawn, Drawn { size, weight: size });
            assert_eq!(drawn.weighted(), (size << 8, 1 << 16));
        }
    }

    #[test]
    fn what_no_program_draws_is_refused() {
        assert_eq!(Drawn::word(64, 63), None);
        assert_eq!(Drawn::word(MAX_DRAWN_BYTES + 1, MAX_DRAWN_WEIGHT), None);
        assert_eq!(Drawn::word(64, MAX_DRAWN_WEIGHT + 1), None);
        assert_eq!(Drawn::word(64, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn size_and_weight_come_back(size in 0..=MAX_DRAWN_BYTES, bits in 0u32..45, word in any::<u64>()) {
            let weight = (word & ((1 << bits) - 1)).max(size).min(MAX_DRAWN_WEIGHT);
            let drawn = Drawn::of_word(Drawn::word(size, weight).unwrap());
            prop_assert_eq!(drawn.size, size);
            // Half a unit of 19 bits.
            prop_assert!(drawn.weight.abs_diff(weight) <= weight >> 19, "{} for {}", drawn.weight, weight);
            // It is rounded once.
            prop_assert_eq!(Drawn::of_word(Drawn::word(size, drawn.weight.max(size)).unwrap()).weight, drawn.weight.max(size));
        }
    }
}
