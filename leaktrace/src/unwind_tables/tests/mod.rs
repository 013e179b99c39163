//! Tables built from hand-written records, broken ones, and the machine's own C library.

mod hostile;
mod image;
mod registry;
mod scale;

use image::{CIE_START, Image, LeadsBy, TEXT, advance, cfa_expression, register_expression};
use leaktrace_common::unwind::{Kind, Rule, Stop};

use super::{TableError, UnwindTable};

const fn sp(words: u32) -> Rule {
    Rule::new(Kind::Sp, words, 0)
}

fn build(image: &Image) -> UnwindTable {
    UnwindTable::build(&image.build()).unwrap()
}

fn rows(table: &UnwindTable) -> Vec<(u32, Rule)> {
    table.rows().map(|row| (row.pc(), row.rule())).collect()
}

/// push %rbp; mov %rsp, %rbp; …; leave; ret as every compiler describes it.
const FRAME_POINTER_FUNCTION: [u8; 12] = [
    advance(1),
    0x0e,
    16,
    0x86,
    2, // DW_CFA_def_cfa_offset 16, rbp at CFA - 16
    advance(3),
    0x0d,
    6, // DW_CFA_def_cfa_register rbp
    advance(20),
    0x0c,
    7,
    8, // DW_CFA_def_cfa rsp, 8
];

#[test]
fn a_function_gives_a_row_per_change_and_a_gap_after_it() {
    let mut image = Image::new(0x1000);
    image.fde(0x10, 25, &FRAME_POINTER_FUNCTION);
    for leads_by in [LeadsBy::Sections, LeadsBy::Segment] {
        let table = build(&Image { leads_by, ..image.clone() });
        assert_eq!(
            rows(&table),
            [
                (0x10, sp(1)),
                (0x11, Rule::new(Kind::Sp, 2, -2)),
                (0x14, Rule::new(Kind::Fp, 2, -2)),
                (0x28, Rule::new(Kind::Sp, 1, -2)),
                (0x29, Rule::GAP),
            ]
        );
        assert_eq!(table.rule_at(TEXT + 0x13), Rule::new(Kind::Sp, 2, -2));
        assert_eq!(table.rule_at(TEXT + 0xf), Rule::GAP);
        assert_eq!(table.rule_at(TEXT + 0x29), Rule::GAP);
        assert_eq!(table.rule_at(0), Rule::GAP);
        assert_eq!(table.size(), 4096);
    }
}

#[test]
fn a_mapping_places_the_rows_by_its_file_offset() {
    let mut image = Image::new(0x3000);
    image.fde(0, 16, &[]);
    let table = build(&image);
    // The file holds .eh_frame on its second page and the text from its third on.
    assert_eq!(table.base_in_process(0x7f00_0000_0000, 0x2000), Some(0x7f00_0000_0000));
    assert_eq!(table.base_in_process(0x7f00_0000_0000, 0x3000), Some(0x7eff_ffff_f000));
    assert_eq!(table.base_in_process(0x7f00_0000_0000, 0x1000), None);
    assert_eq!(table.base_in_process(0x7f00_0000_0000, 0x5000), None);
}

#[test]
fn equal_neighbours_merge_across_functions_and_padding_is_told_from_gaps() {
    let mut image = Image::new(0x1000);
    image.fde(0x40, 0x10, &[]);
    image.fde(0x20, 0x20, &[]);
    image.fde(0x58, 0x08, &[]);
    image.fde(0x80, 0x10, &[]);
    assert_eq!(
        rows(&build(&image)),
        [(0x20, sp(1)), (0x50, Rule::PADDING), (0x58, sp(1)), (0x60, Rule::GAP), (0x80, sp(1)), (0x90, Rule::GAP)]
    );
}

#[test]
fn of_overlapping_functions_the_later_start_holds_and_of_equal_starts_the_first() {
    let mut image = Image::new(0x1000);
    image.fde(0, 0x100, &[]);
    image.fde(0x20, 0x10, &[0x0e, 16]);
    image.fde(0x20, 0x40, &[0x0e, 32]);
    assert_eq!(rows(&build(&image)), [(0, sp(1)), (0x20, sp(2)), (0x30, Rule::GAP)]);
}

#[test]
fn functions_outside_the_text_are_ignored() {
    let mut image = Image::new(0x100);
    image.fde_of(0, 0, 0x40, &[]);
    image.fde_of(0, TEXT - 8, 0x40, &[]);
    image.fde(0xf0, 0x11, &[]);
    image.fde(0x10, 0, &[]);
    image.fde(0, u64::MAX, &[]);
    assert_eq!(rows(&build(&image)), []);
    assert_eq!(build(&image).rule_at(TEXT + 0xf8), Rule::GAP);
}

#[test]
fn rows_past_the_functions_end_are_cut() {
    let mut image = Image::new(0x1000);
    image.fde(0x10, 8, &[advance(4), 0x0e, 16, advance(40), 0x0e, 24]);
    assert_eq!(rows(&build(&image)), [(0x10, sp(1)), (0x14, sp(2)), (0x18, Rule::GAP)]);
}

