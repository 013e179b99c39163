//! Putting the timeline together once the sites have their ids.
//!
//! In: what was read of processes and sites over time. Out: the timelines of the processes that had most, with their largest sites.

use std::collections::HashMap;

use super::growth::Past;
use super::site_id::SiteId;
use super::timeline::{Peak, PeakSite, ProcessTimeline, RawTimeline, SiteTimeline, Timeline, TimelineEvent};

/// Processes that have a timeline, at most.
const PROCESSES: usize = 16;
/// Sites of each that have one, at most.
const SITES: usize = 8;

/// Timelines that are being put together.
pub struct Timelines {
    /// By their processes, with the most that each had outstanding.
    processes: HashMap<usize, (RawTimeline, u64)>,
    sites: HashMap<usize, Vec<(u64, SiteTimeline)>>,
    events: Vec<TimelineEvent>,
    /// The ids of sites, by their places.
    ids: HashMap<usize, SiteId>,
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
        let processes = processes.into_iter().collect();
        Self { processes, sites: HashMap::new(), events, ids: HashMap::new(), places: places.to_vec() }
    }

    /// Adds a merged site.
    pub fn add(&mut self, process: usize, place: usize, id: SiteId, past: Option<Past>) {
        if !self.processes.contains_key(&process) {
            return;
        }
        self.ids.insert(place, id);
        let Some(past) = past else { return };
        let most = past.live.iter().copied().max().unwrap_or_default();
        let sites = self.sites.entry(process).or_default();
        sites.push((most, SiteTimeline { process, site: id, outstanding_bytes: past.live }));
        if sites.len() > 4 * SITES {
            keep_largest(sites);
        }
    }

    /// The timeline; `None` where no process was followed.
    pub fn into_timeline(mut self) -> Option<Timeline> {
        let (ids, places) = (&self.ids, &self.places);
        let id = |site: Option<usize>| ids.get(places.get(site?)?).copied();
        let finished = |(process, (raw, _)): (usize, (RawTimeline, u64))| {
            let peak = raw.peak.map(|peak| Peak {
                at_s: peak.at_s,
                outstanding_bytes: peak.bytes,
                sites: peak
                    .sites
                    .iter()
                    .map(|(site, bytes)| PeakSite { site: id(*site), outstanding_bytes: *bytes })
                    .collect(),
            });
            ProcessTimeline { process, peak, ..raw.readings }
        };
        let mut processes: Vec<_> = self.processes.into_iter().map(finished).collect();
        processes.sort_by_key(|timeline| timeline.process);
        let mut sites = Vec::new();
        for timeline in &processes {
            let mut of_process = self.sites.remove(&timeline.process).unwrap_or_default();
            keep_largest(&mut of_process);
            sites.extend(of_process.into_iter().map(|(_, site)| site));
        }
        (!processes.is_empty()).then_some(Timeline { processes, sites, events: self.events })
    }
}

fn keep_largest(sites: &mut Vec<(u64, SiteTimeline)>) {
    sites.sort_by(|(one, site), (other, another)| other.cmp(one).then(site.site.cmp(&another.site)));
    sites.truncate(SITES);
}
