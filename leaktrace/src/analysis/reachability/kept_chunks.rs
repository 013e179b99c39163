//! Free chunks that glibc keeps as if they were in use, for the next requests of their size: in its arenas' fastbins
//! (`malloc_state`) and in its threads' caches (`tcache_perthread_struct`; malloc/malloc.c).
//!
//! In: all chunks that seem to be in use and are no recorded blocks. Out: which of these are kept so, or are caches themselves; or
//! that a list has anything else. From 2.32 on links are mangled ("Safe-Linking"), and caches have had three shapes.

use std::collections::{HashMap, HashSet};

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

/// A shape that caches have had: the size of their chunk, how they count what each list has, and where the heads of the lists begin,
/// in bytes. The first 64 lists are of one size each, from 32 bytes on; others are of larger chunks.
struct Shape {
    chunk: u64,
    counts: Counts,
    heads: u64,
    lists: usize,
}

/// How a cache counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// What there is, a byte each.
    Bytes,
    /// In two bytes each.
    Words,
    /// How many may still come, in two bytes each: with what there is, as many for every list.
    Left,
}

/// From 2.26, 2.30 and 2.42 on.
const SHAPES: [Shape; 3] = [
    Shape { chunk: 0x250, counts: Counts::Bytes, heads: 64, lists: 64 },
    Shape { chunk: 0x290, counts: Counts::Words, heads: 128, lists: 64 },
    Shape { chunk: 0x300, counts: Counts::Left, heads: 152, lists: 76 },
];
/// Lists of one size.
const OF_ONE_SIZE: usize = 64;
/// How many links are followed at most, to tell caches from what a program has, since a process waits.
const MOST_LINKS: usize = 1 << 20;
/// How many words of threads are read at most, to find out whether their pointers are at one distance.
const MOST_POINTERS: usize = 1 << 17;
/// Of how many threads the pointer to the cache is looked for.
const MOST_SEARCHED: usize = 64;
/// How far below a thread's control block its pointer to its cache may be, bytes: behind it come the variables of the program.
const STORAGE: u64 = 64 << 10;

/// A cache that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cache {
    /// The places of the chunks that it keeps, and its own.
    places: Vec<usize>,
    /// By what its links are told from others: none has that if it keeps nothing.
    links: Option<Links>,
}

/// How the links in a cache look, which is the same in all of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// They are addresses.
    Plain,
    /// Each is mangled with its own address, from 2.32 on.
    Mangled,
}

/// Chunks that seem to be in use, and what is known of them.
pub(super) struct Kept<'a> {
    memory: &'a dyn Memory,
    /// By address.
    chunks: &'a [Chunk],
    /// For each whether it is free, or a cache.
    is_free: Vec<bool>,
    /// What was read of blocks that may be caches.
    known: HashMap<u64, Option<Cache>>,
    links_left: usize,
    pointers_left: usize,
}

