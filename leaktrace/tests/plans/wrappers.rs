//! Functions that only pass a call on are left out, and no others.

use leaktrace::probes::functions::Kind;
use leaktrace::probes::plan::{Plan, PlanOptions, Why, plan};

use super::image::{
    Image,
    Visibility::{Exported, Hidden},
};

/// `push %rbx; pop %rbx; ret`
const ENTRY: &[u8] = &[0x53, 0x5b, 0xc3];

/// An allocator with `malloc`, `free` and `realloc`, and one function more.
struct Case {
    image: Image,
    malloc: u64,
    free: u64,
    realloc: u64,
}

impl Case {
    fn new() -> Self {
        let mut image = Image::library("libother.so.1");
        let malloc = image.function(&["malloc"], Exported, ENTRY);
        let free = image.function(&["free"], Exported, ENTRY);
        let realloc = image.function(&["realloc"], Exported, ENTRY);
        Self { image, malloc, free, realloc }
    }

    /// Adds the function `name`: `before`, a `jmp` to `target`, `after`.
    fn jumping(&mut self, name: &str, before: &[u8], target: u64, after: &[u8]) {
        let code = [before, &[0xe9, 0, 0, 0, 0], after].concat();
        let address = self.image.function(&[name], Exported, &code);
        let jump = address + before.len() as u64;
        self.image.patch(jump + 1, &(target as i64 - (jump + 5) as i64).to_le_bytes()[..4]);
    }

    fn plan(&self) -> Plan {
        plan(&self.image.build(), &PlanOptions::default()).unwrap()
    }

    /// Where the function passes its calls on to, if it is left out for that.
    fn forwards(&self, name: &str) -> Option<String> {
        let plan = self.plan();
        let is_probed = plan.probes.iter().any(|probe| probe.names.iter().any(|other| other == name));
        let skipped = plan.skipped.iter().find(|skipped| skipped.names.iter().any(|other| other == name));
        assert_ne!(is_probed, skipped.is_some(), "{name} is either probed or not");
        skipped.map(|skipped| match &skipped.why {
            Why::Forwards(other) => other.clone(),
            why => panic!("{why:?}"),
        })
    }
}

#[test]
fn a_plain_jump_passes_on() {
    let mut case = Case::new();
    case.jumping("free_sized", &[0xf3, 0x0f, 0x1e, 0xfa], case.free, &[]);
    assert_eq!(case.forwards("free_sized").as_deref(), Some("free"));
}

#[test]
fn a_jump_through_the_linkage_table_passes_on_to_whoever_has_the_name() {
    let mut case = Case::new();
    let stub = case.image.import("mi_free");
    case.jumping("cfree", &[], stub, &[]);
    assert_eq!(case.forwards("cfree").as_deref(), Some("mi_free"));

    let stub = case.image.import("puts");
    case.jumping("free_sized", &[], stub, &[]);
    assert_eq!(case.forwards("free_sized"), None, "nobody probes puts");
}

#[test]
fn arguments_may_move_to_where_the_other_function_expects_them() {
    // mov %rsi, %rdx; mov %rdi, %rsi; then realloc's are mi_heap_realloc's second and third.
    let shuffled: &[u8] = &[0x48, 0x89, 0xf2, 0x48, 0x89, 0xfe];
    let mut case = Case::new();
    let heap = case.image.function(&["mi_heap_realloc"], Exported, ENTRY);
    case.image.function(&["mi_malloc"], Exported, ENTRY);
    case.image.function(&["mi_free"], Exported, ENTRY);
    case.jumping("mi_realloc", shuffled, heap, &[]);
    case.jumping("rallocx", shuffled, case.realloc, &[]);
    assert_eq!(case.forwards("mi_realloc").as_deref(), Some("mi_heap_realloc"));
    assert_eq!(case.forwards("rallocx"), None, "realloc would see the wrong arguments");
}

#[test]
fn another_kind_of_call_is_not_passed_on() {
    let mut case = Case::new();
    case.jumping("calloc", &[], case.malloc, &[]);
    assert_eq!(case.forwards("calloc"), None);
}

#[test]
fn what_does_something_of_its_own_is_probed() {
    // Before the jump a store, a call, a locked instruction, a system call, a call of nobody knows what.
    let own: [&[u8]; 5] = [
        &[0x48, 0x89, 0x3e],
        &[0xe8, 0, 0, 0, 0],
        &[0x90, 0xf0, 0x48, 0xff, 0x06],
        &[0x90, 0x0f, 0x05],
        &[0x53, 0x48, 0x89, 0xfb, 0xff, 0xd0, 0x48, 0x89, 0xdf, 0x5b],
    ];
    for before in own {
        let mut case = Case::new();
        case.jumping("free_sized", before, case.free, &[]);
        assert_eq!(case.forwards("free_sized"), None, "{before:x?}");
    }
}

#[test]
fn checks_before_the_jump_do_no_harm() {
    // test %rdi, %rdi; je .+5 (to the ret); jmp malloc; ret
    let guard: &[u8] = &[0x48, 0x85, 0xff, 0x74, 0x05];
    let mut case = Case::new();
    case.jumping("mallocx", guard, case.malloc, &[0xc3]);
    assert_eq!(case.forwards("mallocx").as_deref(), Some("malloc"));

    // The same, but for another size by then: mov %rsi, %rdi before the jump.
    let changed: &[u8] = &[0x48, 0x85, 0xff, 0x74, 0x08, 0x48, 0x89, 0xf7];
    case.jumping("valloc", changed, case.malloc, &[0xc3]);
    assert_eq!(case.forwards("valloc"), None);
}

