//! Probes in the middle of a function, each of which sees a whole call: what was asked for and what will be returned.
//!
//! In: a function's bytes and those around it. Out: the instructions to probe, with where size, result, frame pointer and stack
//! are at each, or why there are none. A probe at the entry and another at the return cost a call two traps, one in the middle
//! costs it one. That takes a proof: of every way from the entry to a return, wherever jumps lead, exactly one
//! probe is on it, unless it returns 0 in any case. On a way for which that is not to be had, one probe sees the call begin and
//! another sees it end; or one at which the stack is as at the entry is a pair of probes as before, of the entry and the return.
//!
//! A block is known before it is handed out: nobody else can free it before, and from the probe to the return
//! its address is in a register or in the frame. A thread that dies in between takes the block with it.

mod cut;
mod flow;
mod results;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use iced_x86::{Instruction, Mnemonic};
use leaktrace_common::cookie::Register;

use self::cut::{Abilities, Ability, BEFORE, BEGUN, Points, SEEN, Step};
use self::flow::{Code, Node, To};
use self::results::Final;
use self::values::Value;
use super::emulation::{self, Emulation};
use super::function::{Function, Machine, argument_register};
use super::sweep::{Sweep, Unclear};
use crate::probes::functions::{Kind, Signature};

/// More probes in one function are not worth it.
const MAX_POINTS: usize = 16;
/// The farthest slot that a probe can be told of, in bytes below the stack pointer at the entry.
const MAX_SLOT: u64 = 8 * 255;
/// The register number of `rbp`.
const FRAME_POINTER: u8 = 5;

/// Where a value is at a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a register.
    Register(Register),
    /// On the stack, so many bytes below the stack pointer at the entry.
    Slot(u64),
}

/// What a probe in the middle of a function sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// The whole call: the size that it asks for, and the register that holds what it will return.
    Call {
        /// Where the size is.
        size: Place,
        /// What holds the result.
        result: Register,
        /// Which calls count.
        counts: Counts,
    },
    /// Its beginning: the register that holds the size. [`View::End`] follows.
    Begin {
        /// What holds the size.
        size: Register,
    },
    /// Its end, in which this register holds the result.
    End {
        /// What holds the result.
        result: Register,
        /// Which calls count.
        counts: Counts,
    },
    /// The same as at the entry: the probe and one at the return see the call. This register holds the size.
    Entry {
        /// What holds the size.
        size: Register,
    },
}

/// Which of the calls that come past a probe count: a probe on a conditional jump may have to do with one of its ways alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counts {
    /// All.
    Always,
    /// Those at which the zero flag is set, or those at which it is not.
    IfZero(bool),
}

/// A probe in the middle of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Point {
    /// Bytes from the function's entry.
    pub offset: u32,
    /// What it sees.
    pub view: View,
    /// Bytes by which the stack pointer is below its value at the entry.
    pub stack_shift: u64,
    /// If the frame pointer is the caller's no more: how many bytes below the stack pointer at the entry the caller's is.
    pub frame_pointer: Option<u64>,
}

/// Why a call is seen by two traps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unproven {
    /// Of the instruction set, or of the kind of function.
    Unsupported,
    /// It is not wanted.
    Unwanted,
    /// It calls, or may call, another function that is probed.
    CallsAnother,
    /// It may throw, or read its return address.
    Throws,
    /// The symbol has no size.
    UnknownSize,
    /// Other code enters the function behind its entry.
    EnteredElsewhere,
    /// It jumps to a computed place.
    IndirectJump,
    /// It, or what it jumps to, is too long.
    TooLong,
    /// Not all of its code can be read.
    Unreadable,
    /// An instruction is not understood.
    NotUnderstood,
    /// Code of it is reached in a way that is not seen.
    Unreached,
    /// The stack pointer is not where it was when the call returns.
    StackPointer,
    /// It returns. (Asked of functions that may not.)
    Returns,
    /// Not every way has an instruction at which all is known.
    NoCut,
    /// Every call would still take two.
    NothingGained,
}

/// What [`once`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The probes that see every call.
    pub points: Vec<Point>,
    /// Where the instructions end that calls come to: branches of others into the function would not be among them.
    pub ends: BTreeSet<u64>,
}

