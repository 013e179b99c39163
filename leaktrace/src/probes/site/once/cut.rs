//! Which instructions get a probe, so that every call passes exactly one, or one that begins and one that ends.
//!
//! A call is in one of three phases: nothing seen, begun, seen. Each point of the function has one phase, whichever way the call
//! came there: points are joined where control goes from one to the other, and only an instruction at which a probe sees what
//! it needs may lie between two phases, of which the second is the later. So no instruction in a loop can, and no way can be
//! without a probe or have two. A probe on a conditional jump may count on one of its two ways only. Of all ways to give out
//! phases the one is taken that is latest everywhere.

use std::collections::BTreeMap;

/// Nothing was seen of the call.
pub(super) const BEFORE: u8 = 1;
/// It was seen to begin.
pub(super) const BEGUN: u8 = 2;
/// All was seen.
pub(super) const SEEN: u8 = 4;

const PHASES: [u8; 3] = [BEFORE, BEGUN, SEEN];

/// What a probe on an instruction may do for calls that go on in a certain way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Abilities {
    /// From [`BEFORE`] to [`SEEN`].
    pub(super) sees_all: bool,
    /// From [`BEFORE`] to [`BEGUN`].
    pub(super) begins: bool,
    /// From [`BEGUN`] to [`SEEN`].
    pub(super) ends: bool,
}

impl Abilities {
    fn is_none(self) -> bool {
        self == Self::default()
    }

    fn allows(self, from: u8, to: u8) -> bool {
        match (from, to) {
            (BEFORE, SEEN) => self.sees_all,
            (BEFORE, BEGUN) => self.begins,
            (BEGUN, SEEN) => self.ends,
            _ => from == to,
        }
    }
}

/// What a probe on an instruction may do: on every way from it, and on one of its two ways alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ability {
    pub(super) always: Abilities,
    pub(super) on: [Abilities; 2],
}

impl Ability {
    fn is_none(&self) -> bool {
        self.always.is_none() && self.on.iter().all(|one| one.is_none())
    }

    /// Whether a call may come in one phase and go on in these.
    fn allows(&self, from: u8, to: [u8; 2]) -> bool {
        to[0] == to[1] && self.always.allows(from, to[0])
            || to[1] == from && self.on[0].allows(from, to[0])
            || to[0] == from && self.on[1].allows(from, to[1])
    }
}

/// What was found for an instruction: the phase before it, and those on its ways.
pub(super) struct Step {
    pub(super) address: u64,
    pub(super) from: u8,
    pub(super) to: [u8; 2],
}

/// Points of a function: before each instruction, and on each of up to two ways from it.
#[derive(Debug, Default)]
pub(super) struct Points {
    numbers: BTreeMap<u64, usize>,
    /// For union and find.
    parents: Vec<usize>,
    /// The phases that each point may have.
    phases: Vec<u8>,
    abilities: Vec<(u64, Ability)>,
}

impl Points {
    /// Makes the points of an instruction.
    pub(super) fn add(&mut self, address: u64, ability: Ability) {
        let before = self.parents.len();
        self.parents.extend(before..before + 3);
        self.phases.extend([BEFORE | BEGUN | SEEN; 3]);
        self.numbers.insert(address, before);
        if ability.is_none() {
            self.join(before, before + 1);
            self.join(before, before + 2);
        } else {
            self.abilities.push((address, ability));
        }
    }

    /// The point before the instruction at this address.
    pub(super) fn before(&self, address: u64) -> Option<usize> {
        self.numbers.get(&address).copied()
    }

    /// The point on its way number 0 or 1.
    pub(super) fn on_way(&self, address: u64, way: usize) -> Option<usize> {
        Some(self.before(address)? + 1 + way.min(1))
    }

    /// Both have the same phase.
    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            self.parents[b] = a;
            self.phases[a] &= self.phases[b];
        }
    }

    /// The point has one of these phases.
    pub(super) fn restrict(&mut self, point: usize, phases: u8) {
        let point = self.find(point);
        self.phases[point] &= phases;
    }

    fn find(&mut self, mut point: usize) -> usize {
        while self.parents[point] != point {
            self.parents[point] = self.parents[self.parents[point]];
            point = self.parents[point];
        }
        point
    }

    /// The instructions that get a probe; `None` if there is no way.
    pub(super) fn solve(mut self) -> Option<Vec<Step>> {
        let mut between = Vec::new();
        for (address, ability) in std::mem::take(&mut self.abilities) {
            let before = self.before(address)?;
            between.push((address, ability, [0, 1, 2].map(|point| self.find(before + point))));
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (_, ability, points) in &between {
                let phases = points.map(|point| self.phases[point]);
                let kept = kept(ability, phases);
                changed |= kept != phases;
                for (point, kept) in points.iter().zip(kept) {
                    self.phases[*point] &= kept;
                }
            }
        }
        if (0..self.parents.len()).any(|point| self.parents[point] == point && self.phases[point] == 0) {
            return None;
        }
        // The least phase that each may have: where what is allowed is closed under minima, as it is here, they fit together.
        let least = |phases: u8| phases & phases.wrapping_neg();
        let mut steps = Vec::new();
        for (address, ability, points) in between {
            let [from, first, second] = points.map(|point| least(self.phases[point]));
            if !ability.allows(from, [first, second]) {
                return None;
            }
            if [first, second] != [from; 2] {
                steps.push(Step { address, from, to: [first, second] });
            }
        }
        Some(steps)
    }
}

/// The phases at an instruction's points for which there are some at the others.
fn kept(ability: &Ability, phases: [u8; 3]) -> [u8; 3] {
    let mut kept = [0; 3];
    let each = |index: usize| PHASES.into_iter().filter(move |phase| phases[index] & phase != 0);
    for from in each(0) {
        for first in each(1) {
            for second in each(2) {
                if ability.allows(from, [first, second]) {
                    kept = [kept[0] | from, kept[1] | first, kept[2] | second];
                }
            }
        }
    }
    kept
}
