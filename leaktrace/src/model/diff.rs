//! What differs between two snapshots, as plain data: `analysis::diff` makes it, reports render it.
//!
//! In: the amounts of sites that were matched. Out: their differences, rates and order. Swapping the snapshots negates every
//! difference.

use std::cmp::{Ordering, Reverse};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::SortKey;
use super::snapshot::{Site, Snapshot};
use super::types::{Address, Frame};
use super::verdict::{Tally, Verdict};

/// Something of each snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair<T> {
    /// Of the one that is compared with.
    pub before: T,
    /// Of the one that is compared.
    pub after: T,
}

impl<T> Pair<T> {
    /// A pair of what `of` makes of each.
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> Pair<U> {
        Pair { before: of(self.before), after: of(self.after) }
    }

    /// A pair of references.
    pub fn as_ref(&self) -> Pair<&T> {
        Pair { before: &self.before, after: &self.after }
    }

    /// A pair of pairs.
    pub fn zip<U>(self, other: Pair<U>) -> Pair<(T, U)> {
        Pair { before: (self.before, other.before), after: (self.after, other.after) }
    }
}

/// Two snapshots and what differs between them.
#[derive(Debug, Clone)]
pub struct Diff {
    /// The snapshots; each site's blocks are not needed.
    pub snapshots: Pair<Snapshot>,
    /// The time that the snapshots cover.
    pub lapse: Lapse,
    /// Whether sites were matched by the file and offset of their frames, since not all of them have an id: then another build
    /// of a file is not told apart.
    pub without_ids: bool,
    /// The programs of both, by name.
    pub programs: Vec<ProgramDiff>,
    /// Every site that has something outstanding in one of them, what is unchanged included.
    pub sites: Vec<SiteDiff>,
}

/// The time that two snapshots cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// They are reports of one trace, so far apart.
    Between(Duration),
    /// They are of two traces, which lasted so long.
    Each(Pair<Duration>),
}

/// A program of one name, or of two if they were taken for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramDiff {
    /// Its processes' names; `None` where the snapshot has none of it.
    pub name: Pair<Option<String>>,
    /// How many processes.
    pub processes: Pair<u64>,
    /// What they hold, listed or not.
    pub outstanding: Pair<Tally>,
    /// What they hold at sites that the snapshot does not list.
    pub unlisted: Pair<Tally>,
}

/// A site in both snapshots, or in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteDiff {
    /// What became of it.
    pub change: Change,
    /// How its two sides were found to be one; `None` where there is one side only.
    pub matched: Option<Matched>,
    /// Place of its program in [`Diff::programs`].
    pub program: usize,
    /// The places of its sites in the snapshots: one for each process, and where names are all that was compared, for each call.
    pub sites: Pair<Vec<usize>>,
    /// What is outstanding.
    pub amount: Pair<Amount>,
    /// Suppressions hide all of it, wherever something is outstanding.
    pub suppressed: bool,
}

/// What became of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// More bytes are outstanding than before, or as many in more allocations.
    Grew,
    /// Something is outstanding, and nothing was before.
    New,
    /// Fewer bytes are outstanding than before, or as many in fewer allocations.
    Shrank,
    /// Nothing is outstanding, and something was before.
    Gone,
    /// As much is outstanding as before.
    Unchanged,
    /// One of the snapshots does not list it, and does not list all of its sites either.
    NotListed,
}

/// How a site was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matched {
    /// The same code: build ids and offsets of its stack.
    Code,
    /// The same functions, of another build.
    Names,
}

/// What is outstanding at a site, or in all, in one snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes and allocations.
    pub outstanding: Tally,
    /// Bounds of the bytes: equal where they are exact, `None` where they are not known.
    pub ci95: Option<[u64; 2]>,
    /// What a leak check found; `None` where none ran.
    pub verdict: Option<Verdict>,
}

impl Amount {
    /// Whether anything is outstanding.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.outstanding.count > 0 || self.outstanding.bytes > 0
    }
}

/// After less before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Bytes.
    pub bytes: i128,
    /// Allocations.
    pub count: i128,
}

impl Pair<Amount> {
    /// After less before.
    #[must_use]
    pub fn difference(&self) -> Difference {
        self.map(|amount| amount.outstanding).difference()
    }

    /// Bounds of the difference in bytes, for estimates; `None` where they are not known. Those of two independent estimates hold
    /// the truth more than 95 times in 100.
    #[must_use]
    pub fn difference_ci95(&self) -> Option<[i128; 2]> {
        let ([low, high], [after_low, after_high]) = (self.before.ci95?, self.after.ci95?);
        Some([i128::from(after_low) - i128::from(high), i128::from(after_high) - i128::from(low)])
    }
}

impl Pair<Tally> {
    /// After less before.
    #[must_use]
    pub fn difference(&self) -> Difference {
        Difference {
            bytes: i128::from(self.after.bytes) - i128::from(self.before.bytes),
            count: i128::from(self.after.count) - i128::from(self.before.count),
        }
    }
}

impl ProgramDiff {
    /// What it is called now, or was.
    #[must_use]
    pub fn current_name(&self) -> &str {
        self.name.after.as_deref().or(self.name.before.as_deref()).unwrap_or_default()
    }
}

