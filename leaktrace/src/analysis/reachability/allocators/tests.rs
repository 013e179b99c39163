//! Allocators' memory in words.

use super::*;
use crate::analysis::reachability::tests::Words;
use crate::model::Address;
use crate::process::maps::{MappingName, Permissions};
use crate::process::memory::{Region, Run};

use Holds::{Blocks as WithBlocks, Nothing, Unrecorded};

const WHOLE_PAGE: usize = 512;
/// Where variables are: room for every table that there is.
const VARIABLES: Range<u64> = 0x5555_0000_0000..0x5555_0100_0000;

/// What the allocators of a process with these mappings, blocks and pages with words manage.
fn found(
    mappings: &[(Range<u64>, RegionKind)],
    blocks: &[(u64, u64)],
    pages: &[(u64, Vec<u64>)],
) -> Vec<(u64, u64, Holds)> {
    within(mappings, blocks, pages, |space| {
        let (owned, _) = owned(space, &[]);
        owned.into_iter().map(|Owned { range, holds }| (range.start, range.end, holds)).collect()
    })
}

/// What is found in such a process.
fn within<T>(
    mappings: &[(Range<u64>, RegionKind)],
    blocks: &[(u64, u64)],
    pages: &[(u64, Vec<u64>)],
    find: impl FnOnce(&Space<'_>) -> T,
) -> T {
    let permissions = Permissions { read: true, write: true, execute: false, shared: false };
    let region = |(range, kind): &(Range<u64>, RegionKind)| Region {
        start: Address(range.start),
        end: Address(range.end),
        kind: *kind,
        permissions,
        name: MappingName::Anonymous,
    };
    let mut pages = pages.to_vec();
    for (_, words) in &mut pages {
        words.resize(words.len().next_multiple_of(WHOLE_PAGE), 0);
    }
    pages.sort_by_key(|(start, _)| *start);
    let run = |(start, words): &(u64, Vec<u64>)| Run {
        start: Address(*start),
        end: Address(start + words.len() as u64 * WORD),
        swapped: false,
        forced: false,
    };
    let runs = pages.iter().map(run).collect();
    let survey = Survey { regions: mappings.iter().map(region).collect(), runs, code: Vec::new(), unknown_bytes: 0 };
    let blocks = Blocks::new(blocks.iter().copied()).unwrap();
    let memory = Words(pages);
    find(&Space::of(&survey, &blocks, &memory))
}

/// A page with these words.
fn page(words: &[(usize, u64)]) -> Vec<u64> {
    let mut page = vec![0; WHOLE_PAGE];
    for (at, word) in words {
        page[*at] = *word;
    }
    page
}

/// The page of a word, and where in it the word is.
fn place(address: u64) -> (u64, usize) {
    (address / PAGE * PAGE, (address % PAGE / WORD) as usize)
}

#[test]
fn the_heads_of_segments_of_mimalloc_have_one_secret() {
    let first = 0x7f00_0000_0000_u64;
    let head = |segment: u64, secret: u64, slices| {
        vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, segment ^ secret, slices, 1, u64::from(slices != 512), slices.min(512)]
    };
    let [second, huge, other] = [1, 2, 6].map(|number| first + number * (32 << 20));
    let mappings = [(first..first + (512 << 20), RegionKind::Anonymous)];
    let pages = [
        (first, head(first, 7, 512)),
        (second, head(second, 7, 512)),
        (huge, head(huge, 7, 1024)),
        (other, head(other, 8, 512)),
    ];
    let blocks = [(first + 0x10000, 100), (second + 0x500, 8)];
    assert_eq!(found(&mappings, &blocks, &pages), [(first, huge + (64 << 20), WithBlocks)], "of the other none is");
    let broken = [(first, head(first, 7, 0))];
    assert_eq!(found(&mappings, &blocks, &broken), []);
}

