//! Random functions: whatever the code, the site is one at which a probe sees what it would see at the entry.

use std::sync::atomic::{AtomicUsize, Ordering};

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use leaktrace::probes::functions::{Signature, Table};
use leaktrace::probes::site::{Cost, Emulation, Function, Machine, Refusal, Site, select};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::interpreter::{Random, run};
use super::program::{Op, RSP, Reg, assemble};

/// One function of each kind, and two whose arguments come later.
const NAMES: &[&str] = &[
    "malloc",
    "free",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "posix_memalign",
    "strdup",
    "xallocx",
    "mi_heap_realloc",
    "mi_heap_reallocn",
];

fn signature() -> impl Strategy<Value = Signature> {
    prop::sample::select(NAMES).prop_map(|name| Table::new([], &[]).find(name.as_bytes()).unwrap().signature)
}

fn reg() -> impl Strategy<Value = Reg> {
    // Argument registers more often than others.
    prop_oneof![4 => prop::sample::select(&[7_u8, 6, 2, 1, 8, 9][..]), 3 => 0..16_u8]
}

fn general() -> impl Strategy<Value = Reg> {
    reg().prop_filter("not the stack pointer", |reg| *reg != RSP)
}

/// Instructions that lead on to the next, as functions begin with them.
fn simple() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (general(), general()).prop_map(|(to, from)| Op::Copy(to, from)),
        3 => (reg(), reg()).prop_map(|(to, from)| Op::Copy(to, from)),
        1 => (general(), general()).prop_map(|(to, from)| Op::CopyHalf(to, from)),
        1 => (general(), any::<i32>()).prop_map(|(to, value)| Op::Set(to, value)),
        4 => general().prop_map(Op::LoadGlobal),
        4 => (general(), reg(), any::<i8>()).prop_map(|(to, base, at)| Op::Load(to, base, at)),
        4 => (-4..16_i8, reg()).prop_map(|(at, from)| Op::StoreFrame(at * 8, from)),
        1 => (general(), any::<i8>(), reg()).prop_map(|(base, at, from)| Op::Store(base, at, from)),
        3 => (reg(), reg(), any::<i8>()).prop_map(|(to, base, at)| Op::Lea(to, base, at)),
        3 => (-4..12_i8).prop_map(|slots| Op::Reserve(slots * 8)),
        1 => (-127..=127_i8).prop_map(Op::Reserve),
        1 => (-4..12_i8).prop_map(|slots| Op::ReserveByLea(slots * 8)),
        2 => (general(), any::<i8>()).prop_map(|(to, value)| Op::AddTo(to, value)),
        2 => general().prop_map(Op::Clear),
        8 => (reg(), reg()).prop_map(|(a, b)| Op::Test(a, b)),
        1 => (general(), general()).prop_map(|(to, from)| Op::CopyIf(to, from)),
        1 => general().prop_map(Op::Multiply),
        1 => (general(), general()).prop_map(|(a, b)| Op::Exchange(a, b)),
        1 => general().prop_map(Op::Pop),
        3 => Just(Op::EndBranch),
        1 => Just(Op::WordNop),
        1 => Just(Op::LongNop),
        1 => Just(Op::Pause),
    ]
}

/// Instructions that lead elsewhere, or end the search.
fn other(length: usize) -> impl Strategy<Value = Op> {
    let condition = 0..16_u8;
    prop_oneof![
        6 => (condition.clone(), 0..length, any::<bool>()).prop_map(|(condition, to, short)| Op::JumpIf { condition, to, short }),
        2 => (0..length, any::<bool>()).prop_map(|(to, short)| Op::Jump { to, short }),
        4 => reg().prop_map(Op::Push),
        2 => Just(Op::Nop),
        1 => condition.prop_map(Op::LeaveIf),
        1 => Just(Op::Leave),
        2 => general().prop_map(Op::JumpTo),
        1 => general().prop_map(Op::JumpToMarked),
        1 => general().prop_map(Op::JumpByTable),
        1 => Just(Op::LeaveByGlobal),
        2 => Just(Op::Call),
        1 => general().prop_map(Op::CallTo),
        1 => Just(Op::SystemCall),
        1 => (-4..16_i8).prop_map(|at| Op::LockedIncrement(at * 8)),
        2 => Just(Op::Return),
    ]
}

