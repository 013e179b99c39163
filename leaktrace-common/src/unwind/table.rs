//! How rows lie in memory, and their search: chunks of 4 KiB, a table being a run of neighbouring chunks.
//!
//! A chunk is one value of a plain BPF array, so that finding it is a bounds check and an addition, and the search
//! inside is over memory that the verifier knows. Userspace holds the same chunks as a slice.

use super::{Row, Rule};

/// Words in a chunk: 4 KiB, one page.
pub const CHUNK_WORDS: usize = 512;

/// The unit in which tables are stored, allocated and freed.
pub type Chunk = [u64; CHUNK_WORDS];

/// Fills the last chunk of a table after its rows: sorts behind every row.
pub const PADDING: u64 = Row::new(u32::MAX, Rule::GAP).to_bits();

/// Steps of the search over chunks: tables of up to 2^21 chunks (8 GiB; a row for every fourth byte of 4 GiB).
const CHUNK_STEPS: u32 = 21;

/// log2 of [`CHUNK_WORDS`].
const WORD_STEPS: u32 = CHUNK_WORDS.ilog2();

/// Where chunks are: the pool of the kernel program, or a slice.
pub trait Chunks {
    /// The chunk with this index, `None` where there is none.
    fn chunk(&self, index: u32) -> Option<&Chunk>;
}

impl Chunks for [Chunk] {
    fn chunk(&self, index: u32) -> Option<&Chunk> {
        self.get(index as usize)
    }
}

/// The rule for `pc` (relative, as in [`Row::pc`]) in the table of `count` chunks from `first` on. Before the first row,
/// and in a table that is empty or not there, it is [`Rule::GAP`].
#[inline(always)]
#[must_use]
pub fn lookup<C: Chunks + ?Sized>(chunks: &C, first: u32, count: u32, pc: u32) -> Rule {
    // The last chunk whose first row is not behind pc; chunk 0 where even its first row is.
    let mut low = 0;
    let mut high = count;
    let mut step = 0;
    while step < CHUNK_STEPS {
        if high - low <= 1 {
            break;
        }
        let middle = low + ((high - low) >> 1);
        let Some(chunk) = chunks.chunk(first.wrapping_add(middle)) else { return Rule::GAP };
        if Row::from_bits(chunk[0]).pc() <= pc {
            low = middle;
        } else {
            high = middle;
        }
        step += 1;
    }
    if count == 0 {
        return Rule::GAP;
    }
    let Some(chunk) = chunks.chunk(first.wrapping_add(low)) else { return Rule::GAP };
    let row = Row::from_bits(chunk[last_not_after(chunk, pc)]);
    if row.pc() <= pc { row.rule() } else { Rule::GAP }
}

/// The last word of a sorted chunk whose upper half is not above `key`, 0 where even the first one is.
#[inline(always)]
fn last_not_after(chunk: &Chunk, key: u32) -> usize {
    let mut at = 0;
    let mut bit = WORD_STEPS;
    while bit > 0 {
        bit -= 1;
        let probe = (at | (1 << bit)) & (CHUNK_WORDS - 1);
        if (chunk[probe] >> 32) as u32 <= key {
            at = probe;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{CHUNK_WORDS, Chunk, PADDING, lookup};
    use crate::unwind::{Kind, Row, Rule};

    fn chunks_of(rows: &[Row]) -> Vec<Chunk> {
        let mut words: Vec<u64> = rows.iter().map(|row| row.to_bits()).collect();
        words.resize(words.len().next_multiple_of(CHUNK_WORDS), PADDING);
        words.as_chunks().0.to_vec()
    }

    /// What the search must find, written as the definition says it.
    fn by_scanning(rows: &[Row], pc: u32) -> Rule {
        rows.iter().take_while(|row| row.pc() <= pc).last().map_or(Rule::GAP, |row| row.rule())
    }

    proptest! {
        #[test]
        fn search_finds_what_a_scan_finds(
            pcs in proptest::collection::btree_set(0u32..100_000, 1..4000),
            probes in proptest::collection::vec(0u32..100_001, 64),
            first in 0u32..3,
        ) {
            let rows: Vec<Row> =
                pcs.iter().enumerate().map(|(i, &pc)| Row::new(pc, Rule::new(Kind::Sp, i as u32, 0))).collect();
            let table = chunks_of(&rows);
            let mut pool: Vec<Chunk> = (0..first).map(|_| [0; CHUNK_WORDS]).collect();
            pool.extend(&table);
            for pc in probes.into_iter().chain([0, *pcs.first().unwrap(), *pcs.last().unwrap(), u32::MAX - 1]) {
                prop_assert_eq!(lookup(pool.as_slice(), first, table.len() as u32, pc), by_scanning(&rows, pc));
            }
        }
    }

    #[test]
    fn a_table_that_is_not_there_has_no_rule() {
        let pool: &[Chunk] = &[];
        assert_eq!(lookup(pool, 0, 0, 7), Rule::GAP);
        assert_eq!(lookup(pool, 0, 5, 7), Rule::GAP);
        assert_eq!(lookup(pool, u32::MAX, u32::MAX, u32::MAX), Rule::GAP);
    }
}