#[test]
fn groups_of_musl_tell_which_slots_are_in_use() {
    let (area, group, nested) = (0x5556_0000_1000_u64, 0x7f00_0000_3000_u64, 0x7f00_0000_3000_u64 + 16 + 3 * 1008);
    let record = area + 24;
    // Four slots of 1,008 bytes, of which the third is free, and the last is a group of three slots of 16 bytes.
    let records = vec![0x5ec, 0, 2, 0, 0, group, 0b0100, 3 | 19 << 6 | 1 << 12, 0, 0, nested, 0, 2];
    let mut words = page(&[(0, record), (1, 0), (1 + 63 * 2, 0)]);
    // Before each block: how far behind the group's head it is, in units, and which slot.
    words[1] = 0;
    let at = |address: u64| ((address - group) / WORD) as usize;
    words[at(nested)] = record + 40;
    words.resize(WHOLE_PAGE, 0);
    let mappings = [(area..area + PAGE, RegionKind::Heap), (group..group + 4 * PAGE, RegionKind::Anonymous)];
    let mut pages = [(area, records), (group, words)];
    let blocks = [(group + 16, 1000), (nested + 16, 16)];
    let expected = [
        (area, area + PAGE, Nothing),
        (group, group + 16 + 1008, Nothing),
        (group + 16 + 1008, group + 16 + 2 * 1008, Unrecorded),
        (group + 16 + 2 * 1008, nested + 32, Nothing),
        (nested + 32, nested + 64, Unrecorded),
        (nested + 64, group + PAGE, Nothing),
    ];
    assert_eq!(found(&mappings, &blocks, &pages)[..expected.len()], expected);
    let used = |pages: &[(u64, Vec<u64>)]| {
        within(&mappings, &blocks, pages, |space| {
            let space = Space { has_unrecorded: true, ..Space::of(space.survey, space.blocks, space.memory) };
            owned(&space, &[]).1
        })
    };
    let (second, last) = (group + 16 + 1008, nested + 32);
    assert_eq!(used(&pages), [second..second + 1004, last..last + 12, last + 16..last + 28]);
    // The block begins two units behind the start of its slot.
    pages[1].1[at(second - 8)] = u64::from_le_bytes([0, 0, 0, 0, 0, 0xe0, 2, 0]);
    assert_eq!(used(&pages)[0], second + 32..second + 1004);
}

/// Pages with a table's root among the variables, and a leaf with these words by page of `unit` bytes.
fn table(leaf: u64, root_at: u64, words: &[(u64, u64)], unit: u64, leaf_pages: u64) -> Vec<(u64, Vec<u64>)> {
    let (root, at) = place(root_at);
    let mut pages = vec![(root, page(&[(at, leaf)]))];
    for (address, word) in words {
        let (start, at) = place(leaf + address / unit % leaf_pages * WORD);
        match pages.iter_mut().find(|(page, _)| *page == start) {
            Some((_, words)) => words[at] = *word,
            None => pages.push((start, page(&[(at, *word)]))),
        }
    }
    pages
}

