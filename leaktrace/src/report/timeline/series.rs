//! What is drawn of one process: its moments, bands, lines and events.
//!
//! In: a snapshot, whose lists may be of any lengths and hold any numbers. Out: lists of one length and rising moments.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::names;
use super::super::{estimates, growth};
use super::scales::LATEST;
use crate::clean::{clean, elide};
use crate::model::choice::{self, Candidate};
use crate::model::{
    EventKind, Frame, GrowthVerdict, Process, ProcessTimeline, Site, SiteId, Snapshot, Tally, Timeline, TimelineEvent,
};

/// Sites with a band of their own.
const BANDS: usize = 6;
/// Events that are drawn of a process.
const EVENTS: usize = 200;
/// Frames of a stack that are looked at, and those that a tooltip has.
const DEEPEST: usize = 64;
const PATH: usize = 5;
/// Characters of a function's name in a tooltip, and in a line.
const LONGEST: usize = 400;
const LONGEST_NAME: usize = 40;

/// One process over time.
pub struct Series<'a> {
    /// Which.
    pub process: &'a Process,
    /// Seconds since tracing began, rising; at least one.
    pub at: Vec<f64>,
    /// Bytes outstanding.
    pub outstanding: Vec<u64>,
    /// Its largest sites, from the bottom.
    pub bands: Vec<Band>,
    /// Resident set where it is known.
    pub rss: Vec<(f64, u64)>,
    /// Proportional set where it is known.
    pub pss: Vec<(f64, u64)>,
    /// What is swapped out where it is known; empty where that is nothing at all times.
    pub swap: Vec<(f64, u64)>,
    /// From, to, and bytes allocated in each second between.
    pub rates: Vec<(f64, f64, f64)>,
    /// When most was outstanding.
    pub peak: Peak,
    /// What happened to it.
    pub events: Vec<(f64, EventKind)>,
    /// What is outstanding at the end, in words.
    pub end: String,
    /// What a leak check calls lost, and no suppression hides.
    pub lost: Tally,
    /// Processes that are not drawn hold more.
    pub others_hold_more: bool,
    sampled: bool,
}

/// Of the moments at which counters were read, the one at which most was outstanding.
pub struct Peak {
    /// Seconds since tracing began.
    pub at: f64,
    /// What was outstanding then.
    pub bytes: u64,
    /// The site that held at least half of it, with its bytes.
    pub site: Option<(String, u64)>,
}

/// One site over time.
pub struct Band {
    /// Its function; where another band's is the same, after the caller that tells them apart.
    pub name: String,
    /// The function and some of its callers.
    pub path: String,
    /// What it has at the end, and how that grows, in words.
    pub words: String,
    /// Bytes outstanding.
    pub bytes: Vec<u64>,
    /// Its colour.
    pub colour: &'static str,
}

