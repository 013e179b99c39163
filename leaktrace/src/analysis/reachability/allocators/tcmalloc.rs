//! tcmalloc of gperftools: spans of pages (span.h), and a table of all pages (pagemap.h, `TCMalloc_PageMap2`).
//!
//! The table has two levels: a root among tcmalloc's variables, and leaves with the address of a span's record for each page. Of
//! free spans only the first and the last page have it; what stands between is from before, so records are asked themselves.

use super::{Found, Holds, MOST_LOOKED_UP, Pages, Space, WORD};

/// Bits of an address.
const ADDRESS: u32 = 48;
/// The sizes of tcmalloc's pages, as shifts: usually 8 KiB (`kPageShift` of common.h).
const PAGES: [u32; 5] = [13, 12, 15, 16, 18];

/// The table of pages of a size.
#[derive(Debug, Clone, Copy)]
struct Table {
    page: u32,
    /// Bits of a page's number that are its place in a leaf.
    leaf: u32,
}

impl Table {
    fn of(page: u32) -> Self {
        Self { page, leaf: (ADDRESS - page).div_ceil(2) }
    }

    /// Where in a leaf the word of a page is.
    fn in_leaf(self, leaf: u64, page: u64) -> u64 {
        leaf.wrapping_add(page % (1 << self.leaf) * WORD)
    }

    /// Bytes of the root.
    fn root(self) -> u64 {
        WORD << (ADDRESS - self.page - self.leaf)
    }
}

/// The pages behind this one that a span has with it, by its record.
fn left_of_span(record: u64, page: u64, table: Table, records: &mut Pages<'_>) -> Option<u64> {
    let [start, length] = records.words(record)?;
    let end = start.checked_add(length).filter(|end| end >> (ADDRESS - table.page) == 0)?;
    (start..end).contains(&page).then(|| end - page)
}

/// All spans of the tcmalloc that knows this block.
pub(super) fn owned(space: &Space<'_>, block: u64) -> Option<Found> {
    PAGES.into_iter().map(Table::of).find_map(|table| spans(space, block, table))
}

fn spans(space: &Space<'_>, block: u64, table: Table) -> Option<Found> {
    let (mut words, mut records) = (Pages::of(space.memory), Pages::of(space.memory));
    let page = block >> table.page;
    let knows = |leaf| {
        let word = words.words(table.in_leaf(leaf, page));
        word.is_some_and(|[record]| left_of_span(record, page, table, &mut records).is_some())
    };
    let root = |at| space.table(at, (page >> table.leaf) * WORD, table.root());
    let root = space.table_with(root, knows)?;
    let mut found = Found::default();
    let (mut roots, mut budget) = (Pages::of(space.memory), MOST_LOOKED_UP);
    for range in &space.unnamed {
        let (mut page, end) = (range.start >> table.page, range.end.div_ceil(1 << table.page));
        while page < end && budget > 0 {
            budget -= 1;
            let place = (page >> table.leaf) * WORD;
            let leaf = if place < table.root() { roots.words(root + place) } else { None };
            let Some([leaf]) = leaf.filter(|[leaf]| *leaf != 0) else {
                page = ((page >> table.leaf) + 1) << table.leaf;
                continue;
            };
            let at = table.in_leaf(leaf, page);
            let Some([record]) = words.words(at) else {
                // Nor are the words of the pages behind it there.
                page += ((super::PAGE - at % super::PAGE) / WORD).max(1);
                continue;
            };
            let left = if record == 0 { None } else { left_of_span(record, page, table, &mut records) };
            if let Some(left) = left {
                found.add(page << table.page..(page + left) << table.page, Holds::Blocks);
            }
            page += left.unwrap_or(1);
        }
    }
    Some(found)
}
