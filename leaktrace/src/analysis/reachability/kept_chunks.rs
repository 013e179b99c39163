//! Free chunks that glibc keeps as if they were in use, for the next requests of their size: in its arenas' fastbins
//! (`malloc_state`) and in its threads' caches (`tcache_perthread_struct`; malloc/malloc.c).
//!
//! In: all chunks that seem to be in use and are no recorded blocks. Out: which of these are kept so, or are caches themselves; or
//! that a list has anything else. From 2.32 on links are mangled ("Safe-Linking"), and caches have had three shapes.

use super::chunks::{Chunk, HEADER};
use super::memory::Memory;

const WORD: u64 = 8;
const UNIT: u64 = 16;
/// Where `malloc_state` has its fastbins from 2.27 on, in words, and how many: one for each size of chunks from 32 bytes on.
const FASTBINS: usize = 2;
const SIZES: usize = 10;
const TOP: usize = FASTBINS + SIZES;
/// The lists of free chunks, of two words each.
const LISTS: usize = TOP + 2;
const STATE: usize = LISTS + 2 * 127;

/// A `malloc_state`.
#[derive(Debug)]
pub(super) struct State {
    fastbins: Vec<u64>,
    /// The free rest of its last heap.
    pub(super) top: u64,
    /// A thread changes it.
    pub(super) is_locked: bool,
}

impl State {
    /// Where it is if this word of it has the address of its free rest.
    pub(super) fn with_top_at(word: u64) -> u64 {
        word.wrapping_sub(TOP as u64 * WORD)
    }

    /// That at this address.
    pub(super) fn read(address: u64, memory: &dyn Memory) -> Option<Self> {
        let mut words = [0; STATE];
        if !address.is_multiple_of(WORD) || memory.read(address, &mut words) > 0 {
            return None;
        }
        // An empty list is its own neighbour, as if it were a chunk.
        let own = (LISTS..).step_by(2).map(|place| address + place as u64 * WORD - 2 * WORD);
        let is_chunk = |at: u64| at != 0 && at.is_multiple_of(UNIT);
        let is_list = |([first, last], own): (&[u64; 2], u64)| {
            let is_empty = (*first, *last) == (own, own);
            is_empty || [*first, *last].iter().all(|chunk| *chunk != own && is_chunk(*chunk))
        };
        let are_lists = words[LISTS..].as_chunks::<2>().0.iter().zip(own).all(is_list);
        are_lists.then(|| Self {
            fastbins: words[FASTBINS..TOP].to_vec(),
            top: words[TOP],
            is_locked: words[0] & 0xffff_ffff != 0,
        })
    }
}

/// A shape that caches have had: the size of their chunk, and where the heads of their lists begin, in bytes. The first 64 lists are
/// of one size each, from 32 bytes on; others are of larger chunks.
struct Shape {
    chunk: u64,
    lists: u64,
    count: usize,
}

/// From 2.26, 2.30 and 2.42 on.
const SHAPES: [Shape; 3] = [
    Shape { chunk: 0x250, lists: 64, count: 64 },
    Shape { chunk: 0x290, lists: 128, count: 64 },
    Shape { chunk: 0x300, lists: 152, count: 76 },
];
/// Lists of one size.
const OF_ONE_SIZE: usize = 64;

/// What the links of a list point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// As in a cache.
    ToBlocks,
    /// As in a fastbin.
    ToChunks,
}

/// How far below a thread's control block its pointer to its cache may be, bytes: behind it come the variables of the program.
const STORAGE: u64 = 64 << 10;

/// Chunks that seem to be in use, and what is known of them.
pub(super) struct Kept<'a> {
    memory: &'a dyn Memory,
    /// By address.
    chunks: &'a [Chunk],
    /// For each whether it is free, or a cache.
    is_free: Vec<bool>,
}

