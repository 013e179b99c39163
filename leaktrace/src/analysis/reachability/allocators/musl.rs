//! musl's mallocng: groups of slots of one size, and their records in areas of a page each (src/malloc/mallocng/meta.h).
//!
//! A group begins with the address of its record, and the record has that of the group. Two masks of the record say which slots
//! are free. A slot may itself be a group.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::blocks::Blocks;
use super::{Found, Holds, PAGE, Pages, Space, WORD};

/// What sizes are counted in.
const UNIT: u64 = 16;
/// Sizes of slots (`__malloc_size_classes` of malloc.c).
const SIZES: [u64; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146, 170, 204, 255, 292,
    340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730, 3276, 4095, 4680, 5460, 6552, 8191,
];
/// The last bytes of a slot, which say of the next one's block where it is.
const HEAD_OF_NEXT: u64 = 4;
/// Before a slot: its block begins farther behind.
const MOVED: u8 = 7 << 5;
/// Words of a record.
const RECORD: usize = 5;
/// Words of an area before its first record.
const HEAD: usize = 3;
/// The most areas: with fewer records than slots, more than any program has.
const MOST_AREAS: usize = 1 << 20;

/// A group, by its record.
#[derive(Debug, Clone, Copy)]
struct Group {
    start: u64,
    end: u64,
    slots: u32,
    stride: u64,
    /// A bit for each slot that is free.
    free: u32,
}

impl Group {
    /// The slots that are in use.
    fn used(&self) -> impl Iterator<Item = Range<u64>> {
        let Self { start, slots, stride, free, .. } = *self;
        let of = move |slot| start + UNIT + u64::from(slot) * stride;
        (0..slots).filter(move |slot| free >> slot & 1 == 0).map(move |slot| of(slot)..of(slot).saturating_add(stride))
    }
}

/// The group of the record at this address; `None` if it has none.
fn group(record: u64, words: [u64; RECORD], pages: &mut Pages<'_>) -> Option<Group> {
    let [_, _, start, masks, rest] = words;
    if start == 0 || !start.is_multiple_of(UNIT) || pages.words(start)? != [record] {
        return None;
    }
    let (last, class, mapped) = (rest & 31, rest >> 6 & 63, (rest >> 12).checked_mul(PAGE)?);
    let slots = last as u32 + 1;
    let stride = match SIZES.get(class as usize) {
        _ if mapped > 0 && last == 0 => mapped.checked_sub(UNIT)?,
        Some(units) => units * UNIT,
        None => return None,
    };
    let needed = UNIT + stride * u64::from(slots);
    let end = start.checked_add(needed.max(mapped))?;
    let free = (masks | masks >> 32) as u32 & (u32::MAX >> (31 - last));
    Some(Group { start, end, slots, stride, free })
}

/// The address of the record of the group that a block lies in (`get_meta`).
fn record_of(block: u64, pages: &mut Pages<'_>) -> Option<u64> {
    let [word] = pages.words(block.checked_sub(WORD).filter(|_| block.is_multiple_of(UNIT))?)?;
    let bytes = word.to_le_bytes();
    let offset = match bytes[4] {
        0 => u64::from(u16::from_le_bytes([bytes[6], bytes[7]])),
        _ => word & 0xffff_ffff,
    };
    let start = block.checked_sub(UNIT * (offset + 1))?;
    let [record] = pages.words(start)?;
    let found = group(record, pages.words(record)?, pages)?;
    (found.start == start && block < found.end).then_some(record)
}

/// All groups of the musl that knows this block.
pub(super) fn owned(space: &Space<'_>, block: u64) -> Option<Found> {
    let mut pages = Pages::of(space.memory);
    let own = record_of(block, &mut pages)? / PAGE * PAGE;
    let [secret, ..] = pages.words::<HEAD>(own)?;
    if secret == 0 {
        return None;
    }
    // Most lie below the break, where nothing else is.
    let mut areas = BTreeSet::new();
    let heap = space.heap.iter().flat_map(|heap| space.there(heap));
    let mut unread: Vec<u64> = heap.flat_map(|run| (run.start..run.end).step_by(PAGE as usize)).collect();
    unread.push(own);
    while let Some(area) = unread.pop() {
        let Some([check, next, _]) = pages.words(area).filter(|_| area.is_multiple_of(PAGE)) else { continue };
        if check == secret && areas.len() < MOST_AREAS && areas.insert(area) {
            unread.push(next);
        }
    }
    let mut groups = Vec::new();
    let mut heads = Pages::of(space.memory);
    for area in &areas {
        let records = (HEAD..(PAGE / WORD) as usize + 1 - RECORD).step_by(RECORD);
        for record in records.map(|place| area + place as u64 * WORD) {
            groups.extend(heads.words(record).and_then(|words| group(record, words, &mut pages)));
        }
    }
    let mut found = ranges(&groups, &areas, space.blocks);
    if space.has_unrecorded {
        found.used.iter_mut().for_each(|slot| slot.start = block_in(slot, &mut pages));
        let starts: BTreeSet<u64> = groups.iter().map(|group| group.start).collect();
        let is_group = |slot: &Range<u64>| starts.range(slot.clone()).next().is_some();
        let slots = groups.iter().flat_map(Group::used).filter(|slot| !is_group(slot));
        slots
            .filter(|slot| is_dealt_out(slot, space.blocks, &mut pages))
            .for_each(|slot| found.add(slot, Holds::Unrecorded));
    }
    Some(found)
}

/// Whether the program deals out parts of a slot itself, and has these recorded.
fn is_dealt_out(slot: &Range<u64>, blocks: &Blocks, pages: &mut Pages<'_>) -> bool {
    let mut recorded = blocks.within(slot).map(|block| blocks.start(block));
    recorded.next().is_some_and(|first| recorded.next().is_some() || first != block_in(slot, pages))
}

/// Where in a slot that is in use its block begins: not always at its start, so that an address comes back late (`enframe`).
fn block_in(slot: &Range<u64>, pages: &mut Pages<'_>) -> u64 {
    let before = slot.start.checked_sub(WORD).and_then(|at| pages.words(at));
    let [_, _, _, _, _, mark, low, high] = before.map_or([0; 8], |[word]: [u64; 1]| word.to_le_bytes());
    let moved = if mark == MOVED { UNIT * u64::from(u16::from_le_bytes([low, high])) } else { 0 };
    if slot.start + moved < slot.end { slot.start + moved } else { slot.start }
}

/// The ranges of groups and of areas. A slot that is in use, has no recorded block and is no group is a block of the C library's
/// own, which asks by other names than programs do.
fn ranges(groups: &[Group], areas: &BTreeSet<u64>, blocks: &Blocks) -> Found {
    let starts: BTreeSet<u64> = groups.iter().map(|group| group.start).collect();
    let mut found = Found::default();
    for group in groups {
        found.add(group.start..group.end, Holds::Nothing);
        for slot in group.used() {
            if blocks.within(&slot).next().is_none() && starts.range(slot.clone()).next().is_none() {
                found.used.push(slot.start..slot.end - HEAD_OF_NEXT);
                found.add(slot, Holds::Unrecorded);
            }
        }
    }
    for area in areas {
        found.add(*area..area + PAGE, Holds::Nothing);
    }
    found
}
