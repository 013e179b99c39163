//! The growth of all sites of a capture.
//!
//! In: a capture with the past of its sites and the tally of its blocks. Out: what time says of each of its merged sites.
//!
//! Of a sample the recorded blocks are judged, and not what they stand for: births, frees and what stays are those of a process that
//! does the same less often, and chance is as large as it seems. Bytes are what they stand for.

use std::borrow::Cow;
use std::time::Duration;

use super::rule::{self, Epoch, Evidence};
use super::trend;
use leaktrace_common::sampling::{BYTES_SHIFT, COUNT_SHIFT};

use crate::model::sampling::whole;
use crate::model::{
    BlockTally, Capture, Counters, Growth, GrowthVerdict, Options, Past, RawProcess, RawSite, SiteGrowth, Tally,
    TraceMode, Window,
};

/// Sites too small to be judged are worth a word where they make this part of what their process grows by.
const MOST: f64 = 0.5;

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

    fn judge(&self, window: &Window, unknown_frees: u64, spoilt: Option<&'static str>) -> SiteGrowth {
        let born_by = |moment: usize| self.past.born.get(moment).copied().unwrap_or_default();
        let born = |epoch: usize| born_by(window.bounds[epoch + 1]).saturating_sub(born_by(window.bounds[epoch]));
        let epochs = epochs(window, born, &self.survivors);
        // From the end of the warm-up.
        let begin = window.bounds.first().copied().unwrap_or_default();
        let live = self.past.live.get(begin..).unwrap_or_default();
        let times = window.times.get(begin..).unwrap_or_default();
        let count = self.past.count.get(begin..).unwrap_or_default();
        let spoilt = spoilt.or_else(|| epochs.is_empty().then_some("--warmup is not over yet"));
        let evidence = Evidence {
            epochs: &epochs,
            freed: self.freed,
            longest_life: self.longest_life,
            live,
            count,
            idle: window.idle(),
            unknown_frees,
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

/// What a site is judged by.
struct Numbers<'a> {
    /// Blocks that are left of each epoch.
    survivors: Cow<'a, [Tally]>,
    past: Option<Cow<'a, Past>>,
    counters: Counters,
}

impl<'a> Numbers<'a> {
    /// Those of the blocks that were recorded for a sample; their bytes are what they stand for.
    fn of_sample(site: &'a RawSite, index: usize, blocks: Option<&BlockTally>) -> Self {
        // Without one that is left it is not known, and nothing is left to be judged.
        let per_sample = blocks.and_then(|blocks| blocks.blocks_per_sample(index)).unwrap_or(1.0).max(1.0);
        let recorded = |count: u64| (count as f64 / per_sample).round() as u64;
        let in_units = |units: u64| (units as f64 / f64::from(1 << COUNT_SHIFT) / per_sample).round() as u64;
        let of_epoch = |left: &Tally| Tally { bytes: whole(left.bytes, BYTES_SHIFT), count: in_units(left.count) };
        let survivors = blocks.map_or(&[][..], |blocks| blocks.survivors(index));
        let past = site.past.as_ref().map(|past| {
            let born = past.born.iter().copied().map(recorded).collect();
            let count = past.count.iter().map(|count| recorded(u64::from(*count)) as u32).collect();
            Cow::Owned(Past { born, count, live: past.live.clone() })
        });
        let free_count = in_units(site.counters.free_count);
        let counters = Counters { free_count, ..site.counters };
        Self { survivors: survivors.iter().map(of_epoch).collect(), past, counters }
    }
}

/// Sites of one process that are too small to be judged by themselves.
#[derive(Default)]
struct Scattered {
    sites: usize,
    born: Vec<u64>,
    survivors: Vec<Tally>,
    freed: u64,
    longest_life: Duration,
}

impl Scattered {
    fn add(&mut self, counters: &Counters, past: Option<&Past>, survivors: &[Tally], window: &Window) {
        self.sites += 1;
        self.survivors.resize(window.epochs(), Tally::default());
        self.survivors.iter_mut().zip(survivors).for_each(|(to, from)| to.join(*from));
        self.born.resize(window.epochs(), 0);
        let born = |moment: usize| past.and_then(|past| past.born.get(moment)).copied().unwrap_or_default();
        for (to, bounds) in self.born.iter_mut().zip(window.bounds.windows(2)) {
            *to = to.saturating_add(born(bounds[1]).saturating_sub(born(bounds[0])));
        }
        self.freed = self.freed.saturating_add(counters.free_count);
        self.longest_life = self.longest_life.max(counters.longest_life);
    }

    /// What they amount to, if their process grows, and most of that is theirs; `live` is what it has outstanding at the window's times.
    fn judge(&self, live: &[u64], window: &Window, unknown_frees: u64) -> Option<Growth> {
        let begin = window.bounds.first().copied().unwrap_or_default();
        let live = live.get(begin..).filter(|live| rule::has_rising_floor(live))?;
        let epochs = epochs(window, |epoch| self.born.get(epoch).copied().unwrap_or_default(), &self.survivors);
        let evidence = Evidence {
            epochs: &epochs,
            freed: self.freed,
            longest_life: self.longest_life,
            live,
            idle: window.idle(),
            unknown_frees,
            ..Evidence::default()
        };
        let growth = rule::judge(&evidence);
        let slope = trend::slope(window.times.get(begin..)?, live);
        let is_most = growth.bytes_per_s > 0.0 && growth.bytes_per_s >= MOST * slope;
        is_most.then(|| Growth {
            verdict: GrowthVerdict::Undecided,
            reason: format!("at {} sites of a few blocks each: {}", self.sites, growth.reason).into(),
            lifetime_max: None,
            ..growth
        })
    }
}

/// The epochs of a window, with what was born in each and what is left of it.
fn epochs(window: &Window, born: impl Fn(usize) -> u64, survivors: &[Tally]) -> Vec<Epoch> {
    let lengths = window.ages.windows(2).map(|ages| ages[0].saturating_sub(ages[1]));
    let epoch = |(number, length)| Epoch {
        length,
        youngest: window.active_ages.get(number + 1).copied().unwrap_or_default(),
        born: born(number),
        left: survivors.get(number).copied().unwrap_or_default(),
    };
    lengths.enumerate().map(epoch).collect()
}

/// Judges the sites whose past is known, and those of a process together that are too small for that.
pub fn judge(capture: &mut Capture) {
    let losses = &capture.losses;
    let Options { sample_bytes, sampler, .. } = capture.options;
    let spoilt = if sample_bytes.is_some() && !sampler {
        Some("of a sample it cannot be told which blocks stay")
    } else if sampler && !capture.tells_earlier {
        Some("its sampler does not tell when blocks from before the trace are freed, whose places others may take")
    } else if capture.blocks.is_none() {
        Some("the blocks' ages were not read for this report")
    } else if losses.threads_dropped + losses.samples_lost > 0 {
        Some("frees were lost, so that blocks may seem to stay")
    } else {
        None
    };
    let partly = |process: &RawProcess| {
        let is_partly = capture.untraced.iter().any(|untraced| untraced.tells_a_part_of(&process.comm));
        is_partly.then_some("it was traced in part only, and may free in ways that were not seen")
    };
    let spoilt: Vec<Option<&'static str>> =
        capture.processes.iter().map(|process| spoilt.or_else(|| partly(process))).collect();
    let is_sample = capture.options.sample_bytes.is_some();
    let places = capture.merged();
    let mut merged: Vec<Option<Merged>> = Vec::new();
    merged.resize_with(places.iter().max().map_or(0, |last| last + 1), || None);
    let mut scattered: Vec<Scattered> = Vec::new();
    scattered.resize_with(capture.processes.len(), Scattered::default);
    for (index, place) in places.into_iter().enumerate() {
        let Some(site) = capture.sites.get(index) else { continue };
        let blocks = capture.blocks.as_ref();
        let Numbers { survivors, past, counters } = if is_sample {
            Numbers::of_sample(site, index, blocks)
        } else {
            let survivors = blocks.map_or(&[][..], |blocks| blocks.survivors(index)).into();
            Numbers { survivors, past: site.past.as_ref().map(Cow::Borrowed), counters: site.counters }
        };
        let window = capture.processes.get(site.process).and_then(|process| process.window.as_ref());
        if let (Some(window), Some(scattered)) = (window, scattered.get_mut(site.process))
            && rule::is_small(&survivors, window.epochs(), past.is_some())
        {
            scattered.add(&counters, past.as_deref(), &survivors, window);
        }
        let Some(past) = past else { continue };
        let lost = blocks.and_then(|blocks| blocks.verdict(index)).map(|verdict| {
            let mut lost = verdict.definitely_lost;
            lost.join(verdict.indirectly_lost);
            lost
        });
        let one = Merged {
            process: site.process,
            past,
            survivors,
            freed: counters.free_count,
            longest_life: counters.longest_life,
            lost,
        };
        match merged.get_mut(place) {
            Some(Some(merged)) => merged.add(&one),
            Some(none) => *none = Some(one),
            None => {}
        }
    }
    // What is left out by its size is not on record either, and COMMAND has nothing from before the trace.
    let all_are_new = capture.target.mode == TraceMode::Command && capture.options.filters_sizes();
    let unknown_frees = |window: &Window| if all_are_new { 0 } else { window.unknown_frees };
    let judge = |site: &Merged| {
        let window = capture.processes.get(site.process)?.window.as_ref()?;
        Some(site.judge(window, unknown_frees(window), *spoilt.get(site.process)?))
    };
    capture.growth = merged.iter().map(|site| site.as_ref().and_then(judge).unwrap_or_default()).collect();
    for ((process, scattered), spoilt) in capture.processes.iter_mut().zip(scattered).zip(spoilt) {
        let window = process.window.as_ref().filter(|_| scattered.sites > 1 && spoilt.is_none());
        let live = process.timeline.as_ref().map(|timeline| &timeline.readings.outstanding_bytes);
        process.scattered_growth =
            window.zip(live).and_then(|(window, live)| scattered.judge(live, window, unknown_frees(window)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty epochs of ten seconds.
    fn window() -> Window {
        let times: Vec<Duration> = (0..=20).map(|at| Duration::from_secs(10 * at)).collect();
        let ages: Vec<Duration> = times.iter().rev().copied().collect();
        let bounds: Vec<usize> = (0..=20).collect();
        Window {
            times: times.into(),
            bounds: bounds.into(),
            active_ages: ages.clone().into(),
            ages: ages.into(),
            unknown_frees: 0,
        }
    }

    #[test]
    fn sites_of_one_block_each_are_judged_together_where_they_are_most_of_what_grows() {
        let window = window();
        let mut scattered = Scattered::default();
        let counters = Counters { free_count: 3, longest_life: Duration::from_secs(2), ..Counters::default() };
        for site in 0..200_usize {
            let mut survivors = vec![Tally::default(); site % 20 + 1];
            survivors[site % 20] = Tally { bytes: 100, count: 1 };
            assert!(rule::is_small(&survivors, window.epochs(), true) == (site % 20 >= 5), "{site}");
            scattered.add(&counters, None, &survivors, &window);
        }
        // Ten blocks of 100 bytes in each epoch.
        let grows = |by: u64| (0..=20).map(|at| by * at).collect::<Vec<u64>>();
        let growth = scattered.judge(&grows(1000), &window, 0).unwrap();
        assert_eq!(growth.verdict, GrowthVerdict::Undecided);
        assert!((growth.bytes_per_s - 100.0).abs() < 1e-6, "{growth:?}");
        assert!(growth.reason.starts_with("at 200 sites of a few blocks each: "), "{growth:?}");
        assert_eq!(scattered.judge(&grows(10_000), &window, 0), None, "what others hold grows far more");
        assert_eq!(scattered.judge(&[5000; 21], &window, 0), None, "nothing grows");
        assert_eq!(Scattered::default().judge(&grows(1000), &window, 0), None);
    }

    #[test]
    fn a_site_is_small_that_has_a_handful_or_no_room() {
        let survivors = |count: u64| [vec![Tally::default(); 10], vec![Tally { bytes: 8 * count, count }]].concat();
        assert!(rule::is_small(&survivors(7), 20, true) && !rule::is_small(&survivors(8), 20, true));
        assert!(rule::is_small(&survivors(8), 20, false) && !rule::is_small(&survivors(0), 20, false));
    }
}
