//! Putting the timeline together once the sites have their ids.
//!
//! In: what was read of processes and sites over time. Out: the timelines of the processes that had most, with their largest sites.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::choice::{self, Candidate};
use super::growth::{Growth, GrowthVerdict, Past};
use super::site_id::SiteId;
use super::snapshot::caller;
use super::timeline::{Peak, PeakSite, ProcessTimeline, RawTimeline, SiteTimeline, Timeline, TimelineEvent};
use super::types::Frame;

/// Processes that have a timeline, at most.
const PROCESSES: usize = 16;
/// Sites of each that have one, at most.
const SITES: usize = 8 + choice::LEAKS;

/// Timelines that are being put together.
pub struct Timelines {
    /// By their processes, with the most that each had outstanding.
    processes: HashMap<usize, (RawTimeline, u64)>,
    sites: HashMap<usize, Vec<Candidate<SiteTimeline>>>,
    events: Vec<TimelineEvent>,
    /// The ids of sites and what those of a peak are called, by their places.
    names: HashMap<usize, (SiteId, Option<String>)>,
    /// Places of the sites that peaks have.
    at_peaks: HashSet<usize>,
    /// The place of each site of the capture.
    places: Vec<usize>,
}

impl Timelines {
    /// Begins with those of processes. `places` are those of the capture's sites among the merged ones.
    pub fn new(
        processes: impl Iterator<Item = (usize, RawTimeline)>,
        events: Vec<TimelineEvent>,
        places: &[usize],
    ) -> Self {
        let with_most = processes.map(|(index, timeline)| {
            let most = timeline.readings.outstanding_bytes.iter().copied().max().unwrap_or_default();
            (index, (timeline, most))
        });
        let mut processes: Vec<_> = with_most.collect();
        processes.sort_by_key(|(index, (_, most))| (std::cmp::Reverse(*most), *index));
        processes.truncate(PROCESSES);
        let processes: HashMap<_, _> = processes.into_iter().collect();
        let peaks = processes.values().filter_map(|(timeline, _)| timeline.peak.as_ref());
        let at_peaks = peaks.flat_map(|peak| &peak.sites).filter_map(|(site, _)| places.get((*site)?).copied());
        let at_peaks = at_peaks.collect();
        Self { processes, sites: HashMap::new(), events, names: HashMap::new(), at_peaks, places: places.to_vec() }
    }

    /// Whether a peak has the merged site at this place: it is to be named even where nothing of it is outstanding any more.
    pub fn is_at_peak(&self, place: usize) -> bool {
        self.at_peaks.contains(&place)
    }

    /// Adds a merged site with its stack and its growth.
    pub fn add(
        &mut self,
        process: usize,
        place: usize,
        (id, stack): (SiteId, &[Arc<Frame>]),
        past: Option<Past>,
        growth: Option<&Growth>,
    ) {
        if !self.processes.contains_key(&process) {
            return;
        }
        if self.is_at_peak(place) {
            self.names.insert(place, (id, caller(stack).map(Frame::name)));
        }
        let Some(past) = past else { return };
        let most = past.live.iter().copied().max().unwrap_or_default();
        let sites = self.sites.entry(process).or_default();
        let leak = growth.filter(|growth| growth.verdict == GrowthVerdict::Leak).map(|growth| growth.bytes_per_s);
        sites.push(Candidate { of: SiteTimeline { process, site: id, outstanding_bytes: past.live }, most, leak });
        if sites.len() > 4 * SITES {
            *sites = choice::largest(std::mem::take(sites), SITES);
        }
    }

    /// The timeline; `None` where no process was followed.
    pub fn into_timeline(mut self) -> Option<Timeline> {
        let (names, places) = (&self.names, &self.places);
        let of_site = |site: Option<usize>| names.get(places.get(site?)?);
        let finished = |(process, (raw, _)): (usize, (RawTimeline, u64))| {
            let peak = raw.peak.map(|peak| Peak {
                at_s: peak.at_s,
                outstanding_bytes: peak.bytes,
                sites: peak
                    .sites
                    .iter()
                    .map(|(site, bytes)| {
                        let (site, function) = of_site(*site).cloned().unzip();
                        PeakSite { site, function: function.flatten(), outstanding_bytes: *bytes }
                    })
                    .collect(),
            });
            ProcessTimeline { process, peak, ..raw.readings }
        };
        let mut processes: Vec<_> = self.processes.into_iter().map(finished).collect();
        processes.sort_by_key(|timeline| timeline.process);
        let mut sites = Vec::new();
        for timeline in &processes {
            let of_process = self.sites.remove(&timeline.process).unwrap_or_default();
            sites.extend(choice::largest(of_process, SITES).into_iter().map(|site| site.of));
        }
        (!processes.is_empty()).then_some(Timeline { processes, sites, events: self.events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::site_id::Code;

    #[test]
    fn the_largest_sites_have_a_curve_and_the_two_fastest_leaks() {
        let id = |number: u64| SiteId::of([Code::File(b"a", number)]);
        let leak = |rate: f64| Growth {
            verdict: GrowthVerdict::Leak,
            bytes_per_s: rate,
            ci95: [rate, rate],
            reason: "".into(),
            lifetime_max: None,
        };
        let readings = ProcessTimeline { at_s: vec![1.0], outstanding_bytes: vec![9], ..ProcessTimeline::default() };
        let followed = [(0, RawTimeline { readings, peak: None })];
        let mut timelines = Timelines::new(followed.into_iter(), Vec::new(), &[]);
        for number in 0..1000u64 {
            // The smallest are those that leak, the faster the smaller.
            let growth = (number < 5).then(|| leak(100.0 - number as f64));
            let past = Past { born: vec![1], count: vec![1], live: vec![number + 1] };
            timelines.add(0, number as usize, (id(number), &[]), Some(past), growth.as_ref());
        }
        let sites = timelines.into_timeline().unwrap().sites;
        let curves: Vec<_> = sites.iter().map(|site| (site.site, site.outstanding_bytes[0])).collect();
        let expected = (992..1000).rev().chain([1, 0]).map(|number| (id(number), number + 1));
        assert_eq!(curves, expected.collect::<Vec<_>>());
    }
}