impl<'a> Series<'a> {
    /// `None` where nothing can be drawn.
    pub fn of(snapshot: &'a Snapshot, timeline: &Timeline, of: &ProcessTimeline) -> Option<Self> {
        let process = snapshot.processes.get(of.process)?;
        let mut kept: Vec<(usize, f64)> = Vec::new();
        for (place, (at, _)) in of.at_s.iter().zip(&of.outstanding_bytes).enumerate() {
            let at = at.clamp(0.0, LATEST);
            if !at.is_nan() && kept.last().is_none_or(|(_, last)| at >= *last) {
                kept.push((place, at));
            }
        }
        let pick = |list: &[u64]| -> Vec<u64> {
            kept.iter().map(|(place, _)| list.get(*place).copied().unwrap_or_default()).collect()
        };
        let known = |list: &[Option<u64>]| -> Vec<(f64, u64)> {
            kept.iter().filter_map(|(place, at)| Some((*at, (*list.get(*place)?)?))).collect()
        };
        let at: Vec<f64> = kept.iter().map(|(_, at)| *at).collect();
        let (first, last) = (*at.first()?, *at.last()?);
        let outstanding = pick(&of.outstanding_bytes);
        // Of equal ones the first.
        let moments = at.iter().copied().zip(outstanding.iter().copied());
        let most = moments.rev().max_by_key(|(_, bytes)| *bytes)?;
        let peak = of.peak.as_ref().filter(|peak| (first..=last).contains(&peak.at_s));
        let allocated = if of.alloc_bytes.is_empty() { Vec::new() } else { pick(&of.alloc_bytes) };
        let swap = known(&of.swap_bytes);
        let at_end = if is_whole(snapshot) { process.outstanding_bytes } else { *outstanding.last()? };
        // Events come between readings. Another life of the pid has its own.
        let gap = at.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let near = if at.len() > 1 { first - gap..=last + gap } else { 0.0..=LATEST };
        let is_its = |event: &&TimelineEvent| event.pid == process.pid && near.contains(&event.at.as_secs_f64());
        Some(Self {
            process,
            bands: bands(snapshot, timeline, of, &pick),
            rss: known(&of.rss_bytes),
            pss: known(&of.pss_bytes),
            swap: if swap.iter().any(|(_, bytes)| *bytes > 0) { swap } else { Vec::new() },
            rates: rates(&at, &allocated),
            peak: peak.map_or(Peak { at: most.0, bytes: most.1, site: None }, |peak| Peak {
                at: peak.at_s,
                bytes: peak.outstanding_bytes,
                site: peak.sites.first().filter(|site| site.outstanding_bytes >= peak.outstanding_bytes / 2).and_then(
                    |site| Some((elide(&clean(site.function.as_deref()?), LONGEST_NAME), site.outstanding_bytes)),
                ),
            }),
            events: timeline
                .events
                .iter()
                .filter(is_its)
                .take(EVENTS)
                .map(|event| (event.at.as_secs_f64(), event.kind))
                .collect(),
            end: estimates::bytes(at_end, snapshot.sampled, None),
            lost: lost(snapshot, of.process),
            others_hold_more: false,
            sampled: snapshot.sampled,
            at,
            outstanding,
        })
    }

    /// The most that it ever had.
    pub fn most(&self) -> u64 {
        let readings = self.outstanding.iter().copied().max().unwrap_or_default();
        readings.max(self.peak.bytes).max(self.process.peak_bytes)
    }

    /// Bytes of the curves in words.
    pub fn amount(&self, bytes: u64) -> String {
        estimates::bytes(bytes, self.sampled, None)
    }

    /// What the sites without a band have, at each moment.
    pub fn others(&self) -> Vec<u64> {
        let mut others = self.outstanding.clone();
        for band in &self.bands {
            others.iter_mut().zip(&band.bytes).for_each(|(other, bytes)| *other = other.saturating_sub(*bytes));
        }
        others
    }
}

/// Whether the numbers of processes and sites are of all that is outstanding, as those over time are.
pub fn is_whole(snapshot: &Snapshot) -> bool {
    snapshot.options.older_than.is_zero() && snapshot.options.only.is_none()
}

/// What the sites of a process have lost.
fn lost(snapshot: &Snapshot, index: usize) -> Tally {
    let mut sum = Tally::default();
    let its = snapshot.sites.iter().filter(|site| site.process == Some(index));
    its.filter_map(Site::shown_verdict).for_each(|verdict| sum.join(verdict.lost()));
    sum
}

/// Bytes allocated in each second, between moments that are apart: a burst within a millisecond would flatten all else.
fn rates(at: &[f64], allocated: &[u64]) -> Vec<(f64, f64, f64)> {
    let mut moments = at.iter().copied().zip(allocated.iter().copied());
    let Some(mut before) = moments.next() else { return Vec::new() };
    let apart = at.last().map_or(0.0, |last| (last - before.0) / 200.0);
    let mut rates = Vec::new();
    for (to, bytes) in moments {
        let length = to - before.0;
        if length > 0.0 && length >= apart {
            rates.push((before.0, to, bytes.saturating_sub(before.1) as f64 / length));
            before = (to, bytes);
        }
    }
    rates.retain(|(_, _, rate)| rate.is_finite());
    rates
}

