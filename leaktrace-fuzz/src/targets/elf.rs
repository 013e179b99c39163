//! Whatever reads ELF files: the copy of what is loaded, the plan of probes, the layout that mappings are named by, symbol
//! tables and the check of debug information.

use leaktrace::elf::{sealed, what_is_loaded};
use leaktrace::probes::image::Image;
use leaktrace::probes::plan::{PlanOptions, plan};
use leaktrace::process::maps::read_layout;
use leaktrace::symbolize::names_by_tables;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The beginning of the range of addresses that are named, at most.
const MOST_ADDRESSES: usize = 64;

pub fn run(input: &[u8]) {
    copies(input);
    let mut addresses = vec![0, 1, u64::MAX];
    if let Ok(image) = Image::parse(input) {
        for extent in image.extents().take(MOST_ADDRESSES) {
            let code = image.code(extent.address, usize::MAX);
            assert!(code.is_some_and(|code| !code.is_empty()), "a symbol lies where there is no code");
            let offset = image.file_offset(extent.address);
            assert!(offset.is_some_and(|offset| offset < input.len() as u64), "a symbol lies outside of the file");
            addresses.extend([extent.address, extent.address.wrapping_add(extent.size)]);
        }
    }
    planned(input);

    let (segments, _) = read_layout(input, &addresses);
    assert!(segments.len() <= input.len() / 56, "more segments than the file can hold");
    if let Ok(names) = names_by_tables(input.to_vec(), &addresses) {
        assert_eq!(names.len(), addresses.len());
    }
}

/// What is copied of a file is what is in it.
fn copies(input: &[u8]) {
    let Ok(memory) = memfd_create(c"input", MFdFlags::MFD_CLOEXEC) else { return };
    let file = File::from(memory);
    if file.write_all_at(input, 0).is_err() {
        return;
    }
    if let Ok(copy) = what_is_loaded(&file) {
        assert_eq!(copy.len(), input.len().max(1));
        let mut pairs = copy.iter().zip(input);
        assert!(pairs.all(|(copied, byte)| copied == byte || *copied == 0), "a byte is another one in the copy");
        // Nothing that plans or tables are made of is missing in the copy.
        if let (Ok(of_copy), Ok(of_file)) = (Image::parse(&copy), Image::parse(input)) {
            assert!(of_copy.code_ranges().eq(of_file.code_ranges()), "the copy lacks code");
            assert!(of_copy.extents().eq(of_file.extents()), "the copy lacks symbols");
        }
    }
    if let Ok(copy) = sealed(&file) {
        let mut bytes = vec![0; input.len()];
        let read = copy.read_exact_at(&mut bytes, 0);
        assert!(read.is_ok() && bytes == input, "the sealed copy differs");
    }
}

/// Probes lie in the file, and where their sites say.
fn planned(input: &[u8]) {
    let Ok(plan) = plan(input, &PlanOptions::default()) else { return };
    for probe in &plan.probes {
        assert!(probe.offset < input.len() as u64 && probe.entry_offset < input.len() as u64);
        assert_eq!(probe.offset - probe.entry_offset, u64::from(probe.site.offset));
        assert!(probe.exits.iter().all(|exit| *exit < input.len() as u64));
    }
}
