//! Growth: what was recorded of a site over time, and what that says.
//!
//! An *epoch* is a part of the time that is judged. Of each site it is known how many blocks were born in each epoch, and which of
//! those have survived until now.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether a site leaks, as far as time tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowthVerdict {
    /// Blocks stay for longer than any that was freed has lived, and more keep coming.
    Leak,
    /// It cannot be told, for the reason given.
    Undecided,
    /// What is allocated is freed again, or was allocated once.
    Steady,
    /// A verdict that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Shape of a site's growth over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// Grows throughout.
    Growing,
    /// Grows now and then, and keeps what it grew by.
    Steps,
    /// Rises and falls again and again.
    Periodic,
    /// Rose and fell once.
    Spike,
    /// Neither.
    Stable,
    /// A shape that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What time says of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// Whether it leaks.
    pub verdict: GrowthVerdict,
    /// Bytes that stay, of those allocated in one second; 0 where none do.
    #[serde(default)]
    pub bytes_per_s: f64,
    /// Bounds that this rate lies within with a probability of 95 %, if the epochs judged are typical.
    #[serde(default)]
    pub ci95: [f64; 2],
    /// What the verdict rests on, or why there is none: a part of a sentence.
    #[serde(default)]
    pub reason: Cow<'static, str>,
    /// The longest that a block lived that was freed; `None` where none was.
    #[serde(default, rename = "lifetime_max_s", with = "super::notation::optional_seconds")]
    pub lifetime_max: Option<Duration>,
}

impl Growth {
    /// What the sites of one process amount to: each with its growth, and what it is called. `None` where none was judged.
    pub(super) fn of_all(sites: &[(&Self, &str)]) -> Option<Self> {
        let of = |verdict| sites.iter().filter(move |(growth, _)| growth.verdict == verdict).collect::<Vec<_>>();
        let (leaks, undecided) = (of(GrowthVerdict::Leak), of(GrowthVerdict::Undecided));
        let rising: Vec<_> = undecided.into_iter().filter(|(growth, _)| growth.bytes_per_s > 0.0).collect();
        let (verdict, those) = match (leaks.is_empty(), rising.is_empty()) {
            (false, _) => (GrowthVerdict::Leak, leaks),
            (true, false) => (GrowthVerdict::Undecided, rising),
            (true, true) => {
                // What is undecided and does not rise: too short a time, mostly.
                let growth = sites
                    .iter()
                    .map(|(growth, _)| *growth)
                    .max_by_key(|growth| growth.verdict == GrowthVerdict::Undecided)?;
                return Some(
                    Self { bytes_per_s: 0.0, ci95: [0.0; 2], lifetime_max: None, ..growth.clone() }.without_site(),
                );
            }
        };
        let (most, name) = those.iter().max_by(|one, other| one.0.bytes_per_s.total_cmp(&other.0.bytes_per_s))?;
        let bytes_per_s: f64 = those.iter().map(|(growth, _)| growth.bytes_per_s).sum();
        let spread = |bound: usize| {
            // Sites err independently of each other.
            those.iter().map(|(growth, _)| (growth.ci95[bound] - growth.bytes_per_s).powi(2)).sum::<f64>().sqrt()
        };
        let at = match those.len() {
            1 => format!("at {name}"),
            many => format!("at {many} sites, most of it at {name}"),
        };
        Some(Self {
            verdict,
            bytes_per_s,
            ci95: [(bytes_per_s - spread(0)).max(0.0), bytes_per_s + spread(1)],
            reason: format!("{at}: {}", most.reason).into(),
            lifetime_max: None,
        })
    }

    /// The verdict on a whole process that no single site stands for.
    fn without_site(self) -> Self {
        match self.verdict {
            GrowthVerdict::Steady => Self { reason: "no site keeps growing".into(), ..self },
            _ => self,
        }
    }
}

/// All that time says of a site.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SiteGrowth {
    /// The shape of its outstanding bytes over time.
    pub trend: Option<Trend>,
    /// The slope of its outstanding bytes: a straight line through them.
    pub bytes_per_s: f64,
    /// Whether it leaks.
    pub growth: Option<Growth>,
}

/// The time that a process is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Moments at which counters were read, since tracing began, rising. The first and the last are the window's ends.
    pub times: Arc<[Duration]>,
    /// Where each epoch begins in `times`; the last element is where the last one ends.
    pub bounds: Arc<[usize]>,
    /// The same as ages at the window's end, falling to 0: a block of epoch `n` is younger than element `n` and not younger than
    /// `n + 1`.
    pub ages: Arc<[Duration]>,
    /// The same without the time in which the process did not allocate or free anything for long: it was stopped, or idle, and no
    /// block had reason to be freed.
    pub active_ages: Arc<[Duration]>,
    /// Frees of blocks that are not on record, mostly those from before the trace, since the end of the window's first quarter.
    pub unknown_frees: u64,
}

impl Window {
    /// Epochs in it.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.ages.len().saturating_sub(1)
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.ages.first().copied().unwrap_or_default()
    }

    /// How much of it the process did nothing.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.length().saturating_sub(self.active_ages.first().copied().unwrap_or_default())
    }

    /// The epoch in which a block of this age was born; `None` for one that is older than the window.
    #[must_use]
    pub fn epoch_of(&self, age: Duration) -> Option<usize> {
        // Ages fall: the first `n` of them are above this one.
        let above = self.ages.partition_point(|bound| *bound > age);
        above.checked_sub(1).filter(|epoch| *epoch < self.epochs())
    }
}

/// A site in a window of its process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Blocks born by each of the window's times, from the beginning of the trace.
    pub born: Vec<u64>,
    /// Blocks outstanding at each of the window's times.
    pub count: Vec<u32>,
    /// Bytes outstanding at each of the window's times.
    pub live: Vec<u64>,
}

impl Past {
    /// Adds another site of the same process.
    pub fn add(&mut self, other: &Self) {
        let add = |to: &mut Vec<u64>, from: &[u64]| {
            to.resize(to.len().max(from.len()), 0);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = to.saturating_add(*from));
        };
        self.count.resize(self.count.len().max(other.count.len()), 0);
        self.count.iter_mut().zip(&other.count).for_each(|(to, from)| *to = to.saturating_add(*from));
        add(&mut self.born, &other.born);
        add(&mut self.live, &other.live);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_of_the_epoch_in_which_it_was_born() {
        let seconds = |of: &[u64]| of.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        let window = Window {
            times: seconds(&[0, 10, 20, 30]).into(),
            bounds: vec![0, 1, 2, 3].into(),
            ages: seconds(&[30, 20, 10, 0]).into(),
            active_ages: seconds(&[30, 20, 10, 0]).into(),
            unknown_frees: 0,
        };
        let of = |age| window.epoch_of(Duration::from_secs(age));
        assert_eq!((of(0), of(9), of(10), of(29)), (Some(2), Some(2), Some(1), Some(0)));
        assert_eq!((of(30), of(31)), (None, None), "before the window");
        assert_eq!((window.epochs(), window.length()), (3, Duration::from_secs(30)));
    }
}
