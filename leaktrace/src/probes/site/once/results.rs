//! Where the value is, before each instruction, that a call will return: backwards from the function's returns.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::flow::{Edge, Node, To};
use super::values::{Address, State, Value, is_call, is_write};
use crate::probes::site::sweep::is_preserved_by_calls;

/// What is known of the value that will be returned, whichever way the call takes from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Final {
    /// General registers that hold it, a bit each.
    registers: u16,
    /// Slots of the frame that hold it, as `State` has them.
    slots: BTreeSet<i64>,
    /// It is 0.
    pub(super) is_zero: bool,
    /// The call does not return: anything holds.
    pub(super) is_never: bool,
}

impl Final {
    const NEVER: Self = Self { registers: u16::MAX, slots: BTreeSet::new(), is_zero: true, is_never: true };
    const UNKNOWN: Self = Self { registers: 0, slots: BTreeSet::new(), is_zero: false, is_never: false };

    /// What holds of both.
    fn meet(&mut self, other: &Self) {
        if other.is_never {
            return;
        }
        if self.is_never {
            *self = other.clone();
            return;
        }
        self.registers &= other.registers;
        self.slots.retain(|slot| other.slots.contains(slot));
        self.is_zero &= other.is_zero;
    }

    /// What holds where a register is 0 besides.
    fn where_zero(mut self, zero: Option<u8>) -> Self {
        if let Some(zero) = zero.filter(|_| !self.is_never) {
            let bit = 1 << zero;
            self.is_zero |= self.registers & bit != 0;
            if self.is_zero {
                self.registers |= bit;
            }
        }
        self
    }

    /// The number of a register that holds it.
    pub(super) fn register(&self) -> Option<u8> {
        (self.registers != 0 && !self.is_never).then_some(self.registers.trailing_zeros() as u8)
    }

    fn holds(&self, register: Register) -> bool {
        self.registers & bit(register) != 0
    }
}

/// For each instruction what is known before it.
pub(super) fn of(nodes: &BTreeMap<u64, Node>) -> BTreeMap<u64, Final> {
    let mut infos = InstructionInfoFactory::new();
    let mut finals: BTreeMap<u64, Final> = nodes.keys().map(|address| (*address, Final::NEVER)).collect();
    let mut before: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (address, node) in nodes {
        for edge in &node.next {
            if let To::Code(to) = edge.to {
                before.entry(to).or_default().push(*address);
            }
        }
    }
    let ends = |node: &Node| node.next.iter().any(|edge| !matches!(edge.to, To::Code(_)));
    let mut open: Vec<u64> = nodes.iter().filter(|(_, node)| ends(node)).map(|(address, _)| *address).collect();
    while let Some(address) = open.pop() {
        let Some(node) = nodes.get(&address) else { continue };
        let mut after = Final::NEVER;
        for edge in &node.next {
            after.meet(&on(*edge, &finals));
        }
        let found = through(node, after, &mut infos);
        if let Some(known) = finals.get_mut(&address).filter(|known| **known != found) {
            *known = found;
            open.extend(before.get(&address).into_iter().flatten());
        }
    }
    finals
}

/// What is known on one way from an instruction.
pub(super) fn on(edge: Edge, finals: &BTreeMap<u64, Final>) -> Final {
    let found = match edge.to {
        To::Code(address) => finals.get(&address).cloned().unwrap_or(Final::UNKNOWN),
        To::Return => Final { registers: bit(Register::RAX), ..Final::UNKNOWN },
        To::Elsewhere => Final::UNKNOWN,
    };
    found.where_zero(edge.zero)
}

