//! Ranges of addresses: sorted, joined, and taken from each other.
//!
//! In and out: half-open ranges in ascending order that neither overlap nor, where they were joined, follow each other.

use std::ops::Range;

/// Ranges in any order as such that are in order, with those that overlap or follow each other as one.
#[must_use]
pub fn joined(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = ranges.into_iter().collect();
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let is_one = next.start <= before.end;
        before.end = if is_one { before.end.max(next.end) } else { before.end };
        is_one
    });
    ranges
}

/// What of ranges lies in none of others.
#[must_use]
pub fn less(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for Range { start, end } in ranges {
        let mut at = *start;
        let first = others.partition_point(|other| other.end <= *start);
        for other in others[first..].iter().take_while(|other| other.start < *end) {
            if at < other.start {
                left.push(at..other.start);
            }
            at = at.max(other.end);
        }
        if at < *end {
            left.push(at..*end);
        }
    }
    left
}

/// The parts of things, each of which has a range, that lie in ranges; in order.
#[must_use]
pub fn parts_within<'a, T>(
    things: &'a [T],
    range_of: impl Fn(&T) -> Range<u64>,
    ranges: &[Range<u64>],
) -> Vec<(&'a T, Range<u64>)> {
    let mut parts = Vec::new();
    let mut first = 0;
    for thing in things {
        let Range { start, end } = range_of(thing);
        while ranges.get(first).is_some_and(|range| range.end <= start) {
            first += 1;
        }
        let within = ranges[first..].iter().take_while(|range| range.start < end);
        parts.extend(within.map(|range| (thing, start.max(range.start)..end.min(range.end))));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_or_follows_is_one() {
        assert_eq!(joined([5..9, 0..2, 2..3, 6..7]), [0..3, 5..9]);
        assert!(joined([]).is_empty());
    }

    #[test]
    fn what_others_cover_is_taken_away() {
        let before = [0x1000..0x3000, 0x5000..0x6000];
        let now = [0x2000..0x4000, 0x4800..0x7000, 0x9000..0xa000];
        assert_eq!(less(&now, &before), [0x3000..0x4000, 0x4800..0x5000, 0x6000..0x7000, 0x9000..0xa000]);
        assert!(less(&before, &before).is_empty());
        assert_eq!(less(&before, &[]), before);
    }

    #[test]
    fn a_thing_may_have_several_parts_and_a_range_several_things() {
        let things = [(1, 0..10), (2, 10..20), (3, 30..40)];
        let parts = parts_within(&things, |thing| thing.1.clone(), &[2..3, 8..12, 35..50]);
        let parts: Vec<_> = parts.into_iter().map(|((name, _), range)| (*name, range)).collect();
        assert_eq!(parts, [(1, 2..3), (1, 8..10), (2, 10..12), (3, 35..40)]);
    }
}
