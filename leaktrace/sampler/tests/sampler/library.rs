//! The file: what it needs, what it offers, and where its probes are.

use crate::support::{Elf, archive, library};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use std::collections::BTreeSet;

/// What every C library has. A name that is not here may be one that musl lacks, or one that allocates.
const MAY_NEED: [&str; 17] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_finalize",
    // What some linkers call `environ`.
    "__environ",
    "__errno_location",
    "__gmon_start__",
    "abort",
    "clock_gettime",
    "dladdr",
    "dlclose",
    "dlopen",
    "dlsym",
    "environ",
    "getenv",
    "madvise",
    "memcpy",
    "strlen",
];

#[test]
fn it_needs_the_c_library_and_nothing_else() {
    let bytes = std::fs::read(library()).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let needed: Vec<String> = elf
        .import_libraries()
        .unwrap()
        .map(|library| String::from_utf8_lossy(library.unwrap().name()).into_owned())
        .collect();
    assert_eq!(needed, ["libc.so.6"]);
    let undefined: BTreeSet<&str> =
        elf.dynamic_symbols().filter(object::ObjectSymbol::is_undefined).map(|symbol| symbol.name().unwrap()).collect();
    let others: Vec<_> = undefined.iter().filter(|name| !name.is_empty() && !MAY_NEED.contains(name)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn it_offers_no_function_by_which_programs_look_for_an_allocator() {
    let bytes = std::fs::read(library()).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let offered: BTreeSet<&str> = elf
        .dynamic_symbols()
        .filter(object::ObjectSymbol::is_definition)
        .map(|symbol| symbol.name().unwrap())
        .collect();
    assert!(offered.contains("malloc") && offered.contains("_ZdaPvSt11align_val_tRKSt9nothrow_t"));
    assert!(offered.contains("leaktrace_sampler_state"));
    // 29 functions of the tables, reallocarray and cfree, the state.
    assert_eq!(offered.len(), 32, "{offered:?}");
    for probing in
        ["mallocx", "nallocx", "sdallocx", "mallctl", "tc_malloc", "mi_malloc", "malloc_usable_size", "__wrap_malloc"]
    {
        assert!(!offered.contains(probing), "{probing}");
    }
}

#[test]
fn its_probes_are_where_their_notes_say_and_their_semaphores_can_be_raised() {
    let elf = Elf::read(library());
    assert_eq!(elf.probes.len(), 2);
    let arguments =
        if cfg!(target_arch = "x86_64") { ["8@%rdi 8@%rsi 8@%rdx", "8@%rdi"] } else { ["8@x0 8@x1 8@x2", "8@x0"] };
    for (name, arguments) in ["alloc", "free"].into_iter().zip(arguments) {
        let probe = elf.probe(name);
        assert_eq!((probe.provider.as_str(), probe.arguments.as_str()), ("otel_memory", arguments));
        if cfg!(target_arch = "x86_64") {
            let code = [0x90, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xc3];
            assert_eq!(elf.bytes_at(probe.location, 12), code, "{name}");
        }
        // The kernel raises it by its offset in the file, where that is mapped to be written.
        let (flags, offset) = elf.place(probe.semaphore);
        assert!(matches!(flags, object::SegmentFlags::Elf { p_flags, .. } if p_flags.0 & 2 != 0), "{flags:?}");
        // No other segment maps that page: see `probes.rs`.
        assert!(offset.is_some_and(|offset| offset % 4096 < 4), "{offset:x?}");
        assert_eq!(elf.bytes_at(probe.semaphore, 2), [0, 0]);
    }
    let bytes = std::fs::read(library()).unwrap();
    let base = object::File::parse(&*bytes).unwrap().section_by_name(".stapsdt.base").unwrap().address();
    assert!(elf.probes.iter().all(|probe| probe.base == base));
}

#[test]
fn the_archive_for_static_programs_is_there() {
    assert!(archive().is_file());
}
