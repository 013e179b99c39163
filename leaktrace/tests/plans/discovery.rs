//! What is found in an object, and what the object is taken for.

use leaktrace::elf::ElfError;
use leaktrace::probes::functions::{AllocSymbol, Kind};
use leaktrace::probes::plan::{
    Allocator, Plan, PlanError, PlanOptions, PlannedProbe, Role, Runtime, Why, choose, plan,
};
use leaktrace::probes::site::{Cost, Fallback, Reason};

use super::image::{
    EM_386, EM_AARCH64, Image,
    Visibility::{Exported, Hidden, Imported},
};

/// `push %rbx; pop %rbx; ret`
const ENTRY: &[u8] = &[0x53, 0x5b, 0xc3];
/// `test %rdi, %rdi; je .+2; nop; ret`: the probe belongs to +3.
const MOVES: &[u8] = &[0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3];

fn planned(image: &Image) -> Plan {
    plan(&image.build(), &PlanOptions::default()).unwrap()
}

fn libc() -> Image {
    let mut image = Image::library("libc.so.6");
    image.function(&["__libc_start_main"], Exported, ENTRY);
    image.function(&["gnu_get_libc_version"], Exported, ENTRY);
    image.function(&["malloc", "__libc_malloc"], Exported, ENTRY);
    image.function(&["free", "cfree"], Exported, MOVES);
    image.function(&["strdup"], Exported, ENTRY);
    image
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.probes.iter().map(|probe| probe.names[0].as_str()).collect()
}

fn probe<'a>(plan: &'a Plan, name: &str) -> &'a PlannedProbe {
    plan.probes
        .iter()
        .find(|probe| probe.names.iter().any(|other| other == name))
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn exported_functions_are_found_with_all_their_names_and_places() {
    let image = libc();
    let plan = planned(&image);
    assert_eq!(plan.role, Role::Libc(Allocator::Glibc));
    assert_eq!(names(&plan), ["malloc", "free"]);
    assert_eq!(probe(&plan, "malloc").names, ["malloc", "__libc_malloc"]);
    let free = probe(&plan, "free");
    assert_eq!((free.kind, free.needs_return(), free.site.offset), (Kind::Free, false, 3));
    assert_eq!(free.entry_offset, image.file_offset(free.address));
    assert_eq!(free.offset, free.entry_offset + 3);
    assert_ne!(free.address, free.entry_offset);
}

#[test]
fn a_stripped_library_shows_what_it_exports_and_a_stripped_program_nothing() {
    let mut image = libc();
    image.stripped = true;
    assert_eq!(names(&planned(&image)), ["malloc", "free"]);

    let mut image = Image::program();
    image.function(&["_rjem_malloc"], Hidden, ENTRY);
    image.function(&["_rjem_sdallocx"], Hidden, ENTRY);
    assert_eq!(names(&planned(&image)), ["_rjem_malloc", "_rjem_sdallocx"]);
    assert_eq!(planned(&image).role, Role::Program(Allocator::Jemalloc));
    image.stripped = true;
    assert!(planned(&image).probes.is_empty());
    assert_eq!(planned(&image).hidden, None);
    image.constants = b"<jemalloc>: Error in munmap(): ";
    assert_eq!(planned(&image).hidden, Some(Allocator::Jemalloc));
}

#[test]
fn without_section_headers_the_dynamic_section_names_the_functions() {
    for gnu_hash in [false, true] {
        let mut image = libc();
        image.section_headers = false;
        image.gnu_hash = gnu_hash;
        assert_eq!(names(&planned(&image)), ["malloc", "free"], "gnu_hash {gnu_hash}");
    }
}

#[test]
fn imports_are_not_functions_of_the_object() {
    let mut image = Image::program();
    for name in ["malloc", "free"] {
        // Programs at a fixed address take the address of an imported function to be that of its stub.
        let stub = image.import(name);
        image.symbol(name, Imported, stub, 0);
    }
    assert_eq!(planned(&image).role, Role::None);
    assert!(planned(&image).probes.is_empty());
}

