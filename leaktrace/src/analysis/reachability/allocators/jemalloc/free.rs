//! Free regions of jemalloc 5.3: those of slabs (`slab_data.h`), and those that threads keep (`cache_bin.h`).
//!
//! A slab's record has a bit for each region that is free. A thread's cache is an array in its local storage, with a stack of free
//! regions for each size; above the top of a stack is what was handed out before, which hides lost blocks. All stacks lie one
//! behind the other in one block of jemalloc's own. Of other versions nothing is met that belongs together as is asked for here.

use std::ops::Range;

use super::super::{Found, Holds, PAGE, Pages, Space, WORD, holding};
use super::{ADDRESS, Slab};

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

/// Adds the regions of slabs that are free.
pub(super) fn regions(slabs: Vec<Slab>, pages: &mut Pages<'_>, found: &mut Found) {
    for Slab { start, word } in slabs {
        let Some(record) = pages.words::<RECORD>(word & ADDRESS) else { continue };
        let ([bits, begin, length, ..], bitmap) = (record, &record[BITMAP..]);
        let (number, length) = (word >> 48, length / PAGE * PAGE);
        let Some(size) = size(number).filter(|_| begin == start && length <= MOST_BYTES) else { continue };
        let regions = length / size;
        let free: u32 = bitmap.iter().map(|word| word.count_ones()).sum();
        let is_free = |region: u64| bitmap[(region / 64) as usize] >> (region % 64) & 1 != 0;
        let is_slab = bits >> 12 & 1 == 1 && bits >> 20 & 0xff == number && bits >> 28 & 0x3ff == u64::from(free);
        if is_slab && regions <= REGIONS && !(regions..REGIONS).any(is_free) {
            for region in (0..regions).filter(|region| is_free(*region)) {
                found.add(start + region * size..start + (region + 1) * size, Holds::Nothing);
            }
        }
    }
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

/// Adds the stacks of threads' caches, and the free regions in them.
pub(super) fn cached(space: &Space<'_>, extents: &[Range<u64>], pages: &mut Pages<'_>, found: &mut Found) {
    for thread in &space.threads {
        let (mut at, end) = (thread.saturating_sub(STORAGE) / WORD * WORD, *thread);
        let mut stacks: Vec<Stack> = Vec::new();
        let mut storage = Pages::of(space.memory);
        while at < end {
            let stack = storage.words(at).and_then(Stack::of);
            let stack = stack.filter(|stack| holding(extents, stack.range.start).is_some());
            let follows = |stack: &Stack| stacks.last().is_none_or(|last| last.range.end == stack.range.start);
            match stack.filter(follows) {
                Some(stack) => {
                    stacks.push(stack);
                    at += BIN as u64 * WORD;
                }
                None if stacks.len() >= BINS => break,
                None => {
                    at = at - stacks.len() as u64 * BIN as u64 * WORD + WORD;
                    stacks.clear();
                }
            }
        }
        if stacks.len() < BINS {
            continue;
        }
        for (stack, number) in stacks.into_iter().zip(0..) {
            for at in (stack.top..stack.range.end).step_by(WORD as usize) {
                let region = pages.words(at).map(|[start]| start).filter(|start| holding(extents, *start).is_some());
                if let (Some(start), Some(size)) = (region, size(number)) {
                    found.add(start..start.saturating_add(size), Holds::Nothing);
                }
            }
            found.add(stack.range, Holds::Nothing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_four_sizes_from_each_power_of_two_to_the_next() {
        let sizes: Vec<_> = (0..14).filter_map(size).collect();
        assert_eq!(sizes, [8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]);
        assert_eq!((size(21), size(35), size(232)), (Some(1280), Some(14336), None));
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
