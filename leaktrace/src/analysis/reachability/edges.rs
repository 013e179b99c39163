//! Which blocks point to which, as found in one pass over memory.
//!
//! Two bits of an edge say what kind of pointer it is, the rest which block it points to. Edges are kept in the pieces in which
//! memory was read: copying them together would take twice the memory. What several searches found lies in layers, each with the
//! positions that blocks had then.

use super::moved::Moved;

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
    /// Each block that has edges in the piece, with the first.
    blocks: Vec<(u32, u32)>,
}

impl Piece {
    /// With room for so many edges, of so many blocks.
    pub(super) fn with_room(edges: usize, blocks: usize) -> Self {
        Self { edges: Vec::with_capacity(edges), blocks: Vec::with_capacity(edges.min(blocks)) }
    }

    /// Adds an edge of a block; the edges of one block follow each other. Of equal neighbours one is kept.
    #[inline]
    pub(super) fn push(&mut self, from: u32, to: u32, part: Part) {
        let edge = to << 2 | part as u32;
        if self.blocks.last().is_none_or(|(block, _)| *block != from) {
            self.blocks.push((from, self.edges.len() as u32));
            self.edges.push(edge);
        } else if self.edges.last() != Some(&edge) {
            self.edges.push(edge);
        }
    }
}

/// The edges of all blocks, as found at one or several times.
#[derive(Debug, Default)]
pub struct Edges {
    layers: Vec<Layer>,
}

/// What was found at one time, in the positions that blocks had then.
#[derive(Debug)]
struct Layer {
    /// In ascending order of address.
    pieces: Vec<Piece>,
    /// For each block the piece in which its edges begin, and where in it; one more at the end.
    begins: Vec<(u32, u32)>,
    /// If blocks have other positions by now.
    moved: Option<Moved>,
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
        // Blocks without edges have the place of their successor.
        let mut next = end;
        for begin in begins.iter_mut().rev() {
            if *begin == end { *begin = next } else { next = *begin }
        }
        Self { layers: vec![Layer { pieces, begins, moved: None }] }
    }

    /// Adds what was found earlier, before blocks moved.
    pub(super) fn add_earlier(&mut self, earlier: Self, moved: &Moved) {
        self.layers.extend(earlier.layers.into_iter().map(|layer| {
            let moved = layer.moved.as_ref().map_or_else(|| moved.clone(), |before| moved.after(before));
            Layer { moved: Some(moved), ..layer }
        }));
    }

    /// Where a block points to.
    pub(super) fn of(&self, block: u32) -> impl Iterator<Item = (u32, Part)> + '_ {
        self.layers.iter().flat_map(move |layer| layer.of(block))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers.iter().flat_map(|layer| &layer.pieces).map(|piece| piece.edges.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Layer {
    fn of(&self, block: u32) -> impl Iterator<Item = (u32, Part)> + '_ {
        let then = self.moved.as_ref().map_or(Some(block), |moved| moved.then.get(block as usize).copied());
        let ends = then.and_then(|block| {
            let from = *self.begins.get(block as usize)?;
            Some((from, *self.begins.get(block as usize + 1)?))
        });
        // Nothing of a block that was not there.
        let (from, to) = ends.unwrap_or(((1, 0), (0, 0)));
        (from.0..=to.0)
            .filter_map(move |number| {
                let edges = &self.pieces.get(number as usize)?.edges;
                let first = if number == from.0 { from.1 as usize } else { 0 };
                let last = if number == to.0 { to.1 as usize } else { edges.len() };
                edges.get(first..last)
            })
            .flatten()
            .filter_map(|edge| {
                let (to, part) = (edge >> 2, Part::from_bits(edge & 3));
                let now = self.moved.as_ref().map_or(Some(to), |moved| moved.now(to));
                now.map(|now| (now, part))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::moved::NONE;
    use super::*;

    #[test]
    fn the_edges_of_a_block_may_lie_in_several_pieces() {
        let mut pieces = [Piece::default(), Piece::default(), Piece::default(), Piece::default()];
        pieces[0].push(1, 5, Part::Start);
        pieces[0].push(1, 5, Part::Start);
        pieces[0].push(2, 5, Part::Start);
        pieces[2].push(2, 6, Part::At8);
        pieces[3].push(2, 7, Part::Inside);
        pieces[3].push(4, 0, Part::At24);
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

    #[test]
    fn what_was_found_before_blocks_moved_is_found_by_their_new_positions() {
        let found = |edges: &[(u32, u32)]| {
            let mut piece = Piece::default();
            for (from, to) in edges {
                piece.push(*from, *to, Part::Start);
            }
            Edges::join(vec![piece], 4)
        };
        let of = |edges: &Edges, block| edges.of(block).map(|(to, _)| to).collect::<Vec<_>>();
        // The first block is freed, and one comes behind the others.
        let moved = Moved { then: vec![1, 2, 3, NONE], now: vec![NONE, 0, 1, 2] };
        let mut edges = found(&[(0, 3)]);
        edges.add_earlier(found(&[(0, 1), (1, 0), (2, 3), (3, 1)]), &moved);
        assert_eq!([0, 1, 2, 3].map(|block| of(&edges, block)), [vec![3], vec![2], vec![0], vec![]]);
        let mut again = found(&[(0, 1)]);
        again.add_earlier(edges, &moved);
        assert_eq!([0, 1, 2, 3].map(|block| of(&again, block)), [vec![1, 1], vec![], vec![], vec![]]);
        assert_eq!(again.len(), 6);
    }
}
