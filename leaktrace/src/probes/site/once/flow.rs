//! The instructions that a call of a function may come to, with what is known before each of them.
//!
//! Jumps are followed wherever they lead, so that parts of a function that lie elsewhere belong to it. Branches on a constant
//! are followed one way. A call is not followed, but it is asked whether it comes back: what a compiler has put behind
//! `abort()` is no part of the function.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
};

use super::Unproven;
use super::values::State;
use crate::probes::site::LONGEST_INSTRUCTION;

/// Instructions looked at for one function, with what it calls.
const BUDGET: usize = 100_000;
/// Calls in calls that are asked whether they come back: `malloc_printerr`, `__libc_message`, `abort`.
const DEPTH: u32 = 4;

/// One instruction.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) instruction: Instruction,
    /// What is known before it.
    pub(super) before: State,
    /// Where it may go on, the way that is taken on a condition first.
    pub(super) next: Vec<Edge>,
}

/// One way from an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) to: To,
    /// The general register of this number is known to be 0 on this way.
    pub(super) zero: Option<u8>,
    /// It is taken if the zero flag is set, or if it is not; without a condition, or on another one, nothing is said.
    pub(super) if_zero: Option<bool>,
}

impl Edge {
    fn plain(to: To) -> Self {
        Self { to, zero: None, if_zero: None }
    }
}

/// Where a way leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// To the instruction at this address.
    Code(u64),
    /// The call returns.
    Return,
    /// The call becomes one of another function, about which nothing is known.
    Elsewhere,
}

/// The code around a function.
pub(super) struct Code<'a> {
    bytes: &'a dyn Fn(u64) -> Option<&'a [u8]>,
    infos: InstructionInfoFactory,
    budget: usize,
    /// Which calls with which constants come back; those that are being asked are taken to.
    returns: HashMap<(u64, [Option<u64>; 16]), bool>,
    /// The function's own code.
    own: Range<u64>,
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Everything,
    /// Whether the function returns at all.
    Returned,
}

impl<'a> Code<'a> {
    pub(super) fn new(bytes: &'a dyn Fn(u64) -> Option<&'a [u8]>, own: Range<u64>) -> Self {
        Self { bytes, infos: InstructionInfoFactory::new(), budget: BUDGET, returns: HashMap::new(), own }
    }

    /// Everything that a call of the function may come to.
    pub(super) fn flow(&mut self) -> Result<BTreeMap<u64, Node>, Unproven> {
        self.follow(self.own.start, State::at_entry(), DEPTH, Until::Everything)
    }

    fn follow(&mut self, entry: u64, state: State, depth: u32, until: Until) -> Result<BTreeMap<u64, Node>, Unproven> {
        let mut nodes: BTreeMap<u64, Node> = BTreeMap::new();
        let mut open = vec![(entry, state)];
        while let Some((address, state)) = open.pop() {
            self.budget = self.budget.checked_sub(1).ok_or(Unproven::TooLong)?;
            let node = match nodes.entry(address) {
                Entry::Occupied(node) => {
                    let node = node.into_mut();
                    if !node.before.join(&state) {
                        continue;
                    }
                    node
                }
                Entry::Vacant(place) => {
                    let instruction = self.decode(address).ok_or(Unproven::Unreadable)?;
                    place.insert(Node { instruction, before: state, next: Vec::new() })
                }
            };
            node.next = self.ways(&node.instruction, &node.before, depth)?;
            if until == Until::Everything {
                self.leave(node);
            } else if node.next.iter().any(|edge| !matches!(edge.to, To::Code(_))) {
                return Err(Unproven::Returns);
            }
            let mut after = node.before.clone();
            after.follow(&node.instruction, &mut self.infos);
            for edge in &node.next {
                if let To::Code(address) = edge.to {
                    open.push((address, after.clone()));
                }
            }
        }
        Ok(nodes)
    }

    fn decode(&self, address: u64) -> Option<Instruction> {
        let bytes = (self.bytes)(address)?;
        let bytes = &bytes[..bytes.len().min(LONGEST_INSTRUCTION)];
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// A jump out of the function, with all as it was at the entry, is a call of another function. It is not followed: were it
    /// to a part of this one that lies elsewhere, that would come back by a jump which is looked for.
    fn leave(&self, node: &mut Node) {
        let is_jump = matches!(
            node.instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        );
        if !is_jump || !node.before.is_as_called() {
            return;
        }
        for edge in &mut node.next {
            if matches!(edge.to, To::Code(address) if !self.own.contains(&address)) {
                edge.to = To::Elsewhere;
            }
        }
    }

    /// Where an instruction may go on.
    fn ways(&mut self, instruction: &Instruction, before: &State, depth: u32) -> Result<Vec<Edge>, Unproven> {
        let next = Edge::plain(To::Code(instruction.next_ip()));
        let is_direct = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
        Ok(match instruction.flow_control() {
            FlowControl::Next if matches!(instruction.mnemonic(), Mnemonic::Hlt) => Vec::new(),
            FlowControl::Call if is_direct => {
                let comes_back = self.comes_back(instruction.near_branch_target(), before, depth);
                if comes_back { vec![next] } else { Vec::new() }
            }
            // Calls without a destination are system calls.
            FlowControl::Next | FlowControl::IndirectCall | FlowControl::Call => vec![next],
            FlowControl::Return => vec![Edge::plain(To::Return)],
            FlowControl::UnconditionalBranch if is_direct => {
                vec![Edge::plain(To::Code(instruction.near_branch_target()))]
            }
            FlowControl::ConditionalBranch if is_direct => conditional(instruction, before),
            FlowControl::IndirectBranch => vec![Edge::plain(To::Elsewhere)],
            FlowControl::Interrupt | FlowControl::Exception
                if matches!(instruction.mnemonic(), Mnemonic::Int3 | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2) =>
            {
                Vec::new()
            }
            _ => return Err(Unproven::NotUnderstood),
        })
    }

    /// Whether a call of the function at this address may come back, as far as it is not plain that it does not.
    fn comes_back(&mut self, address: u64, state: &State, depth: u32) -> bool {
        let key = (address, state.constants());
        if let Some(known) = self.returns.get(&key) {
            return *known;
        }
        self.returns.insert(key, true);
        // First as if all its own calls came back: most functions return, and need no closer look if they do not.
        let depths = [0, depth];
        let mut comes_back = true;
        for depth in depths.into_iter().take(if depth == 0 { 0 } else { 2 }) {
            let depth = depth.saturating_sub(1);
            comes_back = self.follow(address, state.at_callee(), depth, Until::Returned).is_err();
            if !comes_back {
                break;
            }
        }
        self.returns.insert(key, comes_back);
        comes_back
    }
}

/// The ways from a conditional branch.
fn conditional(instruction: &Instruction, before: &State) -> Vec<Edge> {
    let (known, register) = before.zero_flag();
    let taken_if = match instruction.condition_code() {
        ConditionCode::e => Some(true),
        ConditionCode::ne => Some(false),
        _ => None,
    };
    let (to, next) = (To::Code(instruction.near_branch_target()), To::Code(instruction.next_ip()));
    match (taken_if, known) {
        (Some(wanted), Some(set)) => vec![Edge::plain(if wanted == set { to } else { next })],
        (Some(wanted), None) => vec![
            Edge { to, zero: register.filter(|_| wanted), if_zero: Some(wanted) },
            Edge { to: next, zero: register.filter(|_| !wanted), if_zero: Some(!wanted) },
        ],
        (None, _) => vec![Edge::plain(to), Edge::plain(next)],
    }
}
