//! Every branch into the middle of a function that its own code shows.
//!
//! The whole function is disassembled from its first byte to its last. The result is its instructions and the targets of its
//! branches, or the reason why not all targets can be known. It answers the question: can anything reach an instruction
//! between the entry and a site without passing the entry?

use std::collections::HashMap;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

/// Longer functions are not looked through, in bytes: no allocator's is, and a symbol table may claim anything.
pub(super) const MAX_FUNCTION: usize = 64 << 10;

/// How many loads a function pointer may be behind (`mov hook@GOT, %rax; mov (%rax), %rax; jmp *%rax` are two).
const MAX_LOADS: u32 = 4;

/// Why the ways into a function's middle are not all known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Longer than [`MAX_FUNCTION`].
    TooLong,
    /// Bytes that are no instruction: data among the code, or a wrong symbol size.
    Undecodable,
    /// A jump through a register or a table that may lead anywhere in the function.
    IndirectJump,
}

/// A function's instructions, in order, and where its branches lead.
pub(super) struct Sweep {
    /// From the entry to the last byte of the symbol.
    pub(super) instructions: Vec<Instruction>,
    sources: HashMap<u64, Vec<usize>>,
}

impl Sweep {
    /// Looks through the function of these bytes at this address.
    pub(super) fn of(code: &[u8], address: u64) -> Result<Self, Unclear> {
        if code.len() > MAX_FUNCTION {
            return Err(Unclear::TooLong);
        }
        let mut sweep = Self { instructions: Vec::new(), sources: HashMap::new() };
        for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
            if instruction.is_invalid() {
                return Err(Unclear::Undecodable);
            }
            if has_direct_target(&instruction) {
                sweep.sources.entry(instruction.near_branch_target()).or_default().push(sweep.instructions.len());
            }
            sweep.instructions.push(instruction);
        }
        let stays = |index: usize| is_indirect_jump(&sweep.instructions[index]) && !sweep.is_tail_call(index);
        if (0..sweep.instructions.len()).any(stays) {
            return Err(Unclear::IndirectJump);
        }
        Ok(sweep)
    }

    /// Whether some branch of the function leads to this address.
    pub(super) fn is_target(&self, address: u64) -> bool {
        self.sources.contains_key(&address)
    }

    /// Whether the indirect jump at this index goes through a plain function pointer, such as glibc's `__malloc_hook`, and
    /// thus to another function. A switch computes or indexes the address that its jump loads.
    fn is_tail_call(&self, index: usize) -> bool {
        let jump = &self.instructions[index];
        // Compilers mark a switch's jump `notrack` (a DS prefix) where they guard indirect branches.
        if jump.segment_prefix() == Register::DS {
            return false;
        }
        match jump.op0_kind() {
            OpKind::Memory => self.is_plain_load(jump, index, MAX_LOADS),
            OpKind::Register => self.is_function_pointer(jump.op0_register(), index, MAX_LOADS),
            _ => false,
        }
    }

    /// Whether the memory operand is one fixed place: no index, and a base that is itself plainly loaded.
    fn is_plain_load(&self, instruction: &Instruction, index: usize, loads: u32) -> bool {
        if instruction.memory_index() != Register::None || loads == 0 {
            return false;
        }
        match instruction.memory_base() {
            Register::None | Register::RIP => true,
            // A pointer kept in the frame may be the address of a label.
            Register::RSP | Register::RBP => false,
            base => self.is_function_pointer(base, index, loads - 1),
        }
    }

    /// Whether every value that `register` may have before instruction `index` was loaded from a fixed place or passed in.
    fn is_function_pointer(&self, register: Register, index: usize, loads: u32) -> bool {
        let mut infos = InstructionInfoFactory::new();
        let mut seen = vec![false; self.instructions.len()];
        let mut to_see = Vec::new();
        self.push_predecessors(index, &mut to_see);
        while let Some(index) = to_see.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let instruction = &self.instructions[index];
            if is_call(instruction) && !is_preserved_by_calls(register) {
                return false;
            }
            let info = infos.info(instruction);
            let written = info.used_registers().iter().any(|used| {
                used.register().full_register() == register
                    && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
            });
            if !written {
                self.push_predecessors(index, &mut to_see);
                continue;
            }
            let loaded = instruction.code() == Code::Mov_r64_rm64
                && instruction.op1_kind() == OpKind::Memory
                && self.is_plain_load(instruction, index, loads);
            if !loaded {
                return false;
            }
        }
        true
    }

    /// The instructions from which control may come to this one, as far as the function's own code shows.
    fn push_predecessors(&self, index: usize, to: &mut Vec<usize>) {
        if let Some(before) = index.checked_sub(1) {
            let falls_through = matches!(
                self.instructions[before].flow_control(),
                FlowControl::Next
                    | FlowControl::ConditionalBranch
                    | FlowControl::Call
                    | FlowControl::IndirectCall
                    | FlowControl::XbeginXabortXend
            );
            if falls_through {
                to.push(before);
            }
        }
        if let Some(sources) = self.sources.get(&self.instructions[index].ip()) {
            to.extend(sources);
        }
    }
}

fn has_direct_target(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Far jumps count: their destination is unknown.
fn is_indirect_jump(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::IndirectBranch
        || (instruction.flow_control() == FlowControl::UnconditionalBranch && !has_direct_target(instruction))
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Syscall)
}

/// System V AMD64 ABI, figure 3.4.
pub(super) const fn is_preserved_by_calls(register: Register) -> bool {
    matches!(
        register,
        Register::RBX | Register::RBP | Register::RSP | Register::R12 | Register::R13 | Register::R14 | Register::R15
    )
}
