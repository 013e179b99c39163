//! Where probes go, held against answers that do not come from the code under test: functions of released libraries, and
//! random code that is executed by an interpreter of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise, its helpers too")]

mod fixtures;
mod interpreter;
mod once;
mod program;
mod random;

/// Whether the kernel emulates the instruction of these bytes, on every release there is: `push` of a register, `nop`,
/// direct jumps, taken or not. (arch/x86/kernel/uprobes.c; calls are emulated too, but never moved to.)
fn is_emulated_everywhere(bytes: &[u8]) -> bool {
    match bytes {
        [opcode] => (0x50..=0x57).contains(opcode) || *opcode == 0x90,
        [0x41, opcode] => (0x50..=0x57).contains(opcode),
        [opcode, _] => *opcode == 0xeb || (0x70..=0x7f).contains(opcode),
        [0xe9, _, _, _, _] => true,
        [0x0f, opcode, _, _, _, _] => (0x80..=0x8f).contains(opcode),
        _ => false,
    }
}
