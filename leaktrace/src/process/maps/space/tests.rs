use std::os::fd::AsRawFd;

use super::*;

/// A region of a file that is told by its path, as `start`, `end`, `offset`.
fn region(name: &str, (start, end, offset): (u64, u64, u64), seen: u64, store: &ObjectStore) -> Region {
    let object = (name != "[anon]").then(|| store.for_tests(Path::new(name)));
    Region { start, end, offset, module: Arc::from(Path::new(name)), object, seen }
}

fn shape(regions: &[Region]) -> Vec<(String, u64, u64, u64)> {
    regions
        .iter()
        .map(|region| (region.module.display().to_string(), region.start, region.end, region.offset))
        .collect()
}

#[test]
fn what_was_unmapped_stays_and_the_newest_wins() {
    let store = ObjectStore::with_limit(0);
    let before = vec![
        region("/plugin", (0x1000, 0x5000, 0x200), 1, &store),
        region("/libc", (0x8000, 0x9000, 0), 1, &store),
        region("[anon]", (0xa000, 0xb000, 0), 1, &store),
    ];
    let current =
        vec![region("/other", (0x2000, 0x3000, 0), 2, &store), region("/libc", (0x8000, 0x9000, 0), 2, &store)];
    assert_eq!(
        shape(&merge(before, current)),
        [
            ("/plugin".to_owned(), 0x1000, 0x2000, 0x200),
            ("/other".to_owned(), 0x2000, 0x3000, 0),
            ("/plugin".to_owned(), 0x3000, 0x5000, 0x2200),
            ("/libc".to_owned(), 0x8000, 0x9000, 0),
        ]
    );
}

