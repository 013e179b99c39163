//! The machine's own libc, and small functions that lead astray.

use super::*;
use crate::probes::functions::Table;
use crate::probes::image::Image;

const START: u64 = 0x1000;
/// A function that returns, and one that does not.
const RETURNS: u64 = 0x9000;
const ABORTS: u64 = 0xa000;

const TAKE_SIZE: &[u8] = &[0x53, 0x48, 0x89, 0xfb]; // push %rbx; mov %rdi,%rbx
const TEST_RESULT: &[u8] = &[0x48, 0x85, 0xc0]; // test %rax,%rax
const JE_OVER_2: &[u8] = &[0x74, 0x02, 0x31, 0xc9]; // je +2; xor %ecx,%ecx
const LEAVE: &[u8] = &[0x5b, 0xc3]; // pop %rbx; ret

/// A call or jump of five bytes at the end of `code`.
fn branch(opcode: u8, code: &[u8], to: u64) -> Vec<u8> {
    let from = START + code.len() as u64 + 5;
    [&[opcode], &(to.wrapping_sub(from) as u32).to_le_bytes()[..]].concat()
}

/// The parts, one behind the other; an empty one is a call of what returns.
fn function(parts: &[&[u8]]) -> Vec<u8> {
    let mut code = Vec::new();
    for part in parts {
        if part.is_empty() {
            code.extend(branch(0xe8, &code, RETURNS));
        } else {
            code.extend_from_slice(part);
        }
    }
    code
}

fn prove_at(bytes: &[u8], entered_at: Option<u64>) -> Result<Vec<Point>, Unproven> {
    let function = Function { machine: Machine::X86_64, address: START, code: bytes, whole: true, entered_at };
    let code = |address: u64| match address {
        RETURNS => Some(&[0xc3][..]),
        ABORTS => Some(&[0xf4, 0xeb, 0xfd][..]), // hlt; jmp -3
        0xa001 => Some(&[0xeb, 0xfd][..]),
        _ => bytes.get(usize::try_from(address.checked_sub(START)?).ok()?..).filter(|rest| !rest.is_empty()),
    };
    let malloc = Table::new([], &[]).find(b"malloc").unwrap().signature;
    once(&function, malloc, Emulation::BASELINE, &code).map(|proven| proven.points)
}

fn prove(parts: &[&[u8]]) -> Result<Vec<Point>, Unproven> {
    prove_at(&function(parts), None)
}

fn call(offset: u32, shift: u64) -> Point {
    let view = View::Call { size: Place::Register(Register::RBX), result: Register::RAX, counts: Counts::Always };
    Point { offset, view, stack_shift: shift, frame_pointer: None }
}

#[test]
fn a_jump_behind_the_call_that_allocates_sees_size_and_result() {
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Ok(vec![call(12, 8)]));
}

#[test]
fn of_two_places_on_one_way_one_is_probed() {
    let again = [TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, JE_OVER_2, LEAVE];
    assert_eq!(prove(&again), Ok(vec![call(16, 8)]));
}

#[test]
fn a_size_that_is_overwritten_on_one_way_is_not_known() {
    // test %esi,%esi; je +3; mov %rcx,%rbx
    let overwritten: &[u8] = &[0x85, 0xf6, 0x74, 0x03, 0x48, 0x89, 0xcb];
    assert_eq!(prove(&[TAKE_SIZE, overwritten, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Err(Unproven::NothingGained));
    // Half of it: mov %cl,%bl
    let half: &[u8] = &[0x88, 0xcb];
    assert_eq!(prove(&[TAKE_SIZE, half, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Err(Unproven::NothingGained));
    // In a register that calls do not keep: mov %rdi,%rsi
    let lost: &[u8] = &[0x53, 0x48, 0x89, 0xfe];
    assert_eq!(prove(&[lost, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Err(Unproven::NothingGained));
}

#[test]
fn a_result_that_changes_behind_the_place_is_not_known_there() {
    // je +3; mov %rcx,%rax
    let replaced: &[u8] = &[0x74, 0x03, 0x48, 0x89, 0xc8];
    let view =
        View::Call { size: Place::Register(Register::RBX), result: Register::RCX, counts: Counts::IfZero(false) };
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, replaced, LEAVE]), Ok(vec![Point { view, ..call(12, 8) }]));
    // je +3; mov (%rcx),%rax
    let loaded: &[u8] = &[0x74, 0x03, 0x48, 0x8b, 0x01];
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, loaded, LEAVE]), Err(Unproven::NothingGained));
    // add $8,%rax
    let moved: &[u8] = &[0x48, 0x83, 0xc0, 0x08];
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, moved, LEAVE]), Err(Unproven::NothingGained));
    // A call that keeps no result.
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, &[], LEAVE]), Err(Unproven::NothingGained));
}

