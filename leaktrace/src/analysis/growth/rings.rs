//! Counters of many sites over time, in so much memory and no more.
//!
//! In: readings, one after the other. Out: the window of a process, and a site in it. All sites are read at the same moments, of
//! which at most [`MOMENTS`] are kept: where there are more, every other one is dropped. What is kept stays as it was read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::rule;
use crate::model::{Counters, MemoryUse, Past, Window};

/// Moments that are kept, at most: with [`SITES`] sites, 16 bytes each, 30 MiB.
pub const MOMENTS: usize = 120;
/// Sites that are kept, at most.
pub const SITES: usize = 16_384;
/// Processes that are kept, at most: at 96 bytes for each moment, 11 MiB.
const PROCESSES: usize = 1024;
/// Epochs that a window is divided into, at most.
pub const EPOCHS: usize = 20;
/// A process that did nothing for longer than so many epochs was idle or stopped.
const IDLE_EPOCHS: u32 = 1;

/// What one site has allocated by some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Blocks ever born, of which the lower half is kept.
    pub born: u32,
    /// Blocks outstanding.
    pub count: u32,
    /// Bytes outstanding.
    pub live: u64,
}

impl From<&Counters> for Reading {
    fn from(counters: &Counters) -> Self {
        Self {
            born: counters.alloc_count as u32,
            count: u32::try_from(counters.outstanding_count()).unwrap_or(u32::MAX),
            live: counters.outstanding_bytes(),
        }
    }
}

/// What one process has at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessReading {
    /// Bytes ever allocated.
    pub allocated: u64,
    /// Bytes outstanding.
    pub live: u64,
    /// Blocks ever allocated, and freed.
    pub calls: u64,
    /// Frees of blocks that are not on record: those from before the trace, mostly.
    pub unknown_frees: u64,
    /// Its memory, as far as it was read.
    pub memory: MemoryUse,
}

/// One site or process.
#[derive(Debug)]
struct Series<T> {
    /// The process, as a slot in the tables.
    slot: u32,
    /// The moment of its first reading; before that it had nothing.
    first: usize,
    readings: Vec<T>,
}

impl<T: Copy> Series<T> {
    /// Its reading of a moment: the last one where there is none of that moment, `None` before the first.
    fn at(&self, moment: usize) -> Option<T> {
        let place = moment.checked_sub(self.first)?;
        self.readings.get(place).or(self.readings.last()).copied()
    }
}

/// All sites, or all processes, by their places in the tables.
#[derive(Debug)]
struct Table<T> {
    series: HashMap<u32, Series<T>>,
    room: usize,
    /// Those that found no room.
    left_out: HashSet<u32>,
}

impl<T: Copy + Default> Table<T> {
    fn new(room: usize) -> Self {
        Self { series: HashMap::new(), room, left_out: HashSet::new() }
    }

    /// Adds a reading of the moment with this number.
    fn add(&mut self, now: usize, place: u32, slot: u32, reading: T) {
        let is_full = self.series.len() >= self.room;
        match self.series.get_mut(&place) {
            Some(series) if series.slot == slot => {
                // One that could not be read for a moment had what it had before.
                let last = series.readings.last().copied().unwrap_or_default();
                series.readings.resize(now.saturating_sub(series.first), last);
                series.readings.push(reading);
            }
            None if is_full => drop(self.left_out.insert(place)),
            _ => drop(self.series.insert(place, Series { slot, first: now, readings: vec![reading] })),
        }
    }

    fn halve(&mut self) {
        for series in self.series.values_mut() {
            let mut moment = series.first..;
            series.readings.retain(|_| moment.next().is_some_and(is_kept));
            series.first /= 2;
        }
        self.series.retain(|_, series| !series.readings.is_empty());
    }

    fn forget(&mut self, slots: &HashSet<u32>) {
        self.series.retain(|_, series| !slots.contains(&series.slot));
        self.left_out.clear();
    }

    fn get(&self, place: u32, slot: u32) -> Option<&Series<T>> {
        self.series.get(&place).filter(|series| series.slot == slot)
    }
}

/// Whether a moment stays when every other one is dropped: so that the last of an even number does.
fn is_kept(moment: usize) -> bool {
    moment % 2 == 1
}

/// All sites and processes at the same moments.
#[derive(Debug)]
pub struct Rings {
    times: Vec<Duration>,
    sites: Table<Reading>,
    processes: Table<ProcessReading>,
}

