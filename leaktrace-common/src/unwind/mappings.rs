//! A process' executable mappings as the kernel program searches them: sorted entries of four words in the same pool of
//! chunks as the tables, and one word per process that says where they lie.
//!
//! That word is what publishes a new list: it is stored last, in one piece, and carries a generation that also salts the
//! rule cache, so that no walk ever mixes two lists.

use super::{Chunks, table::CHUNK_WORDS};

/// Words of an entry.
pub const MAPPING_WORDS: usize = 4;

/// Entries in a chunk.
pub const MAPPINGS_PER_CHUNK: u32 = (CHUNK_WORDS / MAPPING_WORDS) as u32;

/// Steps of the search: [`ProcessWord`] counts up to 65,535 entries.
const SEARCH_STEPS: u32 = 16;

/// What unwinds the code of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Code without unwind information: made at run time, or an object that has none.
    Absent,
    /// A table is being built.
    Pending,
    /// The kernel's page that return probes return to: the address that belongs here is hidden.
    Trampoline,
    /// `count` chunks (at least 1) from `first` on.
    Chunks {
        /// Index of the first chunk in the pool.
        first: u32,
        /// Number of chunks.
        count: u32,
    },
}

impl Table {
    const PENDING: u64 = 1;
    const TRAMPOLINE: u64 = 2;

    #[inline(always)]
    const fn to_word(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Pending => Self::PENDING,
            Self::Trampoline => Self::TRAMPOLINE,
            Self::Chunks { first, count } => (count as u64) << 32 | first as u64,
        }
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        let (first, count) = (word as u32, (word >> 32) as u32);
        match (count, word) {
            (0, Self::PENDING) => Self::Pending,
            (0, Self::TRAMPOLINE) => Self::Trampoline,
            (0, _) => Self::Absent,
            _ => Self::Chunks { first, count },
        }
    }
}

/// One executable mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// The address that relative address 0 of the table stands for; below `start` where the mapping is not the
    /// object's first code (then it may lie in another mapping).
    pub base: u64,
    /// What unwinds it.
    pub table: Table,
}

impl Mapping {
    /// The entry as it lies in a chunk.
    #[must_use]
    pub const fn to_words(self) -> [u64; MAPPING_WORDS] {
        [self.start, self.end, self.base, self.table.to_word()]
    }
}

/// Where a process' list lies: bits 0..24 its first chunk, bits 24..40 the number of entries, bits 40..64 the
/// generation. Zero: no list yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct ProcessWord(u64);

impl ProcessWord {
    /// Largest index of a first chunk.
    pub const MAX_CHUNK: u32 = (1 << 24) - 1;
    /// Most entries in a list.
    pub const MAX_MAPPINGS: u32 = (1 << 16) - 1;
    /// Largest generation; 0 is never used.
    pub const MAX_GENERATION: u32 = (1 << 24) - 1;

    /// The word for a list of `mappings` entries from `first_chunk` on. Bits above each field's maximum are cut.
    #[must_use]
    pub const fn new(first_chunk: u32, mappings: u32, generation: u32) -> Self {
        Self(
            (first_chunk & Self::MAX_CHUNK) as u64
                | ((mappings & Self::MAX_MAPPINGS) as u64) << 24
                | (generation as u64) << 40,
        )
    }

    /// The word as it lies in the map.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The word that lies in the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Index of the list's first chunk.
    #[inline(always)]
    #[must_use]
    pub const fn first_chunk(self) -> u32 {
        self.0 as u32 & Self::MAX_CHUNK
    }

    /// Number of entries.
    #[inline(always)]
    #[must_use]
    pub const fn mappings(self) -> u32 {
        (self.0 >> 24) as u32 & Self::MAX_MAPPINGS
    }

    /// Differs between any two lists that were ever published, of this or of another process.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 40) as u32
    }
}

