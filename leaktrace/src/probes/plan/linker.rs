//! Where a dynamic linker tells debuggers what it maps and unmaps: behind its calls of `_dl_debug_state`, an empty function
//! in which debuggers stop the process.
//!
//! glibc's linker sets `_r_debug.r_state` before each of these calls (elf/dl-open.c, dl-close.c, dl-load.c). The probe is on
//! the instruction after the call. It is not in the function, since debuggers replace its only instruction; and not on a
//! call, since kernels without support for shadow stacks emulate calls without updating the shadow stack. musl's linker
//! never unmaps anything.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::elf::SymbolKind;
use crate::probes::image::Image;
use crate::probes::site::{Machine, refusal};

/// What the linker calls.
const TELLS: &[u8] = b"_dl_debug_state";
/// What it sets before: `struct r_debug` of elf/link.h.
const STATE: &[u8] = b"_r_debug";
/// No linker has more code, in bytes.
const MAX_CODE: usize = 4 << 20;
/// glibc 2.36 has six calls.
const MAX_CALLS: usize = 64;

/// An instruction that the linker executes after it has reported a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkerProbe {
    /// Its place in the file, in bytes.
    pub offset: u64,
    /// What to add to the instruction's address to get the address of the linker's `_r_debug`.
    pub state_distance: u64,
}

/// All probes of a dynamic linker; none if it does not export these names, or if its code cannot be told from data.
pub(super) fn find(image: &Image<'_>) -> Vec<LinkerProbe> {
    let (Some(tells), Some(state)) = (image.exported(TELLS), image.exported(STATE)) else { return Vec::new() };
    if image.machine() != Machine::X86_64 {
        return Vec::new();
    }
    let mut starts: Vec<u64> =
        image.extents().filter(|extent| extent.kind == SymbolKind::Function).map(|extent| extent.address).collect();
    starts.sort_unstable();
    let mut probes = Vec::new();
    for (address, bytes) in image.code_ranges().filter(|(_, bytes)| bytes.len() <= MAX_CODE) {
        let Some(behind) = behind_calls(address, bytes, tells, &starts) else { return Vec::new() };
        probes.extend(behind.into_iter().filter_map(|next| {
            let offset = image.file_offset(next)?;
            Some(LinkerProbe { offset, state_distance: state.wrapping_sub(next) })
        }));
    }
    probes.truncate(MAX_CALLS);
    probes
}

/// The addresses of the instructions behind calls of `target` that can take a probe. `None` if the disassembly misses one of
/// the function `starts`: then it is not the code that the processor executes.
fn behind_calls(address: u64, bytes: &[u8], target: u64, starts: &[u64]) -> Option<Vec<u64>> {
    let end = address.wrapping_add(bytes.len() as u64);
    let mut starts = starts.iter().copied().filter(|start| (address..end).contains(start)).peekable();
    let (mut behind, mut after_call) = (Vec::new(), false);
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE) {
        while starts.next_if(|start| *start == instruction.ip()).is_some() {}
        if starts.peek().is_some_and(|start| *start < instruction.next_ip()) {
            return None;
        }
        if after_call && bears_probe(&instruction, bytes, address) {
            behind.push(instruction.ip());
        }
        after_call = instruction.is_call_near() && instruction.near_branch_target() == target;
    }
    Some(behind)
}

fn bears_probe(instruction: &Instruction, code: &[u8], address: u64) -> bool {
    let at = instruction.ip().wrapping_sub(address) as usize;
    let bytes = code.get(at..at + instruction.len()).unwrap_or_default();
    !instruction.is_call_near() && refusal(instruction, bytes).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// call 0x2000; mov 0x30(%r13),%rax; call 0x2000; call 0x3000; nop; call 0x4000; nop
    const CODE: &[u8] = &[
        0xe8, 0xfb, 0x0f, 0, 0, // at 0x1000
        0x49, 0x8b, 0x45, 0x30, // at 0x1005
        0xe8, 0xf2, 0x0f, 0, 0, // at 0x1009
        0xe8, 0xed, 0x1f, 0, 0,    // at 0x100e
        0x90, // at 0x1013
        0xe8, 0xe7, 0x2f, 0, 0, 0x90,
    ];

    #[test]
    fn what_follows_a_call_is_probed_unless_it_is_another() {
        assert_eq!(behind_calls(0x1000, CODE, 0x2000, &[0x1005, 0x1013]), Some(vec![0x1005]));
        assert_eq!(behind_calls(0x1000, CODE, 0x3000, &[]), Some(vec![0x1013]));
        assert_eq!(behind_calls(0x1000, CODE, 0x4000, &[]), Some(vec![0x1019]));
        assert_eq!(behind_calls(0x1000, CODE, 0x5000, &[]), Some(Vec::new()));
    }

    #[test]
    fn where_a_function_begins_in_the_middle_of_an_instruction_nothing_is_probed() {
        assert_eq!(behind_calls(0x1000, CODE, 0x2000, &[0x1006]), None);
        // Of another segment.
        assert!(behind_calls(0x1000, CODE, 0x2000, &[0x800, 0x9000]).is_some());
    }
}