#[test]
fn extents_of_jemalloc_stand_in_its_table() {
    let records = 0x7f00_0020_0000_u64;
    let (slab, large, free) = (0x7f00_0040_0000_u64, 0x7f00_0040_3000_u64, 0x7f00_0041_0000_u64);
    let own = 0x7f00_0060_0000_u64;
    // The root begins somewhere among the variables.
    let root = VARIABLES.start + 0x1238;
    let extents = [records + 0x1000, records + 0x1080, records + 0x1100];
    let words = [
        (slab, extents[0] | 5 << 48 | 1),
        (slab + PAGE, extents[0] | 5 << 48 | 1),
        (large, extents[1] | 40 << 48),
        (large + 4 * PAGE, extents[1] | 40 << 48),
        (free, extents[2] | 8),
    ];
    let leaf = records + 0x4000;
    let mut pages = table(leaf, root + (slab >> 30) * WORD, &words, PAGE, 1 << 18);
    pages.push((records, vec![2 << 20, 0, 0, records + 0x20_0000 - 64, 64]));
    // Its size has a serial number behind it.
    let extent = |start: u64, pages: u64| [9, start, (pages * PAGE) | 3];
    pages.push((records + 0x1000, page(&[])));
    for (record, [bits, start, size]) in extents.into_iter().zip([extent(slab, 2), extent(large, 5), extent(free, 1)]) {
        let (start_of_page, at) = place(record);
        let words = &mut pages.iter_mut().find(|(page, _)| *page == start_of_page).unwrap().1;
        words[at..at + 3].copy_from_slice(&[bits, start, size]);
    }
    let mappings = [(VARIABLES, RegionKind::Data), (records..own + PAGE, RegionKind::Anonymous)];
    let blocks = [(slab + 64, 32), (large + 0x40, 0x3000)];
    let expected = [
        (records, records + (2 << 20), Nothing),
        (slab, slab + 2 * PAGE, WithBlocks),
        (large, large + 5 * PAGE, WithBlocks),
        (free, free + PAGE, Nothing),
    ];
    // Slab and large extent have a page between them that is nobody's.
    assert_eq!(found(&mappings, &blocks, &pages), expected);
    assert_eq!(found(&mappings, &[(own, 32)], &pages), [], "what is in no extent is not jemalloc's");
}

#[test]
fn spans_of_tcmalloc_stand_in_its_table() {
    let heap = 0x5557_0000_0000_u64;
    let (span, free, own) = (heap + 0x40_0000, heap + 0x40_4000, heap + 0x41_0000);
    let records = heap + 0x1000;
    let words = [(span, records), (span + 8192, records), (free, records + 48), (free + 8192, records + 96)];
    let root = VARIABLES.start + 0xdc0;
    let leaf = heap + 0x2000;
    let mut pages = table(leaf, root + (heap >> 31) * WORD, &words, 8192, 1 << 18);
    // A record that is free has another's address in front.
    pages.push((records, page(&[(0, span >> 13), (1, 2), (6, free >> 13), (7, 3), (12, records), (13, 1)])));
    let mappings = [(VARIABLES, RegionKind::Data), (heap..own + PAGE, RegionKind::Heap)];
    assert_eq!(found(&mappings, &[(span + 64, 32)], &pages), [(span, free + 3 * 8192, WithBlocks)]);
    assert_eq!(found(&mappings, &[(own, 32)], &pages), [], "what is in no span is not tcmalloc's");
}

#[test]
fn what_is_followed_is_bounded_in_all() {
    let heap = 0x5557_0000_0000_u64;
    let pages = [(VARIABLES.start, page(&[(7, heap), (9, heap + 64)])), (heap, page(&[]))];
    let mappings = [(VARIABLES, RegionKind::Data), (heap..heap + PAGE, RegionKind::Heap)];
    within(&mappings, &[(heap + 64, 32)], &pages, |space| {
        space.left.set((2 * PAGE, 3));
        let asked = || {
            let mut asked = 0;
            let is_it = |_| {
                asked += 1;
                false
            };
            let found = space.table_with(Some, is_it);
            assert_eq!(found, None);
            asked
        };
        assert_eq!([asked(), asked(), asked()], [2, 1, 0]);
        space.left.set((2 * PAGE, 3));
        assert_eq!(space.table_with(|_| None, |_| true), None);
        assert_eq!(space.left.get(), (PAGE, 3), "what is no part of a table is not followed");
    });
}

#[test]
fn what_overlaps_is_the_last_of_what_it_may_be() {
    let owned =
        [(0..100, WithBlocks), (90..200, WithBlocks), (50..60, Nothing), (55..70, Unrecorded), (300..310, Nothing)];
    let apart = apart(&owned.map(|(range, holds)| Owned { range, holds }));
    let shown: Vec<_> = apart.into_iter().map(|owned| (owned.range, owned.holds)).collect();
    let expected =
        [(0..50, WithBlocks), (50..55, Nothing), (55..70, Unrecorded), (70..200, WithBlocks), (300..310, Nothing)];
    assert_eq!(shown, expected);
}
