//! Several searches of a process that runs, and what they say together.
//!
//! One search is unsound: a pointer that moves from memory that is yet to be read to memory that was read is in neither. Where the
//! kernel marks pages that are written ([`Tracked`]), those written since are read once more while the process is stopped, and the
//! verdict is as good as if all had been. As long as that would be too much for a stop, it is searched while the process runs, and
//! what has changed meanwhile is less.
//!
//! Where the kernel does not, memory is searched several times. Each search misses about a third of the pointers that move, so that
//! blocks are lost only if no search has found them, and even then at most probably. How many blocks are held by pointers that move
//! shows while searches find some that earlier ones missed: the more, the longer the search goes on, until hardly one of them can
//! be left. What was made since the first search began is undecided.

use std::time::Duration;

use super::findings::Pass;
use super::life::Life;
use super::moment::Tracked;
use super::search::Searched;
use super::standstill::Found;
use crate::kernel::drain::TabledBlock;
use crate::model::{LeakCheck, Reachability};

/// How often memory is searched at least and at most, and how often in a row without finding any more of what was missed.
const FEWEST: u32 = 6;
const MOST: u32 = 16;
const QUIET: u32 = 2;
/// How many of the blocks that moving pointers hold a search misses, at most: about 0.3 where pointers move tens of millions of
/// times a second between places all over a heap of 1 GB.
const MISSED: f64 = 0.4;
/// How many blocks that are held may be expected among those that no search has found.
const MOST_WRONG: f64 = 0.01;
/// How often what has changed is searched while the process runs, at most.
const MOST_ROUNDS: u32 = 4;

/// Several searches of one process.
#[derive(Default)]
pub struct Passes {
    /// Whose they are.
    pub life: Option<Life>,
    /// Its pages, while they are tracked.
    pub tracked: Option<Tracked>,
    /// They were, and this was given up.
    was_tracked: bool,
    /// It was copied.
    pub is_copied: bool,
    /// What was found while they were.
    layer: Option<Box<Found>>,
    /// How often what had changed was searched while the process ran.
    rounds: u32,
    /// What no search has found, by address.
    missing: Vec<TabledBlock>,
    done: u32,
    /// How many in a row have found nothing of what was missing.
    quiet: u32,
    /// How many blocks were found that the first search missed.
    moved: usize,
    scanned_bytes: u64,
    longest_pause: Duration,
}

impl Passes {
    /// Whether nothing was searched yet.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.done == 0 && self.rounds == 0
    }

    /// Whether its pages may be tracked.
    #[must_use]
    pub fn may_track(&self) -> bool {
        !self.was_tracked
    }

    /// Takes note of how long the process was stopped, once more.
    pub fn stopped_for(&mut self, pause: Duration) {
        self.longest_pause = self.longest_pause.max(pause);
    }

    /// Begins anew, without tracking its pages: what was found depends on that.
    pub fn give_tracking_up(&mut self) {
        (self.tracked, self.layer, self.rounds, self.was_tracked) = (None, None, 0, true);
    }

    /// Whether they are of this life. Where blocks of it were missed meanwhile, what was found before does not count.
    pub fn are_of(&mut self, life: &Life) -> bool {
        let Some(known) = self.life else { return true };
        if known.since_start && !life.since_start {
            self.layer = None;
        }
        (known.slot, known.first_seen) == (life.slot, life.first_seen)
    }

    /// What was found while pages were tracked, to be joined with what has changed since.
    pub fn take_layer(&mut self) -> Option<Box<Found>> {
        self.layer.take()
    }

    /// Whether there is something that is to be joined with what has changed since.
    #[must_use]
    pub fn has_layer(&self) -> bool {
        self.layer.is_some()
    }

    /// Whether the next search is the last, if pages are not tracked.
    #[must_use]
    pub fn last_is_next(&self) -> bool {
        let with_next = self.done + 1;
        let is_settled = with_next >= FEWEST && self.quiet + 1 >= QUIET && self.expected_wrong(with_next) <= MOST_WRONG;
        self.tracked.is_none() && self.done > 0 && (self.missing.is_empty() || is_settled || with_next >= MOST)
    }

    /// How many blocks that are held are expected among those that none of so many searches has found.
    fn expected_wrong(&self, searches: u32) -> f64 {
        self.moved as f64 * MISSED.powi(searches.saturating_sub(1) as i32)
    }

    /// Takes in what one more search found; a verdict if it was the last.
    pub fn add(&mut self, searched: Searched) -> Option<Pass> {
        let mut pass = match searched {
            Searched::Layer(found) => {
                self.rounds += 1;
                if self.rounds > MOST_ROUNDS {
                    // Too much changes all the time.
                    self.give_tracking_up();
                } else {
                    self.layer = Some(found);
                }
                return None;
            }
            Searched::Judged(mut pass) if self.tracked.is_some() || self.is_copied => {
                pass.check.pause = pass.check.pause.max(self.longest_pause);
                return Some(*pass);
            }
            Searched::Judged(pass) => *pass,
        };
        let was_last = self.last_is_next();
        self.take_in(&pass);
        if !was_last {
            return None;
        }
        let is_sure = self.expected_wrong(self.done) <= MOST_WRONG;
        for (block, kind) in pass.blocks.iter().zip(&mut pass.holding.judgement.kinds) {
            if kind.is_lost() {
                let is_missing = self.missing.binary_search_by_key(&block.address, |block| block.address).is_ok();
                *kind = if is_sure && is_missing { Reachability::ProbablyLost } else { Reachability::Undecided };
            }
        }
        let (scanned_bytes, pause) = (self.scanned_bytes, self.longest_pause);
        Some(Pass { check: LeakCheck { scanned_bytes, pause, passes: self.done, ..pass.check }, ..pass })
    }

    fn take_in(&mut self, Pass { check, holding, blocks }: &Pass) {
        let kinds = &holding.judgement.kinds;
        if self.done == 0 {
            let lost = blocks.iter().zip(kinds).filter(|(_, kind)| kind.is_lost());
            self.missing = lost.map(|(block, _)| *block).collect();
        } else {
            let before = self.missing.len();
            let mut moved = 0;
            self.missing.retain(|block| {
                let place = blocks.binary_search_by_key(&block.address, |block| block.address);
                // What was freed meanwhile says nothing: short lives pass by most searches.
                let Some(place) = place.ok().filter(|place| blocks[*place] == *block) else { return false };
                moved += usize::from(!kinds[place].is_lost());
                kinds[place].is_lost()
            });
            self.moved += moved;
            self.quiet = if self.missing.len() < before { 0 } else { self.quiet + 1 };
        }
        self.done += 1;
        self.scanned_bytes = self.scanned_bytes.max(check.scanned_bytes);
        self.stopped_for(check.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many searches the next would be the last, if the first ones found so many of the blocks that moving pointers hold.
    fn settled_after(moved: usize) -> Option<u32> {
        let missing = vec![TabledBlock::default()];
        let mut passes = Passes { moved, missing, quiet: QUIET, ..Passes::default() };
        (1..MOST).find(|done| {
            passes.done = *done;
            passes.last_is_next()
        })
    }

    #[test]
    fn the_more_pointers_move_the_longer_the_search() {
        assert_eq!(settled_after(0), Some(FEWEST - 1));
        assert_eq!(settled_after(20), Some(9));
        assert_eq!(settled_after(9_000), Some(MOST - 1));
    }

    #[test]
    fn what_too_many_pointers_move_about_in_is_undecided() {
        let passes = Passes { moved: 10_000, done: MOST, ..Passes::default() };
        assert!(passes.expected_wrong(MOST) > MOST_WRONG);
    }
}
