//! jemalloc 5: a table of all pages (rtree.h, emap.h), extents (edata.h, until 5.2
//! `extent_structs.h`), and blocks of records (base.c).
//!
//! The table has two levels of 18 bits each: a root among jemalloc's variables, and leaves with a word for each page of 1 GiB.
//! The word has the address of the extent's record, and flags. Each page of a slab has one; of other extents the first and the
//! last page. Extents that are free, or given back to the kernel and kept, stand in it as well.

mod free;

use std::ops::Range;

use super::{Found, Holds, MOST_LOOKED_UP, PAGE, Pages, Space, WORD};

/// Bytes of a leaf, as a shift.
const LEAF: u32 = 30;
/// Bytes of the root.
const ROOT: u64 = (1 << 18) * WORD;
/// The bits of a word that are an address, which is a multiple of 64.
const ADDRESS: u64 = (1 << 48) - 64;
/// The extent is a slab: all its pages have words.
const SLAB: u64 = 1;
/// What a block of records begins at multiples of, and is a multiple of (`base_block_alloc`).
const RECORDS: u64 = 2 << 20;
/// The largest of these.
const MOST_RECORDS: u64 = 1 << 40;

/// Where in a leaf the word of an address is.
fn in_leaf(leaf: u64, address: u64) -> u64 {
    leaf.wrapping_add((address / PAGE) % (1 << 18) * WORD)
}

/// Whether a leaf knows an extent with this block.
fn knows(leaf: u64, block: u64, pages: &mut Pages<'_>) -> bool {
    let mut is_known = || {
        let [word] = pages.words(in_leaf(leaf, block))?;
        let [_, start, size] = pages.words(word & ADDRESS)?;
        // The start of a block of pages is moved into its first page; the size has a serial number in its low bits.
        let (start, size) = (start / PAGE * PAGE, size / PAGE * PAGE);
        Some(start <= block && block < start.checked_add(size)?)
    };
    is_known().unwrap_or(false)
}

/// All memory of the jemalloc that knows this block.
pub(super) fn owned(space: &Space<'_>, block: u64) -> Option<Found> {
    let mut pages = Pages::of(space.memory);
    // Threads remember leaves as well, in local storage that may lie behind a library's variables as if it were some of them.
    let root = |at| space.table(at, (block >> LEAF) * WORD, ROOT);
    let root = space.table_with(root, |leaf| knows(leaf, block, &mut pages))?;
    let mut found = Extents::default();
    found.read(space, root);
    let Extents { ranges: mut found, slabs, alone } = found;
    let extents: Vec<_> = found.ranges.iter().map(|extents| extents.range.clone()).collect();
    for start in space.multiples(RECORDS) {
        if let Some([size, next, _, unused, left]) = pages.words(start)
            && size > 0
            && size.is_multiple_of(RECORDS)
            && size <= MOST_RECORDS
            && next.is_multiple_of(RECORDS)
            && unused > start
            && super::holding(&extents, start).is_none()
            && unused.checked_add(left) == start.checked_add(size)
        {
            found.add(start..start + size, Holds::Nothing);
        }
    }
    if space.has_unrecorded {
        let mut used = free::regions(slabs, &mut pages, &mut found);
        used.extend(alone.into_iter().filter_map(|Begun { start, word }| free::alone(start, word, &mut pages)));
        if let Some(cached) = free::cached(space, &extents, &mut pages, &mut found) {
            let is_unrecorded = |block: &Range<u64>| !cached.has(block) && space.blocks.within(block).next().is_none();
            found.used.extend(used.into_iter().filter(is_unrecorded));
            log::debug!("jemalloc: {} unrecorded blocks", found.used.len());
        } else {
            log::debug!("jemalloc: not all threads' caches are found");
        }
    }
    Some(found)
}

/// An extent whose first page was met, and not yet its last.
#[derive(Debug, Clone, Copy)]
struct Begun {
    start: u64,
    word: u64,
}

/// What an extent holds by its word, which from 5.3 on has the extent's state as well: dirty, muzzy or retained, it is free.
fn kept(word: u64) -> Holds {
    if (1..=3).contains(&(word >> 2 & 7)) { Holds::Nothing } else { Holds::Blocks }
}

/// Ranges of extents, and which of them are slabs and which have one block that is in use.
#[derive(Default)]
struct Extents {
    ranges: Found,
    slabs: Vec<Slab>,
    alone: Vec<Begun>,
}

/// A slab by its first page's word.
#[derive(Debug, Clone, Copy)]
struct Slab {
    start: u64,
    word: u64,
}

impl Extents {
    /// All extents, by the words of their pages.
    fn read(&mut self, space: &Space<'_>, root: u64) {
        let (mut leaves, mut pages) = (Pages::of(space.memory), Pages::of(space.memory));
        let mut begun: Option<Begun> = None;
        let (mut before, mut budget) = (0, MOST_LOOKED_UP);
        for range in &space.unnamed {
            if before != range.start
                && let Some(begun) = begun.take()
            {
                self.end(begun, begun.start + PAGE, space);
            }
            before = range.end;
            let mut page = range.start;
            while page < range.end && budget > 0 {
                budget -= 1;
                let leaf = if page >> LEAF < ROOT / WORD { leaves.words(root + (page >> LEAF) * WORD) } else { None };
                let Some([leaf]) = leaf.filter(|[leaf]| *leaf != 0) else {
                    page = ((page >> LEAF) + 1) << LEAF;
                    continue;
                };
                // The words of 512 pages are one page, which may not be there.
                let at = in_leaf(leaf, page);
                let Some([word]) = pages.words(at) else {
                    page += ((PAGE - at % PAGE) / WORD).max(1) * PAGE;
                    continue;
                };
                let record = word & ADDRESS;
                let next = page + PAGE;
                if word != 0 {
                    match begun.take() {
                        Some(first) if first.word & ADDRESS == record => self.end(Begun { word, ..first }, next, space),
                        other => {
                            if let Some(begun) = other {
                                self.end(begun, begun.start + PAGE, space);
                            }
                            if word & SLAB == 0 {
                                begun = Some(Begun { start: page, word });
                            } else {
                                self.ranges.add(page..next, Holds::Blocks);
                                if space.has_unrecorded && self.slabs.last().is_none_or(|slab| slab.word != word) {
                                    self.slabs.push(Slab { start: page, word });
                                }
                            }
                        }
                    }
                }
                page = next;
            }
        }
        if let Some(begun) = begun {
            self.end(begun, begun.start + PAGE, space);
        }
    }

    /// Adds an extent that is no slab.
    fn end(&mut self, extent: Begun, end: u64, space: &Space<'_>) {
        let holds = kept(extent.word);
        self.ranges.add(extent.start..end, holds);
        if space.has_unrecorded && holds == Holds::Blocks {
            self.alone.push(extent);
        }
    }
}
