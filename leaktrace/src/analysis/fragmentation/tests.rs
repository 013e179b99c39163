use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;

fn part(counts: Counts, range: Range<u64>, resident: &[Range<u64>]) -> Part {
    let pages = |range: &Range<u64>| range.start * PAGE..range.end * PAGE;
    Part { range: pages(&range), counts, resident: resident.iter().map(pages).collect() }
}

/// A part of which every page is resident.
fn whole(counts: Counts, range: Range<u64>) -> Part {
    part(counts, range.clone(), std::slice::from_ref(&range))
}

/// Of blocks as page, offset, size and site.
fn used(parts: &[Part], blocks: &[(u64, u64, u64, u32)]) -> HeapUse {
    let mut heap = Heap::new(PAGE, parts.iter().cloned());
    for (page, offset, size, site) in blocks {
        heap.add(page * PAGE + offset, *size, *site);
    }
    heap.finish().unwrap()
}

#[test]
fn one_small_block_holds_its_page_and_others_are_empty() {
    let parts = [part(Counts::Always, 10..20, &[10..14, 16..18])];
    let found = used(&parts, &[(11, 16, 100, 3)]);
    assert_eq!((found.resident, found.held, found.empty(), found.occupied), (6 * PAGE, PAGE, 5 * PAGE, 100));
    assert_eq!((found.blocks, found.pinned), (1, vec![(3, PAGE)]));
}

#[test]
fn a_page_is_pinned_only_by_a_site_that_is_alone_on_it() {
    let parts = [whole(Counts::Always, 0..10)];
    let found =
        used(&parts, &[(1, 0, 8, 3), (1, 8, 8, 3), (2, 0, 8, 3), (2, 8, 8, 4), (3, 4090, 16, 4), (4, 100, 8, 0)]);
    // Site 4 has the third page, and shares the fourth with site 0.
    assert_eq!(found.pinned, [(3, PAGE), (4, PAGE)]);
    assert_eq!((found.held, found.occupied, found.blocks), (4 * PAGE, 8 * 4 + 16 + 8, 6));
}

#[test]
fn pages_within_a_large_block_are_full_and_those_that_are_not_resident_are_left_out() {
    let parts = [part(Counts::Always, 0..100, &[0..50, 60..100])];
    let found = used(&parts, &[(1, 16, 90 * PAGE, 7)]);
    // Of the pages 1 to 91 ten are not there; the block begins in the first of them and ends in the last.
    assert_eq!((found.held, found.occupied), (81 * PAGE, 80 * PAGE));
    assert_eq!(found.pinned, [(7, 81 * PAGE)]);
}

#[test]
fn a_block_of_no_bytes_holds_its_page() {
    let found = used(&[whole(Counts::Always, 0..2)], &[(1, 32, 0, 1)]);
    assert_eq!((found.held, found.occupied, found.pinned), (PAGE, 0, vec![(1, PAGE)]));
}

#[test]
fn what_counts_depends_on_the_part() {
    let resident = [0..4, 10..14, 20..24];
    let parts = |counts| [0, 10, 20].map(|at: u64| whole(counts, at..at + 4));
    // The first part has a small block, the second a large one, the third none.
    let blocks = [(1, 0, 8, 1), (11, 16, PAGE, 2)];
    let of = |counts| used(&parts(counts), &blocks).resident / PAGE;
    assert_eq!(of(Counts::Always), resident.len() as u64 * 4);
    assert_eq!(of(Counts::IfHolding { below: u64::MAX }), 8);
    assert_eq!(of(Counts::IfHolding { below: PAGE }), 4 + 2);
    assert_eq!(of(Counts::Touched), 1 + 2);
}

#[test]
fn a_block_may_go_through_several_parts() {
    let parts = [whole(Counts::Touched, 0..2), whole(Counts::Touched, 2..4)];
    let found = used(&parts, &[(1, 0, 2 * PAGE, 1), (3, 8, 8, 1)]);
    assert_eq!((found.held, found.occupied, found.blocks), (3 * PAGE, 2 * PAGE + 8, 2));
}

#[test]
fn blocks_that_overlap_without_end_are_given_up() {
    let mut heap = Heap::new(PAGE, [whole(Counts::Always, 0..10_000)]);
    for site in 0..100 {
        heap.add(0, 10_000 * PAGE, site);
    }
    assert!(heap.work.is_over() && heap.work.done < 100_000, "{:?}", heap.work);
    assert_eq!(heap.finish(), None);
}

