//! The attach cookie of a probe whose arguments are not where the calling convention puts them.
//!
//! Userspace encodes, the BPF program decodes: which register holds each argument at the probed instruction, and how far
//! the stack pointer has moved since the function's entry. A cookie of 0 says that nothing moved; such probes run the
//! program variant that never asks for the cookie, so that the common case pays nothing for the rare one.
//!
//! ```text
//!  bit 63   62 ... 32   31 ......... 16   15   14 .. 10   9 .. 5   4 .. 0
//!  MAPPED   attacher's  stack shift / 8    0   argument C     B        A
//! ```
//!
//! Bits 32 to 62 are never written here: whoever attaches may use them. Nothing in this module knows what A, B and C
//! mean; that is a matter of the program.

/// Set in every cookie that carries a map: never 0, whatever the fields say.
pub const MAPPED: u64 = 1 << 63;

/// Arguments that a cookie has room for.
pub const ARGUMENTS: usize = 3;

/// The largest stack shift a cookie can carry, in bytes.
pub const MAX_STACK_SHIFT: u64 = STACK_SHIFT_MASK * STACK_UNIT;

const REGISTER_BITS: u32 = 5;
const REGISTER_MASK: u64 = (1 << REGISTER_BITS) - 1;
const STACK_SHIFT_AT: u32 = 16;
const STACK_SHIFT_MASK: u64 = 0xffff;
/// The stack pointer of x86-64 moves in units of 8 bytes wherever a probe is placed.
const STACK_UNIT: u64 = 8;

/// A general register, numbered as the architecture encodes it: x86-64 as in the constants below (Intel SDM volume 2,
/// table 3-1), aarch64 `x0` to `x30` as 0 to 30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Register(pub u8);

impl Register {
    /// x86-64 `rax`.
    pub const RAX: Self = Self(0);
    /// x86-64 `rcx`: the fourth argument at a function's entry.
    pub const RCX: Self = Self(1);
    /// x86-64 `rdx`: the third argument at a function's entry.
    pub const RDX: Self = Self(2);
    /// x86-64 `rbx`.
    pub const RBX: Self = Self(3);
    /// x86-64 `rsp`.
    pub const RSP: Self = Self(4);
    /// x86-64 `rbp`.
    pub const RBP: Self = Self(5);
    /// x86-64 `rsi`: the second argument at a function's entry.
    pub const RSI: Self = Self(6);
    /// x86-64 `rdi`: the first argument at a function's entry.
    pub const RDI: Self = Self(7);
    /// x86-64 `r8`: the fifth argument at a function's entry; `r9` to `r15` follow by number.
    pub const R8: Self = Self(8);
}

/// Packs where the arguments are and how many bytes the stack pointer has moved down since the entry.
///
/// Arguments that the program does not read may be any register. `None` if a register does not fit into 5 bits, or the
/// shift is no multiple of 8 or above [`MAX_STACK_SHIFT`].
#[must_use]
pub const fn encode(arguments: [Register; ARGUMENTS], stack_shift: u64) -> Option<u64> {
    if !stack_shift.is_multiple_of(STACK_UNIT) || stack_shift > MAX_STACK_SHIFT {
        return None;
    }
    let [a, b, c] = arguments;
    if a.0 as u64 > REGISTER_MASK || b.0 as u64 > REGISTER_MASK || c.0 as u64 > REGISTER_MASK {
        return None;
    }
    let registers = a.0 as u64 | (b.0 as u64) << REGISTER_BITS | (c.0 as u64) << (2 * REGISTER_BITS);
    Some(MAPPED | registers | (stack_shift / STACK_UNIT) << STACK_SHIFT_AT)
}

/// Whether the cookie carries a map. If not, the arguments are where the calling convention puts them at the entry.
#[inline]
#[must_use]
pub const fn is_mapped(cookie: u64) -> bool {
    cookie & MAPPED != 0
}

/// The register that holds argument A (`index` 0), B (1) or C (2) at the probed instruction; always below 32.
#[inline]
#[must_use]
pub const fn register(cookie: u64, index: u32) -> Register {
    Register(((cookie >> (index * REGISTER_BITS)) & REGISTER_MASK) as u8)
}

/// Whether arguments A and B are in the registers of the x86-64 calling convention's first two.
#[inline]
#[must_use]
pub const fn begins_as_called(cookie: u64) -> bool {
    let both = Register::RDI.0 as u64 | (Register::RSI.0 as u64) << REGISTER_BITS;
    cookie & (REGISTER_MASK | REGISTER_MASK << REGISTER_BITS) == both
}

/// Bytes by which the stack pointer is below where it was at the entry: the return address is this far above it.
#[inline]
#[must_use]
pub const fn stack_shift(cookie: u64) -> u64 {
    ((cookie >> STACK_SHIFT_AT) & STACK_SHIFT_MASK) * STACK_UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_document_says() {
        // mimalloc 2.0.9's realloc at +20: pointer in rsi (6), size in rdx (2), stack untouched.
        let cookie = encode([Register::RSI, Register::RDX, Register::RAX], 0).unwrap();
        assert_eq!(cookie, 0x8000_0000_0000_0046);
        // glibc 2.31's free at +17: pointer still in rdi (7), 24 bytes of stack taken.
        let cookie = encode([Register::RDI, Register::RAX, Register::RAX], 24).unwrap();
        assert_eq!(cookie, 0x8000_0000_0003_0007);
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        for (a, b, c, shift) in [(0, 15, 7, 0), (31, 0, 31, 8), (1, 2, 3, MAX_STACK_SHIFT), (15, 14, 13, 424)] {
            let cookie = encode([Register(a), Register(b), Register(c)], shift).unwrap();
            assert!(is_mapped(cookie));
            assert_eq!([register(cookie, 0), register(cookie, 1), register(cookie, 2)].map(|r| r.0), [a, b, c]);
            assert_eq!(stack_shift(cookie), shift);
            assert_eq!(cookie >> 32, 1 << 31, "the attacher's bits stay free");
        }
    }

    #[test]
    fn the_first_two_arguments_of_the_calling_convention_are_recognized_whatever_the_rest() {
        let begins = |a, b, c, shift| begins_as_called(encode([a, b, c], shift).unwrap() | 0x7fff << 32);
        assert!(begins(Register::RDI, Register::RSI, Register::RAX, 0));
        assert!(begins(Register::RDI, Register::RSI, Register(31), 8));
        assert!(!begins(Register::RSI, Register::RDI, Register::RDX, 0));
        assert!(!begins(Register::RDI, Register::RDX, Register::RSI, 0));
    }

    #[test]
    fn bits_of_the_attacher_do_not_disturb_the_map() {
        let cookie = encode([Register::RDI, Register::RSI, Register::RDX], 16).unwrap() | 0x7fff_ffff_0000_0000;
        assert_eq!(register(cookie, 0), Register::RDI);
        assert_eq!(register(cookie, 2), Register::RDX);
        assert_eq!(stack_shift(cookie), 16);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let none = [Register::RAX; ARGUMENTS];
        assert_eq!(encode(none, 12), None);
        assert_eq!(encode(none, MAX_STACK_SHIFT + 8), None);
        assert_eq!(encode([Register::RAX, Register(32), Register::RAX], 0), None);
        assert_eq!(MAX_STACK_SHIFT, 524_280);
    }

    #[test]
    fn a_plain_probe_has_no_cookie() {
        assert!(!is_mapped(0));
    }
}
