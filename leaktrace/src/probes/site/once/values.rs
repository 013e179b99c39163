//! What registers and stack slots hold at an instruction, as far as it can be known: constants, what they held at the
//! function's entry, addresses in its frame.
//!
//! Values come from instructions that are understood; whatever any other instruction writes is unknown. Calls keep what the
//! calling convention says they keep, and the caller's frame. A frame of which an address was made is not trusted beyond the
//! next call or store, since these may write there.

use std::collections::BTreeMap;

use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory};

use crate::probes::site::sweep::is_preserved_by_calls;

const GENERAL: usize = 16;
const WORD: i64 = 8;

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Unknown,
    /// What the general register of this number held at the entry.
    Entry(u8),
    Const(u64),
    /// The stack pointer at the entry plus so many bytes.
    Stack(i64),
}

/// What the zero flag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    Unknown,
    Known(bool),
    /// It is set where the general register of this number is 0, and else not.
    IsZero(u8),
}

/// What is known before an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    registers: [Value; GENERAL],
    /// Words of the frame, by their distance from the stack pointer at the entry.
    slots: BTreeMap<i64, Value>,
    flag: Flag,
    /// An address in the frame is somewhere else than in the stack and the frame pointer.
    escaped: bool,
}

/// Where the address of a memory operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// In the frame, so many bytes from the stack pointer at the entry.
    Slot(i64),
    /// Somewhere in the frame.
    Frame,
    Elsewhere,
}

impl State {
    /// At a function's first instruction.
    pub(super) fn at_entry() -> Self {
        let mut registers = [Value::Unknown; GENERAL];
        for (number, value) in registers.iter_mut().enumerate() {
            *value = Value::Entry(number as u8);
        }
        registers[Register::RSP.number()] = Value::Stack(0);
        Self { registers, slots: BTreeMap::new(), flag: Flag::Unknown, escaped: false }
    }

    /// At the first instruction of a function that is called here, as far as its arguments are constants.
    pub(super) fn at_callee(&self) -> Self {
        let mut callee = Self::at_entry();
        for (ours, theirs) in self.registers.iter().zip(&mut callee.registers) {
            if matches!(ours, Value::Const(_)) {
                *theirs = *ours;
            }
        }
        callee
    }

    pub(super) fn register(&self, number: u8) -> Value {
        self.registers[usize::from(number) % GENERAL]
    }

    /// Constants that a callee is given, as a key.
    pub(super) fn constants(&self) -> [Option<u64>; GENERAL] {
        self.registers.map(|value| if let Value::Const(constant) = value { Some(constant) } else { None })
    }

    /// Whether everything that a function must keep is as it was at its entry.
    pub(super) fn is_as_called(&self) -> bool {
        let kept = [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];
        let is_kept = |register: &Register| {
            let number = register.number();
            self.registers[number] == Value::Entry(number as u8)
        };
        self.stack() == Some(0) && kept.iter().all(is_kept)
    }

    /// Where the stack pointer is, bytes from where it was at the entry.
    pub(super) fn stack(&self) -> Option<i64> {
        self.stack_of(Register::RSP)
    }

    fn stack_of(&self, register: Register) -> Option<i64> {
        match self.registers[register.number()] {
            Value::Stack(at) => Some(at),
            _ => None,
        }
    }

    /// The slot that holds this value, if one does.
    pub(super) fn slot_with(&self, value: Value) -> Option<i64> {
        self.slots.iter().find(|(_, held)| **held == value).map(|(at, _)| *at)
    }

    /// Whether stores to unknown places and calls may write to the frame.
    pub(super) fn is_escaped(&self) -> bool {
        self.escaped
    }

    /// Whether a jump on the zero flag can be taken; the register that is 0 exactly if the flag is set, if any.
    pub(super) fn zero_flag(&self) -> (Option<bool>, Option<u8>) {
        match self.flag {
            Flag::Unknown => (None, None),
            Flag::Known(set) => (Some(set), None),
            Flag::IsZero(register) => (None, Some(register)),
        }
    }