#[test]
fn an_ifunc_is_told_and_not_probed() {
    let mut image = libc();
    image.ifunc("calloc", ENTRY);
    let plan = planned(&image);
    assert_eq!(names(&plan), ["malloc", "free"]);
    assert_eq!(plan.skipped[0].names, ["calloc"]);
    assert_eq!(plan.skipped[0].why, Why::Resolver);
}

#[test]
fn static_programs_carry_their_own() {
    let mut image = Image::static_program();
    image.function(&["__libc_setup_tls"], Hidden, ENTRY);
    image.function(&["malloc"], Hidden, ENTRY);
    image.function(&["free"], Hidden, ENTRY);
    // libstdc++'s operator calls malloc, and there it is seen.
    image.function(&["_Znwm"], Hidden, ENTRY);
    let plan = planned(&image);
    assert_eq!(plan.role, Role::Program(Allocator::Glibc));
    assert_eq!(names(&plan), ["malloc", "free"]);

    // Position-independent: any address, no interpreter, exports nothing.
    let mut image = Image::static_program();
    image.kind = 3;
    image.function(&["__libc_start_main"], Hidden, ENTRY);
    image.function(&["malloc"], Hidden, ENTRY);
    image.function(&["free"], Hidden, ENTRY);
    assert_eq!(planned(&image).role, Role::Program(Allocator::Musl));
}

#[test]
fn musl_is_the_c_library_though_it_is_its_own_dynamic_linker() {
    let mut image = Image::library("");
    image.soname = None;
    image.needed = false;
    for name in ["__libc_start_main", "malloc", "free"] {
        image.function(&[name], Exported, ENTRY);
    }
    assert_eq!(planned(&image).role, Role::Libc(Allocator::Musl));
}

#[test]
fn the_dynamic_linkers_own_malloc_is_left_alone() {
    let mut image = Image::library("ld-linux-x86-64.so.2");
    image.function(&["malloc"], Exported, ENTRY);
    image.function(&["free"], Exported, ENTRY);
    let plan = planned(&image);
    assert_eq!((plan.role, plan.probes.len()), (Role::DynamicLinker, 0));
    assert!(plan.skipped.iter().all(|skipped| skipped.why == Why::DynamicLinker) && plan.skipped.len() == 2);
}

#[test]
fn operators_are_probed_only_where_an_allocator_brings_them() {
    let mut image = Image::library("libstdc++.so.6");
    let malloc = image.import("malloc");
    let new = image.function(&["_Znwm"], Exported, &[0x53, 0xe8, 0, 0, 0, 0, 0x5b, 0xc3]);
    image.patch(new + 2, &((malloc as i64 - (new + 6) as i64) as i32).to_le_bytes());
    image.function(&["_ZdlPv"], Exported, ENTRY);
    assert_eq!((planned(&image).role, planned(&image).probes.len()), (Role::CxxRuntime, 0));

    let mut image = Image::library("libtcmalloc.so.4");
    for name in ["tc_malloc", "tc_free", "malloc", "free", "_Znwm", "_ZdaPvm"] {
        image.function(&[name], Exported, ENTRY);
    }
    let plan = planned(&image);
    assert_eq!(plan.role, Role::Allocator(Allocator::Tcmalloc));
    assert_eq!(names(&plan), ["tc_malloc", "tc_free", "malloc", "free", "_Znwm", "_ZdaPvm"]);
}

#[test]
fn names_mean_nothing_where_nobody_allocates_and_frees() {
    // A program's helper that happens to be called like an old C function; glibc's strdup calls malloc.
    let mut image = Image::program();
    image.function(&["cfree"], Hidden, ENTRY);
    image.function(&["strdup"], Hidden, ENTRY);
    let plan = planned(&image);
    assert_eq!((plan.role, plan.probes.len()), (Role::None, 0));

    let mut image = Image::library("libmimalloc.so.3");
    for name in ["mi_malloc", "mi_free", "malloc", "free", "strdup"] {
        image.function(&[name], Exported, ENTRY);
    }
    assert_eq!(probe(&planned(&image), "strdup").kind, Kind::Strdup);
}

