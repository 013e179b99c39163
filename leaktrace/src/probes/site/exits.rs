//! The exits of a function: the instructions by which it returns, wherever its jumps lead.
//!
//! A return probe replaces the return address on the stack, and no C++ exception can unwind past that: the program would be
//! terminated. So probes on their `ret` instructions see the returns of functions that may throw. A function may also end by
//! a jump to another function, which returns in its place: such jumps are followed, calls are not.
//!
//! Instructions that are found although the function never reaches them do no harm: other calls that pass them are told
//! apart by the stack pointer.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::LONGEST_INSTRUCTION;

/// Instructions looked at before giving up.
const MAX_INSTRUCTIONS: usize = 16 << 10;
/// Ways out before giving up: each takes a probe.
const MAX_EXITS: usize = 64;

/// What surrounds a function.
pub trait Surroundings {
    /// The code from an address on.
    fn code(&self, address: u64) -> Option<&[u8]>;
    /// Where a jump through this slot of linked addresses leads, if that is in the same object.
    fn linked(&self, slot: u64) -> Option<u64>;
    /// Whether other probes see the returns of the function at this entry.
    fn is_watched(&self, entry: u64) -> bool;
}

/// The addresses of all `ret` instructions by which a call of the function at `entry` may end; `None` if there is none, or
/// not all can be known. Jumps through registers are not followed: a call that ends there counts as abandoned.
pub fn exits(entry: u64, surroundings: &impl Surroundings) -> Option<Vec<u64>> {
    let mut exits = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![entry];
    while let Some(mut address) = open.pop() {
        if address != entry && surroundings.is_watched(address) {
            continue;
        }
        while seen.insert(address) {
            if seen.len() > MAX_INSTRUCTIONS {
                return None;
            }
            let instruction = decode(surroundings.code(address)?, address);
            match instruction.flow_control() {
                FlowControl::Return => {
                    exits.insert(address);
                    break;
                }
                FlowControl::UnconditionalBranch => {
                    open.push(direct(&instruction)?);
                    break;
                }
                FlowControl::ConditionalBranch => open.push(direct(&instruction)?),
                FlowControl::IndirectBranch => {
                    if instruction.code() == Code::Jmp_rm64 && instruction.is_ip_rel_memory_operand() {
                        open.extend(surroundings.linked(instruction.ip_rel_memory_address()));
                    }
                    break;
                }
                // `int3` and `ud2`, and what is no code.
                FlowControl::Interrupt | FlowControl::Exception => break,
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => {}
            }
            if instruction.mnemonic() == Mnemonic::Hlt {
                break;
            }
            address = instruction.next_ip();
        }
    }
    (!exits.is_empty() && exits.len() <= MAX_EXITS).then(|| exits.into_iter().collect())
}

fn decode(code: &[u8], address: u64) -> Instruction {
    let code = &code[..code.len().min(LONGEST_INSTRUCTION)];
    Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode()
}

fn direct(instruction: &Instruction) -> Option<u64> {
    (instruction.op0_kind() == OpKind::NearBranch64).then(|| instruction.near_branch_target())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code at 0x1000, a slot at 0x2000 that is linked to 0x1010.
    struct Bytes(Vec<u8>);

    impl Surroundings for Bytes {
        fn code(&self, address: u64) -> Option<&[u8]> {
            self.0.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..).filter(|rest| !rest.is_empty())
        }

        fn linked(&self, slot: u64) -> Option<u64> {
            (slot == 0x2000).then_some(0x1010)
        }

        fn is_watched(&self, entry: u64) -> bool {
            entry == 0x1014
        }
    }

    /// `code` at 0x1000, `ret` at 0x1010 and 0x1014, `int3` elsewhere.
    fn of(code: &[u8]) -> Option<Vec<u64>> {
        let mut bytes = vec![0xcc; 0x20];
        bytes[..code.len()].copy_from_slice(code);
        (bytes[0x10], bytes[0x14]) = (0xc3, 0xc3);
        exits(0x1000, &Bytes(bytes))
    }

    #[test]
    fn each_return_is_found_on_both_sides_of_a_branch() {
        // test %rdi,%rdi; je +1; ret; ret
        assert_eq!(of(&[0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc3]), Some(vec![0x1005, 0x1006]));
    }

    #[test]
    fn jumps_are_followed_also_through_the_linkage_table() {
        // jmp 0x1010
        assert_eq!(of(&[0xeb, 0x0e]), Some(vec![0x1010]));
        // jmp *0x2000(%rip)
        assert_eq!(of(&[0xff, 0x25, 0xfa, 0x0f, 0, 0]), Some(vec![0x1010]));
    }

    #[test]
    fn what_others_watch_is_left_to_them() {
        // je 0x1014; ret
        assert_eq!(of(&[0x74, 0x12, 0xc3]), Some(vec![0x1002]));
    }

    #[test]
    fn a_loop_ends_and_what_never_returns_has_no_exit() {
        // jmp .
        assert_eq!(of(&[0xeb, 0xfe]), None);
        // jmp *%rax
        assert_eq!(of(&[0xff, 0xe0]), None);
        // Out of the code.
        assert_eq!(of(&[0xe9, 0, 0, 0, 0x10]), None);
    }
}
