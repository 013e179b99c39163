//! From pointers to a verdict on each block, by the rules of Valgrind's memcheck (`memcheck/mc_leakcheck.c`).
//!
//! 1. What a word that vouches points to the start of can be reached, and so can what reachable blocks point to the start of.
//! 2. What these point into otherwise, and all that such blocks point to, is possibly lost.
//! 3. What words that say nothing certain point to, and all that such blocks point to, is undecided.
//! 4. The rest is lost: in ascending order of address each block that no lost block reaches yet is definitely lost, and all
//!    that it points to indirectly; also a block that was definitely lost until then.

use super::blocks::Blocks;
use super::edges::Part;
use super::findings::{SEVERAL, Scan, Vtable, found};
use super::heuristics::Heuristics;
use crate::model::Reachability;

/// A verdict on each block.
#[derive(Debug)]
pub struct Judgement {
    /// By the block's position.
    pub kinds: Vec<Reachability>,
    /// For each block, in the bits of [`found`], which pointers to it make it reachable.
    pub(super) accepts: Vec<u8>,
}

/// Judges all blocks by what a pass over memory found. `is_vtable` says of an address in one of the ranges where vtables may be
/// whether one begins there.
pub fn judge(blocks: &Blocks, scan: &Scan, heuristics: Heuristics, is_vtable: &dyn Fn(u64) -> bool) -> Judgement {
    let mut marker = Marker {
        scan,
        found: scan.found.clone(),
        is_inside_good: good_insides(scan, heuristics, is_vtable),
        kinds: vec![None; blocks.len()],
        pending: Vec::new(),
    };
    marker.mark_reachable();
    marker.mark_from(found::AT_8 | found::AT_24 | found::INSIDE, Reachability::PossiblyLost);
    marker.mark_from(found::UNDECIDED, Reachability::Undecided);
    marker.mark_lost();
    let kinds = marker.kinds.into_iter().map(|kind| kind.unwrap_or(Reachability::DefinitelyLost));
    Judgement { kinds: kinds.collect(), accepts: accepted(&marker.found, &marker.is_inside_good) }
}

/// For each block, in the bits of [`found`], which pointers to it are as good as one to its start.
fn accepted(found: &[u8], is_inside_good: &[(u32, u8)]) -> Vec<u8> {
    let of = |own: &u8| {
        let at_8 = if own & found::IS_8 != 0 { found::AT_8 } else { 0 };
        let at_24 = if own & found::IS_24 != 0 { found::AT_24 } else { 0 };
        found::START | at_8 | at_24
    };
    let mut accepts: Vec<u8> = found.iter().map(of).collect();
    for (block, bits) in is_inside_good {
        accepts[*block as usize] |= bits;
    }
    accepts
}

/// For each block, in the bits of [`found`], which pointers into it are as good as one to its start since they point to a base
/// class.
fn good_insides(scan: &Scan, heuristics: Heuristics, is_vtable: &dyn Fn(u64) -> bool) -> Vec<(u32, u8)> {
    if !heuristics.multipleinheritance {
        return Vec::new();
    }
    let mut good: Vec<(u32, u8)> = Vec::new();
    for of_block in scan.vtables.chunk_by(|a, b| a.block == b.block) {
        let [Vtable { block, offset: 0, address }, inner @ ..] = of_block else { continue };
        let inside = scan.inner.get(*block as usize).copied().filter(|offset| *offset != SEVERAL);
        let wanted = |offset: u32| match Part::of(u64::from(offset)) {
            Part::At8 => found::AT_8,
            Part::At24 => found::AT_24,
            _ if inside == Some(offset) => found::INSIDE,
            _ => 0,
        };
        let bits = |vtable: &Vtable| match wanted(vtable.offset) {
            0 => 0,
            bits if is_vtable(vtable.address) => bits,
            _ => 0,
        };
        let bits = inner.iter().map(bits).fold(0, |bits, more| bits | more);
        if bits != 0 && is_vtable(*address) {
            good.push((*block, bits));
        }
    }
    good
}

struct Marker<'a> {
    scan: &'a Scan,
    /// As in the scan, with what reachable blocks point to.
    found: Vec<u8>,
    is_inside_good: Vec<(u32, u8)>,
    kinds: Vec<Option<Reachability>>,
    pending: Vec<u32>,
}

impl Marker<'_> {
    fn mark_reachable(&mut self) {
        for block in 0..self.found.len() as u32 {
            if self.is_good(block, self.found[block as usize]) {
                self.reach(block);
            }
        }
        while let Some(block) = self.pending.pop() {
            let scan = self.scan;
            for (to, part) in scan.edges.of(block) {
                let bit = bit_of(part);
                if self.kinds[to as usize].is_some() {
                    continue;
                }
                if self.is_good(to, bit) {
                    self.reach(to);
                } else {
                    self.found[to as usize] |= bit;
                }
            }
        }
    }

    fn reach(&mut self, block: u32) {
        self.kinds[block as usize] = Some(Reachability::StillReachable);
        self.pending.push(block);
    }

    /// Whether one of these pointers to a block is as good as one to its start.
    fn is_good(&self, block: u32, pointers: u8) -> bool {
        let own = self.found[block as usize];
        pointers & found::START != 0
            || pointers & found::AT_8 != 0 && own & found::IS_8 != 0
            || pointers & found::AT_24 != 0 && own & found::IS_24 != 0
            || pointers & (found::AT_8 | found::AT_24 | found::INSIDE) != 0 && self.is_base(block, pointers)
    }

    fn is_base(&self, block: u32, pointers: u8) -> bool {
        let place = self.is_inside_good.binary_search_by_key(&block, |good| good.0);
        place.is_ok_and(|at| self.is_inside_good[at].1 & pointers != 0)
    }

    /// Gives a kind to all blocks that have one of these bits and no kind yet, and to all that they point to.
    fn mark_from(&mut self, bits: u8, kind: Reachability) {
        for block in 0..self.found.len() {
            if self.kinds[block].is_none() && self.found[block] & bits != 0 {
                self.kinds[block] = Some(kind);
                self.pending.push(block as u32);
            }
        }
        let scan = self.scan;
        while let Some(block) = self.pending.pop() {
            for (to, _) in scan.edges.of(block) {
                if self.kinds[to as usize].is_none() {
                    self.kinds[to as usize] = Some(kind);
                    self.pending.push(to);
                }
            }
        }
    }

    fn mark_lost(&mut self) {
        let scan = self.scan;
        for leader in 0..self.kinds.len() as u32 {
            if self.kinds[leader as usize].is_some() {
                continue;
            }
            self.kinds[leader as usize] = Some(Reachability::DefinitelyLost);
            self.pending.push(leader);
            while let Some(block) = self.pending.pop() {
                for (to, _) in scan.edges.of(block) {
                    let kind = &mut self.kinds[to as usize];
                    let is_new = kind.is_none();
                    if to != leader && (is_new || *kind == Some(Reachability::DefinitelyLost)) {
                        *kind = Some(Reachability::IndirectlyLost);
                    }
                    // What an earlier leader points to has its kind.
                    if is_new {
                        self.pending.push(to);
                    }
                }
            }
        }
    }
}

/// The bit that says that something points there.
pub(super) fn bit_of(part: Part) -> u8 {
    match part {
        Part::Start => found::START,
        Part::At8 => found::AT_8,
        Part::At24 => found::AT_24,
        Part::Inside => found::INSIDE,
    }
}