proptest::proptest! {
    /// An array with one cell per page, painted with the old and then with the new mappings, is what a merge means.
    #[test]
    fn agrees_with_painting_pages(
        before in proptest::collection::vec((0u64..40, 1u64..6), 0..12),
        current in proptest::collection::vec((0u64..40, 1u64..6), 0..12),
    ) {
        let store = ObjectStore::with_limit(0);
        let lay_out = |spans: &[(u64, u64)], name: &str, seen| {
            let mut regions: Vec<Region> = Vec::new();
            for (gap, size) in spans {
                let start = regions.last().map_or(0, |last| last.end) + gap % 4;
                regions.push(region(name, (start, start + size, 100 + start), seen, &store));
            }
            regions
        };
        let (before, current) = (lay_out(&before, "/old", 1), lay_out(&current, "/new", 2));
        let mut painted = [None; 128];
        for region in before.iter().chain(&current) {
            for page in region.start..region.end {
                painted[page as usize] = Some((region.seen, 100 + page));
            }
        }
        let merged = merge(before, current);
        proptest::prop_assert!(merged.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for (page, expected) in (0u64..).zip(painted) {
            let found = merged.iter().find(|region| (region.start..region.end).contains(&page));
            proptest::prop_assert_eq!(
                found.map(|region| (region.seen, region.offset + page - region.start)),
                expected
            );
        }
    }
}

proptest::proptest! {
    /// The same painting, one mapping after the other.
    #[test]
    fn what_is_noted_lies_over_what_was_there(spans in proptest::collection::vec((0u64..40, 1u64..9), 1..24)) {
        let store = ObjectStore::with_limit(0);
        let mut regions = Vec::new();
        let mut painted = [None; 64];
        for (number, (start, size)) in (1u64..).zip(spans) {
            overlay(&mut regions, region("/noted", (start, start + size, 1000 * number + start), number, &store));
            for page in start..start + size {
                painted[page as usize] = Some((number, 1000 * number + page));
            }
        }
        proptest::prop_assert!(regions.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for (page, expected) in (0u64..).zip(painted) {
            let found = regions.iter().find(|region| (region.start..region.end).contains(&page));
            proptest::prop_assert_eq!(found.map(|region| (region.seen, region.offset + page - region.start)), expected);
        }
    }
}

#[test]
fn what_records_tell_is_what_the_maps_file_shows() {
    let store = ObjectStore::new();
    let shown = own(&store);
    let text = std::fs::read("/proc/self/maps").expect("own mappings");
    let mut told = AddressSpace::empty(Pid(std::process::id()));
    for mapping in parse(&text).flatten() {
        told.note(&mapping, now(), &store);
    }
    assert_eq!(shape(&told.regions), shape(&shown.regions));
    let objects = |space: &AddressSpace| -> Vec<_> {
        space.mappings().map(|location| location.object.map(|object| object.id())).collect()
    };
    assert_eq!(objects(&told), objects(&shown), "they share one store");
    assert!(!told.needs_recapture());
    let child = told.forked(Pid(1));
    assert_eq!((child.pid(), objects(&child)), (Pid(1), objects(&told)));
}

#[test]
fn what_is_recorded_again_is_new_only_where_it_had_gone() {
    let store = ObjectStore::new();
    let mut space = own(&store);
    let text = std::fs::read("/proc/self/maps").expect("own mappings");
    let is_code = |mapping: &Mapping<'_>| mapping.permissions.execute && mapping.name.is_file();
    let code = parse(&text).flatten().find(is_code).expect("own code");
    assert!(!space.note(&code, now(), &store).1, "it was captured");
    // The same file where nothing lies.
    let elsewhere = Mapping { start: Address(0x1_0000), end: Address(0x1_1000), ..code };
    assert!(space.note(&elsewhere, now(), &store).1);
    assert!(!space.note(&elsewhere, now(), &store).1);
    let is_mapped = |space: &AddressSpace| space.locate(Address(0x1_0000)).expect("remembered").mapped;
    assert!(is_mapped(&space));
    space.recapture(&store).expect("own mappings");
    assert!(!is_mapped(&space), "it is not there");
    assert!(space.note(&elsewhere, now(), &store).1, "a plugin that is loaded again");
    assert!(is_mapped(&space));
}

#[test]
fn mappings_long_gone_are_forgotten_in_the_end() {
    let store = ObjectStore::with_limit(0);
    let plugin = store.for_tests(Path::new("/plugin"));
    let mut space = AddressSpace::empty(Pid(1));
    for capture in 1..=MAX_RETIRED as u64 + 100 {
        let start = capture * 0x1000;
        space.captures = capture;
        let new = Region {
            start,
            end: start + 0x1000,
            offset: 0,
            module: Arc::from(Path::new("/plugin")),
            object: Some(Arc::clone(&plugin)),
            seen: capture,
        };
        space.regions = Arc::new(merge(space.regions.to_vec(), vec![new]));
        space.forget_oldest();
    }
    assert!(space.regions.len() <= MAX_RETIRED + 1);
    assert!(space.locate(Address(0x1000)).is_none());
    let last = space.locate(Address((MAX_RETIRED as u64 + 100) * 0x1000)).expect("the latest stays");
    assert!(last.mapped);
}

fn own(store: &ObjectStore) -> AddressSpace {
    AddressSpace::capture(Pid(std::process::id()), store).expect("own mappings")
}

#[test]
fn own_code_lies_in_the_own_executable() {
    let store = ObjectStore::new();
    let space = own(&store);
    let here = own_code_lies_in_the_own_executable as fn() as usize as u64;
    let location = space.locate(Address(here)).expect("own text");
    assert_eq!(**location.module, *std::env::current_exe().expect("own path"));
    assert!(location.mapped);
    let object = location.object.expect("a file");
    // The page at that address in memory is the page at that offset in the file.
    let mut file = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&object.open().expect("open"), &mut file, location.offset).expect("read");
    // SAFETY: 16 bytes of this program's own text, which is mapped readable.
    let memory = unsafe { std::slice::from_raw_parts(here as *const u8, 16) };
    assert_eq!(file, memory);
    assert!(object.root().is_none(), "this is our own root");
    assert!(space.locate(Address(0)).is_none());
}

#[test]
fn a_second_look_finds_nothing_new_and_opens_nothing() {
    let store = ObjectStore::new();
    let mut space = own(&store);
    let held = store.held();
    let files = space.mappings().filter(|location| location.offset > 0 && location.object.is_some()).count();
    assert!(held >= 3 && files >= 3, "this program, libc and the dynamic linker at least");
    assert!(!space.recapture(&store).expect("own mappings"));
    assert_eq!(own(&store).mappings().count(), space.mappings().count());
    assert_eq!(store.held(), held);
}

#[test]
fn an_object_beyond_the_budget_is_found_by_its_path_and_said() {
    let store = ObjectStore::with_limit(1);
    let space = own(&store);
    assert_eq!(store.held(), 1);
    for location in space.mappings() {
        if let Some(object) = location.object {
            object.open().expect("every file is still in its place");
        }
    }
    let unheld = store.unheld();
    assert!(unheld.iter().any(|path| path.ends_with("libc.so.6")), "{unheld:?}");
}

#[test]
fn descriptors_that_nobody_uses_are_given_back() {
    let store = ObjectStore::new();
    let space = own(&store);
    let held = store.held();
    store.forget_unused();
    assert_eq!(store.held(), held);
    drop(space);
    store.forget_unused();
    assert_eq!(store.held(), 0);
}

#[test]
fn the_kernels_page_is_an_object_too() {
    let store = ObjectStore::new();
    let space = own(&store);
    let vdso = space.mappings().find(|location| **location.module == *Path::new("[vdso]")).expect("vdso");
    let object = vdso.object.expect("readable");
    assert!(object.segments().iter().any(|segment| segment.executable));
    assert!(object.open().expect("as a file").as_raw_fd() >= 0);
}

#[test]
fn a_process_that_has_ended_is_said_to_have_ended() {
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let pid = Pid(child.id());
    child.wait().expect("reaped");
    let error = AddressSpace::capture(pid, &ObjectStore::new()).expect_err("gone");
    assert!(matches!(error, CaptureError::Ended(ended) if ended == pid), "{error}");
}

fn now() -> u64 {
    monotonic_ns().expect("the clock")
}

#[test]
fn what_a_file_held_before_it_was_overwritten_is_not_known() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::NamedTempFile::new().expect("scratch");
    let status = file.as_file().metadata().expect("just made");
    let name = MappingName::File { path: file.path().into(), deleted: false };
    let text = std::fs::read("/proc/self/maps").expect("own mappings");
    let code = parse(&text).flatten().find(|mapping| mapping.permissions.execute).expect("own code");
    let device =
        super::super::Device { major: libc::major(status.dev()) as u32, minor: libc::minor(status.dev()) as u32 };
    let at = |start| Mapping {
        start: Address(start),
        end: Address(start + 0x1000),
        device,
        inode: status.ino(),
        name: name.clone(),
        ..code.clone()
    };
    let store = ObjectStore::new();
    let mut space = AddressSpace::empty(Pid(std::process::id()));
    let tick = 12_000_000;
    let written = now();
    let is_known = |space: &AddressSpace, start| space.locate(Address(start)).expect("it is mapped").object.is_some();
    assert!(space.note(&at(0x1000), written - 10 * tick, &store).0.is_some(), "its allocator is probed all the same");
    assert!(!is_known(&space, 0x1000), "it was written to later");
    // As far as the file's time tells this may have been before the last writing.
    space.note(&at(0x2000), written, &store);
    assert!(is_known(&space, 0x2000));
    space.note(&at(0x3000), written + 1, &store);
    assert!(is_known(&space, 0x3000) && !is_known(&space, 0x2000), "the writing may have come in between");
    space.note(&at(0x4000), written + 10 * tick, &store);
    space.note(&at(0x5000), written + 10 * tick + 1, &store);
    assert!(is_known(&space, 0x4000) && is_known(&space, 0x5000), "nothing has changed since");
}

#[test]
fn a_record_of_what_has_gone_is_not_taken_for_what_lies_there_now() {
    use std::os::unix::fs::MetadataExt;
    let (store, pid) = (ObjectStore::new(), Pid(std::process::id()));
    let file = tempfile::NamedTempFile::new().expect("scratch");
    let status = file.as_file().metadata().expect("just made");
    let text = std::fs::read("/proc/self/maps").expect("own mappings");
    let is_code = |mapping: &Mapping<'_>| mapping.permissions.execute && mapping.name.is_file();
    let code = parse(&text).flatten().find(is_code).expect("own code");
    let device =
        super::super::Device { major: libc::major(status.dev()) as u32, minor: libc::minor(status.dev()) as u32 };
    let name = MappingName::File { path: file.path().into(), deleted: false };
    // At the addresses of this program's own code, as if it had been mapped there after that was recorded.
    let gone = Mapping { device, inode: status.ino(), name, ..code };
    let (object, _) = AddressSpace::empty(pid).note(&gone, 1, &store);
    assert_eq!(object.expect("its path leads to it").inode(), Some((status.dev(), status.ino())));
}
