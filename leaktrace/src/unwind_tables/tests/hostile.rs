//! Broken and hostile unwind information: never a panic, never more than the bounds, never another function's harm.

use leaktrace_common::unwind::{Rule, Stop};
use proptest::prelude::*;

use super::image::{CIE_START, Image, LeadsBy, TEXT, advance};
use super::{FRAME_POINTER_FUNCTION, build, rows, sp};
use crate::unwind_tables::{TableError, UnwindTable};

#[test]
fn a_broken_record_costs_only_its_own_function() {
    let mut image = Image::new(0x1000);
    let unknown_augmentation = image.cie(b"zRQ\0", &CIE_START);
    let unknown_version = image.eh_frame.len();
    image.cie(b"zR\0", &CIE_START);
    image.eh_frame[unknown_version + 8] = 99;
    let other_return_column = image.eh_frame.len();
    image.cie(b"zR\0", &CIE_START);
    image.eh_frame[other_return_column + 14] = 3;
    image.fde_of(unknown_augmentation, TEXT, 16, &[]);
    image.fde_of(unknown_version, TEXT + 16, 16, &[]);
    image.fde_of(other_return_column, TEXT + 32, 16, &[]);
    // An instruction that does not exist, after a row that is good.
    image.fde(48, 16, &[advance(4), 0x0e, 16, advance(4), 0x3f]);
    // DW_CFA_restore_state without a state.
    image.fde(64, 16, &[0x0b]);
    image.fde(80, 16, &[]);
    let malformed = Rule::unsupported(Stop::Malformed);
    let table = build(&image);
    assert_eq!(table.rule_at(TEXT), Rule::GAP);
    assert_eq!(table.rule_at(TEXT + 16), Rule::GAP);
    assert_eq!(table.rule_at(TEXT + 32), malformed);
    assert_eq!(table.rule_at(TEXT + 51), sp(1));
    assert_eq!(table.rule_at(TEXT + 53), sp(2));
    assert_eq!(table.rule_at(TEXT + 57), malformed);
    assert_eq!(table.rule_at(TEXT + 65), malformed);
    assert_eq!(table.rule_at(TEXT + 81), sp(1));
}

#[test]
fn terminators_in_the_middle_of_a_section_are_passed_over() {
    let mut image = Image::new(0x1000);
    image.fde(0, 16, &[]);
    image.eh_frame.extend([0; 4]);
    image.fde(16, 16, &[0x0e, 16]);
    assert_eq!(build(&image).rule_at(TEXT + 16), sp(2));
    // Where only a segment leads there, nothing says that the section goes on.
    let by_segment = Image { leads_by: LeadsBy::Segment, ..image };
    assert_eq!(build(&by_segment).rule_at(TEXT + 16), Rule::GAP);
}

