//! Parts of a mapping, of each of which something else is known.
//!
//! In: one part after the other, the more certain later. Out: all of them by address, none of which overlaps.

use std::ops::Range;

use super::memory::Standing;

/// A part of a mapping.
pub(super) struct Part {
    pub(super) range: Range<u64>,
    pub(super) outside: Standing,
    pub(super) holds_chunks: bool,
}

/// Parts by address, which do not overlap.
pub(super) struct Parts(pub(super) Vec<Part>);

impl Parts {
    /// Lays a part over what is there.
    pub(super) fn lay(&mut self, part: Part) {
        let Range { start, end } = part.range;
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|under| under.range.end <= start);
        let behind = self.0.partition_point(|under| under.range.start < end);
        let cut = |under: &Part, range: Range<u64>| Part { range, ..*under };
        let under = &self.0[first..behind.max(first)];
        let before = under.first().filter(|under| under.range.start < start);
        let before = before.map(|under| cut(under, under.range.start..start));
        let after = under.last().filter(|under| under.range.end > end);
        let after = after.map(|under| cut(under, end..under.range.end));
        self.0.splice(first..behind.max(first), before.into_iter().chain([part]).chain(after));
    }
}
