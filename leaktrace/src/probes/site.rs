//! Where in a function the probe goes.
//!
//! The kernel emulates some instructions under a uprobe and single-steps all others, which costs thirty times as much in a
//! virtual machine. So the site is the first emulated instruction from the entry on at which a probe sees exactly the calls
//! that a probe at the entry would see: every call passes the site once and nothing else does, the arguments can still be
//! found, the stack pointer's offset is known, and the function has not yet done anything visible to others. In doubt the
//! site is the entry, which is always correct and sometimes slow.
//!
//! Bytes in, values out. Which function this is and where it lies in a file is [`super::plan`]'s business.

mod emulation;
mod exits;
mod forward;
mod frees;
mod function;
mod leaving;
mod once;
mod sweep;
mod track;

use std::fmt;

use iced_x86::{Decoder, DecoderOptions};

use leaktrace_common::cookie::Register;

use super::functions::Signature;
pub use emulation::{Emulation, Refusal, refusal};
pub use exits::{Surroundings, exits};
pub use forward::{calls, forward};
use function::argument_register;
pub use function::{Cost, Fallback, Function, LONGEST_INSTRUCTION, Machine, Reason, Site};
pub use leaving::{Destination, Reached};
pub use once::{Counts, Place, Point, Proven, Unproven, View, once};
use sweep::{Sweep, Unclear};
use track::Tracker;

/// How far from the entry a site is looked for, in instructions. The farthest we have met is jemalloc's `free`, at 10.
const MAX_INSTRUCTIONS: usize = 48;

/// Finds the site for a function of this signature.
///
/// # Errors
///
/// If no probe can be put even on the entry.
pub fn select(function: &Function<'_>, signature: Signature, emulation: Emulation) -> Result<Site, Refusal> {
    let arguments = signature.positions().map(|position| argument_register(function.machine, position));
    let entry = |cost, reason| Site { offset: 0, stack_shift: 0, arguments, cost, reason };
    if function.machine == Machine::Aarch64 {
        return Ok(entry(Cost::Unknown, Reason::Fallback(Fallback::Architecture)));
    }
    let first = Decoder::with_ip(64, function.code, function.address, DecoderOptions::NONE).decode();
    let bytes = function.code.get(..first.len()).unwrap_or_default();
    if let Some(refusal) = emulation::refusal(&first, bytes) {
        return Err(refusal);
    }
    if emulation.emulates(bytes) {
        return Ok(entry(Cost::Emulated, Reason::Entry));
    }
    Ok(search(function, signature, emulation)
        .unwrap_or_else(|fallback| entry(Cost::Stepped, Reason::Fallback(fallback))))
}

/// The first emulated instruction behind the entry, or the reason why the probe cannot be moved.
fn search(function: &Function<'_>, signature: Signature, emulation: Emulation) -> Result<Site, Fallback> {
    if !function.whole {
        return Err(Fallback::UnknownSize);
    }
    let sweep = Sweep::of(function.code, function.address).map_err(|unclear| match unclear {
        Unclear::TooLong | Unclear::Undecodable => Fallback::Unreadable,
        Unclear::IndirectJump => Fallback::IndirectJump,
    })?;
    let mut tracker = Tracker::at_entry();
    for (index, instruction) in sweep.instructions.iter().enumerate().take(MAX_INSTRUCTIONS) {
        let offset = instruction.ip().wrapping_sub(function.address) as usize;
        if index > 0 {
            // Overlapping code counts: a branch may lead into the middle of what is decoded as one instruction.
            if (sweep.instructions[index - 1].ip().wrapping_add(1)..=instruction.ip())
                .any(|address| sweep.is_target(address))
            {
                return Err(Fallback::BranchTarget);
            }
            if function.entered_at.is_some_and(|address| address <= instruction.ip()) {
                return Err(Fallback::EnteredElsewhere);
            }
            // Not to a call: kernels without support for shadow stacks emulate calls without updating the shadow stack,
            // which kills the process.
            let bytes = function.code.get(offset..offset + instruction.len());
            if bytes.is_some_and(|bytes| emulation.emulates(bytes)) && !instruction.is_call_near() {
                return found(&tracker, signature, offset);
            }
        }
        tracker.follow(instruction)?;
        if signature.read_positions().any(|position| tracker.find(position).is_none()) {
            return Err(Fallback::ArgumentLost);
        }
    }
    Err(Fallback::NoSite)
}

/// The site at this offset, if the arguments and the stack pointer that the signature needs are known there.
fn found(tracker: &Tracker, signature: Signature, offset: usize) -> Result<Site, Fallback> {
    if signature.kind.needs_return() && tracker.stack_shift() != 0 {
        return Err(Fallback::StackPointer);
    }
    // Arguments that are not read need not be found.
    let arguments = signature
        .positions()
        .map(|position| tracker.find(position).map_or_else(|| argument_register(Machine::X86_64, position), Register));
    Ok(Site {
        offset: offset as u32,
        stack_shift: tracker.stack_shift(),
        arguments,
        cost: Cost::Emulated,
        reason: Reason::Moved,
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undecodable => "its first bytes are no instruction",
            Self::Unsupported => "the kernel puts no probe on its first instruction",
            Self::Deadly => "a probe on its first instruction would kill the process",
        })
    }
}
