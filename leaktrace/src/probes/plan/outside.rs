//! Branches from anywhere in an object's code into the part of a function that a moved probe leaves behind.
//!
//! A function's own code is disassembled. The rest of the object is only searched for bytes that may be a branch to it: a
//! 32-bit displacement behind an opcode of `call`, `jmp` or `jcc` that leads there. A compiler that moves the unlikely part
//! of a function elsewhere returns by such a jump. Constants can look like one, so the instructions around each find are
//! disassembled. A find that stays in doubt keeps the probe at the entry.

use std::ops::RangeInclusive;

use iced_x86::{Decoder, DecoderOptions, OpKind};

use crate::elf::SymbolKind;
use crate::probes::image::Image;

/// How far before a find the disassembly may begin, in bytes.
const MAX_DISTANCE: u64 = 64 << 10;

/// Beyond this number of finds none is disassembled.
const MAX_FINDS: usize = 256;

/// What looks like a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Find {
    /// The address behind it: where its displacement counts from.
    end: u64,
    target: u64,
}

/// For each of `ranges` (addresses; disjoint and in order), the lowest address in it that a branch leads to, but for branches
/// that are known, by the addresses at which they end.
pub(super) fn entered(
    image: &Image<'_>,
    ranges: &[RangeInclusive<u64>],
    is_known: impl Fn(u64) -> bool,
) -> Vec<Option<u64>> {
    let mut entered: Vec<Option<u64>> = vec![None; ranges.len()];
    let mut finds = search(image.code_ranges(), ranges);
    finds.retain(|find| !is_known(find.end));
    if !finds.is_empty() && finds.len() <= MAX_FINDS {
        let mut starts: Vec<u64> =
            image.extents().filter(|extent| extent.kind != SymbolKind::Label).map(|extent| extent.address).collect();
        starts.sort_unstable();
        finds.retain(|find| is_possible(image, &starts, find.end));
    }
    for Find { target, .. } in finds {
        let index = ranges.partition_point(|range| *range.end() < target);
        if let Some(lowest) = entered.get_mut(index) {
            *lowest = Some(lowest.map_or(target, |lowest| lowest.min(target)));
        }
    }
    entered
}

/// Whatever could be a branch into one of the ranges.
fn search<'a>(code: impl Iterator<Item = (u64, &'a [u8])>, ranges: &[RangeInclusive<u64>]) -> Vec<Find> {
    let mut finds = Vec::new();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return finds };
    let (low, span) = (*first.start(), last.end() - first.start());
    for (address, bytes) in code {
        for (at, window) in bytes.windows(4).enumerate() {
            let displacement = i32::from_le_bytes([window[0], window[1], window[2], window[3]]);
            let end = address.wrapping_add(at as u64 + 4);
            let target = end.wrapping_add_signed(i64::from(displacement));
            if target.wrapping_sub(low) > span || !is_opcode(&bytes[..at]) {
                continue;
            }
            let index = ranges.partition_point(|range| *range.end() < target);
            if ranges.get(index).is_some_and(|range| range.contains(&target)) {
                finds.push(Find { end, target });
            }
        }
    }
    finds
}

/// Whether the bytes before a displacement end in the opcode of a branch.
fn is_opcode(before: &[u8]) -> bool {
    matches!(before, [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f])
}

/// Whether a branch ends at this address, judging by the code from the start of the preceding function on.
fn is_possible(image: &Image<'_>, starts: &[u64], end: u64) -> bool {
    let Some(start) = starts[..starts.partition_point(|start| *start < end)].last() else { return true };
    if end - start > MAX_DISTANCE {
        return true;
    }
    let Some(code) = image.code(*start, (end - start) as usize) else { return true };
    let mut decoder = Decoder::with_ip(64, code, *start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.next_ip() == end {
            return instruction.op0_kind() == OpKind::NearBranch64;
        }
        if instruction.is_invalid() {
            // At the end of the bytes, another instruction reaches beyond this address; anywhere else, what follows cannot
            // be decoded.
            return decoder.can_decode();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `jmp` at 0x1000 to `target`, and one byte more.
    fn jump(opcode: &[u8], target: u32) -> Vec<u8> {
        let next = 0x1000 + opcode.len() as u32 + 4;
        [opcode, &target.wrapping_sub(next).to_le_bytes(), &[0xc3]].concat()
    }

    fn targets(code: &[u8], ranges: &[RangeInclusive<u64>]) -> Vec<u64> {
        search(std::iter::once((0x1000, code)), ranges).iter().map(|find| find.target).collect()
    }

    #[test]
    fn a_branch_into_the_range_is_found_whatever_its_opcode_and_direction() {
        for opcode in [&[0xe9][..], &[0xe8], &[0x0f, 0x84], &[0xf2, 0xe9]] {
            for target in [0x901, 0x2001, 0x2010] {
                let found = targets(&jump(opcode, target), &[0x901..=0x901, 0x2001..=0x2010]);
                assert_eq!(found, [u64::from(target)], "{opcode:x?}");
            }
        }
    }

    #[test]
    fn a_branch_to_the_entry_or_past_the_site_is_none() {
        for target in [0x2000, 0x2011, 0x3000] {
            assert_eq!(targets(&jump(&[0xe9], target), &[0x2001..=0x2010]), [0; 0]);
        }
    }

    #[test]
    fn a_displacement_that_is_no_branchs_is_none() {
        // lea 0xffb(%rip), %rax leads to 0x2002, but does not jump there.
        assert_eq!(targets(&[0x48, 0x8d, 0x05, 0xfb, 0x0f, 0, 0], &[0x2001..=0x2010]), [0; 0]);
    }

    #[test]
    fn code_at_the_end_of_the_address_space_does_not_wrap_into_a_panic() {
        let code = [0xe9, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(search(std::iter::once((u64::MAX - 5, &code[..])), &[1..=u64::MAX - 1]).len(), 1);
    }
}
