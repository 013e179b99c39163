//! Functions that only pass the call on to another probed function.
//!
//! `free_sized` of glibc is a jump to `free`, `operator delete[]` of jemalloc a jump to `operator delete`, mimalloc's
//! `realloc` loads the thread's heap and jumps to `mi_heap_realloc`. Probing both functions would cost two traps a call, and
//! a `free` that is seen twice looks like a block freed twice. After a jump the second function returns to the first one's
//! caller, so nothing is lost if the first is not probed. The callers of frees are not recorded, so a free may also call
//! instead of jump.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Register};

use super::frees;
use super::function::{Function, Machine};
use super::leaving::{Destination, MAX_INSTRUCTIONS, Reached, destination, is_read};
use super::sweep::Sweep;
use super::track::{Tracker, argument};
use crate::probes::functions::{Kind, Signature};

/// The function to which this one passes every call that does anything, if that is all it does.
///
/// `resolve` says what is at a destination; `None` if that is not known.
pub fn forward<T>(
    function: &Function<'_>,
    signature: Signature,
    resolve: impl Fn(Destination) -> Option<Reached<T>>,
) -> Option<T> {
    if function.machine != Machine::X86_64 || !function.whole {
        return None;
    }
    let sweep = Sweep::of(function.code, function.address).ok()?;
    let probed = |destination| resolve(destination).and_then(Reached::probed);
    straight(&sweep, function, signature, &probed).or_else(|| match signature.kind {
        Kind::Free => frees::elsewhere(&sweep, function, signature, &resolve),
        _ => guarded(&sweep, function, signature, &probed),
    })
}

/// Whether the function itself calls or jumps to a probed function, as far as can be seen. The functions that it calls are
/// not examined; if its own code cannot be decoded, the answer is yes.
pub fn calls<T>(function: &Function<'_>, resolve: impl Fn(Destination) -> Option<Reached<T>>) -> bool {
    if function.machine != Machine::X86_64 || !function.whole {
        return true;
    }
    let Ok(sweep) = Sweep::of(function.code, function.address) else { return true };
    let mut destinations = sweep.instructions.iter().filter_map(|instruction| destination(instruction, function));
    destinations.any(|destination| matches!(resolve(destination), Some(Reached::Probed(..))))
}

/// Straight-line code up to a jump, with the arguments where the other function expects them.
fn straight<T>(
    sweep: &Sweep,
    function: &Function<'_>,
    signature: Signature,
    resolve: &impl Fn(Destination) -> Option<(Signature, T)>,
) -> Option<T> {
    let mut tracker = Tracker::at_entry();
    for instruction in sweep.instructions.iter().take(MAX_INSTRUCTIONS) {
        let Some(destination) = jump(instruction, function) else {
            tracker.follow(instruction).ok()?;
            continue;
        };
        let (other, found) = resolve(destination)?;
        let mut pairs = signature.read_positions().zip(other.read_positions());
        let same = other.kind == signature.kind && pairs.all(|(ours, theirs)| tracker.holds(theirs, ours));
        return (same && tracker.stack_shift() == 0).then_some(found);
    }
    None
}

/// Branches that only check arguments, and jumps to a single other function: glibc's `reallocarray`.
fn guarded<T>(
    sweep: &Sweep,
    function: &Function<'_>,
    signature: Signature,
    resolve: &impl Fn(Destination) -> Option<(Signature, T)>,
) -> Option<T> {
    if sweep.instructions.len() > MAX_INSTRUCTIONS {
        return None;
    }
    let mut infos = InstructionInfoFactory::new();
    let mut leaves_for = None;
    let mut written = Vec::new();
    for instruction in &sweep.instructions {
        if let Some(destination) = jump(instruction, function) {
            if leaves_for.is_some_and(|other| other != destination) {
                return None;
            }
            leaves_for = Some(destination);
            continue;
        }
        match instruction.flow_control() {
            FlowControl::Return => continue,
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {}
            _ => return None,
        }
        let info = infos.info(instruction);
        let stores = info.used_memory().iter().any(|used| {
            // `errno` is all that such a function may set.
            used.segment() != Register::FS && !is_read(used.access())
        });
        if stores || instruction.has_lock_prefix() {
            return None;
        }
        let registers = info.used_registers().iter().filter(|used| !is_read(used.access()));
        written.extend(registers.map(|used| used.register().full_register()));
    }
    let (other, found) = resolve(leaves_for?)?;
    // `reallocarray` passes on only the block unchanged; `realloc` gets the product as its size.
    let compared = match (signature.kind, other.kind) {
        (Kind::ReallocArray, Kind::Realloc) => 1,
        (ours, theirs) if ours == theirs => usize::MAX,
        _ => return None,
    };
    let mut pairs = signature.read_positions().zip(other.read_positions()).take(compared);
    let same = pairs
        .all(|(ours, theirs)| ours == theirs && argument(ours).is_some_and(|register| !written.contains(&register)));
    (same && !written.contains(&Register::RSP)).then_some(found)
}

/// Where a jump leads that leaves the function, if this is one.
fn jump(instruction: &Instruction, function: &Function<'_>) -> Option<Destination> {
    let is_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
    destination(instruction, function).filter(|_| !is_call)
}