#[test]
fn a_jemalloc_with_a_prefix_of_its_own_is_recognised() {
    let mut image = Image::library("libarrow.so.1400");
    for name in ["je_arrow_malloc", "je_arrow_mallocx", "je_arrow_sdallocx", "je_arrow_rallocx"] {
        image.function(&[name], Hidden, ENTRY);
    }
    let plan = planned(&image);
    assert_eq!(plan.role, Role::Allocator(Allocator::Jemalloc));
    assert_eq!(names(&plan).len(), 4);
}

#[test]
fn a_function_that_is_merely_called_like_jemallocs_is_none() {
    let mut image = Image::program();
    for name in ["leak_mallocx", "leak_malloc", "leak_rallocx", "leak_free"] {
        image.function(&[name], Hidden, ENTRY);
    }
    assert_eq!(names(&planned(&image)), [""; 0]);
    image.function(&["leak_dallocx"], Hidden, ENTRY);
    assert!(names(&planned(&image)).contains(&"leak_mallocx"));
}

#[test]
fn the_user_may_name_prefixes_and_functions() {
    let mut image = Image::program();
    image.function(&["pool_get"], Hidden, MOVES);
    image.function(&["my_malloc"], Hidden, ENTRY);
    image.function(&["my_free"], Hidden, ENTRY);
    assert!(planned(&image).probes.is_empty());

    let options = PlanOptions { prefix: Some("my_"), ..PlanOptions::default() };
    assert_eq!(names(&plan(&image.build(), &options).unwrap()), ["my_malloc", "my_free"]);
    let symbols: [AllocSymbol; 1] = ["pool_get=malloc".parse().unwrap()];
    let options = PlanOptions { symbols: &symbols, ..PlanOptions::default() };
    let plan = plan(&image.build(), &options).unwrap();
    assert_eq!(names(&plan), ["pool_get"]);
    assert_eq!((plan.role, plan.probes[0].site.offset), (Role::Program(Allocator::Other), 3));
}

#[test]
fn a_symbol_before_the_site_keeps_the_probe_at_the_entry() {
    for (other_at, size, moves) in [(3, 4, false), (1, 0, false), (4, 3, true), (0, 7, true)] {
        let mut image = libc();
        let realloc = image.function(&["calloc"], Exported, MOVES);
        image.symbol("other", Hidden, realloc + other_at, size);
        let plan = planned(&image);
        assert_eq!(probe(&plan, "calloc").site.offset, if moves { 3 } else { 0 }, "a symbol at +{other_at}");
        if !moves {
            assert_eq!(probe(&plan, "calloc").fallback(), Some(Fallback::EnteredElsewhere));
        }
    }
}

#[test]
fn a_symbol_that_spans_the_entry_keeps_the_probe_there() {
    let mut image = libc();
    let outer = image.place(&[0x90; 16]);
    let calloc = image.function(&["calloc"], Exported, MOVES);
    image.symbol("outer", Hidden, outer, calloc + 4 - outer);
    assert_eq!(probe(&planned(&image), "calloc").site.offset, 0);
}

#[test]
fn a_branch_from_another_function_before_the_site_keeps_the_probe_at_the_entry() {
    for (target, moves) in [(1, false), (3, false), (0, true), (4, true)] {
        let mut image = libc();
        let calloc = image.function(&["calloc"], Exported, MOVES);
        let cold = image.function(&["calloc.cold"], Hidden, &[0xe9, 0, 0, 0, 0]);
        image.patch(cold + 1, &((calloc + target) as i64 - (cold + 5) as i64).to_le_bytes()[..4]);
        assert_eq!(probe(&planned(&image), "calloc").site.offset, if moves { 3 } else { 0 }, "a jump to +{target}");
    }
}

