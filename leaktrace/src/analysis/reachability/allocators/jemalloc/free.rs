//! Which blocks of jemalloc 5.3 are free and which in use: those of slabs (`slab_data.h`), those that have an extent of their own, and
//! those that threads keep (`cache_bin.h`), which are free.
//!
//! A slab's record has a bit for each region that is free. A thread's cache is an array in its local storage, with a stack of free
//! regions for each size; above the top of a stack is what was handed out before, which hides lost blocks. All stacks lie one
//! behind the other in one block of jemalloc's own. Of other versions nothing is met that belongs together as is asked for here.

use std::collections::HashSet;
use std::ops::Range;

use super::super::{Found, Holds, PAGE, Pages, Space, WORD, holding};
use super::{ADDRESS, Slab};
use crate::ranges::joined;

/// Words of an extent's record (`edata_t`), and where its bitmap begins.
const RECORD: usize = 16;
const BITMAP: usize = 8;
/// The most regions of a slab.
const REGIONS: u64 = 512;
/// And the most bytes.
const MOST_BYTES: u64 = 1 << 30;
/// Words of a size in a thread's cache (`cache_bin_t`): the top of the stack, a count, and the low 16 bits of three addresses.
const BIN: usize = 3;
/// So many sizes one behind the other are a thread's cache.
const BINS: usize = 16;
/// How far below a thread's control block its cache may begin, bytes.
const STORAGE: u64 = 32 << 10;

/// The size of regions, by its number (sc.h: four sizes from each power of two to the next).
fn size(number: u64) -> Option<u64> {
    match number {
        0 => Some(8),
        1..5 => Some(number * 16),
        5..232 => {
            let base = 64_u64.checked_shl(((number - 5) / 4) as u32)?;
            Some(base + base / 4 * ((number - 5) % 4 + 1))
        }
        _ => None,
    }
}

/// What the first word of an extent's record has beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits {
    is_slab: bool,
    /// 0 if it is in use.
    state: u64,
    /// The number of its blocks' size.
    number: u64,
    /// Of a slab.
    free: u64,
}

impl Bits {
    fn of(word: u64) -> Self {
        Self {
            is_slab: word >> 12 & 1 == 1,
            state: word >> 17 & 7,
            number: word >> 20 & 0xff,
            free: word >> 28 & 0x3ff,
        }
    }
}

/// The block that has an extent in use for itself, by the extent's start and word: it begins anywhere in the first page.
pub(super) fn alone(start: u64, word: u64, pages: &mut Pages<'_>) -> Option<Range<u64>> {
    let [bits, block, length] = pages.words(word & ADDRESS)?;
    let Bits { is_slab, state, number, .. } = Bits::of(bits);
    let end = start.checked_add(length / PAGE * PAGE)?;
    let has_room = block.checked_add(size(number)?)? <= end && block / PAGE * PAGE == start;
    (!is_slab && state == 0 && has_room).then_some(block..end)
}

/// Adds the regions of slabs that are free; gives the others.
pub(super) fn regions(slabs: Vec<Slab>, pages: &mut Pages<'_>, found: &mut Found) -> Vec<Range<u64>> {
    let mut used = Vec::new();
    for Slab { start, word } in slabs {
        let Some(record) = pages.words::<RECORD>(word & ADDRESS) else { continue };
        let [bits, begin, length, ..] = record;
        let (number, length) = (word >> 48, length / PAGE * PAGE);
        let Some(size) = size(number).filter(|_| begin == start && length <= MOST_BYTES) else { continue };
        let regions = (length / size).min(REGIONS + 1);
        // What follows is from other uses of the record.
        let bitmap = &record[BITMAP..][..(regions.div_ceil(64) as usize).min(RECORD - BITMAP)];
        let free: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
        let is_free = |region: u64| bitmap[(region / 64) as usize] >> (region % 64) & 1 != 0;
        let is_slab = Bits::of(bits) == Bits { is_slab: true, state: 0, number, free: u64::from(free) };
        if is_slab && regions <= REGIONS && !(regions..bitmap.len() as u64 * 64).any(is_free) {
            for region in 0..regions {
                let range = start + region * size..start + (region + 1) * size;
                if is_free(region) {
                    found.add(range, Holds::Nothing);
                } else {
                    used.push(range);
                }
            }
        }
    }
    used
}

/// A stack of free regions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stack {
    /// All of it.
    range: Range<u64>,
    /// From here on it is in use.
    top: u64,
}