impl<'a> Kept<'a> {
    /// What these arenas keep, and the caches of these threads, given by their control blocks.
    pub(super) fn find<'s>(
        chunks: &'a [Chunk],
        states: impl IntoIterator<Item = &'s State>,
        threads: &[u64],
        memory: &'a dyn Memory,
    ) -> Result<Self, &'static str> {
        let mut kept = Self { memory, chunks, is_free: vec![false; chunks.len()] };
        for state in states {
            for (size, chunk) in (2 * UNIT..).step_by(UNIT as usize).zip(&state.fastbins) {
                let list = kept.take(*chunk, Links::ToChunks, |chunk| chunk == size, &mut Vec::new());
                list.ok_or("a fastbin has something else")?;
            }
        }
        let mut threads = threads.iter().filter(|thread| thread.is_multiple_of(WORD) && **thread > STORAGE);
        // All threads have the pointer at the same distance.
        let distance = threads.find_map(|thread| kept.find_cache(*thread)).ok_or("no thread's cache is found")?;
        for thread in threads {
            let mut pointer = [0];
            let unread = memory.read(thread - distance, &mut pointer);
            // Without one it has not asked for memory yet.
            if unread > 0 || pointer[0] != 0 && kept.take_cache(pointer[0]).is_none() {
                return Err("a thread's cache is not understood");
            }
        }
        Ok(kept)
    }

    /// The chunks that are really in use.
    pub(super) fn used(&self) -> impl Iterator<Item = Chunk> {
        self.chunks.iter().zip(&self.is_free).filter(|(_, is_free)| !**is_free).map(|(chunk, _)| *chunk)
    }

    /// Takes what a thread's cache keeps, and says how far below the control block its pointer to the cache is. Of several words that
    /// may be this pointer it is the one whose cache keeps most.
    fn find_cache(&mut self, thread: u64) -> Option<u64> {
        let mut storage = vec![0; (STORAGE / WORD) as usize];
        self.memory.read(thread - STORAGE, &mut storage);
        let mut best: Option<(usize, u64, u64)> = None;
        for (word, distance) in storage.iter().rev().zip((WORD..).step_by(WORD as usize)) {
            let Some(taken) = self.take_cache(*word) else { continue };
            if best.is_none_or(|(most, ..)| taken.len() > most) {
                best = Some((taken.len(), *word, distance));
            }
            self.give_back(taken);
        }
        let (_, cache, distance) = best?;
        self.take_cache(cache).map(|_| distance)
    }

    /// Takes what the cache in this block keeps, and itself: their places. Nothing if it is none.
    fn take_cache(&mut self, block: u64) -> Option<Vec<usize>> {
        let place = self.place(block).filter(|place| !self.is_free[*place])?;
        let shape = SHAPES.iter().find(|shape| shape.chunk == self.chunks[place].size)?;
        let mut heads = vec![0; shape.count];
        if self.memory.read(block + shape.lists, &mut heads) > 0 {
            return None;
        }
        let mut taken = vec![place];
        self.is_free[place] = true;
        for (number, head) in heads.into_iter().enumerate() {
            let size = UNIT * (number as u64 + 2);
            let largest = UNIT * (OF_ONE_SIZE as u64 + 1);
            let is_size = |chunk| if number < OF_ONE_SIZE { chunk == size } else { chunk > largest };
            if self.take(head, Links::ToBlocks, is_size, &mut taken).is_none() {
                self.give_back(taken);
                return None;
            }
        }
        Some(taken)
    }

    fn give_back(&mut self, taken: Vec<usize>) {
        for place in taken {
            self.is_free[place] = false;
        }
    }

    /// Takes the chunks of a list, given by the link to the first one, and adds their places. `None` if it has something else, or a
    /// chunk of another list.
    fn take(
        &mut self,
        mut link: u64,
        links: Links,
        is_size: impl Fn(u64) -> bool,
        taken: &mut Vec<usize>,
    ) -> Option<()> {
        let block_of = |link: u64| if links == Links::ToChunks { link.saturating_add(HEADER) } else { link };
        while link != 0 {
            let place = self.place(block_of(link)).filter(|place| !self.is_free[*place])?;
            let chunk = self.chunks[place];
            if !is_size(chunk.size) {
                return None;
            }
            self.is_free[place] = true;
            taken.push(place);
            let clear = chunk.word ^ chunk.block() >> 12;
            link = if clear == 0 || self.place(block_of(clear)).is_some() { clear } else { chunk.word };
        }
        Some(())
    }

    /// The place of the chunk with this block.
    fn place(&self, block: u64) -> Option<usize> {
        let start = block.checked_sub(HEADER)?;
        self.chunks.binary_search_by_key(&start, |chunk| chunk.start).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    const HEAP: u64 = 0x5555_0000_0000;
    const THREAD: u64 = 0x7f00_0010_0000;
    const DISTANCE: u64 = 0x48;

    /// A heap with a cache, and chunks of these sizes behind that with these first words; what is kept of these, by number.
    fn kept(chunks: &[(u64, u64)], fastbins: [u64; SIZES], lists: &[(usize, u64)]) -> Option<Vec<usize>> {
        let mut all = vec![Chunk { start: HEAP, size: 0x290, word: 0 }];
        for (size, word) in chunks {
            let last = all.last().unwrap();
            all.push(Chunk { start: last.start + last.size, size: *size, word: *word });
        }
        let mut cache = vec![0; 0x280 / 8];
        for (list, head) in lists {
            cache[16 + list] = *head;
        }
        let mut storage = vec![0; (STORAGE / WORD) as usize];
        storage[((STORAGE - DISTANCE) / WORD) as usize] = HEAP + HEADER;
        // A thread that has not asked for memory.
        let other = vec![0; storage.len()];
        let memory =
            Words(vec![(HEAP + HEADER, cache), (THREAD - STORAGE, storage), (THREAD + 0x10_0000 - STORAGE, other)]);
        let state = State { fastbins: fastbins.to_vec(), top: 0, is_locked: false };
        let kept = Kept::find(&all, [&state], &[THREAD, THREAD + 0x10_0000], &memory).ok()?;
        assert!(kept.is_free[0], "the cache itself");
        Some((0..chunks.len()).filter(|number| kept.is_free[number + 1]).collect())
    }

    /// The block of a chunk that begins so far behind the cache.
    fn block(behind: u64) -> u64 {
        HEAP + 0x290 + behind + HEADER
    }

    #[test]
    fn what_a_cache_keeps_is_free() {
        let mangled = |at: u64, next: u64| next ^ at >> 12;
        let chunks = [(0x20, mangled(block(0), block(0x20))), (0x20, mangled(block(0x20), 0)), (0x20, 7)];
        assert_eq!(kept(&chunks, [0; SIZES], &[(0, block(0))]), Some(vec![0, 1]));
        let plain = [(0x20, block(0x20)), (0x20, 0), (0x20, 7)];
        assert_eq!(kept(&plain, [0; SIZES], &[(0, block(0))]), Some(vec![0, 1]), "before 2.32");
        assert_eq!(kept(&chunks, [0; SIZES], &[(1, block(0))]), None, "a list of another size");
        assert_eq!(kept(&chunks, [0; SIZES], &[(0, block(8))]), None, "no chunk");
        assert_eq!(kept(&chunks, [0; SIZES], &[(0, block(0x40))]), None, "a link to no chunk");
        let twice = [(0x20, mangled(block(0), block(0)))];
        assert_eq!(kept(&twice, [0; SIZES], &[(0, block(0))]), None, "a circle");
    }

    #[test]
    fn what_a_fastbin_keeps_is_free() {
        let next = block(0x60) - HEADER;
        let chunks = [(0x20, 7), (0x40, next ^ block(0x20) >> 12), (0x40, block(0x60) >> 12)];
        let fastbins = |chunk| std::array::from_fn(|bin| if bin == 2 { chunk } else { 0 });
        assert_eq!(kept(&chunks, fastbins(block(0x20) - HEADER), &[]), Some(vec![1, 2]));
        assert_eq!(kept(&chunks, fastbins(block(0) - HEADER), &[]), None, "a list of another size");
    }

    #[test]
    fn a_state_is_known_by_its_lists() {
        let at = 0x7f00_0000_0c80;
        let mut words = vec![0; STATE];
        (words[0], words[4], words[TOP]) = (1, 0x7777, HEAP);
        for place in (LISTS..STATE).step_by(2) {
            words[place..place + 2].fill(at + (place as u64 - 2) * WORD);
        }
        let read = |words: &[u64]| State::read(at, &Words(vec![(at, words.to_vec())]));
        let state = read(&words).unwrap();
        assert_eq!((state.top, state.fastbins[2], state.is_locked), (HEAP, 0x7777, true));
        assert_eq!(State::with_top_at(at + TOP as u64 * WORD), at);
        words[LISTS + 1] = HEAP;
        assert!(read(&words).is_none(), "a list that only ends");
        words[LISTS] = HEAP + 0x40;
        assert!(read(&words).is_some(), "a list of two");
        assert!(read(&words[..STATE - 1]).is_none(), "not all of it is there");
    }
}
