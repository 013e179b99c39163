//! What the kernel does with the instruction under a uprobe: carry it out itself, single-step a copy of it, or refuse.
//!
//! The bytes of one instruction go in, an answer comes out. The rules are those of the kernel's arch/x86/kernel/uprobes.c
//! (`branch_setup_xol_ops`, `push_setup_xol_ops`, `is_prefix_bad`, `uprobe_init_insn`). Where kernels differ, an instruction
//! counts as emulated only if all of them emulate it, unless [`Emulation::for_kernel`] knows better. A wrong "stepped" costs
//! only time. So does a wrong "emulated", unless the kernel emulates another instruction than the processor would execute,
//! which kills the target: it takes `41 90` (`xchg %eax,%r8d`) for a nop.

use iced_x86::{Instruction, Mnemonic, Register};

/// Which instructions the running kernel emulates beyond those that every supported one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emulation {
    word_nop: bool,
    long_nops: bool,
}

impl Emulation {
    /// What every kernel from 5.10 on emulates: `push` of a register, direct jumps and calls, conditional jumps, `nop`.
    pub const BASELINE: Self = Self { word_nop: false, long_nops: false };

    /// What the kernel of this release emulates.
    #[must_use]
    pub const fn for_kernel(major: u32, minor: u32) -> Self {
        Self {
            // Commit cefa72129e45: before it, attaching to `66 90` fails with ENOTSUPP. Stable series have it from
            // 5.10.163, 5.15.87 and 6.1.3 on; the patch level says little in distributions, so it is not asked.
            word_nop: at_least(major, minor, 6, 2),
            long_nops: at_least(major, minor, 6, 16),
        }
    }

    /// Whether a probe on this instruction needs no single step. `bytes` is exactly one instruction.
    #[must_use]
    pub fn emulates(self, bytes: &[u8]) -> bool {
        match bytes {
            // push %rax … %rdi and nop, jmp rel8 and jcc rel8, jmp rel32 and call rel32, jcc rel32. Any other prefix of
            // push than 41, even 48, is stepped; other forms of 90 are the deadly `pause`, and `xchg` with %r8.
            [0x50..=0x57 | 0x90]
            | [0x41, 0x50..=0x57]
            | [0xeb | 0x70..=0x7f, _]
            | [0xe9 | 0xe8, _, _, _, _]
            | [0x0f, 0x80..=0x8f, _, _, _, _] => true,
            [0x66, 0x90] => self.word_nop,
            // The kernel's own nops of each length. Not the one of five bytes: from 6.18 on the kernel may replace it by a
            // call, which writes below the stack pointer where a leaf function may keep its variables.
            [0x0f, 0x1f, 0x00]
            | [0x0f, 0x1f, 0x40, 0x00]
            | [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00]
            | [0x0f, 0x1f, 0x80, 0, 0, 0, 0]
            | [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0] => self.long_nops,
            _ => false,
        }
    }
}

const fn at_least(major: u32, minor: u32, wanted_major: u32, wanted_minor: u32) -> bool {
    major > wanted_major || (major == wanted_major && minor >= wanted_minor)
}

/// Why no probe can be put on an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The bytes are no instruction we know.
    Undecodable,
    /// The kernel refuses it (`ENOTSUPP`, 524).
    Unsupported,
    /// The kernel takes it, and the process dies of it.
    Deadly,
}

/// Whether a probe may be put on this instruction at all. `bytes` are the instruction's.
///
/// Kernels differ a little in what they refuse; this refuses what any of them does.
#[must_use]
pub fn refusal(instruction: &Instruction, bytes: &[u8]) -> Option<Refusal> {
    if instruction.is_invalid() {
        return Some(Refusal::Undecodable);
    }
    if instruction.mnemonic() == Mnemonic::Pause {
        return Some(Refusal::Deadly);
    }
    // xchg with %r8 or wider: kernels before 6.18 take it for a nop.
    if matches!(bytes, [0x40..=0x4f, 0x90] | [0x66, 0x41 | 0x49, 0x90]) {
        return Some(Refusal::Deadly);
    }
    let prefixes = bytes.iter().take_while(|byte| is_legacy_prefix(**byte));
    let mut word = false;
    for prefix in prefixes {
        match prefix {
            0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => return Some(Refusal::Unsupported),
            0x66 => word = true,
            _ => {}
        }
    }
    let direct_branch =
        instruction.is_jmp_short_or_near() || instruction.is_call_near() || instruction.is_jcc_short_or_near();
    if word && direct_branch {
        return Some(Refusal::Unsupported);
    }
    let system = instruction.is_privileged() || is_refused(instruction.mnemonic());
    let masks_exceptions = instruction.op_count() > 0 && instruction.op0_register() == Register::SS;
    (system || masks_exceptions).then_some(Refusal::Unsupported)
}

const fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// One-byte opcodes and two-byte ones that the kernel's tables leave out.
const fn is_refused(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(mnemonic, M::Int | M::Int1 | M::Int3 | M::Hlt | M::Cli | M::Sti | M::Ud2 | M::Iret | M::Iretd | M::Iretq)
        || matches!(mnemonic, M::Syscall | M::Sysenter | M::Sysexit | M::Sysret | M::Sysexitq | M::Sysretq)
        || matches!(mnemonic, M::In | M::Insb | M::Insw | M::Insd | M::Out | M::Outsb | M::Outsw | M::Outsd)
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn refused(bytes: &[u8]) -> Option<Refusal> {
        refusal(&Decoder::new(64, bytes, DecoderOptions::NONE).decode(), bytes)
    }

    #[test]
    fn every_kernel_emulates_pushes_jumps_and_the_one_byte_nop() {
        let emulated: [&[u8]; 9] = [
            &[0x53],                      // push %rbx
            &[0x41, 0x57],                // push %r15
            &[0x90],                      // nop
            &[0xeb, 0x10],                // jmp
            &[0xe9, 0, 1, 0, 0],          // jmp
            &[0xe8, 0, 1, 0, 0],          // call
            &[0x74, 0x05],                // je
            &[0x7f, 0xfe],                // jg
            &[0x0f, 0x84, 0x4e, 0, 0, 0], // je
        ];
        assert!(emulated.into_iter().all(|bytes| Emulation::BASELINE.emulates(bytes)));
    }

    #[test]
    fn no_kernel_is_trusted_with_anything_else() {
        let stepped: [&[u8]; 14] = [
            &[0xf3, 0x0f, 0x1e, 0xfa], // endbr64
            &[0x48, 0x85, 0xff],       // test %rdi, %rdi
            &[0xc3],                   // ret
            &[0x5b],                   // pop %rbx
            &[0x48, 0x53],             // push %rbx, with a REX prefix the kernel does not know there
            &[0x66, 0x53],             // push %bx
            &[0xff, 0xe0],             // jmp *%rax
            &[0xff, 0x25, 0, 0, 0, 0], // jmp *0(%rip)
            &[0xe3, 0x10],             // jrcxz
            &[0xf3, 0x90],             // pause
            &[0x41, 0x90],             // xchg %eax, %r8d: the kernel would do nothing instead
            &[0x48, 0x90],             // nop with a REX prefix
            &[0x0f, 0x1f, 0x44, 0, 0], // the nop of five bytes, which may become a call
            &[0x2e, 0x74, 0x05],       // je with a hint
        ];
        for emulation in [Emulation::BASELINE, Emulation::for_kernel(7, 2)] {
            assert!(stepped.iter().all(|bytes| !emulation.emulates(bytes)), "{emulation:?}");
        }
    }

    #[test]
    fn newer_kernels_emulate_more_nops() {
        let (word, long) = ([0x66, 0x90], [0x0f, 0x1f, 0x40, 0x00]);
        for (major, minor, words, longs) in
            [(5, 15, false, false), (6, 1, false, false), (6, 2, true, false), (6, 16, true, true), (7, 0, true, true)]
        {
            let emulation = Emulation::for_kernel(major, minor);
            assert_eq!((emulation.emulates(&word), emulation.emulates(&long)), (words, longs), "{major}.{minor}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_or_the_process_dies_of_is_not_probed() {
        let unsupported: [&[u8]; 10] = [
            &[0x2e, 0x0f, 0x1f, 0x40, 0x00], // a nop with a CS prefix
            &[0x3e, 0xff, 0xe0],             // notrack jmp *%rax
            &[0xf0, 0x48, 0xff, 0x07],       // lock incq (%rdi)
            &[0x66, 0xe9, 0, 0, 0, 0],       // jmp with an operand size
            &[0x0f, 0x05],                   // syscall
            &[0xcd, 0x80],                   // int $0x80
            &[0xcc],                         // int3
            &[0xf4],                         // hlt
            &[0x0f, 0x0b],                   // ud2
            &[0x8e, 0xd0],                   // mov %eax, %ss
        ];
        for bytes in unsupported {
            assert_eq!(refused(bytes), Some(Refusal::Unsupported), "{bytes:x?}");
        }
        assert_eq!(refused(&[0xf3, 0x90]), Some(Refusal::Deadly));
        assert_eq!(refused(&[0x41, 0x90]), Some(Refusal::Deadly));
        assert_eq!(refused(&[0x06]), Some(Refusal::Undecodable));
        assert_eq!(refused(&[]), Some(Refusal::Undecodable));
        let taken: [&[u8]; 5] = [&[0x90], &[0x66, 0x90], &[0x53], &[0x48, 0x85, 0xff], &[0x64, 0x48, 0x8b, 0x00]];
        assert!(taken.into_iter().all(|bytes| refused(bytes).is_none()));
    }
}
