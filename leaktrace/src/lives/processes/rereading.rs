//! Mappings read again from processes that run, for what changes without a record: code moved by `mremap(2)` or unmapped, and
//! names that compilers give their code.
//!
//! In: the lives, and how long that may take. Out: their address spaces as they are now, in which addresses that have come to
//! mean something else are marked.

use std::time::{Duration, Instant};

use super::Processes;
use crate::lives::life::Life;
use crate::process::maps::{AddressSpace, CaptureError, Layout};

/// How long one process may keep the others waiting.
const ONE_WITHIN: Duration = Duration::from_millis(100);

/// Address spaces before they were read again, by the number of their life.
#[derive(Debug)]
#[must_use]
pub struct Before {
    spaces: Vec<(u32, AddressSpace)>,
    /// Lives that there was no time for, or whose mappings could not be read.
    pub left_out: usize,
}

impl Processes {
    /// Reads the mappings of reported lives again, for about this long: first those that need it, then the others from where the
    /// last call has stopped. `layout` is the layout of a slot in the tables: mappings are read only where every event of them
    /// has been applied.
    ///
    /// A process may have begun another program meanwhile: apply the kernel's records up to now, and then call
    /// [`Self::undo_where_over`].
    pub fn refresh(&mut self, within: Duration, layout: impl Fn(u32) -> Layout) -> Before {
        let began = Instant::now();
        let is_concerned = |life: &Life| !life.ended && life.is_reported();
        let concerned: Vec<u32> = self.lives.iter().filter(|(_, life)| is_concerned(life)).map(|it| *it.0).collect();
        let from = concerned.partition_point(|number| *number <= self.reread);
        let in_turn = concerned[from..].iter().chain(&concerned[..from]).copied();
        let needs = |number: &u32| self.lives.get(number).is_some_and(|life| life.space.needs_recapture());
        let (first, others): (Vec<u32>, Vec<u32>) = in_turn.partition(needs);
        let (mut before, mut read) = (Before { spaces: Vec::new(), left_out: concerned.len() }, 0);
        for (index, number) in first.iter().chain(&others).copied().enumerate() {
            let is_urgent = index < first.len();
            if !is_urgent && began.elapsed() >= within {
                break;
            }
            let Some(life) = self.lives.get_mut(&number) else { continue };
            read += 1;
            let is_told = |life: &Life| life.slot.is_none_or(|slot| layout(slot) == life.space.layout());
            let mut space = life.space.clone();
            if is_told(life) {
                match space.recapture_within(ONE_WITHIN, &self.store) {
                    Ok(has_changed) if is_told(life) => {
                        before.spaces.push((number, std::mem::replace(&mut life.space, space)));
                        if has_changed || is_urgent {
                            self.changed.insert(life.pid);
                        }
                    }
                    Ok(_) => {}
                    // One that has ended stays as last seen.
                    Err(error) => {
                        read -= usize::from(!matches!(error, CaptureError::Ended(_)));
                        log::debug!("not read again: {:#}", anyhow::Error::from(error));
                    }
                }
            }
            if !is_urgent {
                self.reread = number;
            }
        }
        log::debug!("mappings of {read} of {} processes read again in {:.1?}", concerned.len(), began.elapsed());
        before.left_out -= read;
        before
    }

    /// Forgets what was read again of lives that another program of their process has followed: it was that program's.
    pub fn undo_where_over(&mut self, before: Before) {
        for (number, space) in before.spaces {
            let Some(life) = self.lives.get_mut(&number).filter(|life| life.ended) else { continue };
            let is_last = self.by_pid.get(&life.pid).is_some_and(|numbers| numbers.last() == Some(&number));
            if !is_last {
                life.space = space;
            }
        }
    }
}
