//! The cookies of probes in the middle of allocation functions, where one trap sees a whole call: beside where the arguments are
//! ([`crate::cookie`]) and which function this is ([`crate::abi`]), where the caller's frame pointer is, and which calls count.
//!
//! ```text
//!  bit 60   59            58 ...... 51   50 ...... 43
//!  only if ZF, if not ZF  size's word    frame pointer's word
//! ```

/// A = size, B = result: all of a call, seen by one probe in the middle of a function that calls no other probed one. Its program
/// and that of the two that follow is none of the others'.
pub const FUNCTION_ALLOCATED: u32 = 13;
/// A = size: the beginning of such a call.
pub const FUNCTION_BEGUN: u32 = 14;
/// B = result: the end of such a call.
pub const FUNCTION_ENDED: u32 = 15;

/// Where a cookie tells how many words below the stack pointer at the entry the caller's frame pointer is: 0 if it is in its
/// register. [`COOKIE_SLOT_BITS`] bits.
pub const COOKIE_FRAME_SHIFT: u32 = 43;

/// Where the cookie of a [`FUNCTION_ALLOCATED`] tells the same of its argument A.
pub const COOKIE_SIZE_SHIFT: u32 = 51;

/// How many bits such a number has.
pub const COOKIE_SLOT_BITS: u32 = 8;

/// Set in the cookie of a [`FUNCTION_ALLOCATED`] or [`FUNCTION_ENDED`] on a conditional jump: only calls count at which the zero
/// flag is not set.
pub const COOKIE_IF_NOT_ZERO: u64 = 1 << 59;
/// The same, at which it is set.
pub const COOKIE_IF_ZERO: u64 = 1 << 60;

/// The number of words at one of these places in a cookie, in bytes.
#[inline(always)]
#[must_use]
pub const fn cookie_slot(cookie: u64, shift: u32) -> u64 {
    (cookie >> shift & ((1 << COOKIE_SLOT_BITS) - 1)) << 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{COOKIE_EXITS, COOKIE_FUNCTION_SHIFT, COOKIE_LEAF, COOKIE_THREAD_CACHE};
    use crate::cookie::{self, Register};

    #[test]
    fn nothing_in_a_cookie_is_in_the_place_of_another() {
        let most = (1u64 << COOKIE_SLOT_BITS) - 1;
        let words = [most << COOKIE_FRAME_SHIFT, most << COOKIE_SIZE_SHIFT, COOKIE_IF_NOT_ZERO, COOKIE_IF_ZERO];
        let others = [0xff << COOKIE_FUNCTION_SHIFT, COOKIE_LEAF, COOKIE_EXITS, COOKIE_THREAD_CACHE];
        let places = cookie::encode([Register(31); 3], cookie::MAX_STACK_SHIFT).unwrap();
        let mut taken = 0u64;
        for bits in words.into_iter().chain(others).chain([places]) {
            assert_eq!(taken & bits, 0, "{bits:x}");
            taken |= bits;
        }
    }

    #[test]
    fn words_are_told_in_bytes() {
        let cookie = 2 << COOKIE_FRAME_SHIFT | 255 << COOKIE_SIZE_SHIFT | u64::MAX >> 24;
        assert_eq!(cookie_slot(cookie & !(0xff << 32), COOKIE_FRAME_SHIFT), 16);
        assert_eq!(cookie_slot(cookie, COOKIE_SIZE_SHIFT), 2040);
    }
}
