//! Jumps and calls out of a function, and what they reach.

use iced_x86::{FlowControl, Instruction, OpAccess, OpKind};

use super::function::Function;
use crate::probes::functions::Signature;

/// Longer functions do more than forward a call.
pub(super) const MAX_INSTRUCTIONS: usize = 40;

/// Where a jump out of a function leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To code of the same object.
    Address(u64),
    /// To the function whose address is in this slot.
    Slot(u64),
}

/// What is at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached<T> {
    /// A function that is probed, and what is known of it.
    Probed(Signature, T),
    /// A function that neither allocates nor frees.
    Harmless,
}

impl<T> Reached<T> {
    pub(super) fn probed(self) -> Option<(Signature, T)> {
        match self {
            Self::Probed(signature, known) => Some((signature, known)),
            Self::Harmless => None,
        }
    }
}

/// The destination of a jump or call that leaves the function; `None` for any other instruction.
pub(super) fn destination(instruction: &Instruction, function: &Function<'_>) -> Option<Destination> {
    let within = function.address..function.address.saturating_add(function.code.len() as u64);
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call
            if matches!(instruction.op0_kind(), OpKind::NearBranch64) =>
        {
            let target = instruction.near_branch_target();
            (!within.contains(&target)).then_some(Destination::Address(target))
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall if instruction.is_ip_rel_memory_operand() => {
            Some(Destination::Slot(instruction.ip_rel_memory_address()))
        }
        _ => None,
    }
}

pub(super) fn is_read(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}
