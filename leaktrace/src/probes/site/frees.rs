//! Frees that leave the work to other frees, by more than one path.
//!
//! mimalloc's sized `operator delete` chooses between two functions; jemalloc's aligned one first finds the bit of an
//! alignment, by a function of the C library. Such a function need not be probed if it frees only through probed functions and
//! passes on the very pointer that it was given: a wrapper that keeps a header before its blocks passes on another pointer.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register, UsedMemory};

use super::function::Function;
use super::leaving::{Destination, MAX_INSTRUCTIONS, Reached, destination, is_read};
use super::sweep::{Sweep, is_preserved_by_calls};
use super::track::argument;
use crate::probes::functions::{Kind, Signature};

/// The first of the probed frees to which this function passes its pointer, if it does nothing else.
pub(super) fn elsewhere<T>(
    sweep: &Sweep,
    function: &Function<'_>,
    signature: Signature,
    resolve: &impl Fn(Destination) -> Option<Reached<T>>,
) -> Option<T> {
    if sweep.instructions.len() > MAX_INSTRUCTIONS {
        return None;
    }
    let pointer = argument(signature.read_positions().next()?)?;
    let holders = holders(sweep, function, pointer)?;
    let mut infos = InstructionInfoFactory::new();
    let mut first = None;
    for (instruction, holders) in sweep.instructions.iter().zip(holders) {
        if let Some(destination) = destination(instruction, function) {
            match resolve(destination)? {
                Reached::Probed(other, found) if other.kind == Kind::Free => {
                    let wanted = argument(other.read_positions().next()?)?;
                    // Unreachable code passes nothing on.
                    if holders.is_some_and(|holders| !holders.contain(wanted)) {
                        return None;
                    }
                    first = first.or(Some(found));
                }
                Reached::Probed(..) => return None,
                Reached::Harmless => {}
            }
            continue;
        }
        let is_quiet = !instruction.has_lock_prefix() && !matches!(instruction.mnemonic(), Mnemonic::Syscall);
        let on_stack = |used: &UsedMemory| used.base() == Register::RSP;
        let stores =
            infos.info(instruction).used_memory().iter().any(|used| !is_read(used.access()) && !on_stack(used));
        if !is_quiet || stores || !goes_on(instruction) {
            return None;
        }
    }
    first
}

/// Registers that hold the pointer on every path to an instruction; one bit for each register number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holders(u16);

impl Holders {
    fn contain(self, register: Register) -> bool {
        self.0 & bit(register) != 0
    }
}

fn bit(register: Register) -> u16 {
    1 << register.number()
}

/// For each instruction the registers that hold the pointer before it; `None` for an unreachable instruction. `None` for the
/// whole function if a branch leads into the middle of an instruction.
fn holders(sweep: &Sweep, function: &Function<'_>, pointer: Register) -> Option<Vec<Option<Holders>>> {
    let indices: HashMap<u64, usize> = sweep.instructions.iter().enumerate().map(|(at, it)| (it.ip(), at)).collect();
    let mut infos = InstructionInfoFactory::new();
    let mut before: Vec<Option<Holders>> = vec![None; sweep.instructions.len()];
    let mut to_do = vec![(0, Holders(bit(pointer)))];
    while let Some((index, arriving)) = to_do.pop() {
        let Some(slot) = before.get_mut(index) else { continue };
        let met = Holders(slot.map_or(arriving.0, |known| known.0 & arriving.0));
        if *slot == Some(met) {
            continue;
        }
        *slot = Some(met);
        let instruction = &sweep.instructions[index];
        let after = step(&mut infos, instruction, met);
        let is_jump = instruction.flow_control() == FlowControl::UnconditionalBranch;
        if matches!(instruction.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch)
            && destination(instruction, function).is_none()
        {
            to_do.push((*indices.get(&instruction.near_branch_target())?, after));
        }
        if !is_jump && instruction.flow_control() != FlowControl::Return {
            to_do.push((index + 1, after));
        }
    }
    Some(before)
}

/// The registers that hold the pointer after an instruction.
fn step(infos: &mut InstructionInfoFactory, instruction: &Instruction, before: Holders) -> Holders {
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        let kept = (0..16)
            .filter(|number| is_preserved_by_calls(Register::RAX + *number))
            .fold(0, |bits, number| bits | 1 << number);
        return Holders(before.0 & kept);
    }
    let is_copy = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register().is_gpr64()
        && instruction.op1_register().is_gpr64();
    let mut after = before.0;
    for used in infos.info(instruction).used_registers().iter().filter(|used| !is_read(used.access())) {
        let register = used.register().full_register();
        if register.is_gpr64() {
            after &= !bit(register);
        }
    }
    if is_copy && before.contain(instruction.op1_register()) {
        after |= bit(instruction.op0_register());
    }
    Holders(after)
}

fn goes_on(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Return
    )
}
