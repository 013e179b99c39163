//! A walk goes by stretches of [`STRETCH`] frames, one call of a program's function each: the deepest stack in one loop would
//! take the verifier more instructions than it bears.

use leaktrace_common::abi::{STRETCH, Scratch, Walked};

use crate::maps::unknown;
use crate::{config, sites};

/// What a walk returns instead of a key where it has come to the end of a stretch and not of the stack.
pub const GOES_ON: u64 = 0;

/// Tells whether there is another frame to walk: in the first stretch, which most stacks do not leave, by the depth alone.
pub struct Stretch<const FIRST: bool> {
    walked: u32,
    last: u32,
}

impl<const FIRST: bool> Stretch<FIRST> {
    #[inline(always)]
    pub fn new() -> Self {
        let limit = config::max_depth();
        Self { walked: 0, last: if FIRST && limit >= STRETCH { STRETCH - 1 } else { limit } }
    }

    /// Whether frame number `depth` belongs to it. One frame more than is kept is walked, which tells a stack that was cut
    /// from one that just fits.
    #[inline(always)]
    pub fn holds(&mut self, depth: u32) -> bool {
        if !FIRST {
            // Where the depth is not known, the verifier sees by this number that the loop ends. The compiler must not see
            // what both have to do with each other, or it would leave one of them out.
            self.walked = unknown(u64::from(self.walked)) as u32 + 1;
            if self.walked > STRETCH {
                return false;
            }
        }
        depth <= self.last
    }

    /// Where frame number `depth` lies, to be compared with the length of what it lies in. Where the depth at the start was not
    /// known, the compiler would rather move a pointer along, which the verifier does not take for compared.
    #[inline(always)]
    pub fn index(depth: u32) -> usize {
        if FIRST { depth as usize } else { unknown(u64::from(depth)) as usize }
    }

    /// Ends this stretch, whose first frame is number `from`: the key of the stack, or [`GOES_ON`].
    #[inline(always)]
    pub fn end(process: u32, scratch: *mut Scratch, from: u32, walked: Walked) -> u64 {
        sites::end_of_stretch::<FIRST, { STRETCH as usize }>(process, scratch, from, walked)
    }
}
