//! Damages to ELF files: headers that lead elsewhere, counts that are too large, tables that overlap; and to what the headers
//! lead to, so that symbols, notes and unwind information are damaged as often as code, of which there is far more.

use super::Mutator;
use std::ops::Range;

/// Offsets of fields in the file header (System V ABI), bytes.
const SEGMENTS: usize = 32;
const SECTIONS: usize = 40;
const SEGMENT_COUNT: usize = 56;
const SECTION_COUNT: usize = 60;
/// Offset and size of each field of the file header behind its identification.
const HEADER: [(usize, usize); 13] = [
    (16, 2),
    (18, 2),
    (20, 4),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 4),
    (52, 2),
    (54, 2),
    (56, 2),
    (58, 2),
    (60, 2),
    (62, 2),
];
const SEGMENT: usize = 56;
const SEGMENT_FIELDS: [(usize, usize); 8] = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 8)];
const SECTION: usize = 64;
const SECTION_FIELDS: [(usize, usize); 10] =
    [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)];
/// Types of sections (`sh_type`) whose entries have fields of their own: symbols, relocations, the dynamic section.
const SYMBOLS: [u32; 2] = [2, 11];
const SYMBOL_FIELDS: [(usize, usize); 6] = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8)];
const DYNAMIC: u32 = 6;
const NO_BITS: u32 = 8;

pub fn damage(mutator: &mut Mutator<'_>, input: &mut Vec<u8>) {
    if input.len() < 64 {
        return mutator.any_bytes(input);
    }
    // A file that is refused at its first bytes teaches nothing.
    if !mutator.random.once_in(16) {
        input[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    }
    match mutator.random.below(16) {
        0 => {
            let field = *mutator.random.pick(&HEADER);
            set_field(mutator, input, 0, field);
        }
        1..4 => one_field(mutator, input, SEGMENTS, SEGMENT_COUNT, SEGMENT, &SEGMENT_FIELDS),
        4..7 => one_field(mutator, input, SECTIONS, SECTION_COUNT, SECTION, &SECTION_FIELDS),
        7 => one_over_another(mutator, input, SEGMENTS, SEGMENT_COUNT, SEGMENT),
        8 => one_over_another(mutator, input, SECTIONS, SECTION_COUNT, SECTION),
        9 => {
            // Only a few headers are left.
            let at = *mutator.random.pick(&[SEGMENT_COUNT, SECTION_COUNT]);
            let fewer = mutator.random.below(1 + number(input, at, 2) as usize) as u16;
            input[at..at + 2].copy_from_slice(&fewer.to_le_bytes());
        }
        10 => input.resize(input.len() + mutator.random.below(4096), 0),
        _ => content(mutator, input),
    }
}

/// Damages the bytes of a section.
fn content(mutator: &mut Mutator<'_>, input: &mut Vec<u8>) {
    let Some((kind, range)) = section(mutator, input) else { return mutator.any_bytes(input) };
    let entry = |mutator: &mut Mutator<'_>, size: usize| range.start + mutator.random.below(range.len() / size) * size;
    if SYMBOLS.contains(&kind) && range.len() >= 24 {
        let at = entry(mutator, 24);
        let field = *mutator.random.pick(&SYMBOL_FIELDS);
        set_field(mutator, input, at, field);
    } else if kind == DYNAMIC && range.len() >= 16 {
        let at = entry(mutator, 16);
        let field = *mutator.random.pick(&[(0, 8), (8, 8)]);
        set_field(mutator, input, at, field);
    } else {
        // In place, so that headers go on leading to where they led.
        let mut bytes = input[range.clone()].to_vec();
        for _ in 0..=mutator.random.below(4) {
            mutator.any_bytes(&mut bytes);
        }
        bytes.resize(range.len(), 0);
        input[range].copy_from_slice(&bytes);
    }
}

/// One of the sections that lie in the file: its type and where.
fn section(mutator: &mut Mutator<'_>, input: &[u8]) -> Option<(u32, Range<usize>)> {
    let header = header(mutator, input, SECTIONS, SECTION_COUNT, SECTION)?;
    let start = usize::try_from(number(input, header + 24, 8)).ok()?;
    let end = start.checked_add(usize::try_from(number(input, header + 32, 8)).ok()?)?.min(input.len());
    let kind = number(input, header + 4, 4) as u32;
    (start < end && kind != NO_BITS).then_some((kind, start..end))
}

/// Where one of the headers of a table lies.
fn header(mutator: &mut Mutator<'_>, input: &[u8], table: usize, count: usize, size: usize) -> Option<usize> {
    let start = usize::try_from(number(input, table, 8)).ok()?;
    let there = input.len().checked_sub(start)? / size;
    let count = there.min(number(input, count, 2) as usize);
    (count > 0).then(|| start + mutator.random.below(count) * size)
}

fn one_field(
    mutator: &mut Mutator<'_>,
    input: &mut Vec<u8>,
    table: usize,
    count: usize,
    size: usize,
    fields: &[(usize, usize)],
) {
    let Some(at) = header(mutator, input, table, count, size) else { return mutator.any_bytes(input) };
    let field = *mutator.random.pick(fields);
    set_field(mutator, input, at, field);
}

/// Two headers lead to the same, or one is there twice.
fn one_over_another(mutator: &mut Mutator<'_>, input: &mut [u8], table: usize, count: usize, size: usize) {
    let from = header(mutator, input, table, count, size);
    let to = header(mutator, input, table, count, size);
    if let (Some(from), Some(to)) = (from, to) {
        // Of sections only where they lie, so that their names and kinds stay.
        let (skipped, length) = if size == SECTION && mutator.random.once_in(2) { (16, 24) } else { (0, size) };
        input.copy_within(from + skipped..from + skipped + length, to + skipped);
    }
}

/// Another value for the field at `at` plus its offset: an extreme one, one near the file's length, or one from elsewhere in
/// the headers.
fn set_field(mutator: &mut Mutator<'_>, input: &mut [u8], at: usize, (offset, size): (usize, usize)) {
    let at = at + offset;
    if at + size > input.len() {
        return;
    }
    let old = number(input, at, size);
    let new = match mutator.random.below(4) {
        0 => (input.len() as u64).wrapping_add(mutator.small()),
        1 => {
            let elsewhere = mutator.random.below(input.len() / 8) * 8;
            number(input, elsewhere, 8)
        }
        _ => mutator.number(old),
    };
    input[at..at + size].copy_from_slice(&new.to_le_bytes()[..size]);
}

/// The number of that many bytes; 0 where the input ends before.
fn number(input: &[u8], at: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    if let Some(found) = input.get(at..at + size) {
        bytes[..size].copy_from_slice(found);
    }
    u64::from_le_bytes(bytes)
}
