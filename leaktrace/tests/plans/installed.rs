//! The C library that this test itself runs on, against what the dynamic linker says of it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;

use leaktrace::probes::plan::{Allocator, Plan, PlanOptions, Role, Why, plan};
use leaktrace::probes::site::Cost;

const NAMES: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
];

/// Path of the C library, and its functions' addresses within it as the dynamic linker gives them.
fn linked() -> (String, BTreeMap<&'static str, u64>) {
    let mut path = String::new();
    let mut addresses = BTreeMap::new();
    for name in NAMES {
        let symbol = CString::new(*name).unwrap();
        // SAFETY: a name that ends in NUL, looked up in what is loaded.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
        // SAFETY: all zeros are null pointers and a valid value of this structure.
        let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `found` may be written; the address is just looked up.
        assert_ne!(unsafe { libc::dladdr(address, &raw mut found) }, 0, "{name}");
        // SAFETY: dladdr left a string there that lives as long as the library is loaded.
        let name_of_file = unsafe { CStr::from_ptr(found.dli_fname) };
        path = String::from(name_of_file.to_str().unwrap());
        addresses.insert(*name, address as u64 - found.dli_fbase as u64);
    }
    (path, addresses)
}

fn planned() -> (Plan, Vec<u8>, BTreeMap<&'static str, u64>) {
    let (path, addresses) = linked();
    let bytes = fs::read(path).unwrap();
    (plan(&bytes, &PlanOptions::default()).unwrap(), bytes, addresses)
}

#[test]
fn the_dynamic_linker_agrees_where_each_function_of_the_c_library_is() {
    let (plan, _, addresses) = planned();
    assert!(matches!(plan.role, Role::Libc(_)), "{:?}", plan.role);
    for (name, address) in addresses {
        let probe = plan.probes.iter().find(|probe| probe.names.iter().any(|other| other == name));
        if let Some(probe) = probe {
            assert_eq!(probe.address, address, "{name}");
            continue;
        }
        // Passes its calls on to one that is probed.
        let skipped = plan.skipped.iter().find(|skipped| skipped.names.iter().any(|other| other == name)).unwrap();
        let Why::Forwards(other) = &skipped.why else { panic!("{name} is not probed: {}", skipped.why) };
        assert!(plan.probes.iter().any(|probe| probe.names.contains(other)), "{name} is seen at {other}");
    }
}

#[test]
fn malloc_and_free_of_the_c_library_are_cheap() {
    let (plan, bytes, _) = planned();
    for name in ["malloc", "free", "calloc", "realloc"] {
        let probe = plan.probes.iter().find(|probe| probe.names.iter().any(|other| other == name)).unwrap();
        assert_ne!(probe.site.cost, Cost::Stepped, "{name}: {:?}", probe.site.reason);
        assert!(probe.offset < bytes.len() as u64);
    }
}

#[test]
fn leaktrace_itself_has_its_own_allocator_and_looks_like_no_other() {
    let bytes = fs::read(env!("CARGO_BIN_EXE_leaktrace")).unwrap();
    let plan = plan(&bytes, &PlanOptions::default()).unwrap();
    assert_eq!((plan.role, plan.hidden), (Role::Program(Allocator::Mimalloc), None));
    assert!(!plan.probes.is_empty());
}

#[test]
fn the_dynamic_linker_is_probed_where_it_has_told_debuggers_of_changes() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|it| it.contains("/ld-linux")));
    let bytes = fs::read(path.expect("this test is linked dynamically")).unwrap();
    let plan = plan(&bytes, &PlanOptions::default()).unwrap();
    assert_eq!(plan.role, Role::DynamicLinker);
    assert!(plan.probes.is_empty(), "{:?}", plan.probes);
    // At start-up, in dlopen and in dlclose.
    assert!(plan.linker.len() >= 3, "{:?}", plan.linker);
    let state: Vec<u64> = plan.linker.iter().map(|probe| probe.offset.wrapping_add(probe.state_distance)).collect();
    assert!(state.iter().all(|address| *address == state[0]), "one _r_debug: {state:x?}");
    for probe in &plan.linker {
        let at = probe.offset as usize;
        assert_eq!(bytes[at - 5], 0xe8, "a call comes before {at:#x}");
        assert_ne!(bytes[at], 0xe8, "no call is probed");
    }
}
