//! Counters of many sites over time, in so much memory and no more.
//!
//! In: readings, one after the other. Out: the window of a process, and a site in it. All sites are read at the same moments, of
//! which at most [`MOMENTS`] are kept: where there are more, every other one is dropped. What is kept stays as it was read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::model::{Past, Window};

/// Moments that are kept, at most: with [`SITES`] sites, 16 bytes each, 30 MiB.
pub const MOMENTS: usize = 120;
/// Sites that are kept, at most.
pub const SITES: usize = 16_384;
/// Epochs that a window is divided into, at most.
pub const EPOCHS: usize = 20;

/// What one site has allocated by some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Blocks ever born.
    pub born: u64,
    /// Bytes outstanding.
    pub live: u64,
}

/// One site.
#[derive(Debug)]
struct Series {
    /// The process that it is of, as a slot in the tables.
    slot: u32,
    /// The moment of its first reading; before that it had nothing.
    first: usize,
    readings: Vec<Reading>,
}

/// The sites of all processes, by their places in the tables.
#[derive(Debug, Default)]
pub struct Rings {
    times: Vec<Duration>,
    sites: HashMap<u32, Series>,
    /// Sites that found no room.
    left_out: HashSet<u32>,
}

impl Rings {
    /// Adds a reading of all sites, `time` after tracing began: their places, slots and numbers.
    pub fn add(&mut self, time: Duration, sites: impl Iterator<Item = (u32, u32, Reading)>) {
        if self.times.last().is_some_and(|last| *last >= time) {
            return;
        }
        if self.times.len() >= MOMENTS {
            self.halve();
        }
        let now = self.times.len();
        self.times.push(time);
        for (place, slot, reading) in sites {
            let is_full = self.sites.len() >= SITES;
            match self.sites.get_mut(&place) {
                Some(series) if series.slot == slot => {
                    // One that could not be read for a moment had what it had before.
                    let last = series.readings.last().copied().unwrap_or_default();
                    series.readings.resize(now.saturating_sub(series.first), last);
                    series.readings.push(reading);
                }
                None if is_full => drop(self.left_out.insert(place)),
                _ => drop(self.sites.insert(place, Series { slot, first: now, readings: vec![reading] })),
            }
        }
    }

    /// Drops every other moment, so that the last stays.
    fn halve(&mut self) {
        let keeps = |moment: usize| moment % 2 == 1;
        let mut moment = 0..;
        self.times.retain(|_| moment.next().is_some_and(keeps));
        for series in self.sites.values_mut() {
            let mut moment = series.first..;
            series.readings.retain(|_| moment.next().is_some_and(keeps));
            series.first /= 2;
        }
        self.sites.retain(|_, series| !series.readings.is_empty());
    }

    /// Forgets the sites of these slots, whose places others may be given.
    pub fn forget(&mut self, slots: &HashSet<u32>) {
        self.sites.retain(|_, series| !slots.contains(&series.slot));
        self.left_out.clear();
    }

    /// Moments that are kept.
    pub fn moments(&self) -> usize {
        self.times.len()
    }

    /// How many sites found no room.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// The window from `start` to `now`; `None` where nothing was read in between. Where tracing, or the process, began at
    /// `start`, it had nothing then (`from_nothing`).
    pub fn window(&self, start: Duration, now: Duration, from_nothing: bool) -> Option<Window> {
        let within =
            self.times.iter().copied().filter(|time| (*time > start || !from_nothing && *time == start) && *time < now);
        let mut times: Vec<Duration> = from_nothing.then_some(start).into_iter().chain(within).collect();
        if times.len() < 2 {
            return None;
        }
        times.push(now);
        let last = times.len() - 1;
        let epochs = EPOCHS.min(last);
        let bounds: Vec<usize> = (0..=epochs).map(|epoch| (epoch * last + epochs / 2) / epochs).collect();
        let ages: Vec<Duration> = bounds.iter().map(|bound| now.saturating_sub(times[*bound])).collect();
        Some(Window { times: times.into(), bounds: bounds.into(), ages: ages.into() })
    }