#[test]
fn large_frames_fit_and_larger_ones_say_so() {
    let mut image = Image::new(0x1000);
    // DW_CFA_def_cfa_offset as ULEB128: 1 MiB + 64, redis' largest; 8 MiB - 8; 8 MiB.
    image.fde(0x00, 1, &[0x0e, 0xc0, 0x80, 0x40]);
    image.fde(0x01, 1, &[0x0e, 0xf8, 0xff, 0xff, 0x03]);
    image.fde(0x02, 1, &[0x0e, 0x80, 0x80, 0x80, 0x04]);
    image.fde(0x03, 1, &[0x0e, 12]);
    let table = build(&image);
    assert_eq!(table.rule_at(TEXT).off_bytes(), (1 << 20) + 64);
    assert_eq!(table.rule_at(TEXT + 1).off_bytes(), (8 << 20) - 8);
    assert_eq!(table.rule_at(TEXT + 2), Rule::unsupported(Stop::Offset));
    assert_eq!(table.rule_at(TEXT + 3), Rule::unsupported(Stop::Offset));
}

#[test]
fn known_expressions_become_rules() {
    let mut image = Image::new(0x1000);
    // As ld writes it for .plt: breg7 8; breg16 0; lit15; and; lit11; ge; lit3; shl; plus.
    image.fde(0, 16, &cfa_expression(&[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]));
    // gcc's DRAP: CFA = *(rbp - 8), rbp = *(rbp + 0).
    let drap = [cfa_expression(&[0x76, 0x78, 0x06]), register_expression(6, &[0x76, 0])].concat();
    image.fde(16, 16, &drap);
    // OpenSSL's assembly: CFA = *(rsp + 152) + 8, rbp at CFA - 24.
    image.fde(32, 16, &[&cfa_expression(&[0x77, 0x98, 0x01, 0x06, 0x23, 8])[..], &[0x86, 3]].concat());
    // The same from rax, and an expression that nobody writes.
    image.fde(48, 16, &cfa_expression(&[0x70, 0x98, 0x01, 0x06]));
    image.fde(64, 16, &cfa_expression(&[0x77, 8, 0x77, 8, 0x22]));
    let table = build(&image);
    assert_eq!(table.rule_at(TEXT), Rule::new(Kind::Plt, 11, 0));
    assert_eq!(table.rule_at(TEXT + 16), Rule::new(Kind::FpDeref, 1, 0));
    assert_eq!(table.rule_at(TEXT + 32), Rule::new(Kind::SpDeref, 19, -3));
    assert_eq!(table.rule_at(TEXT + 48), Rule::unsupported(Stop::Register));
    assert_eq!(table.rule_at(TEXT + 64), Rule::unsupported(Stop::Expression));
}

#[test]
fn a_signal_trampoline_restores_from_the_context() {
    let mut image = Image::new(0x1000);
    let cie = image.cie(b"zRS\0", &[]);
    // glibc's __restore_rt: CFA = *(rsp + 160), rip at rsp + 168, rbp at rsp + 120.
    let restore = [
        cfa_expression(&[0x77, 0xa0, 0x01, 0x06]),
        register_expression(6, &[0x77, 0xf8, 0x00]),
        register_expression(16, &[0x77, 0xa8, 0x01]),
    ];
    image.fde_of(cie, TEXT, 9, &restore.concat());
    assert_eq!(build(&image).rule_at(TEXT + 1), Rule::new(Kind::Signal, 20, 0));
}

#[test]
fn undefined_return_addresses_end_the_stack() {
    let mut image = Image::new(0x1000);
    image.fde(0, 16, &[0x07, 16]);
    assert_eq!(build(&image).rule_at(TEXT + 4), Rule::OUTERMOST);
}

#[test]
fn a_frame_pointer_that_cannot_be_expressed_is_lost_but_not_the_frame() {
    let mut image = Image::new(0x1000);
    image.fde(0, 16, &[0x07, 6]);
    image.fde(16, 16, &[0x05, 6, 0x80, 0x01]);
    image.fde(32, 16, &[0x05, 6, 0x7f]);
    let table = build(&image);
    assert_eq!(table.rule_at(TEXT), Rule::new(Kind::Sp, 1, Rule::FP_LOST));
    assert_eq!(table.rule_at(TEXT + 16), Rule::new(Kind::Sp, 1, Rule::FP_LOST), "128 words do not fit");
    assert_eq!(table.rule_at(TEXT + 32), Rule::new(Kind::Sp, 1, -127));
}

#[test]
fn the_machines_c_library_has_what_a_c_library_has() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|p| p.contains("libc.so")));
    let file = std::fs::read(path.expect("this test links a shared C library")).unwrap();
    let table = UnwindTable::build(&file).unwrap();
    let kinds: Vec<Kind> = table.rows().map(|row| row.rule().kind()).collect();
    let count = |kind| kinds.iter().filter(|&&k| k == kind).count();
    assert!(kinds.len() > 5_000, "{} rows", kinds.len());
    assert!(count(Kind::Sp) * 2 > kinds.len());
    assert_eq!(count(Kind::Signal), 1, "the one trampoline");
    assert!(count(Kind::Unsupported) * 1000 < kinds.len());
    assert!(table.rows().is_sorted_by(|a, b| a.pc() < b.pc()));
}

#[test]
fn what_is_no_object_of_this_machine_is_refused_by_name() {
    assert!(matches!(UnwindTable::build(&b"#!/bin/sh\n"[..]), Err(TableError::NotElf(_))));
    let mut image = Image::new(0x100);
    let mut other_machine = image.build();
    other_machine[18] = 183;
    assert!(matches!(UnwindTable::build(&other_machine), Err(TableError::NotElf(_))));
    image.text_size = 0;
    assert_eq!(UnwindTable::build(&image.build()), Err(TableError::NoText));
    let mut stripped = Image { leads_by: LeadsBy::Segment, ..Image::new(0x100) }.build();
    stripped[64 + 2 * 56] = 0;
    assert_eq!(UnwindTable::build(&stripped), Err(TableError::NoUnwindInformation));
    assert_eq!(CIE_START.len(), 5);
}