#[test]
fn a_constant_that_looks_like_a_branch_is_none() {
    // `mov %ebp, %ecx; mov $2, %ebx`, as seen in glibc 2.43: from its second byte on it reads `jmp .+0x2bb`.
    let mut image = libc();
    let constant = image.function(&["before"], Hidden, &[0x89, 0xe9, 0xbb, 2, 0, 0, 0, 0xc3]);
    image.place(&[0x90; 0x2b0]);
    let calloc = image.function(&["calloc"], Exported, MOVES);
    assert_eq!(calloc + 1, constant + 6 + 0x2bb, "or the test shows nothing");
    assert_eq!(probe(&planned(&image), "calloc").site.offset, 3);
}

#[test]
fn other_machines_are_refused_by_name_and_arm_stays_at_the_entry() {
    let mut image = libc();
    image.machine = EM_386;
    let error = plan(&image.build(), &PlanOptions::default()).unwrap_err();
    assert_eq!(error, PlanError::Elf(ElfError::Foreign("i386".to_owned())));

    image.machine = EM_AARCH64;
    let plan = planned(&image);
    let free = probe(&plan, "free");
    assert_eq!((free.site.offset, free.site.cost), (0, Cost::Unknown));
    assert_eq!(free.site.reason, Reason::Fallback(Fallback::Architecture));
    assert_eq!(free.cookie, 0);
}

#[test]
fn a_symbol_outside_the_code_is_none() {
    let mut image = libc();
    image.symbol("calloc", Exported, 0x60_0000, 16);
    assert_eq!(names(&planned(&image)), ["malloc", "free"]);
}

#[test]
fn build_ids_are_read() {
    let mut image = libc();
    assert_eq!(planned(&image).build_id, None);
    image.build_id = Some(b"\x01\x02\x03\x04\x05\x06\x07\x08");
    assert_eq!(planned(&image).build_id.as_deref(), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
}

#[test]
fn a_process_is_probed_in_its_program_its_allocators_and_its_c_library() {
    let mut program = Image::program();
    program.function(&["_rjem_malloc"], Hidden, ENTRY);
    program.function(&["_rjem_free"], Hidden, ENTRY);
    let mut preloaded = Image::library("libmimalloc.so.2");
    preloaded.function(&["mi_malloc"], Exported, ENTRY);
    preloaded.function(&["mi_free"], Exported, ENTRY);
    let plans = [planned(&libc()), planned(&Image::library("libm.so.6")), planned(&preloaded), planned(&program)];
    let chosen: Vec<_> = choose(plans.iter().enumerate()).into_iter().map(|(index, _)| index).collect();
    assert_eq!(chosen, [3, 2, 0]);
}

#[test]
fn what_may_throw_is_watched_at_its_ways_out() {
    let mut image = Image::library("libjemalloc.so.2");
    for name in ["malloc", "free", "sdallocx"] {
        image.function(&[name], Exported, ENTRY);
    }
    image.function(&["_Znwm"], Exported, ENTRY);
    image.function(&["_ZnwmRKSt9nothrow_t"], Exported, ENTRY);
    // It ends in a jump through a register alone.
    image.function(&["_ZnwmSt11align_val_t"], Exported, &[0x53, 0x5b, 0xff, 0xe0]);
    let plan = planned(&image);
    let throwing = probe(&plan, "_Znwm");
    assert_eq!((throwing.needs_return(), throwing.exits.as_slice()), (false, &[throwing.entry_offset + 2][..]));
    for name in ["_ZnwmRKSt9nothrow_t", "malloc"] {
        assert!(probe(&plan, name).needs_return() && probe(&plan, name).exits.is_empty(), "{name}");
    }
    assert!(plan.skipped.iter().any(|it| it.names == ["_ZnwmSt11align_val_t"] && it.why == Why::Throws));
}

#[test]
fn runtimes_with_heaps_of_their_own_are_recognised() {
    for (name, runtime) in [("PyObject_Malloc", Runtime::CPython), ("JNI_CreateJavaVM", Runtime::Jvm)] {
        let mut image = Image::library("lib.so");
        image.function(&[name], Exported, ENTRY);
        assert_eq!(planned(&image).runtime, Some(runtime));
    }
    assert_eq!(planned(&libc()).runtime, None);
}