/// The largest sites and the fastest leaks, those that leak first: a leak at the bottom rises from a straight line.
fn bands(
    snapshot: &Snapshot,
    timeline: &Timeline,
    of: &ProcessTimeline,
    pick: &dyn Fn(&[u64]) -> Vec<u64>,
) -> Vec<Band> {
    let index = of.process;
    let at_peak = |id: SiteId| {
        let site = of.peak.as_ref()?.sites.iter().find(|site| site.site == Some(id))?;
        site.function.as_deref().map(|name| elide(&clean(name), LONGEST))
    };
    let mut sites: HashMap<SiteId, &Site> = HashMap::new();
    let pid = snapshot.processes.get(index).map(|process| process.pid);
    let is_its = |site: &&Site| site.process.map_or(Some(site.pid) == pid, |its| its == index);
    for site in snapshot.sites.iter().filter(is_its) {
        let Some(id) = site.id else { continue };
        let known = sites.entry(id).or_insert(site);
        if site.outstanding_bytes > known.outstanding_bytes {
            *known = site;
        }
    }
    let all = timeline
        .sites
        .iter()
        .filter(|site| site.process == index)
        .map(|of| (of.site, sites.get(&of.site).copied(), &of.outstanding_bytes))
        .map(|(id, site, bytes)| Candidate {
            of: (rank(site), id, site, bytes),
            most: bytes.iter().copied().max().unwrap_or_default(),
            leak: site.filter(|site| site.leaks_by_growth()).map(Site::growth_rate),
        })
        .filter(|candidate| candidate.most > 0)
        .collect();
    // Of equal ones the trace's order.
    let mut all: Vec<_> = choice::largest(all, BANDS).into_iter().map(|candidate| candidate.of).collect();
    all.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
    let stacks: Vec<_> = all.iter().map(|(_, _, site, _)| site.map_or_else(Vec::new, functions)).collect();
    let frames: Vec<_> = all.iter().map(|(_, _, site, _)| site.map_or_else(Vec::new, frames)).collect();
    let unlisted = |id| at_peak(id).unwrap_or_else(|| "a site that is not listed".to_owned());
    let gone = all.iter().map(|(_, id, site, _)| site.is_none().then(|| unlisted(*id)));
    let called = names_apart(&stacks, &frames, gone.collect());
    let mut used = [0; 3];
    all.into_iter()
        .zip(&stacks)
        .zip(called)
        .map(|(((rank, _, site, bytes), stack), name)| {
            let colours: &[&'static str] = match rank {
                // Warm colours rise, cold ones do not: also to eyes that do not tell red from green.
                2 => &["#c2320e", "#e0653a", "#f09a75"],
                1 => &["#e69f00", "#f0c04d", "#f7dc9c"],
                _ => &["#0072b2", "#56b4e9", "#009e73", "#7a6fb0", "#7cc8b0", "#b5b0d8"],
            };
            let colour = colours[used[rank] % colours.len()];
            used[rank] += 1;
            let bytes = pick(bytes);
            let last = bytes.last().copied().unwrap_or_default();
            let end = site.filter(|_| is_whole(snapshot)).map_or(last, |site| site.outstanding_bytes);
            let mut words = estimates::bytes(end, snapshot.sampled, None);
            if let Some(growth) = site.and_then(growth::of_site) {
                words = format!("{words}, {growth}");
            }
            let path = match stack.as_slice() {
                [] => format!("{name}: nothing is outstanding there by now"),
                stack => stack[..stack.len().min(PATH)].join(" ← "),
            };
            Band { name, path, words, bytes, colour }
        })
        .collect()
}

/// 2 for a site that leaks, 1 for one that may, 0 for others.
fn rank(site: Option<&Site>) -> usize {
    match site.and_then(|site| site.growth.as_ref()) {
        Some(growth) if growth.verdict == GrowthVerdict::Leak => 2,
        Some(growth) if growth.verdict == GrowthVerdict::Undecided && growth.bytes_per_s > 0.0 => 1,
        _ => 0,
    }
}

/// What its frames are called, innermost first: those that have names, if there are any.
fn functions(site: &Site) -> Vec<String> {
    let called = |frame: &Arc<Frame>| elide(&names::function(frame), LONGEST);
    let has_name = |frame: &&Arc<Frame>| frame.function.as_ref().is_some_and(|name| !name.is_empty());
    let named: Vec<_> = site.stack.iter().filter(has_name).take(DEEPEST).map(called).collect();
    match site.stack.first() {
        _ if !named.is_empty() => named,
        Some(frame) => vec![called(frame)],
        None => vec![names::NO_STACK.to_owned()],
    }
}