impl Stack {
    fn of([top, _, lows]: [u64; BIN]) -> Option<Self> {
        let [full, empty] = [16, 32].map(|shift| (lows >> shift) as u16);
        let start = top.checked_sub(u64::from((top as u16).wrapping_sub(full)))?;
        let end = top.checked_add(u64::from(empty.wrapping_sub(top as u16)))?;
        let is_stack = top.is_multiple_of(WORD) && lows >> 48 == 0 && start < end && end - start < 1 << 16;
        is_stack.then_some(Self { range: start..end, top })
    }
}

/// What threads keep.
pub(super) struct Cached {
    /// Where each free region starts.
    free: HashSet<u64>,
    /// By address, neighbours as one.
    stacks: Vec<Range<u64>>,
}

impl Cached {
    /// Whether a block is kept, or has stacks.
    pub(super) fn has(&self, block: &Range<u64>) -> bool {
        let behind = self.stacks.partition_point(|stacks| stacks.end <= block.start);
        self.free.contains(&block.start) || self.stacks.get(behind).is_some_and(|stacks| stacks.start < block.end)
    }
}

/// Stacks that follow each other, one for each size from the smallest on: a thread's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cache {
    /// How far below a thread's control block it begins.
    distance: u64,
    stacks: Vec<Stack>,
}

/// Adds the stacks of threads' caches, and the free regions in them: both as well, if the cache of every thread is known.
pub(super) fn cached(
    space: &Space<'_>,
    extents: &[Range<u64>],
    pages: &mut Pages<'_>,
    found: &mut Found,
) -> Option<Cached> {
    let near: Vec<Vec<Cache>> = space.threads.iter().map(|thread| caches_near(*thread, space, extents)).collect();
    // Below one thread's storage that of another may lie.
    let mut stacks: Vec<&Stack> = near.iter().flatten().flat_map(|cache| &cache.stacks).collect();
    stacks.sort_unstable_by_key(|stack| stack.range.start);
    stacks.dedup();
    let mut free = HashSet::new();
    for (stack, number) in near.iter().flatten().flat_map(|cache| cache.stacks.iter().zip(0..)) {
        for at in (stack.top..stack.range.end).step_by(WORD as usize) {
            let region = pages.words(at).map(|[start]| start).filter(|start| holding(extents, *start).is_some());
            if let (Some(start), Some(size)) = (region, size(number))
                && free.insert(start)
            {
                found.add(start..start.saturating_add(size), Holds::Nothing);
            }
        }
    }
    for stack in &stacks {
        found.add(stack.range.clone(), Holds::Nothing);
    }
    let distances = near.iter().find(|caches| !caches.is_empty())?.iter().map(|cache| cache.distance);
    let fits = |distance: &u64| all_have_one_at(*distance, &space.threads, &near, pages);
    let is_known = distances.collect::<Vec<_>>().iter().any(fits);
    is_known.then(|| Cached { free, stacks: joined(stacks.into_iter().map(|stack| stack.range.clone())) })
}

/// Whether each thread has a cache of its own at this distance, or nothing there: then it has not asked for memory.
fn all_have_one_at(distance: u64, threads: &[u64], near: &[Vec<Cache>], pages: &mut Pages<'_>) -> bool {
    let mut known = HashSet::new();
    threads.iter().zip(near).all(|(thread, caches)| match caches.iter().find(|cache| cache.distance == distance) {
        Some(cache) => known.insert(cache.stacks[0].range.start),
        None => pages.words(thread.wrapping_sub(distance)) == Some([0; BIN]),
    })
}