    /// Keeps what holds in `other` too. Whether something was lost.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (held, others) in self.registers.iter_mut().zip(&other.registers) {
            if held != others {
                *held = Value::Unknown;
            }
        }
        self.slots.retain(|at, held| other.slots.get(at) == Some(held));
        if self.flag != other.flag {
            self.flag = Flag::Unknown;
        }
        self.escaped |= other.escaped;
        *self != before
    }

    /// Where the operand in memory is.
    pub(super) fn address(&self, memory: &UsedMemory) -> Address {
        if matches!(memory.segment(), Register::FS | Register::GS) {
            return Address::Elsewhere;
        }
        let is_stack = |register: Register| register.is_gpr64() && self.stack_of(register).is_some();
        if is_stack(memory.index()) {
            return Address::Frame;
        }
        if !is_stack(memory.base()) {
            return Address::Elsewhere;
        }
        let at = self.stack_of(memory.base()).and_then(|at| at.checked_add(memory.displacement() as i64));
        match at {
            Some(at) if memory.index() == Register::None => Address::Slot(at),
            _ => Address::Frame,
        }
    }

    /// The slot of a whole word that is operand number `operand` of a move.
    pub(super) fn slot_of(&self, instruction: &Instruction, operand: u32) -> Option<i64> {
        let is_plain = instruction.op_kind(operand) == OpKind::Memory
            && instruction.memory_index() == Register::None
            && !matches!(instruction.memory_segment(), Register::FS | Register::GS)
            && instruction.memory_base().is_gpr64();
        if !is_plain {
            return None;
        }
        self.stack_of(instruction.memory_base())?.checked_add(instruction.memory_displacement64() as i64)
    }

    /// Follows one instruction, which may be a call that comes back.
    pub(super) fn follow(&mut self, instruction: &Instruction, infos: &mut InstructionInfoFactory) {
        let result = self.result(instruction);
        let flag = self.flag_of(instruction);
        let stack = self.stack_after(instruction);
        let (pushed, taken) = (self.pushed(instruction), self.taken(instruction));
        self.note_escape(instruction);

        let info = infos.info(instruction);
        for memory in info.used_memory().iter().filter(|memory| is_write(memory.access())) {
            let size = if instruction.has_rep_prefix() { 0 } else { memory.memory_size().size() as i64 };
            match self.address(memory) {
                Address::Slot(at) if size > 0 => self.forget(at, size),
                Address::Slot(_) | Address::Frame => self.slots.clear(),
                Address::Elsewhere if self.escaped || memory.base() == Register::RSP => self.slots.clear(),
                Address::Elsewhere => {}
            }
        }
        for used in info.used_registers().iter().filter(|used| is_write(used.access())) {
            let register = used.register().full_register();
            if register.is_gpr64() {
                self.write(register, Value::Unknown);
            }
        }
        self.registers[Register::RSP.number()] = stack.map_or(Value::Unknown, Value::Stack);
        if is_call(instruction) {
            self.call();
        } else if instruction.rflags_modified() != 0 {
            self.flag = Flag::Unknown;
        }
        if let (Some(value), Some(at)) = (pushed, stack) {
            self.slots.insert(at, value);
        }
        if let Some((at, value)) = taken {
            self.slots.insert(at, value);
        }
        if let Some((register, value)) = result {
            self.write(register, value);
        }
        if let Some(flag) = flag {
            self.flag = flag;
        }
    }

    fn write(&mut self, register: Register, value: Value) {
        self.registers[register.number()] = value;
        if self.flag == Flag::IsZero(register.number() as u8) {
            self.flag = Flag::Unknown;
        }
    }

    fn forget(&mut self, at: i64, size: i64) {
        self.slots.retain(|slot, _| slot.saturating_add(WORD) <= at || at.saturating_add(size) <= *slot);
    }

    /// What a call leaves.
    fn call(&mut self) {
        for register in (0..GENERAL as u32).map(|number| Register::RAX + number) {
            if !is_preserved_by_calls(register) {
                self.write(register, Value::Unknown);
            }
        }
        self.flag = Flag::Unknown;
        match self.stack() {
            Some(stack) if !self.escaped => self.slots.retain(|at, _| *at >= stack),
            _ => self.slots.clear(),
        }
    }

    /// What an operand holds, extended with zeros if it is half a register.
    fn read(&self, instruction: &Instruction, operand: u32) -> Value {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                let value =
                    if register.is_gpr() { self.registers[register.full_register().number()] } else { Value::Unknown };
                match value {
                    _ if register.is_gpr64() => value,
                    Value::Const(constant) if register.is_gpr32() => Value::Const(constant & u64::from(u32::MAX)),
                    _ => Value::Unknown,
                }
            }
            OpKind::Memory => match self.slot_of(instruction, operand) {
                Some(at) if instruction.memory_size().size() == WORD as usize => {
                    self.slots.get(&at).copied().unwrap_or(Value::Unknown)
                }
                _ => Value::Unknown,
            },
            kind if is_immediate(kind) => {
                let whole = instruction.immediate(operand);
                let is_half = instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_gpr32();
                Value::Const(if is_half { whole & u64::from(u32::MAX) } else { whole })
            }
            _ => Value::Unknown,
        }
    }

    /// The register that the instruction gives a value that we know, and the value.
    fn result(&self, instruction: &Instruction) -> Option<(Register, Value)> {
        if instruction.mnemonic() == Mnemonic::Leave {
            let popped = self.stack_of(Register::RBP).and_then(|at| self.slots.get(&at)).copied();
            return Some((Register::RBP, popped.unwrap_or(Value::Unknown)));
        }
        if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
            return None;
        }
        let register = instruction.op0_register();
        if !register.is_gpr64() && !register.is_gpr32() {
            return None;
        }
        let full = register.full_register();
        let value = match instruction.mnemonic() {
            Mnemonic::Mov => self.read(instruction, 1),
            Mnemonic::Xor | Mnemonic::Sub if is_same_register_twice(instruction) => Value::Const(0),
            Mnemonic::And => match (self.read(instruction, 0), self.read(instruction, 1)) {
                (Value::Const(a), Value::Const(b)) => Value::Const(a & b),
                _ => return None,
            },
            Mnemonic::Pop => {
                let popped = self.stack().and_then(|at| self.slots.get(&at)).copied();
                popped.unwrap_or(Value::Unknown)
            }
            _ => return None,
        };
        // The stack pointer is followed by itself.
        let is_known = full != Register::RSP && (register.is_gpr64() || matches!(value, Value::Const(_)));
        (is_known && value != Value::Unknown).then_some((full, value))
    }

    /// What the zero flag says after an instruction that compares.
    fn flag_of(&self, instruction: &Instruction) -> Option<Flag> {
        let constants = || match (self.read(instruction, 0), self.read(instruction, 1)) {
            (Value::Const(a), Value::Const(b)) => Some((a, b)),
            _ => None,
        };
        match instruction.mnemonic() {
            Mnemonic::Test if instruction.op0_kind() == OpKind::Register => {
                if let Some((a, b)) = constants() {
                    return Some(Flag::Known(a & b == 0));
                }
                let register = instruction.op0_register();
                let is_whole = register.is_gpr64() && is_same_register_twice(instruction);
                is_whole.then_some(Flag::IsZero(register.number() as u8))
            }
            Mnemonic::Cmp if instruction.op0_kind() == OpKind::Register => {
                constants().map(|(a, b)| Flag::Known(a == b))
            }
            _ => None,
        }
    }

    /// Where the stack pointer is after the instruction.
    fn stack_after(&self, instruction: &Instruction) -> Option<i64> {
        let stack = self.stack()?;
        let is_of_stack = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Push if moves_words(instruction) => stack.checked_sub(WORD),
            Mnemonic::Pop if moves_words(instruction) && !is_of_stack => stack.checked_add(WORD),
            Mnemonic::Leave => self.stack_of(Register::RBP)?.checked_add(WORD),
            Mnemonic::Sub if is_of_stack && is_immediate(instruction.op1_kind()) => {
                stack.checked_sub(instruction.immediate(1) as i64)
            }
            Mnemonic::Add if is_of_stack && is_immediate(instruction.op1_kind()) => {
                stack.checked_add(instruction.immediate(1) as i64)
            }
            Mnemonic::Lea if is_of_stack && instruction.memory_index() == Register::None => {
                let base = instruction.memory_base();
                if !base.is_gpr64() {
                    return None;
                }
                self.stack_of(base)?.checked_add(instruction.memory_displacement64() as i64)
            }
            Mnemonic::Mov if is_of_stack => match self.read(instruction, 1) {
                Value::Stack(at) => Some(at),
                _ => None,
            },
            _ if is_of_stack && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) => None,
            Mnemonic::Enter => None,
            _ if instruction.is_stack_instruction() && !is_call(instruction) => None,
            _ => Some(stack),
        }
    }

    /// The word that the instruction pushes.
    fn pushed(&self, instruction: &Instruction) -> Option<Value> {
        (instruction.mnemonic() == Mnemonic::Push && moves_words(instruction)).then(|| {
            if instruction.op0_kind() == OpKind::Register { self.read(instruction, 0) } else { Value::Unknown }
        })
    }

    /// The slot that the instruction stores a whole register to, and the register's value.
    fn taken(&self, instruction: &Instruction) -> Option<(i64, Value)> {
        if instruction.code() != Code::Mov_rm64_r64 || instruction.op0_kind() != OpKind::Memory {
            return None;
        }
        Some((self.slot_of(instruction, 0)?, self.read(instruction, 1)))
    }

    /// Whether the instruction makes an address in the frame that others may use, or puts one where it is not followed.
    fn note_escape(&mut self, instruction: &Instruction) {
        let reads_stack = |operand: u32| matches!(self.read(instruction, operand), Value::Stack(_));
        let to = if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register {
            instruction.op0_register().full_register()
        } else {
            Register::None
        };
        let is_pointer = matches!(to, Register::RSP | Register::RBP);
        let escapes = match instruction.mnemonic() {
            Mnemonic::Lea => {
                let base = instruction.memory_base();
                let index = instruction.memory_index();
                let is_stack = |register: Register| register.is_gpr64() && self.stack_of(register).is_some();
                (is_stack(base) || is_stack(index)) && to != Register::RSP
            }
            Mnemonic::Push => {
                instruction.op0_kind() == OpKind::Register && {
                    let register = instruction.op0_register();
                    register.is_gpr64() && self.stack_of(register).is_some()
                }
            }
            Mnemonic::Mov => reads_stack(1) && !is_pointer,
            // These read addresses and make none, or adjust the stack pointer.
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Pop | Mnemonic::Leave => false,
            Mnemonic::Add | Mnemonic::Sub if to == Register::RSP && is_immediate(instruction.op1_kind()) => false,
            _ => (0..instruction.op_count()).any(|operand| {
                instruction.op_kind(operand) == OpKind::Register
                    && instruction.op_register(operand).is_gpr()
                    && self.stack_of(instruction.op_register(operand).full_register()).is_some()
            }),
        };
        self.escaped |= escapes;
    }
}

pub(super) fn is_write(access: OpAccess) -> bool {
    !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None)
}

/// Whether control goes to other code and comes back.
pub(super) fn is_call(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_call_near_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}

fn is_immediate(kind: OpKind) -> bool {
    use OpKind as K;
    matches!(
        kind,
        K::Immediate8
            | K::Immediate16
            | K::Immediate32
            | K::Immediate64
            | K::Immediate8to16
            | K::Immediate8to32
            | K::Immediate8to64
            | K::Immediate32to64
    )
}

pub(super) fn is_same_register_twice(instruction: &Instruction) -> bool {
    instruction.op1_kind() == OpKind::Register && instruction.op0_register() == instruction.op1_register()
}

/// Whether a push or pop is of eight bytes.
fn moves_words(instruction: &Instruction) -> bool {
    instruction.stack_pointer_increment().unsigned_abs() == WORD as u32
}