#[test]
fn a_result_is_known_before_it_is_where_it_is_returned() {
    // mov %rax,%r11; test %r11,%r11; je +2; xor %eax,%eax; mov %r11,%rax
    let kept: &[u8] = &[0x49, 0x89, 0xc3, 0x4d, 0x85, 0xdb, 0x74, 0x02, 0x31, 0xc0, 0x4c, 0x89, 0xd8];
    let view = View::Call { size: Place::Register(Register::RBX), result: Register(11), counts: Counts::Always };
    assert_eq!(prove(&[TAKE_SIZE, &[], kept, LEAVE]), Ok(vec![Point { view, ..call(15, 8) }]));
}

#[test]
fn a_way_without_a_place_is_seen_to_begin_and_end_elsewhere_or_nothing_is_proven() {
    // test %esi,%esi; je +14 (to the second half)
    let choice: &[u8] = &[0x85, 0xf6, 0x74, 0x0e];
    let bare: &[&[u8]] = &[TAKE_SIZE, choice, &[], TEST_RESULT, JE_OVER_2, LEAVE, &[], LEAVE];
    assert_eq!(prove(bare), Err(Unproven::NothingGained));
}

#[test]
fn a_place_in_a_loop_is_taken_for_the_way_out_alone() {
    // mov $5,%ecx; dec %ecx; jne -4
    let counted: &[u8] = &[0xb9, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc];
    let way_out =
        |zero| View::Call { size: Place::Register(Register::RBX), result: Register::RAX, counts: Counts::IfZero(zero) };
    assert_eq!(prove(&[TAKE_SIZE, &[], counted, LEAVE]), Ok(vec![Point { view: way_out(true), ..call(16, 8) }]));
    // The same with jg.
    let above: &[u8] = &[0xb9, 5, 0, 0, 0, 0xff, 0xc9, 0x7f, 0xfc];
    assert_eq!(prove(&[TAKE_SIZE, &[], above, LEAVE]), Err(Unproven::NothingGained));
    // A place before the loop serves.
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, counted, LEAVE]), Ok(vec![call(12, 8)]));
    // test %rax,%rax; je -10 (calls again)
    let again: &[u8] = &[0x48, 0x85, 0xc0, 0x74, 0xf6];
    assert_eq!(prove(&[TAKE_SIZE, &[], again, LEAVE]), Ok(vec![Point { view: way_out(false), ..call(12, 8) }]));
    // test %rax,%rax; jle -10
    let below: &[u8] = &[0x48, 0x85, 0xc0, 0x7e, 0xf6];
    assert_eq!(prove(&[TAKE_SIZE, &[], below, LEAVE]), Err(Unproven::NothingGained));
}

#[test]
fn a_jump_into_an_instruction_proves_nothing() {
    // jmp +1; mov $0xc3,%al, of which the second byte is a ret
    let hidden: &[u8] = &[0x74, 0x01, 0xb0, 0xc3];
    assert!(prove(&[TAKE_SIZE, &[], TEST_RESULT, hidden, LEAVE]).is_err());
}

