//! Which blocks point to which, as found in one pass over memory.
//!
//! Two bits of an edge say what kind of pointer it is, the rest which block it points to. Edges are kept in the pieces in which
//! memory was read: copying them together would take twice the memory.

/// What part of a block a pointer points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Part {
    /// Its start.
    Start = 0,
    /// 8 bytes behind.
    At8 = 1,
    /// 24 bytes behind.
    At24 = 2,
    /// Any other byte, or the pointer is doubtful.
    Inside = 3,
}

impl Part {
    pub(super) fn of(offset: u64) -> Self {
        match offset {
            0 => Self::Start,
            8 => Self::At8,
            24 => Self::At24,
            _ => Self::Inside,
        }
    }

    fn from_bits(bits: u32) -> Self {
        match bits {
            0 => Self::Start,
            1 => Self::At8,
            2 => Self::At24,
            _ => Self::Inside,
        }
    }
}

/// The edges of the blocks in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Piece {
    edges: Vec<u32>,
    /// Each block whose words are in the piece, with its first edge.
    blocks: Vec<(u32, u32)>,
}

impl Piece {
    /// The edges that follow are those of this block.
    pub(super) fn begin(&mut self, block: u32) {
        self.blocks.push((block, self.edges.len() as u32));
    }

    /// Adds an edge of the block that was begun last. Of equal neighbours one is kept.
    pub(super) fn push(&mut self, to: u32, part: Part) {
        let edge = to << 2 | part as u32;
        let begun = self.blocks.last().is_some_and(|(_, first)| (*first as usize) < self.edges.len());
        if !begun || self.edges.last() != Some(&edge) {
            self.edges.push(edge);
        }
    }
}

/// The edges of all blocks.
#[derive(Debug, Default)]
pub struct Edges {
    /// In ascending order of address.
    pieces: Vec<Piece>,
    /// For each block the piece in which its edges begin, and where in it; one more at the end.
    begins: Vec<(u32, u32)>,
}

impl Edges {
    /// Joins the pieces, given in ascending order of address, of so many blocks.
    pub(super) fn join(mut pieces: Vec<Piece>, blocks: usize) -> Self {
        let end = pieces.last().map_or((0, 0), |last| (pieces.len() as u32 - 1, last.edges.len() as u32));
        let mut begins = vec![end; blocks + 1];
        for (number, piece) in pieces.iter_mut().enumerate().rev() {
            for (block, first) in std::mem::take(&mut piece.blocks).into_iter().rev() {
                begins[block as usize] = (number as u32, first);
            }
        }
        // Blocks of which no word was read have the place of their successor.
        let mut next = end;
        for begin in begins.iter_mut().rev() {
            if *begin == end { *begin = next } else { next = *begin }
        }
        Self { pieces, begins }
    }

    /// Where a block points to.
    pub(super) fn of(&self, block: u32) -> impl Iterator<Item = (u32, Part)> + '_ {
        let (from, to) = (self.begins[block as usize], self.begins[block as usize + 1]);
        (from.0..=to.0)
            .filter_map(move |number| {
                let edges = &self.pieces.get(number as usize)?.edges;
                let first = if number == from.0 { from.1 as usize } else { 0 };
                let last = if number == to.0 { to.1 as usize } else { edges.len() };
                edges.get(first..last)
            })
            .flatten()
            .map(|edge| (edge >> 2, Part::from_bits(edge & 3)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.edges.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_a_block_may_lie_in_several_pieces() {
        let mut pieces = [Piece::default(), Piece::default(), Piece::default(), Piece::default()];
        pieces[0].begin(1);
        pieces[0].push(5, Part::Start);
        pieces[0].push(5, Part::Start);
        pieces[0].begin(2);
        pieces[0].push(5, Part::Start);
        pieces[2].begin(2);
        pieces[2].push(6, Part::At8);
        pieces[3].begin(2);
        pieces[3].push(7, Part::Inside);
        pieces[3].begin(4);
        pieces[3].push(0, Part::At24);
        let edges = Edges::join(pieces.into_iter().collect(), 6);
        let of = |block| edges.of(block).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(1), [(5, Part::Start)], "equal neighbours are one");
        assert_eq!(of(2), [(5, Part::Start), (6, Part::At8), (7, Part::Inside)]);
        assert_eq!(of(3), []);
        assert_eq!(of(4), [(0, Part::At24)]);
        assert_eq!(of(5), []);
        assert_eq!(edges.len(), 5);
        assert_eq!(Edges::join(Vec::new(), 2).of(1).count(), 0);
    }
}