/// What is known before an instruction of which this is known behind it.
fn through(node: &Node, after: Final, infos: &mut InstructionInfoFactory) -> Final {
    let (instruction, state) = (&node.instruction, &node.before);
    if after.is_never || instruction.flow_control() == FlowControl::Return {
        return with_constants(after, state);
    }
    let copied = copied(instruction, state);
    let mut before = after.clone();
    let info = infos.info(instruction);
    for used in info.used_registers().iter().filter(|used| is_write(used.access())) {
        before.registers &= !bit(used.register().full_register());
    }
    for memory in info.used_memory().iter().filter(|memory| is_write(memory.access())) {
        let size = if instruction.has_rep_prefix() { 0 } else { memory.memory_size().size() as i64 };
        match state.address(memory) {
            Address::Slot(at) if size > 0 => {
                before.slots.retain(|slot| slot.saturating_add(8) <= at || at.saturating_add(size) <= *slot);
            }
            Address::Slot(_) | Address::Frame => before.slots.clear(),
            Address::Elsewhere if state.is_escaped() || state.stack().is_none() => before.slots.clear(),
            Address::Elsewhere => {}
        }
    }
    if is_call(instruction) {
        for register in (0..16).map(|number| Register::RAX + number) {
            if !is_preserved_by_calls(register) {
                before.registers &= !bit(register);
            }
        }
        match state.stack() {
            Some(stack) if !state.is_escaped() => before.slots.retain(|slot| *slot >= stack),
            _ => before.slots.clear(),
        }
    }
    match copied {
        Some(Copied { from: Place::Register(from), to }) if to.holds(&after) => before.registers |= bit(from),
        Some(Copied { from: Place::Slot(from), to }) if to.holds(&after) => {
            before.slots.insert(from);
        }
        _ => {}
    }
    before.is_zero |= is_made_zero(instruction, &after);
    with_constants(before, state)
}

/// A register that is known to be 0 holds what will be returned, if that is 0; and what a register holds that is known to be
/// 0 is.
fn with_constants(mut found: Final, state: &State) -> Final {
    if !found.is_never {
        for number in (0..16).filter(|number| state.register(*number) == Value::Const(0)) {
            found.is_zero |= found.registers & 1 << number != 0;
        }
    }
    found
}

enum Place {
    Register(Register),
    Slot(i64),
}

impl Place {
    fn holds(&self, found: &Final) -> bool {
        match self {
            Self::Register(register) => found.holds(*register),
            Self::Slot(slot) => found.slots.contains(slot),
        }
    }
}

struct Copied {
    from: Place,
    to: Place,
}

/// The word that the instruction copies, if that is what it does.
fn copied(instruction: &Instruction, state: &State) -> Option<Copied> {
    let whole = |register: Register| register.is_gpr64().then_some(Place::Register(register));
    match instruction.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => {
            let place = |operand| match instruction.op_kind(operand) {
                OpKind::Register => whole(instruction.op_register(operand)),
                OpKind::Memory => state.slot_of(instruction, operand).map(Place::Slot),
                _ => None,
            };
            Some(Copied { from: place(1)?, to: place(0)? })
        }
        Code::Push_r64 => {
            let to = Place::Slot(state.stack()?.checked_sub(8)?);
            Some(Copied { from: whole(instruction.op0_register())?, to })
        }
        Code::Pop_r64 => {
            let from = Place::Slot(state.stack()?);
            Some(Copied { from, to: whole(instruction.op0_register())? })
        }
        _ => None,
    }
}

/// Whether the instruction makes 0 of what will be returned.
fn is_made_zero(instruction: &Instruction, after: &Final) -> bool {
    let is_cleared = instruction.op_count() == 2
        && instruction.op0_kind() == OpKind::Register
        && match instruction.mnemonic() {
            Mnemonic::Xor | Mnemonic::Sub => super::values::is_same_register_twice(instruction),
            Mnemonic::Mov => instruction.op1_kind() != OpKind::Register && is_zero_immediate(instruction),
            _ => false,
        };
    let register = if is_cleared { instruction.op0_register() } else { Register::None };
    (register.is_gpr64() || register.is_gpr32()) && after.holds(register.full_register())
}

fn is_zero_immediate(instruction: &Instruction) -> bool {
    !matches!(instruction.op1_kind(), OpKind::Memory) && instruction.immediate(1) == 0
}

fn bit(register: Register) -> u16 {
    if register.is_gpr() { 1 << (register.full_register().number() % 16) } else { 0 }
}