/// All that its frames are called, innermost first.
fn frames(site: &Site) -> Vec<String> {
    site.stack.iter().take(DEEPEST).map(|frame| elide(&names::function(frame), LONGEST)).collect()
}

/// What sites are called so that no two are called the same: by callers with names, by any callers, or else by numbers. What is gone
/// has no stack, but a name.
fn names_apart(stacks: &[Vec<String>], frames: &[Vec<String>], gone: Vec<Option<String>>) -> Vec<String> {
    let repeated = |names: &[String]| -> Vec<bool> {
        names.iter().map(|name| names.iter().filter(|other| *other == name).count() > 1).collect()
    };
    let by_functions = stacks.iter().zip(gone).map(|(stack, gone)| gone.unwrap_or_else(|| apart(stack, stacks)));
    let mut names: Vec<_> = by_functions.collect();
    for (place, _) in
        repeated(&names).into_iter().enumerate().filter(|(place, again)| *again && !frames[*place].is_empty())
    {
        names[place] = apart(&frames[place], frames);
    }
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let again = repeated(&names);
    for (name, _) in names.iter_mut().zip(again).filter(|(_, again)| *again) {
        let number = numbers.entry(name.clone()).and_modify(|number| *number += 1).or_insert(1);
        *name = format!("{name} ({number})");
    }
    names
}

/// The innermost name of a stack, after the first caller by which it differs from all others with the same innermost name.
fn apart(stack: &[String], all: &[Vec<String>]) -> String {
    let Some(name) = stack.first() else { return String::new() };
    let alike: Vec<_> = all.iter().filter(|other| other.first() == Some(name) && other.as_slice() != stack).collect();
    let differs = |place: &usize| alike.iter().all(|other| other.get(*place) != stack.get(*place));
    let caller =
        if alike.is_empty() { None } else { (1..stack.len()).find(differs).and_then(|place| stack.get(place)) };
    caller.map_or_else(|| name.clone(), |caller| format!("{caller} › {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_of_one_function_are_told_apart_by_a_caller() {
        let stack = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all =
            [stack(&["alloc", "grow", "f", "main"]), stack(&["alloc", "grow", "g", "main"]), stack(&["h", "main"])];
        let names: Vec<_> = all.iter().map(|stack| apart(stack, &all)).collect();
        assert_eq!(names, ["f › alloc", "g › alloc", "h"]);
    }

    #[test]
    fn no_two_sites_are_called_the_same() {
        let stacks = |all: &[&[&str]]| -> Vec<Vec<String>> {
            all.iter().map(|stack| stack.iter().map(|name| (*name).to_owned()).collect()).collect()
        };
        let named = stacks(&[&["start"], &["start"], &["start"], &["f"], &[]]);
        let frames =
            stacks(&[&["sh+0x1", "sh+0x2", "start"], &["sh+0x1", "sh+0x3", "start"], &["sh+0x4"], &["f"], &[]]);
        let gone = vec![None, None, None, None, Some("f".to_owned())];
        let called = names_apart(&named, &frames, gone);
        assert_eq!(called, ["sh+0x2 › sh+0x1", "sh+0x3 › sh+0x1", "sh+0x4", "f (1)", "f (2)"]);
        let alike = stacks(&[&["g", "main"], &["g", "main"]]);
        assert_eq!(names_apart(&alike, &alike, vec![None, None]), ["g (1)", "g (2)"]);
    }

    #[test]
    fn rates_are_differences_of_what_rises() {
        assert_eq!(rates(&[0.0, 2.0, 2.0, 4.0], &[10, 30, 40, 20]), [(0.0, 2.0, 10.0), (2.0, 4.0, 0.0)]);
        assert!(rates(&[1.0], &[5]).is_empty());
        assert_eq!(rates(&[0.0, 0.001, 1.0, 2.0], &[0, 90, 100, 100]), [(0.0, 1.0, 100.0), (1.0, 2.0, 0.0)]);
    }
}
