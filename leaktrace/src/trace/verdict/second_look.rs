//! A second look at blocks that a leak check called lost: nobody can free them, and no later check can find a pointer to them.
//! Where that happens the verdict was wrong, and is taken back.
//!
//! In: what each check found, and the tables at each report. Out: for each life how much was taken back, and verdicts in which
//! what comes from the same sites is at most possibly lost.
//!
//! How a verdict may be wrong: a program keeps a pointer where nobody looks, such as in a pipe, in a file, or combined with
//! something else.

use std::collections::{HashMap, HashSet};

use crate::kernel::Kernel;
use crate::kernel::drain::{self, TabledBlock};
use crate::model::{LeakCheckMode, Reachability, Tally};

/// How many blocks of a life are looked at again, at most.
const MOST: usize = 1 << 16;

/// A life: its slot, and when it was first seen, which tells it from others in that slot.
pub type Life = (u32, u64);

/// What was called lost of one life.
#[derive(Debug, Default)]
struct Watched {
    /// By address.
    lost: Vec<TabledBlock>,
    taken_back: Tally,
    /// The sites of what was taken back.
    doubted: HashSet<u32>,
}

impl Watched {
    fn take_back(&mut self, block: &TabledBlock) {
        self.taken_back.add(block.size);
        self.doubted.insert(block.site);
    }
}

/// Blocks that were called lost, by life.
#[derive(Debug, Default)]
pub struct SecondLook(HashMap<Life, Watched>);

impl SecondLook {
    /// Compares what a check found of a life's blocks, given by address, with what earlier ones said, and corrects it.
    /// What it finds undecided, or reachable while the process ran, when stale pointers count, says nothing against them.
    pub fn at_check(&mut self, life: Life, mode: LeakCheckMode, blocks: &[TabledBlock], kinds: &mut [Reachability]) {
        let watched = self.0.entry(life).or_default();
        for block in std::mem::take(&mut watched.lost) {
            let place = blocks.binary_search_by_key(&block.address, |block| block.address).ok();
            let kind = place.filter(|place| blocks[*place] == block).map(|place| kinds[place]);
            match kind {
                // Watched again below.
                Some(kind) if kind.is_lost() => {}
                Some(Reachability::Undecided) => watched.lost.push(block),
                Some(_) if mode == LeakCheckMode::Live => watched.lost.push(block),
                Some(_) | None => watched.take_back(&block),
            }
        }
        for (block, kind) in blocks.iter().zip(kinds) {
            if !kind.is_lost() || block.is_unrecorded() {
                continue;
            }
            if watched.doubted.contains(&block.site) {
                *kind = Reachability::PossiblyLost;
            } else if watched.lost.len() < MOST {
                watched.lost.push(*block);
            }
        }
    }

    /// Looks which of these blocks were freed since.
    pub fn at_report(&mut self, kernel: &Kernel) {
        for ((slot, _), watched) in &mut self.0 {
            for block in std::mem::take(&mut watched.lost) {
                if drain::is_there(kernel, *slot, &block) {
                    watched.lost.push(block);
                } else {
                    watched.take_back(&block);
                }
            }
        }
    }

    /// Forgets lives that are not among these.
    pub fn retain(&mut self, is_there: impl Fn(Life) -> bool) {
        self.0.retain(|life, _| is_there(*life));
    }

    /// How much was taken back, by the slots of lives of which something was.
    pub fn taken_back(&self) -> impl Iterator<Item = (u32, Tally)> + '_ {
        let taken = self.0.iter().map(|((slot, _), watched)| (*slot, watched.taken_back));
        taken.filter(|(_, tally)| tally.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use Reachability::{DefinitelyLost, IndirectlyLost, PossiblyLost, StillReachable};

    use super::*;

    const LIFE: Life = (3, 77);

    fn block(address: u64, site: u32, time: u32) -> TabledBlock {
        TabledBlock { address, size: 100, site, time }
    }

    fn check<const N: usize>(
        look: &mut SecondLook,
        found: [(TabledBlock, Reachability); N],
    ) -> (Vec<Reachability>, Option<u64>) {
        let blocks = found.map(|(block, _)| block);
        let mut kinds = found.map(|(_, kind)| kind).to_vec();
        look.at_check(LIFE, LeakCheckMode::Exact, &blocks, &mut kinds);
        (kinds, look.taken_back().next().map(|(_, tally)| tally.count))
    }

    #[test]
    fn what_stays_lost_is_lost() {
        let mut look = SecondLook::default();
        for _ in 0..3 {
            let found = [(block(0x10, 1, 5), DefinitelyLost), (block(0x90, 1, 6), IndirectlyLost)];
            assert_eq!(check(&mut look, found), (vec![DefinitelyLost, IndirectlyLost], None));
        }
    }

    #[test]
    fn what_is_found_again_or_freed_was_not_lost_and_its_site_is_doubted() {
        let mut look = SecondLook::default();
        check(&mut look, [(block(0x10, 1, 5), DefinitelyLost), (block(0x90, 2, 6), DefinitelyLost)]);
        let found = [(block(0x10, 1, 5), StillReachable), (block(0x90, 2, 6), DefinitelyLost)];
        assert_eq!(check(&mut look, found), (vec![StillReachable, DefinitelyLost], Some(1)));
        // Another block at the address of one that must have been freed.
        let found = [(block(0x10, 1, 5), DefinitelyLost), (block(0x90, 2, 9), DefinitelyLost)];
        assert_eq!(check(&mut look, found), (vec![PossiblyLost, PossiblyLost], Some(2)));
        assert_eq!(check(&mut look, []), (vec![], Some(2)), "counted once");
    }

    #[test]
    fn a_check_that_cannot_tell_takes_nothing_back() {
        let mut look = SecondLook::default();
        check(&mut look, [(block(0x10, 1, 5), DefinitelyLost)]);
        let found = [(block(0x10, 1, 5), Reachability::Undecided)];
        assert_eq!(check(&mut look, found), (vec![Reachability::Undecided], None));
        look.at_check(LIFE, LeakCheckMode::Live, &[block(0x10, 1, 5)], &mut [StillReachable]);
        assert_eq!(look.taken_back().count(), 0);
        let found = [(block(0x10, 1, 5), DefinitelyLost)];
        assert_eq!(check(&mut look, found), (vec![DefinitelyLost], None), "watched all the time");
        let freed: [(TabledBlock, Reachability); 0] = [];
        assert_eq!(check(&mut look, freed).1, Some(1));
    }

    #[test]
    fn another_life_in_the_slot_is_none_of_its_business() {
        let mut look = SecondLook::default();
        check(&mut look, [(block(0x10, 1, 5), DefinitelyLost)]);
        look.at_check((3, 78), LeakCheckMode::Exact, &[], &mut []);
        assert_eq!(look.taken_back().count(), 0);
        look.retain(|life| life != LIFE);
        check(&mut look, []);
        assert_eq!(look.taken_back().count(), 0);
    }
}