impl Default for Rings {
    fn default() -> Self {
        Self { times: Vec::new(), sites: Table::new(SITES), processes: Table::new(PROCESSES) }
    }
}

impl Rings {
    /// Adds a reading of all sites, `time` after tracing began, by their places and the slots of their processes, and of all
    /// processes, by their slots.
    pub fn add(
        &mut self,
        time: Duration,
        sites: impl IntoIterator<Item = (u32, u32, Reading)>,
        processes: impl IntoIterator<Item = (u32, ProcessReading)>,
    ) {
        if self.times.last().is_some_and(|last| *last >= time) {
            return;
        }
        if self.times.len() >= MOMENTS {
            let mut moment = 0..;
            self.times.retain(|_| moment.next().is_some_and(is_kept));
            self.sites.halve();
            self.processes.halve();
        }
        let now = self.times.len();
        self.times.push(time);
        sites.into_iter().for_each(|(place, slot, reading)| self.sites.add(now, place, slot, reading));
        processes.into_iter().for_each(|(slot, reading)| self.processes.add(now, slot, slot, reading));
    }

    /// Forgets what is of these slots, whose places others may be given.
    pub fn forget(&mut self, slots: &HashSet<u32>) {
        self.sites.forget(slots);
        self.processes.forget(slots);
    }

    /// Moments that are kept.
    pub fn moments(&self) -> usize {
        self.times.len()
    }

    /// How many sites found no room.
    pub fn left_out(&self) -> usize {
        self.sites.left_out.len()
    }

    /// The window of a process from `start`, at which it had nothing, to `now`, of which what comes after `warm_up` is judged;
    /// `None` where too little was read.
    pub fn window(&self, slot: u32, start: Duration, now: Duration, warm_up: Duration) -> Option<Window> {
        let within = self.times.iter().copied().filter(|time| *time > start && *time < now);
        let times: Vec<Duration> = [start].into_iter().chain(within).chain([now]).collect();
        if times.len() < 3 || now <= start {
            return None;
        }
        let last = times.len() - 1;
        let begin = times.partition_point(|time| *time < warm_up).min(last);
        let epochs = EPOCHS.min(last - begin);
        let bound = |epoch: usize| begin + (epoch * (last - begin) + epochs / 2) / epochs.max(1);
        let bounds: Vec<usize> = (0..=epochs).map(bound).collect();
        let ages: Vec<Duration> = bounds.iter().map(|bound| now.saturating_sub(times[*bound])).collect();
        let idle = self.idle(slot, &times);
        let idle_after = |bound: &usize| -> Duration {
            idle.iter().filter(|(from, _)| from >= bound).map(|(_, length)| length).sum()
        };
        let active_ages: Vec<Duration> =
            bounds.iter().zip(&ages).map(|(bound, age)| age.saturating_sub(idle_after(bound))).collect();
        let unknown_frees = self.unknown_frees(slot, times[bounds[rule::warm_up(epochs)]]);
        let (times, bounds, ages, active_ages) = (times.into(), bounds.into(), ages.into(), active_ages.into());
        Some(Window { times, bounds, ages, active_ages, unknown_frees })
    }

    /// Frees of a process since then of blocks that are not on record.
    fn unknown_frees(&self, slot: u32, since: Duration) -> u64 {
        let Some(series) = self.processes.get(slot, slot) else { return 0 };
        let of = |moment: usize| series.at(moment).map_or(0, |reading| reading.unknown_frees);
        let now = self.times.len().checked_sub(1).map_or(0, of);
        let then = self.times.partition_point(|time| *time <= since).checked_sub(1).map_or(0, of);
        now.saturating_sub(then)
    }

    /// The parts of these times in which a process neither allocated nor freed for long: the number at which each begins, and its
    /// length.
    fn idle(&self, slot: u32, times: &[Duration]) -> Vec<(usize, Duration)> {
        let (Some(series), [first, .., last]) = (self.processes.get(slot, slot), times) else { return Vec::new() };
        let long = last.saturating_sub(*first) * IDLE_EPOCHS / EPOCHS as u32;
        let calls = |time: &Duration| {
            let moment = self.times.partition_point(|other| other <= time).checked_sub(1)?;
            Some(series.at(moment)?.calls)
        };
        let calls: Vec<u64> = times.iter().map(|time| calls(time).unwrap_or_default()).collect();
        let (mut idle, mut begin) = (Vec::new(), 0);
        for end in 1..times.len() {
            // Of the last moment nothing is known yet: it is as the time before.
            let goes_on = calls[end] == calls[begin];
            if goes_on && end + 1 < times.len() {
                continue;
            }
            let until = if goes_on { end } else { end - 1 };
            let length = times[until].saturating_sub(times[begin]);
            if length > long {
                idle.push((begin, length));
            }
            begin = end;
        }
        idle
    }