/// What may be caches in the storage of a thread, given by its control block.
fn caches_near(thread: u64, space: &Space<'_>, extents: &[Range<u64>]) -> Vec<Cache> {
    let (mut caches, mut stacks): (Vec<Cache>, Vec<Stack>) = (Vec::new(), Vec::new());
    let mut storage = Pages::of(space.memory);
    let mut at = thread.saturating_sub(STORAGE) / WORD * WORD;
    while at < thread {
        let stack = storage.words(at).and_then(Stack::of);
        let stack = stack.filter(|stack| holding(extents, stack.range.start).is_some());
        let follows = |stack: &Stack| stacks.last().is_none_or(|last| last.range.end == stack.range.start);
        let length = stacks.len() as u64 * BIN as u64 * WORD;
        if let Some(stack) = stack.filter(follows) {
            stacks.push(stack);
            at += BIN as u64 * WORD;
        } else if stacks.len() >= BINS {
            caches.push(Cache { distance: thread - (at - length), stacks: std::mem::take(&mut stacks) });
        } else {
            at = at - length + WORD;
            stacks.clear();
        }
    }
    if stacks.len() >= BINS {
        let length = stacks.len() as u64 * BIN as u64 * WORD;
        caches.push(Cache { distance: thread - (at - length), stacks });
    }
    caches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    #[test]
    fn there_are_four_sizes_from_each_power_of_two_to_the_next() {
        let sizes: Vec<_> = (0..14).filter_map(size).collect();
        assert_eq!(sizes, [8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]);
        assert_eq!((size(21), size(35), size(232)), (Some(1280), Some(14336), None));
    }

    /// Pages with the record of an extent at this address, to which the extent's word points.
    fn with_record<T>(record: [u64; RECORD], read: impl FnOnce(u64, &mut Pages<'_>) -> T) -> T {
        const AT: u64 = 0x7f00_0000_2000;
        let mut words = record.to_vec();
        words.resize((PAGE / WORD) as usize, 0);
        read(AT, &mut Pages::of(&Words(vec![(AT, words)])))
    }

    #[test]
    fn a_slabs_record_tells_which_regions_are_in_use() {
        let start = 0x7f00_0040_0000;
        // Sixteen regions of 1,280 bytes, of which two are free; the last words are from another use of the record.
        let mut record = [0; RECORD];
        record[..3].copy_from_slice(&[2 << 28 | 21 << 20 | 0xb000, start, (5 * PAGE) | 7]);
        (record[BITMAP], record[BITMAP + 1]) = (0b1010, !0);
        let of = |record| {
            let mut found = Found::default();
            let slab = |record| vec![Slab { start, word: 21 << 48 | record | 1 }];
            let used = with_record(record, |at, pages| regions(slab(at), pages, &mut found));
            (used, found.ranges.len())
        };
        let (used, free) = of(record);
        assert_eq!((used.len(), free), (14, 2));
        assert_eq!(used[1], start + 2 * 1280..start + 3 * 1280);
        record[0] ^= 1 << 28;
        assert_eq!(of(record), (Vec::new(), 0), "it counts another number of free regions");
    }

    #[test]
    fn a_block_with_an_extent_of_its_own_begins_in_its_first_page() {
        let start = 0x7f00_0040_0000;
        let of = |bits: u64, block: u64, pages: u64| {
            let mut record = [0; RECORD];
            record[..3].copy_from_slice(&[bits | 0xa000, block, (pages * PAGE) | 3]);
            with_record(record, |at, words| alone(start, at, words))
        };
        assert_eq!(of(45 << 20, start + 0x3c0, 21), Some(start + 0x3c0..start + 21 * PAGE));
        assert_eq!(of(45 << 20, start + PAGE, 21), None, "in another page");
        assert_eq!(of(45 << 20, start + 0x3c0, 20), None, "too small for its size");
        assert_eq!(of(45 << 20 | 1 << 17, start + 0x3c0, 21), None, "free");
    }

    #[test]
    fn all_threads_have_their_caches_at_one_distance() {
        let cache =
            |distance, start: u64| Cache { distance, stacks: vec![Stack { range: start..start + 64, top: start }] };
        let threads = [0x7f00_0010_2000, 0x7f00_0010_1000, 0x7f00_0010_0000];
        // Below the storage of the first one lies that of the second one; the third has not asked for memory.
        let near = [vec![cache(0x1100, 0x2000), cache(0x100, 0x1000)], vec![cache(0x100, 0x2000)], Vec::new()];
        let memory = Words(vec![(0x7f00_000f_e000, vec![0; 0x3000 / 8])]);
        let has = |distance, near: &[Vec<Cache>]| all_have_one_at(distance, &threads, near, &mut Pages::of(&memory));
        assert!(has(0x100, &near));
        assert!(!has(0x1100, &[vec![cache(0x1100, 0x2000)], vec![cache(0x1100, 0x2000)], Vec::new()]), "one for two");
        let unknown = Words(vec![(0x7f00_000f_e000, vec![7; 0x3000 / 8])]);
        let of_unknown = |distance| all_have_one_at(distance, &threads, &near, &mut Pages::of(&unknown));
        assert!(!of_unknown(0x100), "the third has something else");
    }

    #[test]
    fn a_stack_of_free_regions_is_known_by_the_low_bits_of_its_ends() {
        let lows = |low: u64, full: u64, empty: u64| low | full << 16 | empty << 32;
        let stack = Stack { range: 0x7f7f_0c20_52e8..0x7f7f_0c20_5388, top: 0x7f7f_0c20_5370 };
        assert_eq!(Stack::of([0x7f7f_0c20_5370, 7, lows(0x5388, 0x52e8, 0x5388)]), Some(stack));
        assert_eq!(Stack::of([0x7f7f_0c20_5370, 7, 0]), None);
        // The addresses may pass a multiple of 64 KiB.
        let stack = Stack { range: 0x7f7f_0c20_fff8..0x7f7f_0c21_0100, top: 0x7f7f_0c21_0008 };
        assert_eq!(Stack::of([0x7f7f_0c21_0008, 7, lows(0x100, 0xfff8, 0x100)]), Some(stack));
    }
}
