//! Images that mean no good: nothing in them may crash us, hang us or make us place a probe outside of the file.

use std::time::{Duration, Instant};

use leaktrace::probes::plan::{PlanError, PlanOptions, plan};
use proptest::prelude::*;

use super::image::{
    Image,
    Visibility::{Exported, Hidden},
};

fn allocator(section_headers: bool, gnu_hash: bool) -> Vec<u8> {
    let mut image = Image::library("liballoc.so.1");
    let stub = image.import("realloc");
    image.function(&["malloc", "tc_malloc"], Exported, &[0x48, 0x89, 0xf8, 0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]);
    image.function(&["free"], Exported, &[0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]);
    let forward = image.function(&["rallocx"], Hidden, &[0xe9, 0, 0, 0, 0]);
    image.patch(forward + 1, &((stub as i64 - (forward + 5) as i64) as i32).to_le_bytes());
    image.function(&["calloc.cold"], Hidden, &[0xe9, 0xf0, 0xff, 0xff, 0xff]);
    image.build_id = Some(b"0123456789abcdef");
    (image.section_headers, image.gnu_hash) = (section_headers, gnu_hash);
    image.build()
}

const EXTREMES: &[u64] = &[0, 1, 7, u32::MAX as u64, u64::MAX, u64::MAX - 7, 1 << 63, 0x7fff_ffff_ffff_f000];

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(plan) = plan(bytes, &PlanOptions::default()) {
        for probe in &plan.probes {
            prop_assert!(probe.offset < bytes.len() as u64 && probe.entry_offset < bytes.len() as u64);
            prop_assert_eq!(probe.offset - probe.entry_offset, u64::from(probe.site.offset));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_do_no_harm(
        section_headers in any::<bool>(),
        gnu_hash in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = allocator(section_headers, gnu_hash);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        check(&bytes)?;
    }

    #[test]
    fn fields_with_extreme_values_do_no_harm(
        word in prop::sample::select(EXTREMES),
        at in any::<prop::sample::Index>(),
        gnu_hash in any::<bool>(),
        section_headers in any::<bool>(),
    ) {
        let mut bytes = allocator(section_headers, gnu_hash);
        let at = at.index(bytes.len() / 8 - 1) * 8;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        check(&bytes)?;
    }

    #[test]
    fn noise_behind_an_elf_header_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut bytes = allocator(true, false);
        bytes.truncate(64);
        bytes.extend(noise);
        check(&bytes)?;
    }
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 64]] {
        assert!(matches!(plan(bytes, &PlanOptions::default()), Err(PlanError::Elf(_))));
    }
}

#[test]
fn thousands_of_allocators_in_one_object_are_refused() {
    let mut image = Image::library("libmany.so");
    for _ in 0..600 {
        image.function(&["malloc"], Exported, &[0x53]);
        image.function(&["free"], Exported, &[0x53]);
    }
    assert_eq!(plan(&image.build(), &PlanOptions::default()).unwrap_err(), PlanError::TooManyFunctions);
}

#[test]
fn symbols_that_all_claim_everything_take_no_longer_than_reading_them() {
    let mut image = Image::library("libgreedy.so");
    for _ in 0..200 {
        image.function(&["malloc"], Exported, &[0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]);
        image.function(&["free"], Exported, &[0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]);
    }
    let first = image.place(&vec![0x90; 1 << 20]);
    for index in 0..50_000 {
        image.symbol("x", Hidden, first - (index % 0x1900), u64::MAX >> (index % 64));
    }
    let bytes = image.build();
    let begun = Instant::now();
    let plan = plan(&bytes, &PlanOptions::default()).unwrap();
    // 50,000 symbols over 400 functions: in a debug build on a busy machine well below this.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(plan.probes.iter().all(|probe| probe.site.offset == 0));
}