impl<'a> Kept<'a> {
    /// What these arenas keep, and the caches of these threads, given by their control blocks.
    pub(super) fn find<'s>(
        chunks: &'a [Chunk],
        states: impl IntoIterator<Item = &'s State>,
        threads: &[u64],
        memory: &'a dyn Memory,
    ) -> Result<Self, &'static str> {
        let is_free = vec![false; chunks.len()];
        let (links_left, pointers_left) = (MOST_LINKS, MOST_POINTERS);
        let mut kept = Self { memory, chunks, is_free, known: HashMap::new(), links_left, pointers_left };
        let threads: Vec<u64> =
            threads.iter().copied().filter(|thread| thread.is_multiple_of(WORD) && *thread > STORAGE).collect();
        let caches = kept.caches(&threads)?;
        let links = caches.iter().find_map(|cache| cache.links);
        for place in caches.into_iter().flat_map(|cache| cache.places) {
            kept.is_free[place] = true;
        }
        for state in states {
            for (size, chunk) in (2 * UNIT..).step_by(UNIT as usize).zip(&state.fastbins) {
                kept.take_fastbin(*chunk, size, links).ok_or("a fastbin has something else")?;
            }
        }
        Ok(kept)
    }

    /// The chunks that are really in use.
    pub(super) fn used(&self) -> impl Iterator<Item = Chunk> {
        self.chunks.iter().zip(&self.is_free).filter(|(_, is_free)| !**is_free).map(|(chunk, _)| *chunk)
    }

    /// The caches of all threads. They have the pointer at the same distance from their control blocks, and those that have not asked for
    /// memory have none there.
    fn caches(&mut self, threads: &[u64]) -> Result<Vec<Cache>, &'static str> {
        let mut storage = vec![0; (STORAGE / WORD) as usize];
        for thread in threads.iter().take(MOST_SEARCHED) {
            self.memory.read(thread - STORAGE, &mut storage);
            let mut best: Option<(usize, Vec<Cache>)> = None;
            let mut is_one = true;
            for (word, distance) in storage.iter().rev().zip((WORD..).step_by(WORD as usize)) {
                if self.cache(*word).is_none() {
                    continue;
                }
                let Some(caches) = self.caches_at(distance, threads) else { continue };
                let count = caches.iter().map(|cache| cache.places.len()).sum();
                match &best {
                    Some((most, known)) if count <= *most => is_one &= count < *most || *known == caches,
                    _ => (best, is_one) = (Some((count, caches)), true),
                }
            }
            if self.links_left == 0 || self.pointers_left == 0 {
                return Err("too much looks like the threads' caches");
            }
            match best {
                Some((_, caches)) if is_one => return Ok(caches),
                Some(_) => return Err("several things may be the threads' caches"),
                // There may be the storage of another thread.
                None => {}
            }
        }
        Err("the threads' caches are not found")
    }

    /// The caches of all threads, if their pointers are at this distance.
    fn caches_at(&mut self, distance: u64, threads: &[u64]) -> Option<Vec<Cache>> {
        let (mut caches, mut places) = (Vec::new(), HashSet::new());
        for thread in threads {
            self.pointers_left = self.pointers_left.checked_sub(1)?;
            let mut pointer = [0];
            if self.memory.read(thread - distance, &mut pointer) > 0 {
                return None;
            }
            if pointer[0] == 0 {
                continue;
            }
            let cache = self.cache(pointer[0])?;
            let links = caches.iter().find_map(|cache: &Cache| cache.links).or(cache.links);
            let is_alike = cache.links.is_none() || cache.links == links;
            if !is_alike || !cache.places.iter().all(|place| places.insert(*place)) {
                return None;
            }
            caches.push(cache);
        }
        Some(caches)
    }

    /// What the cache in this block keeps; `None` if it is none.
    fn cache(&mut self, block: u64) -> Option<Cache> {
        let place = self.place(block)?;
        let shape = SHAPES.iter().find(|shape| shape.chunk == self.chunks[place].size)?;
        if let Some(known) = self.known.get(&block) {
            return known.clone();
        }
        let cache = self.read_cache(place, shape);
        self.known.insert(block, cache.clone());
        cache
    }

    fn read_cache(&mut self, place: usize, shape: &Shape) -> Option<Cache> {
        let block = self.chunks[place].block();
        let mut words = vec![0; shape.heads as usize / WORD as usize + shape.lists];
        if self.memory.read(block, &mut words) > 0 {
            return None;
        }
        let (counts, heads) = words.split_at((shape.heads / WORD) as usize);
        let counts: Vec<u8> = counts.iter().flat_map(|word| word.to_le_bytes()).collect();
        let count = |list: usize| match shape.counts {
            Counts::Bytes => usize::from(counts[list]),
            Counts::Words | Counts::Left => usize::from(u16::from_le_bytes([counts[2 * list], counts[2 * list + 1]])),
        };
        let (mut cache, mut key, mut room) = (Cache { places: vec![place], links: None }, None, None);
        for (list, head) in heads.iter().enumerate() {
            let before = cache.places.len();
            let mut next = *head;
            while next != 0 {
                self.links_left = self.links_left.checked_sub(1)?;
                let place = self.place(next)?;
                let chunk = self.chunks[place];
                let size = UNIT * (list as u64 + 2);
                let largest = UNIT * (OF_ONE_SIZE as u64 + 1);
                let is_size = if list < OF_ONE_SIZE { chunk.size == size } else { chunk.size > largest };
                let number = cache.places.len() - before + 1;
                if !is_size || shape.counts != Counts::Left && number > count(list) {
                    return None;
                }
                // From 2.29 on each has a word that is the same in all: the address of the cache, and from 2.34 on a random one.
                let has_key =
                    shape.counts == Counts::Bytes || chunk.key != 0 && *key.get_or_insert(chunk.key) == chunk.key;
                let clear = chunk.word ^ chunk.block() >> 12;
                let links = match shape.counts {
                    Counts::Bytes => Links::Plain,
                    _ if chunk.key == block && clear != 0 && self.place(clear).is_none() => Links::Plain,
                    _ => Links::Mangled,
                };
                if !has_key || *cache.links.get_or_insert(links) != links {
                    return None;
                }
                cache.places.push(place);
                next = if links == Links::Plain { chunk.word } else { clear };
            }
            let number = cache.places.len() - before;
            let is_right = match shape.counts {
                Counts::Bytes | Counts::Words => number == count(list),
                Counts::Left => *room.get_or_insert(number + count(list)) == number + count(list),
            };
            if !is_right {
                return None;
            }
        }
        let mut places = cache.places.clone();
        places.sort_unstable();
        places.dedup();
        (places.len() == cache.places.len()).then_some(cache)
    }

    /// Takes the chunks of a fastbin, given by the first one, to each of which the one before has a link. `None` if it has something else.
    fn take_fastbin(&mut self, first: u64, size: u64, links: Option<Links>) -> Option<()> {
        let mut next = first;
        while next != 0 {
            let place = self.place(next.checked_add(HEADER)?).filter(|place| !self.is_free[*place])?;
            let chunk = self.chunks[place];
            if chunk.size != size {
                return None;
            }
            self.is_free[place] = true;
            let clear = chunk.word ^ chunk.block() >> 12;
            let is_clear = clear == 0 || self.place(clear.wrapping_add(HEADER)).is_some();
            next = match links {
                Some(Links::Mangled) => clear,
                None if is_clear => clear,
                Some(Links::Plain) | None => chunk.word,
            };
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

    /// Of a cache: a list, how many it has, and its head.
    type List = (usize, u64, u64);

    /// A heap that begins with a cache, and behind that chunks of these sizes with these words; which of these are free, by number.
    struct Heap {
        chunks: Vec<Chunk>,
        memory: Vec<(u64, Vec<u64>)>,
    }

    impl Heap {
        fn with(chunks: &[(u64, u64, u64)], lists: &[List]) -> Self {
            let mut all = vec![Chunk { start: HEAP, size: 0x290, word: 0, key: 0 }];
            for (size, word, key) in chunks {
                let last = all.last().unwrap();
                all.push(Chunk { start: last.start + last.size, size: *size, word: *word, key: *key });
            }
            let mut cache = vec![0; 0x280 / 8];
            for (list, count, head) in lists {
                cache[list / 4] |= count << (16 * (list % 4));
                cache[16 + list] = *head;
            }
            Self { chunks: all, memory: vec![(HEAP + HEADER, cache)] }
        }

        /// A thread with these words in its storage, by distance.
        fn thread(mut self, at: u64, words: &[(u64, u64)]) -> Self {
            let mut storage = vec![0; (STORAGE / WORD) as usize];
            for (distance, word) in words {
                storage[((STORAGE - distance) / WORD) as usize] = *word;
            }
            self.memory.push((at - STORAGE, storage));
            self
        }

        fn kept(self, fastbins: [u64; SIZES], threads: &[u64]) -> Result<Vec<usize>, &'static str> {
            let state = State { fastbins: fastbins.to_vec(), top: 0, is_locked: false };
            let memory = Words(self.memory);
            let kept = Kept::find(&self.chunks, [&state], threads, &memory)?;
            assert!(kept.is_free[0], "the cache itself");
            Ok((0..self.chunks.len() - 1).filter(|number| kept.is_free[number + 1]).collect())
        }
    }

    fn kept(chunks: &[(u64, u64, u64)], fastbins: [u64; SIZES], lists: &[List]) -> Result<Vec<usize>, &'static str> {
        // The second one has not asked for memory.
        let heap = Heap::with(chunks, lists).thread(THREAD, &[(DISTANCE, HEAP + HEADER)]).thread(OTHER, &[]);
        heap.kept(fastbins, &[THREAD, OTHER])
    }

    const OTHER: u64 = THREAD + 0x10_0000;
    const KEY: u64 = 0x1234_5678_9abc_def1;
    const NONE: [u64; SIZES] = [0; SIZES];

    /// The block of a chunk that begins so far behind the cache.
    fn block(behind: u64) -> u64 {
        HEAP + 0x290 + behind + HEADER
    }

    fn mangled(at: u64, next: u64) -> u64 {
        next ^ at >> 12
    }

    #[test]
    fn what_a_cache_keeps_is_free() {
        let two = [(0x20, mangled(block(0), block(0x20)), KEY), (0x20, mangled(block(0x20), 0), KEY), (0x20, 7, KEY)];
        let of = |lists: &[List]| kept(&two, NONE, lists).ok();
        assert_eq!(of(&[(0, 2, block(0))]), Some(vec![0, 1]));
        let own = HEAP + HEADER;
        let plain = [(0x20, block(0x20), own), (0x20, 0, own), (0x20, 7, 7)];
        assert_eq!(kept(&plain, NONE, &[(0, 2, block(0))]), Ok(vec![0, 1]), "before 2.32");
        assert_eq!(of(&[(0, 3, block(0))]), None, "too few");
        assert_eq!(of(&[(0, 1, block(0))]), None, "too many");
        assert_eq!(of(&[(1, 2, block(0))]), None, "a list of another size");
        assert_eq!(of(&[(0, 2, block(8))]), None, "no chunk");
        assert_eq!(of(&[(0, 2, block(0x40))]), None, "a link to no chunk");
        let other = [two[0], (0x20, mangled(block(0x20), 0), KEY + 2)];
        assert_eq!(kept(&other, NONE, &[(0, 2, block(0))]).ok(), None, "a node of the program's");
        let twice = [(0x20, mangled(block(0), block(0)), KEY)];
        assert_eq!(kept(&twice, NONE, &[(0, 9, block(0))]).ok(), None, "a circle");
    }

    #[test]
    fn what_a_fastbin_keeps_is_free() {
        let next = block(0x60) - HEADER;
        let chunks = [(0x20, 7, 7), (0x40, mangled(block(0x20), next), 0), (0x40, mangled(block(0x60), 0), 0)];
        let fastbins = |chunk| std::array::from_fn(|bin| if bin == 2 { chunk } else { 0 });
        assert_eq!(kept(&chunks, fastbins(block(0x20) - HEADER), &[]), Ok(vec![1, 2]));
        assert!(kept(&chunks, fastbins(block(0) - HEADER), &[]).is_err(), "a list of another size");
    }

    #[test]
    fn all_threads_have_their_caches_at_one_distance() {
        let second = block(0);
        let chunks = [(0x290, 0, 0), (0x20, mangled(block(0x290), 0), KEY)];
        let heap = |words: &[(u64, u64)]| {
            let mut heap = Heap::with(&chunks, &[]).thread(THREAD, words).thread(OTHER, &[(DISTANCE, second)]);
            let mut cache = vec![0; 0x280 / 8];
            (cache[0], cache[16]) = (1, block(0x290));
            heap.memory.push((second, cache));
            heap.kept(NONE, &[THREAD, OTHER])
        };
        let own = (DISTANCE, HEAP + HEADER);
        assert_eq!(heap(&[own]), Ok(vec![0, 1]));
        // Another thread's storage lies below, with its pointer.
        assert_eq!(heap(&[own, (DISTANCE + 0x1000, second)]), Ok(vec![0, 1]));
        assert!(heap(&[(DISTANCE, second)]).is_err(), "both have one cache");
        assert!(heap(&[(DISTANCE, HEAP + 0x10_0000)]).is_err(), "the first one's is something else");
    }

    #[test]
    fn of_two_blocks_that_may_be_caches_none_is_taken_for_one() {
        let words = [(DISTANCE, HEAP + HEADER), (DISTANCE + 8, block(0))];
        let mut heap = Heap::with(&[(0x290, 0, 0)], &[]).thread(THREAD, &words);
        heap.memory.push((block(0), vec![0; 0x280 / 8]));
        assert!(heap.kept(NONE, &[THREAD]).is_err());
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
