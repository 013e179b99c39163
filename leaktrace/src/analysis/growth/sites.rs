//! The growth of all sites of a capture.
//!
//! In: a capture with the past of its sites and the tally of its blocks. Out: what time says of each of its merged sites.

use std::borrow::Cow;
use std::time::Duration;

use super::rule::{self, Epoch, Evidence};
use super::trend;
use crate::model::{Capture, Past, RawProcess, SiteGrowth, Tally, Window};

/// One stack of a process, which may have several accounts.
struct Merged<'a> {
    /// Its process, by its place in the capture.
    process: usize,
    past: Cow<'a, Past>,
    survivors: Cow<'a, [Tally]>,
    freed: u64,
    longest_life: Duration,
    /// Definitely and indirectly lost.
    lost: Option<Tally>,
}

impl Merged<'_> {
    fn add(&mut self, other: &Self) {
        self.past.to_mut().add(&other.past);
        let survivors = self.survivors.to_mut();
        survivors.resize(survivors.len().max(other.survivors.len()), Tally::default());
        survivors.iter_mut().zip(other.survivors.iter()).for_each(|(to, from)| to.join(*from));
        self.freed = self.freed.saturating_add(other.freed);
        self.longest_life = self.longest_life.max(other.longest_life);
        if let Some(lost) = other.lost {
            self.lost.get_or_insert_default().join(lost);
        }
    }

    fn judge(&self, window: &Window, spoilt: Option<&'static str>) -> SiteGrowth {
        let bounds = window.bounds.windows(2);
        let born = |moment: usize| self.past.born.get(moment).copied().unwrap_or_default();
        let epochs: Vec<Epoch> = bounds
            .zip(window.ages.windows(2))
            .enumerate()
            .map(|(number, (bounds, ages))| Epoch {
                length: ages[0].saturating_sub(ages[1]),
                youngest: window.active_ages.get(number + 1).copied().unwrap_or_default(),
                born: born(bounds[1]).saturating_sub(born(bounds[0])),
                left: self.survivors.get(number).copied().unwrap_or_default(),
            })
            .collect();
        // From the end of the warm-up.
        let begin = window.bounds.first().copied().unwrap_or_default();
        let live = self.past.live.get(begin..).unwrap_or_default();
        let times = window.times.get(begin..).unwrap_or_default();
        let spoilt = spoilt.or_else(|| epochs.is_empty().then_some("--warmup is not over yet"));
        let evidence = Evidence {
            epochs: &epochs,
            freed: self.freed,
            longest_life: self.longest_life,
            live,
            lost: self.lost,
            spoilt,
        };
        SiteGrowth {
            trend: trend::shape(live),
            bytes_per_s: trend::slope(times, live),
            growth: Some(rule::judge(&evidence)),
        }
    }
}

/// Judges the sites whose past is known.
pub fn judge(capture: &mut Capture) {
    let losses = &capture.losses;
    let spoilt = if capture.options.sample_bytes.is_some() {
        Some("of a sample it cannot be told which blocks stay")
    } else if capture.blocks.is_none() {
        Some("the blocks' ages were not read for this report")
    } else if losses.threads_dropped > 0 {
        Some("frees were lost, so that blocks may seem to stay")
    } else {
        None
    };
    let places = capture.merged();
    let mut merged: Vec<Option<Merged>> = Vec::new();
    merged.resize_with(places.iter().max().map_or(0, |last| last + 1), || None);
    for (index, place) in places.into_iter().enumerate() {
        let Some(site) = capture.sites.get(index) else { continue };
        let Some(past) = &site.past else { continue };
        let blocks = capture.blocks.as_ref();
        let lost = blocks.and_then(|blocks| blocks.verdict(index)).map(|verdict| {
            let mut lost = verdict.definitely_lost;
            lost.join(verdict.indirectly_lost);
            lost
        });
        let one = Merged {
            process: site.process,
            past: Cow::Borrowed(past),
            survivors: Cow::Borrowed(blocks.map_or(&[], |blocks| blocks.survivors(index))),
            freed: site.counters.free_count,
            longest_life: site.counters.longest_life,
            lost,
        };
        match merged.get_mut(place) {
            Some(Some(merged)) => merged.add(&one),
            Some(none) => *none = Some(one),
            None => {}
        }
    }
    let partly = |process: &RawProcess| {
        let is_partly = capture.untraced.iter().any(|untraced| untraced.tells_a_part_of(&process.comm));
        is_partly.then_some("it was traced in part only, and may free in ways that were not seen")
    };
    let spoilt: Vec<Option<&'static str>> =
        capture.processes.iter().map(|process| spoilt.or_else(|| partly(process))).collect();
    let judge = |site: &Merged| {
        let window = capture.processes.get(site.process)?.window.as_ref()?;
        Some(site.judge(window, *spoilt.get(site.process)?))
    };
    capture.growth = merged.iter().map(|site| site.as_ref().and_then(judge).unwrap_or_default()).collect();
}
