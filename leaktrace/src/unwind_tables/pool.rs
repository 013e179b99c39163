//! Which chunks of the pool are in use: the pool holds the tables and mapping lists that the kernel program reads.
//!
//! Freed chunks are not handed out again at once: a walk that has just looked up their old owner may still be reading them.

use std::collections::BTreeMap;
use std::ops::Range;

/// Chunks of the pool, by index, as ranges.
#[derive(Debug)]
pub struct ChunkPool {
    capacity: u32,
    /// First index and length of each free range; neighbours are always joined.
    free: BTreeMap<u32, u32>,
    /// Chunks released since the last [`Self::reclaim`], and those released before it.
    resting: [Vec<Range<u32>>; 2],
}

impl ChunkPool {
    /// A pool of chunks `0..capacity`, all free.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut pool = Self { capacity, free: BTreeMap::new(), resting: [Vec::new(), Vec::new()] };
        pool.insert(0..capacity);
        pool
    }

    /// All chunks, free or not.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Chunks that can be handed out now, though not necessarily in one piece.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.values().sum()
    }

    /// Hands out `count` neighbouring chunks, from the smallest free range that holds them. `None` where there is none.
    pub fn allocate(&mut self, count: u32) -> Option<Range<u32>> {
        if count == 0 {
            return Some(0..0);
        }
        let (&start, &length) =
            self.free.iter().filter(|&(_, &length)| length >= count).min_by_key(|&(_, &length)| length)?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        Some(start..start + count)
    }

    /// Takes chunks back. They are free after the second [`Self::reclaim`] from now.
    pub fn release(&mut self, chunks: Range<u32>) {
        if !chunks.is_empty() {
            self.resting[0].push(chunks);
        }
    }

    /// Frees what was released before the last call. To be called at intervals longer than any walk takes.
    pub fn reclaim(&mut self) {
        let rested = std::mem::take(&mut self.resting[1]);
        self.resting.swap(0, 1);
        for chunks in rested {
            self.insert(chunks);
        }
    }

    fn insert(&mut self, chunks: Range<u32>) {
        let Range { mut start, mut end } = chunks;
        if start == end {
            return;
        }
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::ChunkPool;

    #[test]
    fn released_chunks_rest_for_two_rounds() {
        let mut pool = ChunkPool::new(8);
        let all = pool.allocate(8).unwrap();
        pool.release(all);
        assert_eq!(pool.allocate(1), None);
        pool.reclaim();
        assert_eq!(pool.allocate(1), None, "a walk may have begun just before the release");
        pool.reclaim();
        assert_eq!(pool.allocate(8), Some(0..8));
    }

    #[test]
    fn the_smallest_range_that_fits_is_taken() {
        let mut pool = ChunkPool::new(100);
        let ranges: Vec<_> = [10, 5, 10, 3, 10].into_iter().map(|n| pool.allocate(n).unwrap()).collect();
        for freed in [ranges[1].clone(), ranges[3].clone()] {
            pool.release(freed);
        }
        pool.reclaim();
        pool.reclaim();
        assert_eq!(pool.allocate(3), Some(25..28));
        assert_eq!(pool.allocate(4), Some(10..14));
        assert_eq!(pool.allocate(6), Some(38..44));
        assert_eq!(pool.available(), 1 + 56);
    }

    proptest! {
        #[test]
        fn no_chunk_is_owned_twice_and_none_is_lost(steps in proptest::collection::vec((any::<bool>(), 1u32..40), 1..300)) {
            let mut pool = ChunkPool::new(256);
            let mut owned: Vec<Range<u32>> = Vec::new();
            for (allocate, n) in steps {
                if allocate {
                    if let Some(range) = pool.allocate(n) {
                        prop_assert_eq!(range.len() as u32, n);
                        prop_assert!(range.end <= 256);
                        prop_assert!(owned.iter().all(|o| o.end <= range.start || range.end <= o.start));
                        owned.push(range);
                    }
                } else if !owned.is_empty() {
                    pool.release(owned.swap_remove(n as usize % owned.len()));
                    pool.reclaim();
                }
            }
            for range in owned {
                pool.release(range);
            }
            pool.reclaim();
            pool.reclaim();
            prop_assert_eq!(pool.available(), 256);
            prop_assert_eq!(pool.allocate(256), Some(0..256), "free ranges are joined again");
        }
    }
}