    /// A site in a window, of which `now` is its last reading; `None` for one that found no room.
    pub fn past(&self, place: u32, slot: u32, window: &Window, now: Reading) -> Option<Past> {
        let series = self.sites.get(&place).filter(|series| series.slot == slot);
        if series.is_none() && self.left_out.contains(&place) {
            return None;
        }
        let at = |time: &Duration| {
            let moment = self.times.partition_point(|other| other <= time).checked_sub(1)?;
            let series = series?;
            let reading = series.readings.get(moment.checked_sub(series.first)?);
            reading.or(series.readings.last()).copied()
        };
        let (_, earlier) = window.times.split_last()?;
        let mut readings: Vec<Reading> = earlier.iter().map(|time| at(time).unwrap_or_default()).collect();
        readings.push(now);
        Some(Past {
            born: readings.iter().map(|reading| reading.born).collect(),
            live: readings.iter().map(|reading| reading.live).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn filled(moments: u64) -> Rings {
        let mut rings = Rings::default();
        for time in 1..=moments {
            let steady = (3, 1, Reading { born: 10 * time, live: 640 });
            let late = (time > 50).then(|| (4, 2, Reading { born: time - 50, live: 8 * (time - 50) }));
            rings.add(seconds(time), std::iter::once(steady).chain(late));
        }
        rings
    }

    #[test]
    fn what_is_kept_stays_as_it_was_read_however_long_it_goes_on() {
        for moments in [2, 60, 120, 121, 500, 3000] {
            let rings = filled(moments);
            assert!(rings.moments() <= MOMENTS && rings.moments() as u64 >= moments.min(60), "{moments}");
            let window = rings.window(Duration::ZERO, seconds(moments + 1), true).unwrap();
            let now = Reading { born: 10 * moments + 5, live: 640 };
            let past = rings.past(3, 1, &window, now).unwrap();
            assert_eq!((past.born[0], past.live[0]), (0, 0), "nothing had begun");
            for (time, born) in window.times.iter().zip(&past.born).skip(1) {
                let expected = if *time == seconds(moments + 1) { now.born } else { 10 * time.as_secs() };
                assert_eq!(*born, expected, "{moments}: at {time:?}");
            }
            if moments > 50 {
                let past = rings.past(4, 2, &window, Reading { born: moments - 50, live: 8 * (moments - 50) }).unwrap();
                for (time, live) in window.times.iter().zip(&past.live) {
                    let expected = 8 * time.as_secs().min(moments).saturating_sub(50);
                    assert_eq!(*live, expected, "{moments}: at {time:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_begins_where_it_is_to_and_has_even_epochs() {
        let rings = filled(100);
        let window = rings.window(seconds(20), seconds(101), false).unwrap();
        assert_eq!((window.times[0], window.epochs()), (seconds(20), EPOCHS));
        assert_eq!((window.ages[0], window.ages[EPOCHS]), (seconds(81), Duration::ZERO));
        let lengths: Vec<u64> = window.ages.windows(2).map(|pair| pair[0].as_secs() - pair[1].as_secs()).collect();
        assert!(lengths.iter().all(|length| (4..=5).contains(length)), "{lengths:?}");
        assert!(rings.window(seconds(100), seconds(101), false).is_none(), "one moment is no window");
        assert!(rings.window(seconds(200), seconds(201), true).is_none());
    }

    #[test]
    fn the_place_of_a_site_that_is_gone_tells_nothing_of_the_next() {
        let mut rings = filled(60);
        let window = rings.window(Duration::ZERO, seconds(61), true).unwrap();
        let none = Past { born: vec![0; window.times.len() - 1], live: vec![0; window.times.len() - 1] };
        let without_last = |mut past: Past| {
            past.born.pop();
            past.live.pop();
            past
        };
        let now = Reading { born: 1, live: 1 };
        assert_eq!(without_last(rings.past(3, 9, &window, now).unwrap()), none, "another process has the place");
        rings.forget(&HashSet::from([1]));
        assert_eq!(without_last(rings.past(3, 1, &window, now).unwrap()), none);
    }

    #[test]
    fn sites_without_room_are_counted_and_not_made_up() {
        let mut rings = Rings::default();
        let sites = |time: u64| (0..SITES as u32 + 7).map(move |place| (place, 1, Reading { born: time, live: time }));
        rings.add(seconds(1), sites(1));
        rings.add(seconds(2), sites(2));
        assert_eq!(rings.left_out(), 7);
        let window = rings.window(Duration::ZERO, seconds(3), true).unwrap();
        let now = Reading { born: 3, live: 3 };
        let pasts = (0..SITES as u32 + 7).map(|place| rings.past(place, 1, &window, now));
        assert_eq!(pasts.filter(Option::is_none).count(), 7);
    }
}
