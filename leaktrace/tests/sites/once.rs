//! Probes in the middle of functions: `malloc` of released allocators, and where one trap sees its calls.
//!
//! The fixtures have the functions and nothing of what these call or jump to.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions};
use leaktrace::probes::site::{Counts, Emulation, Place, Point, Unproven, View, once};
use leaktrace_common::cookie::Register;

use super::fixtures::{Fixture, NAMES, libraries};

/// What `malloc` of these packages calls that does not return: `malloc_printerr`, `__malloc_assert` and the like. (Of 2.36 it is
/// `__libc_message`, which returns to others.)
const DEAD_ENDS: &[(&str, &[u64])] = &[
    ("libc6 2.31", &[0x82eb0, 0x82c00]),
    ("libc6 2.35", &[0xa0ef0]),
    ("libc6 2.36", &[0x94850, 0x7f1d0]),
    ("libc6 2.39", &[0x3b2f0, 0xa8fd0]),
    ("libc6 2.41", &[0x382e0, 0x9e190]),
    ("libc6 2.43", &[0xa0b50]),
    ("libc6 2.44", &[0xa2c40]),
];

/// Code that does not return, and code that does.
const DEAD: &[u8] = &[0xf4, 0xeb, 0xfd]; // hlt; jmp -3
const ALIVE: &[u8] = &[0xc3]; // ret

fn prove(fixture: &Fixture, package: &str) -> Result<Vec<Point>, Unproven> {
    let (bytes, address) = (fixture.code(), fixture.address());
    let dead = DEAD_ENDS.iter().find(|(of, _)| package.starts_with(of)).map_or(&[][..], |(_, ends)| ends);
    let instructions = || Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).into_iter();
    let code = |at: u64| {
        let own = at.checked_sub(address).and_then(|at| bytes.get(at as usize..)).filter(|rest| !rest.is_empty());
        let is_called = || instructions().any(|it| it.is_call_near() && it.near_branch_target() == at);
        own.or_else(|| dead.contains(&at).then_some(DEAD))
            .or_else(|| dead.contains(&at.wrapping_sub(1)).then_some(&DEAD[1..]))
            .or_else(|| is_called().then_some(ALIVE))
    };
    once(&fixture.function(&bytes), fixture.signature(), Emulation::BASELINE, &code).map(|proven| proven.points)
}

fn name(register: Register) -> &'static str {
    NAMES[usize::from(register.0)]
}

fn told(proven: Result<Vec<Point>, Unproven>) -> String {
    let counts = |counts| match counts {
        Counts::Always => "",
        Counts::IfZero(true) => " if zero",
        Counts::IfZero(false) => " if not zero",
    };
    let point = |point: &Point| match point.view {
        View::Call { size: Place::Register(size), result, counts: when } => {
            format!("{:#x}: {} gets {}{}", point.offset, name(size), name(result), counts(when))
        }
        View::Call { size: Place::Slot(below), result, counts: when } => {
            format!("{:#x}: -{below} gets {}{}", point.offset, name(result), counts(when))
        }
        View::Begin { size } => format!("{:#x}: {} begins", point.offset, name(size)),
        View::End { result, counts: when } => {
            format!("{:#x}: ends with {}{}", point.offset, name(result), counts(when))
        }
        View::Entry { size } => format!("{:#x}: {} enters", point.offset, name(size)),
    };
    match proven {
        Ok(points) => points.iter().map(point).collect::<Vec<_>>().join(", "),
        Err(why) => why.to_string(),
    }
}

/// What was found by hand in the disassembly. glibc up to 2.35 jumps to parts of the function that the fixtures do not have.
const EXPECTED: &[(&str, &str)] = &[
    ("libc6 2.31", "its code cannot be read through"),
    ("libc6 2.35", "its code cannot be read through"),
    (
        "libc6 2.36",
        "0x62: rbx begins, 0xaa: ends with rax, 0x157: rbx gets rax if zero, 0x19d: ends with rax, 0x28d: ends with rax",
    ),
    (
        "libc6 2.39",
        "0x6c: rbx begins, 0xb6: ends with rax, 0x161: rbx gets rax if zero, 0x1a5: ends with rax, 0x29a: ends with rax",
    ),
    (
        "libc6 2.41",
        "0x66: rbx gets rax if zero, 0xc7: rbx begins, 0x11c: ends with rax if not zero, 0x15b: ends with rax if zero, 0x1d9: ends with rax if not zero, 0x205: ends with rax if zero, 0x20e: ends with rax if not zero, 0x217: ends with rax if zero, 0x247: ends with rax if zero, 0x273: ends with rbp if zero, 0x2ab: ends with rax if zero",
    ),
    ("libc6 2.43", "0x4b: rdi gets rax if zero, 0x76: rdi enters, 0xd0: rdi gets rax if zero, 0x11b: rdi gets rax"),
    ("libc6 2.44", "0x4f: rdi gets rax if zero, 0x7e: rdi enters, 0xd6: rdi gets rax if zero, 0x12b: rdi gets rax"),
    ("libjemalloc2 5.3.0", "0x6e: rdi gets r11 if not zero, 0xa0: rdi enters, 0xb0: rdi gets r11 if not zero"),
    ("libjemalloc2 5.3.1", "0x72: rdi gets rsi if not zero, 0x90: rdi enters, 0xc0: rdi gets rsi"),
    ("libmimalloc2.0 2.0.9", "0x2b: rsi gets rdx if not zero, 0x44: rsi enters, 0x52: rsi enters"),
    ("libmimalloc3 3.6.0", "0x2f: rdi gets rcx if not zero, 0x5a: rsi enters"),
    ("libtcmalloc minimal4", "size and result are known together on no way through it"),
    ("libtcmalloc minimal4t64", "size and result are known together on no way through it"),
    ("musl 1.2.3", "size and result are known together on no way through it"),
    ("musl 1.2.5", "size and result are known together on no way through it"),
    ("musl 1.2.6", "size and result are known together on no way through it"),
];

#[test]
fn released_mallocs_are_seen_by_one_trap_where_that_is_proven() {
    let mut found = BTreeMap::new();
    for library in libraries() {
        for fixture in library.functions.iter().filter(|fixture| fixture.name() == "malloc") {
            let package: Vec<&str> = library.package.split([' ', '-', '+']).take(2).collect();
            let proven = prove(fixture, &library.package);
            for point in proven.iter().flatten().filter(|point| matches!(point.view, View::Entry { .. })) {
                assert_eq!((point.stack_shift, point.frame_pointer), (0, None), "a return probe at {point:?}");
            }
            found.insert(package.join(" "), told(proven));
        }
    }
    let expected: BTreeMap<String, String> =
        EXPECTED.iter().map(|(package, points)| ((*package).to_owned(), (*points).to_owned())).collect();
    assert_eq!(found, expected);
}