/// The probes that see every call of the function.
///
/// `code` is the code from an address on.
///
/// # Errors
/// What could not be proven.
pub fn once<'a>(
    function: &Function<'_>,
    signature: Signature,
    emulation: Emulation,
    code: &'a dyn Fn(u64) -> Option<&'a [u8]>,
) -> Result<Proven, Unproven> {
    if function.machine != Machine::X86_64 || !matches!(signature.kind, Kind::Malloc | Kind::Memalign) {
        return Err(Unproven::Unsupported);
    }
    let nodes = nodes(function, code)?;
    let finals = results::of(&nodes);
    let size = signature.read_positions().next().map(|position| argument_register(function.machine, position));
    let size = size.ok_or(Unproven::Unsupported)?;
    let candidates = candidates(function, emulation, &nodes, &finals, size);
    let mut why = Unproven::NoCut;
    for means in Means::ALL {
        match points(function, &nodes, &finals, &candidates, means) {
            Ok(points) => {
                let ends = nodes.values().map(|node| node.instruction.next_ip()).collect();
                return Ok(Proven { points, ends });
            }
            Err(Unproven::NothingGained) => why = Unproven::NothingGained,
            Err(_) => {}
        }
    }
    Err(why)
}

/// The instructions that calls come to, all of the function's own among them.
fn nodes<'a>(
    function: &Function<'_>,
    code: &'a dyn Fn(u64) -> Option<&'a [u8]>,
) -> Result<BTreeMap<u64, Node>, Unproven> {
    if !function.whole {
        return Err(Unproven::UnknownSize);
    }
    if function.entered_at.is_some() {
        return Err(Unproven::EnteredElsewhere);
    }
    let sweep = Sweep::of(function.code, function.address).map_err(|unclear| match unclear {
        Unclear::TooLong => Unproven::TooLong,
        Unclear::Undecodable => Unproven::Unreadable,
        Unclear::IndirectJump => Unproven::IndirectJump,
    })?;
    let own = function.address..function.address.saturating_add(function.code.len() as u64);
    let nodes = Code::new(code, own).flow()?;
    let mut end = 0;
    for (address, node) in &nodes {
        // Two ways to read the same bytes.
        if *address < end {
            return Err(Unproven::NotUnderstood);
        }
        end = node.instruction.next_ip();
        for edge in &node.next {
            match edge.to {
                To::Return if node.before.stack() != Some(0) => return Err(Unproven::StackPointer),
                To::Elsewhere if !node.before.is_as_called() => return Err(Unproven::IndirectJump),
                _ => {}
            }
        }
    }
    // Code that only an exception leads to, for example.
    let unreached = |instruction: &Instruction| !is_padding(instruction) && !nodes.contains_key(&instruction.ip());
    if sweep.instructions.iter().any(unreached) {
        return Err(Unproven::Unreached);
    }
    Ok(nodes)
}

fn is_own(function: &Function<'_>, address: u64) -> bool {
    address.checked_sub(function.address).is_some_and(|offset| offset < function.code.len() as u64)
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Ud2 | Mnemonic::Hlt)
        || instruction.mnemonic() == Mnemonic::Xchg && values::is_same_register_twice(instruction)
}

/// With what a function may be probed, from cheap to dear.
#[derive(Clone, Copy)]
struct Means {
    /// Pairs of probes, of which one is at the return.
    entries: bool,
    /// Pairs of probes in the middle, which cost more than those.
    pairs: bool,
    /// Probes that count on one of two ways.
    conditions: bool,
}

impl Means {
    const ALL: [Self; 6] = [
        Self { entries: false, pairs: false, conditions: false },
        Self { entries: false, pairs: false, conditions: true },
        Self { entries: true, pairs: false, conditions: false },
        Self { entries: true, pairs: false, conditions: true },
        Self { entries: false, pairs: true, conditions: false },
        Self { entries: false, pairs: true, conditions: true },
    ];
}

/// What a probe on an instruction would see.
struct Candidate {
    stack_shift: u64,
    frame_pointer: Option<u64>,
    /// Where the size is, if a walk of the stack can begin here.
    size: Option<Place>,
    /// What holds the result, whichever way calls go on; and on each of two ways, told by the zero flag.
    result: Option<u8>,
    results: [Option<u8>; 2],
    if_zero: [Option<bool>; 2],
    /// Ways on which no call returns.
    never: [bool; 2],
}

