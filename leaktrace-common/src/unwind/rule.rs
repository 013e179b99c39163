//! The 32-bit unwind rule and the 64-bit row that binds it to a range of code.

use super::Stop;

/// What a rule computes. `off` and `n` are the rule's two operands, in words of 8 bytes; CFA is the value that the stack
/// pointer has in the caller after the return. Unless said otherwise
///
/// ```text
/// (ip, sp, fp) = (*(CFA - 8), CFA, if n == 0 { fp } else { *(CFA + 8·n) })
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// No rule: what an empty cache word holds. Never in a table.
    None = 0,
    /// No FDE covers this code; the frame pointer may still lead on. With off = 1 it is only the padding before a
    /// function: a return address right behind it, at the function's start, was made up by whoever built the stack
    /// (`makecontext`), and this is the outermost frame
    Gap = 1,
    /// The outermost function: its return address is undefined.
    Outermost = 2,
    /// CFA = sp + 8·off
    Sp = 3,
    /// CFA = fp + 8·off
    Fp = 4,
    /// CFA = sp + 8 + 8·((ip & 15) ≥ off): the entries of a lazily bound PLT, which push one word on their way
    Plt = 5,
    /// (ip, sp, fp) = (*(sp + 8·off + 8), *(sp + 8·off), *(sp + 8·off - 40)): the ucontext that the kernel left for
    /// `rt_sigreturn`; ip is then the interrupted instruction itself, not a return address
    Signal = 6,
    /// CFA = *(fp - 8·off), fp = *(fp + 8·n): after a stack realignment (alloca, over-aligned locals in `main`)
    FpDeref = 7,
    /// CFA = *(sp + 8·off) + 8: assembly that keeps the caller's stack pointer in its own frame
    SpDeref = 8,
    /// Nothing that this form can express; `off` is the [`Stop`] that says why
    Unsupported = 9,
}

/// An unwind rule: bits 0..4 the [`Kind`], bits 4..12 the saved frame pointer's place as a signed number of words, bits
/// 12..32 the offset in words (20 bits: frames up to 8 MiB, the default limit of a whole stack; Debian's redis has one
/// of 1 MiB).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Rule(u32);

impl Rule {
    /// Largest offset in words that a rule holds.
    pub const MAX_OFFSET: u32 = (1 << 20) - 1;
    /// The place of the frame pointer that means: it cannot be recovered.
    pub const FP_LOST: i8 = i8::MIN;
    /// See [`Kind::None`].
    pub const NONE: Self = Self::new(Kind::None, 0, 0);
    /// See [`Kind::Gap`].
    pub const GAP: Self = Self::new(Kind::Gap, 0, 0);
    /// See [`Kind::Gap`].
    pub const PADDING: Self = Self::new(Kind::Gap, 1, 0);
    /// See [`Kind::Outermost`].
    pub const OUTERMOST: Self = Self::new(Kind::Outermost, 0, 0);

    /// A rule of `kind` with both operands in words; bits of `off` above [`Self::MAX_OFFSET`] are cut.
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: Kind, off: u32, n: i8) -> Self {
        Self(kind as u32 | ((n as u8 as u32) << 4) | (off << 12))
    }

    /// The rule that ends a walk for this reason.
    #[must_use]
    pub const fn unsupported(why: Stop) -> Self {
        Self::new(Kind::Unsupported, why as u32, 0)
    }

    /// The rule as it lies in a table or in the cache.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The rule that lies in a table or in the cache.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// What the rule computes. Bits that name no kind (only memory that is not a table has them) read as
    /// [`Kind::Gap`].
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self.0 & 15 {
            0 => Kind::None,
            2 => Kind::Outermost,
            3 => Kind::Sp,
            4 => Kind::Fp,
            5 => Kind::Plt,
            6 => Kind::Signal,
            7 => Kind::FpDeref,
            8 => Kind::SpDeref,
            9 => Kind::Unsupported,
            _ => Kind::Gap,
        }
    }

    /// Whether [`super::step_plain`] is all that it takes.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        const LOST: u32 = (Rule::FP_LOST as u8 as u32) << 4;
        const _: () = assert!(Kind::Outermost as u32 + 1 == Kind::Sp as u32 && Kind::Sp as u32 + 1 == Kind::Fp as u32);
        let kind = self.0 & 15;
        kind >= Kind::Outermost as u32 && kind <= Kind::Fp as u32 && self.0 & 0xff0 != LOST
    }

    /// `off` in words.
    #[inline(always)]
    #[must_use]
    pub const fn off(self) -> u32 {
        self.0 >> 12
    }

    /// `off` in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn off_bytes(self) -> u64 {
        (self.0 >> 12) as u64 * 8
    }

    /// `n` in words.
    #[inline(always)]
    #[must_use]
    pub const fn n(self) -> i8 {
        (self.0 >> 4) as u8 as i8
    }

    /// `n` in bytes, ready to be added to an address.
    #[inline(always)]
    #[must_use]
    pub const fn n_bytes(self) -> u64 {
        // Shifted up to the sign bit and arithmetically down again: BPF before v4 has no sign-extending load.
        (((self.0 << 20) as i32 >> 24) as i64 * 8) as u64
    }
}

impl core::fmt::Debug for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}({}, {})", self.kind(), self.off(), self.n())
    }
}

/// A rule and the first address it holds for; it holds until the next row. The address stands in the upper half, so
/// that sorted rows are sorted words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Row(u64);

impl Row {
    /// A row from `pc` on, relative to the object's lowest text address.
    #[inline(always)]
    #[must_use]
    pub const fn new(pc: u32, rule: Rule) -> Self {
        Self((pc as u64) << 32 | rule.0 as u64)
    }

    /// The row as it lies in a table.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The row that lies in a table.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// First address, relative to the object's lowest text address.
    #[inline(always)]
    #[must_use]
    pub const fn pc(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The rule that holds from there on.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> Rule {
        Rule(self.0 as u32)
    }
}

impl core::fmt::Debug for Row {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}: {:?}", self.pc(), self.rule())
    }
}

const _: () = assert!(size_of::<Row>() == 8 && size_of::<Rule>() == 4);

#[cfg(test)]
mod tests {
    use super::{Kind, Row, Rule};
    use crate::unwind::Stop;

    #[test]
    fn operands_survive_at_their_extremes() {
        for kind in [Kind::Sp, Kind::Fp, Kind::Plt, Kind::Signal, Kind::FpDeref, Kind::SpDeref, Kind::Unsupported] {
            for off in [0, 1, 0xffff, 0x1_0000, Rule::MAX_OFFSET] {
                for n in [i8::MIN, -16, -2, 0, 1, i8::MAX] {
                    let rule = Rule::from_bits(Rule::new(kind, off, n).to_bits());
                    assert_eq!((rule.kind(), rule.off(), rule.n()), (kind, off, n));
                    assert_eq!(rule.off_bytes(), u64::from(off) * 8);
                    assert_eq!(rule.n_bytes() as i64, i64::from(n) * 8);
                }
            }
        }
    }

    #[test]
    fn every_reason_fits_into_a_rule() {
        for why in Stop::ALL {
            assert_eq!(Stop::from_code(Rule::unsupported(why).off()), Some(why));
        }
    }

    #[test]
    fn rows_sort_by_address() {
        let low = Row::new(1, Rule::new(Kind::Unsupported, Rule::MAX_OFFSET, -1));
        let high = Row::new(2, Rule::NONE);
        assert!(low < high);
        assert_eq!((high.pc(), high.rule()), (2, Rule::NONE));
    }
}