#[test]
fn a_free_that_can_only_free_by_others_is_seen_there() {
    // mimalloc 3: cmp $0x400, %rsi; ja .+5; jmp mi_free_small; jmp mi_free
    let choice: &[u8] = &[0x48, 0x81, 0xfe, 0, 4, 0, 0, 0x77, 0x05];
    let mut case = Case::new();
    let small = case.image.import("mi_free_small");
    case.jumping("free_sized", choice, case.free, &[0xe9, 0, 0, 0, 0]);
    let plan = case.plan();
    let jump = plan.probes.iter().find(|probe| probe.names == ["free_sized"]).unwrap().address + 14;
    case.image.patch(jump + 1, &(small as i64 - (jump + 5) as i64).to_le_bytes()[..4]);
    assert_eq!(case.forwards("free_sized").as_deref(), Some("free"));

    // jemalloc: push %rbx; mov %rdi, %rbx; call ffs; mov %rbx, %rdi; pop %rbx; jmp sdallocx
    for (called, forwards) in [("ffs", true), ("munmap", false)] {
        let mut case = Case::new();
        let called = case.image.import(called);
        let dallocx = case.image.import("sdallocx");
        let before = [0x53, 0x48, 0x89, 0xfb, 0xe8, 0, 0, 0, 0, 0x48, 0x89, 0xdf, 0x5b];
        case.jumping("free_aligned_sized", &before, dallocx, &[]);
        let address = dallocx + 16;
        case.image.patch(address + 5, &(called as i64 - (address + 9) as i64).to_le_bytes()[..4]);
        assert_eq!(case.forwards("free_aligned_sized").is_some(), forwards);
    }
}

#[test]
fn a_free_that_passes_on_another_pointer_is_probed() {
    // The block was booked behind its header: sub $16, %rdi; jmp free.
    let mut case = Case::new();
    case.jumping("cfree", &[0x48, 0x83, 0xef, 0x10], case.free, &[]);
    assert_eq!(case.forwards("cfree"), None);

    // The same after a check, on one of two ways: test %rsi, %rsi; je .+4; sub $16, %rdi; jmp free.
    case.jumping("free_sized", &[0x48, 0x85, 0xf6, 0x74, 0x04, 0x48, 0x83, 0xef, 0x10], case.free, &[]);
    assert_eq!(case.forwards("free_sized"), None);

    // Kept over a call where calls do not keep it: mov %rdi, %rcx; call ffs; mov %rcx, %rdi; jmp free.
    let ffs = case.image.import("ffs");
    let before = [0x48, 0x89, 0xf9, 0xe8, 0, 0, 0, 0, 0x48, 0x89, 0xcf];
    case.jumping("free_aligned_sized", &before, case.free, &[]);
    let address = ffs + 16;
    case.image.patch(address + 4, &(ffs as i64 - (address + 8) as i64).to_le_bytes()[..4]);
    assert_eq!(case.forwards("free_aligned_sized"), None);
}

#[test]
fn reallocarray_may_pass_its_product_to_realloc() {
    // glibc: mov %rsi, %rax; mul %rdx; mov %rax, %rsi; jo .+5; jmp realloc; mov errno@gottpoff(%rip), %rax;
    // movl $12, %fs:(%rax); xor %eax, %eax; ret
    let before: &[u8] = &[0x48, 0x89, 0xf0, 0x48, 0xf7, 0xe2, 0x48, 0x89, 0xc6, 0x70, 0x05];
    let after: &[u8] = &[0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x64, 0xc7, 0x00, 0x0c, 0, 0, 0, 0x31, 0xc0, 0xc3];
    let mut case = Case::new();
    case.jumping("reallocarray", before, case.realloc, after);
    assert_eq!(case.forwards("reallocarray").as_deref(), Some("realloc"));
}

#[test]
fn two_destinations_are_one_too_many() {
    // test %rdi, %rdi; je .+5; jmp one; jmp another
    let guard: &[u8] = &[0x48, 0x85, 0xff, 0x74, 0x05];
    for free_is_first in [true, false] {
        let mut case = Case::new();
        let other = case.image.function(&["other"], Hidden, ENTRY);
        let (first, second) = if free_is_first { (case.free, other) } else { (other, case.free) };
        case.jumping("free_sized", guard, first, &[0xe9, 0, 0, 0, 0]);
        let plan = case.plan();
        let jump = plan.probes.iter().find(|probe| probe.names == ["free_sized"]).unwrap().address + 10;
        case.image.patch(jump + 1, &(second as i64 - (jump + 5) as i64).to_le_bytes()[..4]);
        assert_eq!(case.forwards("free_sized"), None, "free_is_first {free_is_first}");
    }
}

#[test]
fn what_the_user_named_is_probed_where_the_user_said() {
    let mut case = Case::new();
    case.jumping("my_free", &[], case.free, &[]);
    let symbols = ["my_free=free".parse().unwrap()];
    let options = PlanOptions { symbols: &symbols, ..PlanOptions::default() };
    let plan = plan(&case.image.build(), &options).unwrap();
    let probe = plan.probes.iter().find(|probe| probe.names == ["my_free"]).unwrap();
    assert_eq!((probe.kind, probe.site.offset), (Kind::Free, 0));
}