/// The instructions of the function on which a probe is cheap, and what it would see.
fn candidates(
    function: &Function<'_>,
    emulation: Emulation,
    nodes: &BTreeMap<u64, Node>,
    finals: &BTreeMap<u64, Final>,
    size: Register,
) -> BTreeMap<u64, Candidate> {
    let own = nodes.iter().filter(|(address, _)| is_own(function, **address));
    own.filter_map(|(address, node)| {
        let at = address.checked_sub(function.address)? as usize;
        let bytes = function.code.get(at..at + node.instruction.len())?;
        let is_cheap = emulation.emulates(bytes)
            && emulation::refusal(&node.instruction, bytes).is_none()
            && !node.instruction.is_call_near();
        if is_cheap { Some((*address, candidate(node, finals.get(address)?, finals, size)?)) } else { None }
    })
    .collect()
}

fn candidate(node: &Node, found: &Final, finals: &BTreeMap<u64, Final>, size: Register) -> Option<Candidate> {
    let state = &node.before;
    let stack_shift = u64::try_from(state.stack()?.checked_neg()?).ok().filter(|shift| shift.is_multiple_of(8))?;
    let wanted = Value::Entry(size.0);
    let in_register = (state.register(size.0) == wanted)
        .then_some(size.0)
        .or_else(|| (0..16).find(|number| state.register(*number) == wanted))
        .map(Register);
    let slot = |value| {
        let below = u64::try_from(state.slot_with(value)?.checked_neg()?).ok()?;
        (below > 0 && below <= MAX_SLOT && below.is_multiple_of(8)).then_some(below)
    };
    let keeps_frame_pointer = state.register(FRAME_POINTER) == Value::Entry(FRAME_POINTER);
    let frame_pointer = if keeps_frame_pointer { None } else { slot(Value::Entry(FRAME_POINTER)) };
    let place = in_register.map(Place::Register).or_else(|| slot(wanted).map(Place::Slot));
    // A result that was found behind the jump is where it was before it.
    let on = |way: usize| node.next.get(way).map(|edge| (results::on(*edge, finals), edge.if_zero));
    let ways = [on(0), on(1)];
    let result = |way: usize| ways[way].as_ref().filter(|(_, if_zero)| if_zero.is_some())?.0.register();
    Some(Candidate {
        stack_shift,
        frame_pointer,
        size: place.filter(|_| keeps_frame_pointer || frame_pointer.is_some()),
        result: found.register().filter(|_| !found.is_zero),
        results: [result(0), result(1)],
        if_zero: [0, 1].map(|way| ways[way].as_ref().and_then(|(_, if_zero)| *if_zero)),
        never: [0, 1].map(|way| ways[way].as_ref().is_some_and(|(found, _)| found.is_never)),
    })
}

impl Candidate {
    /// Whether all is as it was at the entry, so that a return probe works here.
    fn is_entry(&self) -> bool {
        self.stack_shift == 0 && self.frame_pointer.is_none() && matches!(self.size, Some(Place::Register(_)))
    }

    fn ability(&self, means: Means) -> Ability {
        let abilities = |result: Option<u8>| Abilities {
            sees_all: self.size.is_some() && result.is_some(),
            begins: false,
            ends: means.pairs && result.is_some(),
        };
        let mut always = abilities(self.result);
        always.sees_all |= means.entries && self.is_entry();
        always.begins = means.pairs && matches!(self.size, Some(Place::Register(_)));
        let on = if means.conditions { self.results.map(abilities) } else { [Abilities::default(); 2] };
        Ability { always, on }
    }

    /// What the probe sees that takes calls from one phase to others.
    fn view(&self, step: &Step) -> Option<View> {
        let [first, second] = step.to;
        let (result, counts, to) = if first == second {
            // Of calls that do not return nothing need be said.
            let only = match self.never {
                [true, false] => self.if_zero[1],
                [false, true] => self.if_zero[0],
                _ => None,
            };
            (self.result, only.map_or(Counts::Always, Counts::IfZero), first)
        } else {
            let way = usize::from(first == step.from);
            (self.results[way], Counts::IfZero(self.if_zero[way]?), step.to[way])
        };
        match (step.from, to, result.map(Register), self.size?) {
            (BEFORE, SEEN, Some(result), size) => Some(View::Call { size, result, counts }),
            (BEFORE, SEEN, None, Place::Register(size)) if self.is_entry() => Some(View::Entry { size }),
            (BEFORE, BEGUN, _, Place::Register(size)) => Some(View::Begin { size }),
            _ => None,
        }
    }