#[test]
fn a_page_is_found_behind_holes_and_in_another_chunk() {
    // Of the pages 500 to 1,600 each third is there.
    let resident: Vec<_> = (500..1600).step_by(3).map(|page| page..page + 1).collect();
    let parts = [part(Counts::Touched, 500..1600, &resident)];
    for page in 500..1600 {
        let found = used(&parts, &[(page, 8, 100, 1)]);
        assert_eq!(found.occupied, if (page - 500) % 3 == 0 { 100 } else { 0 }, "{page}");
    }
    // One heap for blocks in any order.
    let blocks: Vec<_> = (500..1600).map(|page| ((page * 7919) % 1100 + 500, 8, 100, 1)).collect();
    let found = used(&parts, &blocks);
    assert_eq!((found.held, found.occupied, found.blocks), (367 * PAGE, 36_700, 367));
    let all = used(&parts, &[(500, 0, 1100 * PAGE, 1)]);
    assert_eq!((all.held, all.occupied), (367 * PAGE, 367 * PAGE));
}

#[test]
fn pages_that_are_given_twice_count_once() {
    let mut twice = whole(Counts::Always, 0..2000);
    twice.resident.push(1000 * PAGE..2000 * PAGE);
    let found = used(&[twice], &[(1500, 0, 8, 1), (3, 0, 8, 1)]);
    assert_eq!((found.resident, found.held, found.occupied), (2000 * PAGE, 2 * PAGE, 16));
}

#[test]
fn two_blocks_at_one_address_fill_a_page_no_more_than_once() {
    // As a `realloc` in flight may show it.
    let found = used(&[whole(Counts::Always, 0..1)], &[(0, 0, PAGE, 1), (0, 0, PAGE, 2)]);
    assert_eq!((found.occupied, found.pinned), (PAGE, vec![]));
}

/// Parts as numbers of pages that are there or not, and how they count.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let counts = prop_oneof![
        Just(Counts::Always),
        Just(Counts::Touched),
        (1..3 * PAGE).prop_map(|below| Counts::IfHolding { below })
    ];
    let one = (counts, 0..3u64, proptest::collection::vec(any::<bool>(), 1..12));
    proptest::collection::vec(one, 1..6).prop_map(|all| {
        let mut next = 1;
        let parts = all.into_iter().map(|(counts, gap, there)| {
            let start = next + gap;
            next = start + there.len() as u64;
            let pages = (start..next).zip(there).filter(|(_, is_there)| *is_there);
            let resident = crate::ranges::joined(pages.map(|(page, _)| page..page + 1));
            part(counts, start..next, &resident)
        });
        parts.collect()
    })
}

/// Blocks that do not overlap, in any order: gap, size and site of each.
fn blocks() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
    let one = (0..PAGE, prop_oneof![0..200u64, 0..3 * PAGE], 0..4u32);
    let blocks = proptest::collection::vec(one, 0..60).prop_map(|all| {
        let mut next = 0;
        let blocks = all.into_iter().map(|(gap, size, site)| {
            let start = next + gap;
            next = start + size.max(1);
            (start, size, site)
        });
        blocks.collect::<Vec<_>>()
    });
    blocks.prop_shuffle()
}

/// The same byte by byte.
fn naive(parts: &[Part], blocks: &[(u64, u64, u32)]) -> HeapUse {
    let mut sums = HeapUse::default();
    let mut pinned = std::collections::BTreeMap::new();
    let there = |page: u64| parts.iter().any(|part| part.resident.iter().any(|run| run.contains(&page)));
    let touched = |start: u64, size: u64| (start / PAGE..=(start + size.max(1) - 1) / PAGE).map(|page| page * PAGE);
    sums.blocks = blocks.iter().filter(|(start, size, _)| touched(*start, *size).any(there)).count() as u64;
    for part in parts {
        let begins = |(start, size, _): &(u64, u64, u32)| part.range.contains(start).then_some(*size);
        let counts = match part.counts {
            Counts::Always => true,
            Counts::Touched => false,
            Counts::IfHolding { below } => blocks.iter().filter_map(begins).any(|size| size < below),
        };
        for page in part.resident.iter().flat_map(|run| (run.start..run.end).step_by(PAGE as usize)) {
            let on: Vec<_> =
                blocks.iter().filter(|(start, size, _)| touched(*start, *size).any(|it| it == page)).collect();
            if !on.is_empty() || counts {
                sums.resident += PAGE;
            }
            if let Some((_, _, first)) = on.first() {
                sums.held += PAGE;
                let is_on = |byte: u64| on.iter().any(|(start, size, _)| (*start..start + size).contains(&byte));
                sums.occupied += (page..page + PAGE).filter(|byte| is_on(*byte)).count() as u64;
                if on.iter().all(|(_, _, site)| site == first) {
                    *pinned.entry(*first).or_insert(0) += PAGE;
                }
            }
        }
    }
    sums.pinned = pinned.into_iter().collect();
    sums
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_are_those_of_a_look_at_every_byte(parts in parts(), blocks in blocks()) {
        let mut heap = Heap::new(PAGE, parts.clone());
        for (start, size, site) in &blocks {
            heap.add(*start, *size, *site);
        }
        prop_assert_eq!(heap.finish(), Some(naive(&parts, &blocks)));
    }
}