#[test]
fn lengths_that_lie_end_the_section() {
    for length in [0xffff_fff0u32, 0x7fff_ffff, u32::MAX] {
        let mut image = Image::new(0x1000);
        image.fde(0, 16, &[]);
        let lying = image.eh_frame.len();
        image.fde(16, 16, &[]);
        image.eh_frame[lying..lying + 4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(rows(&build(&image)), [(0, sp(1)), (16, Rule::GAP)]);
    }
}

#[test]
fn more_unwind_information_than_text_is_refused() {
    let mut image = Image::new(0x1000);
    image.eh_frame.resize((64 << 10) + 1, 0);
    let error = UnwindTable::build(&image.build()).unwrap_err();
    assert_eq!(error, TableError::TooLarge { what: ".eh_frame's length", found: 65_537, limit: 65_536 });
}

#[test]
fn more_rows_than_code_can_have_are_refused() {
    // A row for every byte of code. One in 8 bytes is allowed, and 4,096 to the smallest object.
    let row_per_byte = |i: u32| [advance(1), 0x0e, 8 + 8 * (i % 8) as u8];
    let instructions = |rows: u32| (0..rows).flat_map(row_per_byte).collect::<Vec<u8>>();
    let build_with = |text_size: u64, rows: u32| {
        let mut image = Image::new(text_size);
        image.fde(0, text_size, &instructions(rows));
        UnwindTable::build(&image.build())
    };
    assert_eq!(build_with(0x8000, 4090).unwrap().rows().len(), 4091);
    assert_eq!(
        build_with(0x8000, 4100).unwrap_err(),
        TableError::TooLarge { what: "the number of unwind rows", found: 4101, limit: 4096 }
    );
    assert_eq!(build_with(0x4_0000, 32_700).unwrap().rows().len(), 32_701);
    assert!(matches!(build_with(0x4_0000, 40_000), Err(TableError::TooLarge { limit: 32_768, .. })));
}

#[test]
fn one_cie_that_is_run_for_every_function_cannot_multiply_the_work() {
    let mut image = Image::new(0x10_0000);
    let mut long = CIE_START.to_vec();
    long.resize(220, 0);
    let cie = image.cie(b"zR\0", &long);
    for i in 0..10_000 {
        image.fde_of(cie, TEXT + 16 * i, 16, &[]);
    }
    let error = UnwindTable::build(&image.build()).unwrap_err();
    assert!(matches!(error, TableError::TooLarge { what: "the work on .eh_frame", .. }), "{error}");

    let mut image = Image::new(0x1000);
    long.resize(400, 0);
    let cie = image.cie(b"zR\0", &long);
    image.fde_of(cie, TEXT, 16, &[]);
    assert_eq!(build(&image).rule_at(TEXT), Rule::unsupported(Stop::Malformed), "longer than any CIE");
}

/// Whatever was built keeps within the bounds.
fn check_bounds(file: &[u8]) -> Result<(), TestCaseError> {
    let Ok(table) = UnwindTable::build(file) else { return Ok(()) };
    prop_assert!(table.rows().is_sorted_by(|a, b| a.pc() < b.pc() && a.rule() != b.rule()));
    prop_assert!(table.rows().len() <= 4096 + file.len() / 4);
    for vaddr in [0, 1, TEXT, TEXT + 100, u64::MAX] {
        let _ = table.rule_at(vaddr);
        let _ = table.base_in_process(vaddr, vaddr);
    }
    Ok(())
}

fn sound_image() -> Image {
    let mut image = Image::new(0x4000);
    let signal = image.cie(b"zRS\0", &CIE_START);
    for i in 0..20 {
        image.fde(i * 0x40, 0x30, &FRAME_POINTER_FUNCTION);
        image.fde_of(signal, TEXT + i * 0x40 + 0x30, 9, &[0x0f, 3, 0x77, 8, 0x06, 0x0a, advance(2), 0x0b]);
    }
    image
}

proptest! {
    #[test]
    fn flipped_bytes_do_no_harm(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        by_segment: bool,
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let leads_by = if by_segment { LeadsBy::Segment } else { LeadsBy::Sections };
        let image = Image { leads_by, ..sound_image() };
        let mut file = image.build();
        // Headers and records; the text between them is of no interest.
        let interesting: Vec<usize> =
            (0..64 + 3 * 56).chain(0x1000..0x1000 + image.eh_frame.len() + 12).chain(file.len() - 192..file.len()).collect();
        for (place, value) in flips {
            file[interesting[place.index(interesting.len())]] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check_bounds(&file)?;
    }

    #[test]
    fn random_records_do_no_harm(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut image = Image::new(0x1000);
        image.eh_frame.extend(noise);
        check_bounds(&image.build())?;
    }

    #[test]
    fn random_instructions_do_no_harm(
        initial in proptest::collection::vec(any::<u8>(), 0..60),
        instructions in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..10),
    ) {
        let mut image = Image::new(0x1000);
        let cie = image.cie(b"zR\0", &initial);
        for (i, instructions) in instructions.iter().enumerate() {
            image.fde_of(cie, TEXT + i as u64 * 0x80, 0x80, instructions);
        }
        check_bounds(&image.build())?;
    }
}
