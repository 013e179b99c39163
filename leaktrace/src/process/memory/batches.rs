//! Portions of memory to be read with one call each, so that several threads can share the work.
//!
//! Pure: runs of pages in, portions out.

use super::Run;
use crate::model::Address;

/// How many pieces a portion has at most: as many as [`super::Reader`] reads with one system call.
pub(super) const PIECES: usize = 128;

/// Runs of pages cut into portions that fit into a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    pieces: Vec<Run>,
    /// Where in `pieces` each portion ends.
    ends: Vec<usize>,
}

impl Batches {
    /// Cuts `runs` into portions of at most `bytes`, a multiple of the page size.
    #[must_use]
    pub fn of(runs: &[Run], bytes: u64) -> Self {
        let (mut pieces, mut ends) = (Vec::<Run>::new(), Vec::new());
        let (mut begin, mut room) = (0, bytes);
        for run in runs {
            let mut start = run.start.0;
            while start < run.end.0 {
                let is_other = pieces.get(begin).is_some_and(|first| first.forced != run.forced);
                if room == 0 || pieces.len() - begin == PIECES || is_other {
                    ends.push(pieces.len());
                    (begin, room) = (pieces.len(), bytes);
                }
                let end = run.end.0.min(start.saturating_add(room.max(1)));
                pieces.push(Run { start: Address(start), end: Address(end), ..*run });
                room = room.saturating_sub(end - start);
                start = end;
            }
        }
        if begin < pieces.len() {
            ends.push(pieces.len());
        }
        Self { pieces, ends }
    }

    /// How many portions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pieces of a portion; `None` beyond the last one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[Run]> {
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.pieces.get(begin..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, end: u64, forced: bool) -> Run {
        Run { start: Address(start), end: Address(end), swapped: false, forced }
    }

    fn cut(runs: &[Run], bytes: u64) -> Vec<Vec<(u64, u64)>> {
        let batches = Batches::of(runs, bytes);
        let portions = (0..batches.len()).map(|index| batches.get(index).unwrap());
        portions.map(|pieces| pieces.iter().map(|piece| (piece.start.0, piece.end.0)).collect()).collect()
    }

    #[test]
    fn portions_fill_the_buffer_and_no_more() {
        let runs = [run(0x1000, 0x3000, false), run(0x5000, 0xa000, false)];
        assert_eq!(
            cut(&runs, 0x3000),
            [vec![(0x1000, 0x3000), (0x5000, 0x6000)], vec![(0x6000, 0x9000)], vec![(0x9000, 0xa000)]]
        );
        assert_eq!(cut(&runs, 0x10000), [vec![(0x1000, 0x3000), (0x5000, 0xa000)]]);
        assert!(cut(&[], 0x1000).is_empty() && Batches::of(&[], 0x1000).is_empty());
        assert_eq!(Batches::of(&runs, 0x3000).get(3), None);
    }

    #[test]
    fn what_is_read_in_another_way_is_a_portion_of_its_own() {
        let runs = [run(0x1000, 0x2000, false), run(0x2000, 0x3000, true), run(0x3000, 0x4000, false)];
        assert_eq!(cut(&runs, 0x10000), [[(0x1000, 0x2000)], [(0x2000, 0x3000)], [(0x3000, 0x4000)]]);
    }

    #[test]
    fn a_portion_has_as_many_pieces_as_one_call_reads() {
        let runs: Vec<_> = (0..300).map(|page| run(page * 0x2000, page * 0x2000 + 0x1000, false)).collect();
        assert_eq!(cut(&runs, 1 << 20).iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 44]);
    }
}
