//! Where the arguments, the stack pointer and the frame pointer are, instruction by instruction, on a straight line.
//!
//! Only instructions that are fully understood are followed; any other ends the straight line. None may write memory outside
//! the function's own frame: other threads could see what the function stores before the probe is hit.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use leaktrace_common::cookie::MAX_STACK_SHIFT;

use super::function::Fallback;

/// The integer argument registers in order: System V AMD64 ABI 3.2.3.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

const GENERAL: usize = 16;

/// The register in which the C argument at this position is passed.
pub(super) fn argument(position: u8) -> Option<Register> {
    ARGUMENTS.get(usize::from(position)).copied()
}

/// What is known at one instruction.
pub(super) struct Tracker {
    /// Which C argument each general register holds, by register number.
    holds: [Option<u8>; GENERAL],
    /// Bytes by which the stack pointer is below its value at the entry.
    stack_shift: u64,
    infos: InstructionInfoFactory,
}

impl Tracker {
    /// At a function's first instruction.
    pub(super) fn at_entry() -> Self {
        let mut holds = [None; GENERAL];
        for (position, register) in ARGUMENTS.iter().enumerate() {
            holds[register.number()] = Some(position as u8);
        }
        Self { holds, stack_shift: 0, infos: InstructionInfoFactory::new() }
    }

    /// Bytes by which the stack pointer is below its value at the entry.
    pub(super) fn stack_shift(&self) -> u64 {
        self.stack_shift
    }

    /// The number of a register that holds the C argument at this position: the one it was passed in, if it still does.
    pub(super) fn find(&self, position: u8) -> Option<u8> {
        let original = argument(position)?.number();
        if self.holds[original] == Some(position) {
            return Some(original as u8);
        }
        self.holds.iter().position(|held| *held == Some(position)).map(|number| number as u8)
    }

    /// Whether the register that passes the C argument at `position` holds what was passed in as argument `original`.
    pub(super) fn holds(&self, position: u8, original: u8) -> bool {
        argument(position).is_some_and(|register| self.holds[register.number()] == Some(original))
    }

    /// Follows one instruction, or says why it ends the line.
    pub(super) fn follow(&mut self, instruction: &Instruction) -> Result<(), Fallback> {
        if is_system_call(instruction.mnemonic()) {
            return Err(Fallback::SystemCall);
        }
        if instruction.flow_control() != FlowControl::Next {
            return Err(Fallback::NoSite);
        }
        let strange = instruction.has_lock_prefix() || has_repeat_prefix(instruction) || instruction.is_privileged();
        if strange || !is_understood(instruction.mnemonic()) {
            return Err(Fallback::NotUnderstood);
        }
        if let Some(down) = stack_adjustment(instruction) {
            let shift = self.stack_shift.checked_add_signed(down);
            let followed = shift.filter(|shift| shift.is_multiple_of(8) && *shift <= MAX_STACK_SHIFT);
            self.stack_shift = followed.ok_or(Fallback::StackPointer)?;
            return Ok(());
        }
        self.check_memory(instruction)?;
        let copied = self.copied(instruction);
        let mut written = [false; GENERAL];
        for used in self.infos.info(instruction).used_registers() {
            if matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                continue;
            }
            let register = used.register().full_register();
            match register {
                Register::RSP => return Err(Fallback::StackPointer),
                Register::RBP => return Err(Fallback::FramePointer),
                _ if register.is_gpr64() => written[register.number()] = true,
                _ => return Err(Fallback::NotUnderstood),
            }
        }
        for (held, written) in self.holds.iter_mut().zip(written) {
            if written {
                *held = None;
            }
        }
        if let Some((to, position)) = copied {
            self.holds[to] = position;
        }
        Ok(())
    }

    /// Any memory may be read, but only the function's own frame may be written: below the return address, and at a
    /// place known from the stack pointer.
    fn check_memory(&mut self, instruction: &Instruction) -> Result<(), Fallback> {
        for used in self.infos.info(instruction).used_memory() {
            if matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess) {
                continue;
            }
            let in_frame = used.base() == Register::RSP
                && used.index() == Register::None
                && matches!(used.segment(), Register::SS | Register::DS);
            let end = (used.displacement() as i64).checked_add(used.memory_size().size() as i64);
            // The frame ends where the stack pointer was at the entry, at the return address.
            if !in_frame || end.is_none_or(|end| end > self.stack_shift as i64) {
                return Err(Fallback::MemoryWrite);
            }
        }
        Ok(())
    }

    /// The register that a full copy goes to, and the argument it then holds.
    fn copied(&self, instruction: &Instruction) -> Option<(usize, Option<u8>)> {
        let whole = |register: Register| register.is_gpr64().then(|| register.number());
        if instruction.mnemonic() != Mnemonic::Mov
            || instruction.op0_kind() != OpKind::Register
            || instruction.op1_kind() != OpKind::Register
        {
            return None;
        }
        let (to, from) = (whole(instruction.op0_register())?, whole(instruction.op1_register())?);
        Some((to, self.holds[from]))
    }
}

/// By how many bytes the instruction moves the stack pointer down, if it does nothing else.
fn stack_adjustment(instruction: &Instruction) -> Option<i64> {
    if instruction.op0_kind() != OpKind::Register || instruction.op0_register() != Register::RSP {
        return None;
    }
    match instruction.mnemonic() {
        Mnemonic::Sub if is_immediate(instruction) => Some(instruction.immediate(1) as i64),
        Mnemonic::Add if is_immediate(instruction) => (instruction.immediate(1) as i64).checked_neg(),
        Mnemonic::Lea if instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None => {
            (instruction.memory_displacement64() as i64).checked_neg()
        }
        _ => None,
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory)
}

fn has_repeat_prefix(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

const fn is_system_call(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Int1)
}

/// Instructions that do nothing but compute on general registers and flags, load, and store to the frame.
const fn is_understood(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Endbr64
            | M::Nop
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Test
            | M::Cmp
            | M::Add
            | M::Adc
            | M::Sub
            | M::Sbb
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::And
            | M::Or
            | M::Xor
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Shlx
            | M::Shrx
            | M::Sarx
            | M::Rorx
            | M::Imul
            | M::Mul
            | M::Mulx
            | M::Bt
            | M::Bsf
            | M::Bsr
            | M::Tzcnt
            | M::Lzcnt
            | M::Popcnt
            | M::Andn
            | M::Bextr
            | M::Bzhi
            | M::Blsr
            | M::Blsi
            | M::Blsmsk
            | M::Bswap
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovne
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle
            | M::Cmovs
            | M::Cmovns
            | M::Cmovo
            | M::Cmovno
            | M::Cmovp
            | M::Cmovnp
            | M::Seta
            | M::Setae
            | M::Setb
            | M::Setbe
            | M::Sete
            | M::Setne
            | M::Setg
            | M::Setge
            | M::Setl
            | M::Setle
            | M::Sets
            | M::Setns
            | M::Seto
            | M::Setno
            | M::Setp
            | M::Setnp
    )
}