fn function() -> impl Strategy<Value = Vec<Op>> {
    (1..24_usize).prop_flat_map(|length| {
        prop::collection::vec(prop_oneof![3 => simple().boxed(), 2 => other(length).boxed()], length)
    })
}

fn chosen(code: &[u8], address: u64, signature: Signature) -> Result<Site, Refusal> {
    let function = Function { machine: Machine::X86_64, address, code, whole: true, entered_at: None };
    select(&function, signature, Emulation::BASELINE)
}

#[test]
fn a_probe_at_the_site_sees_every_call_once_and_finds_its_arguments() {
    let (moved, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut runner = TestRunner::new(Config { cases: 4000, ..Config::default() });
    let strategy = (function(), signature(), any::<u64>());
    let result = runner.run(&strategy, |(ops, signature, seed)| {
        let Some((code, offsets)) = assemble(&ops) else { return Ok(()) };
        // Deadly or refused at the very entry: there is no site.
        let Ok(site) = chosen(&code, 0x40_0000, signature) else { return Ok(()) };
        seen.fetch_add(1, Ordering::Relaxed);
        let index = offsets.iter().position(|offset| *offset == site.offset as usize);
        let index = index.ok_or_else(|| TestCaseError::fail("the site is inside an instruction"))?;
        prop_assert!(site.offset == 0 || site.cost == Cost::Emulated);
        if site.cost == Cost::Emulated {
            let end = offsets.get(index + 1).copied().unwrap_or(code.len());
            let bytes = &code[site.offset as usize..end];
            prop_assert!(super::is_emulated_everywhere(bytes) || (index == 0 && bytes[0] == 0xe8), "{:?}", ops[index]);
        }
        if site.offset > 0 {
            moved.fetch_add(1, Ordering::Relaxed);
            let mut random = Random::new(seed);
            for _ in 0..80 {
                run(&ops, &site, index, signature, &mut random).map_err(TestCaseError::fail)?;
            }
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let (moved, seen) = (moved.into_inner(), seen.into_inner());
    // That most are not moved is the point of doubt; that some are, of the test.
    assert!(moved > 100 && moved < seen, "{moved} of {seen} moved");
}

/// Bytes as they come, common opcodes more often.
fn raw() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        2 => any::<u8>(),
        3 => prop::sample::select(&[
            0x48_u8, 0x49, 0x4c, 0x41, 0x66, 0xf3, 0x90, 0x0f, 0x05, 0x1e, 0xfa, 0x85, 0xff, 0x89, 0x8b, 0x74, 0x75, 0xeb,
            0xe9, 0xe8, 0x83, 0xec, 0x08, 0x50, 0x55, 0xc3, 0x00, 0xc7, 0xf8, 0xfe, 0x2e, 0x3e, 0xf0,
        ][..]),
    ];
    prop::collection::vec(byte, 0..48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, ..ProptestConfig::default() })]

    /// Nothing is known of these bytes but what a straight disassembly shows.
    #[test]
    fn any_bytes_get_a_site_within_bounds(code in raw(), address in any::<u64>(), signature in signature()) {
        let Ok(site) = chosen(&code, address, signature) else { return Ok(()) };
        let offset = u64::from(site.offset);
        let instructions: Vec<_> = Decoder::with_ip(64, &code, address, DecoderOptions::NONE).into_iter().collect();
        let at = instructions.iter().find(|instruction| instruction.ip().wrapping_sub(address) == offset);
        prop_assert!(at.is_some_and(|at| at.mnemonic() != Mnemonic::Pause), "not on an instruction");
        if offset == 0 {
            return Ok(());
        }
        for instruction in &instructions {
            prop_assert!(!instruction.is_invalid(), "moved in what is not all code");
            let from = instruction.ip().wrapping_sub(address);
            if from < offset {
                prop_assert!(!matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int | Mnemonic::Int3));
                prop_assert!(!matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Ret | Mnemonic::Jmp));
            }
            if matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16) {
                let target = instruction.near_branch_target().wrapping_sub(address);
                prop_assert!(target == 0 || target > offset, "a branch leads to +{target}");
            }
        }
        let bytes = &code[offset as usize..][..at.unwrap().len()];
        prop_assert!(super::is_emulated_everywhere(bytes));
        prop_assert!(site.stack_shift % 8 == 0 && site.stack_shift <= 524_280);
    }
}