    fn end(&self, step: &Step) -> Option<View> {
        let way = usize::from(step.to[0] == step.from);
        let (result, counts) = if step.to[0] == step.to[1] {
            (self.result, Counts::Always)
        } else {
            (self.results[way], Counts::IfZero(self.if_zero[way]?))
        };
        Some(View::End { result: Register(result?), counts })
    }
}

/// The probes, if these means suffice.
fn points(
    function: &Function<'_>,
    nodes: &BTreeMap<u64, Node>,
    finals: &BTreeMap<u64, Final>,
    candidates: &BTreeMap<u64, Candidate>,
    means: Means,
) -> Result<Vec<Point>, Unproven> {
    let mut points = Points::default();
    for address in nodes.keys() {
        points.add(*address, candidates.get(address).map(|it| it.ability(means)).unwrap_or_default());
    }
    constrain(&mut points, function, nodes, finals).ok_or(Unproven::NoCut)?;
    let mut found = Vec::new();
    for step in points.solve().ok_or(Unproven::NoCut)? {
        let candidate = candidates.get(&step.address).ok_or(Unproven::NoCut)?;
        let view = if step.from == BEGUN { candidate.end(&step) } else { candidate.view(&step) };
        found.push(Point {
            offset: step.address.wrapping_sub(function.address) as u32,
            view: view.ok_or(Unproven::NoCut)?,
            stack_shift: candidate.stack_shift,
            frame_pointer: candidate.frame_pointer,
        });
    }
    if found.len() > MAX_POINTS {
        return Err(Unproven::TooLong);
    }
    if !found.iter().any(|point| matches!(point.view, View::Call { .. })) {
        return Err(Unproven::NothingGained);
    }
    Ok(found)
}

/// What the ways of control say of the phases.
fn constrain(
    points: &mut Points,
    function: &Function<'_>,
    nodes: &BTreeMap<u64, Node>,
    finals: &BTreeMap<u64, Final>,
) -> Option<()> {
    points.restrict(points.before(function.address)?, BEFORE);
    for (address, node) in nodes {
        let is_zero = finals.get(address)?.is_zero;
        if let [_] = node.next[..] {
            points.join(points.on_way(*address, 0)?, points.on_way(*address, 1)?);
        }
        for (way, edge) in node.next.iter().enumerate() {
            let point = points.on_way(*address, way)?;
            let there = results::on(*edge, finals);
            if there.is_never {
                continue;
            }
            if there.is_zero || is_zero {
                // Nothing is to be booked, and whatever probes this way has further on see that. What began must end all the same.
                points.restrict(point, BEFORE | SEEN);
                continue;
            }
            match edge.to {
                To::Code(to) => points.join(point, points.before(to)?),
                To::Return | To::Elsewhere => points.restrict(point, SEEN),
            }
        }
    }
    Some(())
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.view {
            View::Call { counts: Counts::Always, .. } => "",
            View::Call { .. } => " (on one way)",
            View::Begin { .. } => " (begins)",
            View::End { counts: Counts::Always, .. } => " (ends)",
            View::End { .. } => " (ends on one way)",
            View::Entry { .. } => " (with a return probe)",
        };
        write!(f, "+{}{what}", self.offset)
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "its calls take two probes each",
            Self::Unwanted => "it is not tried",
            Self::CallsAnother => "it may call another function that is probed",
            Self::Throws => "its return address must stay as it is",
            Self::UnknownSize => "the symbol has no size",
            Self::EnteredElsewhere => "other code enters it behind its entry",
            Self::IndirectJump => "it jumps to a computed place",
            Self::TooLong => "it is too long",
            Self::Unreadable => "its code cannot be read through",
            Self::NotUnderstood => "an instruction is not understood",
            Self::Unreached => "nothing seems to reach a part of it",
            Self::StackPointer => "the stack pointer cannot be followed",
            Self::Returns => "it returns",
            Self::NoCut => "size and result are not known together on every way through it",
            Self::NothingGained => "size and result are known together on no way through it",
        })
    }
}