/// The mapping that holds `address`.
#[inline(always)]
#[must_use]
pub fn find_mapping<C: Chunks + ?Sized>(chunks: &C, process: ProcessWord, address: u64) -> Option<Mapping> {
    let mut low = 0;
    let mut high = process.mappings();
    let mut step = 0;
    // low: the first entry that could end behind the address; [low, high) shrinks to the entry that must hold it.
    while step < SEARCH_STEPS {
        if high - low <= 1 {
            break;
        }
        let middle = low + ((high - low) >> 1);
        if word(chunks, process, middle, 0)? <= address {
            low = middle;
        } else {
            high = middle;
        }
        step += 1;
    }
    if low >= process.mappings() {
        return None;
    }
    let start = word(chunks, process, low, 0)?;
    let end = word(chunks, process, low, 1)?;
    if address < start || address >= end {
        return None;
    }
    let base = word(chunks, process, low, 2)?;
    let table = Table::from_word(word(chunks, process, low, 3)?);
    Some(Mapping { start, end, base, table })
}

#[inline(always)]
fn word<C: Chunks + ?Sized>(chunks: &C, process: ProcessWord, entry: u32, field: u32) -> Option<u64> {
    let chunk = chunks.chunk(process.first_chunk().wrapping_add(entry / MAPPINGS_PER_CHUNK))?;
    let at = (entry % MAPPINGS_PER_CHUNK) * MAPPING_WORDS as u32 + field;
    Some(chunk[at as usize & (CHUNK_WORDS - 1)])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{MAPPINGS_PER_CHUNK, Mapping, ProcessWord, Table, find_mapping};
    use crate::unwind::{CHUNK_WORDS, Chunk};

    fn pool_with(list: &[Mapping], first_chunk: u32) -> Vec<Chunk> {
        let mut words: Vec<u64> = std::vec![0; first_chunk as usize * CHUNK_WORDS];
        words.extend(list.iter().flat_map(|mapping| mapping.to_words()));
        words.resize(words.len().next_multiple_of(CHUNK_WORDS), 0);
        words.as_chunks().0.to_vec()
    }

    proptest! {
        #[test]
        fn search_finds_the_mapping_that_holds_the_address(
            sizes in proptest::collection::vec((0u64..3, 1u64..5), 0..500),
            first_chunk in 0u32..4,
            probes in proptest::collection::vec(0u64..2500, 50),
        ) {
            let mut list = Vec::new();
            let mut at = 100;
            for (gap, size) in sizes {
                at += gap;
                list.push(Mapping {
                    start: at,
                    end: at + size,
                    base: at ^ 0xffff,
                    table: Table::Chunks { first: at as u32, count: 1 },
                });
                at += size;
            }
            let pool = pool_with(&list, first_chunk);
            let process = ProcessWord::new(first_chunk, list.len() as u32, 1);
            for address in probes {
                let expected = list.iter().find(|m| m.start <= address && address < m.end).copied();
                prop_assert_eq!(find_mapping(pool.as_slice(), process, address), expected);
            }
        }
    }

    #[test]
    fn every_sort_of_table_survives_its_word() {
        for table in [
            Table::Absent,
            Table::Pending,
            Table::Trampoline,
            Table::Chunks { first: 0, count: 1 },
            Table::Chunks { first: 1, count: 1 },
            Table::Chunks { first: ProcessWord::MAX_CHUNK, count: 1 << 20 },
        ] {
            assert_eq!(Table::from_word(table.to_word()), table);
        }
    }

    #[test]
    fn process_words_keep_their_fields_apart() {
        let word = ProcessWord::new(ProcessWord::MAX_CHUNK, 0, 1);
        assert_eq!((word.first_chunk(), word.mappings(), word.generation()), (ProcessWord::MAX_CHUNK, 0, 1));
        let word = ProcessWord::new(0, ProcessWord::MAX_MAPPINGS, ProcessWord::MAX_GENERATION);
        assert_eq!(
            (word.first_chunk(), word.mappings(), word.generation()),
            (0, ProcessWord::MAX_MAPPINGS, ProcessWord::MAX_GENERATION)
        );
        assert_eq!(MAPPINGS_PER_CHUNK, 128);
    }

    #[test]
    fn a_list_outside_the_pool_holds_nothing() {
        let pool: &[Chunk] = &[];
        assert_eq!(find_mapping(pool, ProcessWord::new(3, 10, 1), 5), None);
        assert_eq!(find_mapping(pool, ProcessWord::default(), 5), None);
    }
}