    /// A site in a window, at the end of which it has these counters; `None` for one that found no room.
    pub fn past(&self, place: u32, slot: u32, window: &Window, now: &Counters) -> Option<Past> {
        let series = self.sites.get(place, slot);
        if series.is_none() && self.sites.left_out.contains(&place) {
            return None;
        }
        let readings = self.in_window(series, window, Reading::from(now));
        let mut born = vec![now.alloc_count; readings.len()];
        for (at, pair) in readings.windows(2).enumerate().rev() {
            born[at] = born[at + 1].saturating_sub(u64::from(pair[1].born.wrapping_sub(pair[0].born)));
        }
        Some(Past {
            born,
            count: readings.iter().map(|reading| reading.count).collect(),
            live: readings.iter().map(|reading| reading.live).collect(),
        })
    }

    /// A process in a window, of which `now` is its last reading; `None` for one that found no room.
    pub fn process(&self, slot: u32, window: &Window, now: ProcessReading) -> Option<Vec<ProcessReading>> {
        Some(self.in_window(Some(self.processes.get(slot, slot)?), window, now))
    }

    fn in_window<T: Copy + Default>(&self, series: Option<&Series<T>>, window: &Window, now: T) -> Vec<T> {
        let at = |time: &Duration| {
            let moment = self.times.partition_point(|other| other <= time).checked_sub(1)?;
            series?.at(moment)
        };
        let earlier = window.times.split_last().map_or(&[][..], |(_, earlier)| earlier);
        earlier.iter().map(|time| at(time).unwrap_or_default()).chain([now]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Of a site that allocated so many blocks, and has one of so many bytes left.
    fn counters(born: u64, live: u64) -> Counters {
        Counters { alloc_count: born, free_count: born.saturating_sub(1), alloc_bytes: live, ..Counters::default() }
    }

    fn reading(born: u64, live: u64) -> Reading {
        Reading::from(&counters(born, live))
    }

    fn filled(moments: u64) -> Rings {
        let mut rings = Rings::default();
        for time in 1..=moments {
            let steady = (3, 1, reading(10 * time, 640));
            let late = (time > 50).then(|| (4, 2, reading(time - 50, 8 * (time - 50))));
            let process =
                (1, ProcessReading { allocated: time, live: 2 * time, calls: time, ..ProcessReading::default() });
            rings.add(seconds(time), std::iter::once(steady).chain(late), [process]);
        }
        rings
    }

    #[test]
    fn what_is_kept_stays_as_it_was_read_however_long_it_goes_on() {
        for moments in [2, 60, 120, 121, 500, 3000] {
            let rings = filled(moments);
            assert!(rings.moments() <= MOMENTS && rings.moments() as u64 >= moments.min(60), "{moments}");
            let window = rings.window(1, Duration::ZERO, seconds(moments + 1), Duration::ZERO).unwrap();
            let now = counters(10 * moments + 5, 640);
            let past = rings.past(3, 1, &window, &now).unwrap();
            assert_eq!((past.born[0], past.live[0]), (0, 0), "nothing had begun");
            for (time, born) in window.times.iter().zip(&past.born).skip(1) {
                let expected = if *time == seconds(moments + 1) { now.alloc_count } else { 10 * time.as_secs() };
                assert_eq!(*born, expected, "{moments}: at {time:?}");
            }
            if moments > 50 {
                let past = rings.past(4, 2, &window, &counters(moments - 50, 8 * (moments - 50))).unwrap();
                for (time, live) in window.times.iter().zip(&past.live) {
                    let expected = 8 * time.as_secs().min(moments).saturating_sub(50);
                    assert_eq!(*live, expected, "{moments}: at {time:?}");
                }
            }
        }
    }

    #[test]
    fn what_comes_after_the_warm_up_is_judged_in_even_epochs() {
        let rings = filled(100);
        let window = rings.window(1, Duration::ZERO, seconds(101), seconds(20)).unwrap();
        assert_eq!(
            (window.times[0], window.times[window.bounds[0]], window.epochs()),
            (seconds(0), seconds(20), EPOCHS)
        );
        assert_eq!((window.ages[0], window.ages[EPOCHS]), (seconds(81), Duration::ZERO));
        let lengths: Vec<u64> = window.ages.windows(2).map(|pair| pair[0].as_secs() - pair[1].as_secs()).collect();
        assert!(lengths.iter().all(|length| (4..=5).contains(length)), "{lengths:?}");
        let late = rings.window(1, seconds(90), seconds(101), seconds(20)).unwrap();
        assert_eq!((late.times[late.bounds[0]], late.epochs()), (seconds(90), 11), "it began later");
        let warming = rings.window(1, Duration::ZERO, seconds(101), seconds(200)).unwrap();
        assert_eq!(warming.epochs(), 0, "not warmed up yet");
        assert!(rings.window(1, seconds(100), seconds(101), Duration::ZERO).is_none(), "nothing was read in between");
    }

    #[test]
    fn time_in_which_a_process_does_nothing_makes_no_block_older() {
        let mut rings = Rings::default();
        for time in 1..=100 {
            // From the 40th second to the 60th it is stopped, and again from the 90th on.
            let calls = if time < 60 { time.min(40) } else { (time - 20).min(70) };
            let process = ProcessReading { calls, ..ProcessReading::default() };
            rings.add(seconds(time), [(3, 1, reading(calls, 8))], [(1, process)]);
        }
        let window = rings.window(1, Duration::ZERO, seconds(101), Duration::ZERO).unwrap();
        let age = |at: u64| {
            let epoch = window.bounds.iter().position(|bound| window.times[*bound] >= seconds(at)).unwrap();
            (window.ages[epoch], window.active_ages[epoch])
        };
        let (age_before, active_before) = age(20);
        assert_eq!(age_before.saturating_sub(active_before), seconds(20 + 11), "both times");
        let (age_between, active_between) = age(70);
        assert_eq!(age_between.saturating_sub(active_between), seconds(11), "the second");
        let other = rings.window(2, Duration::ZERO, seconds(101), Duration::ZERO).unwrap();
        assert_eq!(other.ages, other.active_ages, "nothing is known of it");
    }

    #[test]
    fn a_process_has_what_was_read_of_it() {
        let rings = filled(300);
        let window = rings.window(1, Duration::ZERO, seconds(301), Duration::ZERO).unwrap();
        let now = ProcessReading { allocated: 301, live: 0, calls: 400, ..ProcessReading::default() };
        let process = rings.process(1, &window, now).unwrap();
        assert_eq!((process[0], process[process.len() - 1]), (ProcessReading::default(), now));
        let (at, reading) = (window.times[7], process[7]);
        assert_eq!((reading.allocated, reading.live), (at.as_secs(), 2 * at.as_secs()));
        assert_eq!(rings.process(2, &window, now), None);
    }

    #[test]
    fn the_place_of_a_site_that_is_gone_tells_nothing_of_the_next() {
        let mut rings = filled(60);
        let window = rings.window(1, Duration::ZERO, seconds(61), Duration::ZERO).unwrap();
        let before = window.times.len() - 1;
        let none = Past { born: vec![0; before], count: vec![0; before], live: vec![0; before] };
        let without_last = |mut past: Past| {
            past.born.pop();
            past.count.pop();
            past.live.pop();
            past
        };
        let now = counters(1, 1);
        assert_eq!(without_last(rings.past(3, 9, &window, &now).unwrap()), none, "another process has the place");
        rings.forget(&HashSet::from([1]));
        assert_eq!(without_last(rings.past(3, 1, &window, &now).unwrap()), none);
    }

    #[test]
    fn sites_without_room_are_counted_and_not_made_up() {
        let mut rings = Rings::default();
        let sites = |time: u64| (0..SITES as u32 + 7).map(move |place| (place, 1, reading(time, time)));
        rings.add(seconds(1), sites(1), []);
        rings.add(seconds(2), sites(2), []);
        assert_eq!(rings.left_out(), 7);
        let window = rings.window(1, Duration::ZERO, seconds(3), Duration::ZERO).unwrap();
        let now = counters(3, 3);
        let pasts = (0..SITES as u32 + 7).map(|place| rings.past(place, 1, &window, &now));
        assert_eq!(pasts.filter(Option::is_none).count(), 7);
    }
}