impl Diff {
    /// What is outstanding in all, listed or not.
    #[must_use]
    pub fn totals(&self) -> Pair<Amount> {
        let mut sums = Pair::<Tally>::default();
        for program in &self.programs {
            sums.before.join(program.outstanding.before);
            sums.after.join(program.outstanding.after);
        }
        self.snapshots.as_ref().zip(sums).map(|(snapshot, outstanding)| Amount {
            outstanding,
            ci95: if snapshot.sampled { snapshot.outstanding_bytes_ci95 } else { Some([outstanding.bytes; 2]) },
            verdict: None,
        })
    }

    /// Whether any number is an estimate.
    #[must_use]
    pub fn is_estimate(&self) -> bool {
        self.snapshots.before.sampled || self.snapshots.after.sampled
    }

    /// The sites that differ and that no suppression hides, in order.
    pub fn changed(&self) -> impl Iterator<Item = &SiteDiff> {
        self.sites.iter().filter(|site| site.change != Change::Unchanged && !site.suppressed)
    }

    /// How many sites have changed so and are not hidden.
    #[must_use]
    pub fn number(&self, change: Change) -> u64 {
        self.sites.iter().filter(|site| site.change == change && !site.suppressed).count() as u64
    }

    /// Bytes per second in each snapshot since its trace began; `None` for no time.
    #[must_use]
    pub fn rates(&self, bytes: Pair<u64>) -> Pair<Option<f64>> {
        self.snapshots.as_ref().zip(bytes).map(|(snapshot, bytes)| per_second(bytes as f64, snapshot.elapsed))
    }

    /// How much faster bytes come than before: the difference over the time between reports of one trace; of two traces the
    /// difference of what each gathered a second.
    #[must_use]
    pub fn rate(&self, bytes: Pair<u64>) -> Option<f64> {
        match self.lapse {
            Lapse::Between(time) => per_second(bytes.after as f64 - bytes.before as f64, time),
            Lapse::Each(_) => {
                let rates = self.rates(bytes);
                Some(rates.after? - rates.before?)
            }
        }
    }

    /// The site whose stack stands for a matched one: that which holds most, of the later snapshot if anything is outstanding there.
    #[must_use]
    pub fn shown(&self, site: &SiteDiff) -> Option<(&Snapshot, &Site)> {
        let Pair { before, after } = self.snapshots.as_ref().zip(site.sites.as_ref());
        let (first, second) = if site.amount.after.is_outstanding() { (after, before) } else { (before, after) };
        largest(first.0, first.1).or_else(|| largest(second.0, second.1))
    }

    /// Puts the sites in order: what grew or is new, then what shrank or is gone, the largest difference by `key` first. Equal
    /// ones are in an order that depends on the sites alone.
    pub fn sort_sites(&mut self, key: SortKey) {
        let mut sites = std::mem::take(&mut self.sites);
        sites.sort_by(|one, other| self.compare(key, one, other));
        self.sites = sites;
    }

    fn compare(&self, key: SortKey, one: &SiteDiff, other: &SiteDiff) -> Ordering {
        let order = |site: &SiteDiff| {
            let Difference { bytes, count } = site.amount.difference();
            let (bytes, count) = (bytes.unsigned_abs(), count.unsigned_abs());
            let class = match site.change {
                Change::Grew | Change::New => 0,
                Change::Shrank | Change::Gone => 1,
                Change::NotListed => 2,
                Change::Unchanged => 3,
            };
            let sizes = if key == SortKey::Count { (count, bytes) } else { (bytes, count) };
            (
                class,
                Reverse(sizes),
                Reverse(site.amount.after.outstanding.bytes.max(site.amount.before.outstanding.bytes)),
            )
        };
        let name = |site: &SiteDiff| self.programs.get(site.program).map(ProgramDiff::current_name);
        let stacks = || match (self.shown(one), self.shown(other)) {
            (Some((_, one)), Some((_, other))) => by_code(&one.stack, &other.stack).then(one.id.cmp(&other.id)),
            _ => Ordering::Equal,
        };
        order(one).cmp(&order(other)).then_with(|| name(one).cmp(&name(other))).then_with(stacks)
    }
}

fn per_second(bytes: f64, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| bytes / time.as_secs_f64())
}

/// The site that holds most, with its snapshot; of equal ones one that does not depend on their order.
fn largest<'a>(snapshot: &'a Snapshot, places: &[usize]) -> Option<(&'a Snapshot, &'a Site)> {
    let size = |site: &Site| (site.outstanding_bytes, site.outstanding_count);
    let sites = places.iter().filter_map(|place| snapshot.sites.get(*place));
    let largest = sites.min_by(|one, other| {
        size(other).cmp(&size(one)).then_with(|| by_code(&one.stack, &other.stack)).then(one.pid.cmp(&other.pid))
    });
    largest.map(|site| (snapshot, site))
}

/// Orders stacks by what is called, then by where.
fn by_code(one: &[Arc<Frame>], other: &[Arc<Frame>]) -> Ordering {
    fn name(frame: &Arc<Frame>) -> Option<&str> {
        frame.function.as_deref()
    }
    fn place(frame: &Arc<Frame>) -> (Option<&Path>, Option<u64>, Address) {
        (frame.module.as_deref(), frame.module_offset, frame.address)
    }
    one.iter().map(name).cmp(other.iter().map(name)).then_with(|| one.iter().map(place).cmp(other.iter().map(place)))
}