#[test]
fn what_returns_nothing_needs_no_probe() {
    // test %rdi,%rdi; jns +3; xor %eax,%eax; ret
    let negative: &[u8] = &[0x48, 0x85, 0xff, 0x79, 0x03, 0x31, 0xc0, 0xc3];
    assert_eq!(prove(&[negative, TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Ok(vec![call(20, 8)]));
    // The same with another number than 0: mov $1,%al
    let other: &[u8] = &[0x48, 0x85, 0xff, 0x79, 0x03, 0xb0, 0x01, 0xc3];
    assert_eq!(prove(&[other, TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, LEAVE]), Err(Unproven::NothingGained));
}

#[test]
fn a_jump_to_another_function_is_probed_as_an_entry() {
    // test %rdi,%rdi; js +18, behind the last instruction
    let choice: &[u8] = &[0x48, 0x85, 0xff, 0x78, 0x12];
    let mut bytes = function(&[choice, TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, LEAVE]);
    assert_eq!(bytes.len(), 5 + 18);
    // jmp *0(%rip): nothing is known of what it leads to.
    bytes.extend([0xff, 0x25, 0, 0, 0, 0]);
    let entry = Point { view: View::Entry { size: Register::RDI }, ..call(3, 0) };
    assert_eq!(prove_at(&bytes, None).map_err(|why| why.to_string()), Err(Unproven::NothingGained.to_string()));
    bytes.truncate(5 + 18);
    // jmp +0, and that.
    bytes.extend([0xeb, 0x00, 0xff, 0x25, 0, 0, 0, 0]);
    let entry = Point { offset: 23, ..entry };
    assert_eq!(prove_at(&bytes, None), Ok(vec![call(17, 8), entry]));
}

#[test]
fn what_lies_behind_a_call_that_does_not_return_is_no_part_of_it() {
    let abort = |to: u64| {
        let mut bytes = function(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, &[0x75, 0x02], LEAVE]);
        bytes.extend(branch(0xe8, &bytes, to));
        // nopl (%rax); mov %rcx,%rax; pop %rbx; ret
        bytes.extend([0x0f, 0x1f, 0x00, 0x48, 0x89, 0xc8, 0x5b, 0xc3]);
        prove_at(&bytes, None)
    };
    assert!(abort(RETURNS).is_err());
    // What nothing reaches is not believed to be dead either.
    assert_eq!(abort(ABORTS), Err(Unproven::Unreached));
}

#[test]
fn a_frame_whose_address_is_known_elsewhere_is_not_believed() {
    // sub $16,%rsp; mov %rdi,8(%rsp)
    let spill: &[u8] = &[0x48, 0x83, 0xec, 0x10, 0x48, 0x89, 0x7c, 0x24, 0x08];
    let leave: &[u8] = &[0x48, 0x83, 0xc4, 0x10, 0xc3];
    let view = View::Call { size: Place::Slot(8), result: Register::RAX, counts: Counts::Always };
    let expected = Point { view, ..call(17, 16) };
    assert_eq!(prove(&[spill, &[], TEST_RESULT, JE_OVER_2, leave]), Ok(vec![expected]));
    // lea 8(%rsp),%rsi
    let given_away: &[u8] = &[0x48, 0x8d, 0x74, 0x24, 0x08];
    assert!(prove(&[spill, given_away, &[], TEST_RESULT, JE_OVER_2, leave]).is_err());
    // mov %ecx,12(%rsp)
    let half: &[u8] = &[0x89, 0x4c, 0x24, 0x0c];
    assert!(prove(&[spill, half, &[], TEST_RESULT, JE_OVER_2, leave]).is_err());
}

#[test]
fn other_ways_in_prove_nothing() {
    let bytes = function(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, LEAVE]);
    assert_eq!(prove_at(&bytes, Some(START + 9)), Err(Unproven::EnteredElsewhere));
}

#[test]
fn a_stack_pointer_that_is_elsewhere_at_the_return_proves_nothing() {
    assert_eq!(prove(&[TAKE_SIZE, &[], TEST_RESULT, JE_OVER_2, &[0xc3]]), Err(Unproven::StackPointer));
}

#[test]
fn malloc_of_this_machines_libc_is_followed_with_all_that_it_calls() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let symbol = image.symbols(6).find(|symbol| symbol.name == b"malloc").unwrap();
    let function = Function {
        machine: Machine::X86_64,
        address: symbol.extent.address,
        code: image.code(symbol.extent.address, symbol.extent.size as usize).unwrap(),
        whole: true,
        entered_at: None,
    };
    let code = |address| image.code(address, super::super::LONGEST_INSTRUCTION);
    let malloc = Table::new([], &[]).find(b"malloc").unwrap().signature;
    let points = once(&function, malloc, Emulation::BASELINE, &code).unwrap().points;
    assert!(points.iter().any(|point| matches!(point.view, View::Call { .. })), "{points:?}");
}
