//! Where a thread's stack is in use from that handles a signal on an alternate stack.
//!
//! In: the stack pointer. Out: the lowest address in use of that mapping. Programs give an array in a function's frame as alternate
//! stack: then the frames that the signal interrupted lie below the stack pointer.

use super::memory::Memory;
use crate::process::memory::Survey;

/// How far above the stack pointer the kernel's frame for a handler may be, bytes: alternate stacks are smaller.
const WITHIN: u64 = 1 << 20;
/// The selectors of 64-bit code and data, as the kernel saves them (`cs` to `ss` of `struct sigcontext_64`,
/// arch/x86/include/uapi/asm/sigcontext.h), and where before them it saves the stack pointer, in words.
const SELECTORS: u64 = 0x002b_0000_0000_0033;
const STACK_POINTER: usize = 3;
/// What functions may use below the stack pointer, bytes.
const RED_ZONE: u64 = 128;
/// How many handlers may have interrupted each other.
const NESTED: usize = 8;
const WORD: u64 = 8;

/// From where on the stack around a stack pointer is in use. What is left of handlers that have returned makes more of it count as
/// used, which only makes blocks reachable.
pub(super) fn live_from(stack_pointer: u64, survey: &Survey, memory: &dyn Memory) -> u64 {
    let behind = survey.regions.partition_point(|region| region.end.0 <= stack_pointer);
    let Some(region) = survey.regions.get(behind).filter(|region| region.start.0 <= stack_pointer) else {
        return stack_pointer;
    };
    let (mut live_from, mut read_to) = (stack_pointer, region.end.0.min(stack_pointer.saturating_add(WITHIN)));
    for _ in 0..NESTED {
        let from = live_from.next_multiple_of(WORD);
        let mut words = vec![0; (read_to.saturating_sub(from) / WORD) as usize];
        memory.read(from, &mut words);
        let saved = words.iter().enumerate().filter(|(_, word)| **word == SELECTORS);
        let pointers = saved.filter_map(|(at, _)| words.get(at.checked_sub(STACK_POINTER)?).copied());
        let lower = pointers.filter(|pointer| (region.start.0..live_from).contains(pointer)).min();
        let Some(lower) = lower else { break };
        (read_to, live_from) = (live_from, lower.saturating_sub(RED_ZONE).max(region.start.0));
    }
    live_from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;
    use crate::model::Address;
    use crate::process::maps::{MappingName, Permissions};
    use crate::process::memory::{Region, RegionKind};

    fn stack(words: Vec<(u64, Vec<u64>)>, pointer: u64) -> u64 {
        let permissions = Permissions { read: true, write: true, execute: false, shared: false };
        let (start, end, kind) = (Address(0x10000), Address(0x20000), RegionKind::Stack);
        let region = Region { start, end, kind, permissions, name: MappingName::Anonymous };
        let survey = Survey { regions: vec![region], runs: Vec::new(), code: Vec::new(), unknown_bytes: 0 };
        live_from(pointer, &survey, &Words(words))
    }

    #[test]
    fn what_a_handler_on_a_stack_within_the_stack_has_interrupted_is_in_use() {
        let frame = |pointer| vec![pointer, 0x55_5555, 0x246, SELECTORS];
        assert_eq!(stack(vec![(0x18800, frame(0x14000))], 0x18000), 0x14000 - 128);
        assert_eq!(stack(vec![(0x18800, frame(0x1c000))], 0x18000), 0x18000, "not below");
        assert_eq!(stack(vec![(0x18800, frame(0x9000))], 0x18000), 0x18000, "on another stack");
        let both = vec![(0x18800, frame(0x14000)), (0x14800, frame(0x12000))];
        assert_eq!(stack(both, 0x18000), 0x12000 - 128, "one handler in another");
        assert_eq!(stack(Vec::new(), 0x8000), 0x8000, "in no mapping");
    }
}
