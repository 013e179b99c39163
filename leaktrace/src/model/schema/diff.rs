//! The fields of a file that says what differs between two snapshots (`leaktrace-diff/1`), in this order.
//!
//! Units and names are those of a snapshot. A site that did not change is in `unchanged` only.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::write::Table;
use crate::model::diff::{Amount, Change, Diff, Lapse, Matched, Pair, ProgramDiff, SiteDiff};
use crate::model::losses::Losses;
use crate::model::notation::{optional_seconds, seconds};
use crate::model::reproduction::Reproduction;
use crate::model::request::{Options, Target};
use crate::model::site_id::SiteId;
use crate::model::snapshot::Snapshot;
use crate::model::types::Frame;
use crate::model::verdict::{Tally, Verdict};

/// What stands in a file under `schema`.
const SCHEMA: &str = "leaktrace-diff/1";

/// A difference as it is to be written.
#[derive(Debug, Clone, Copy)]
pub struct WrittenDiff<'a> {
    /// What to write.
    pub diff: &'a Diff,
    /// What a reader of the numbers must know, a sentence each.
    pub warnings: &'a [String],
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    leaktrace_version: &'static str,
    before: SnapshotForm<'a>,
    after: SnapshotForm<'a>,
    /// Where they are reports of one trace: the time between them, else null.
    #[serde(rename = "between_s", with = "optional_seconds")]
    between: Option<Duration>,
    total: DifferenceForm,
    programs: Vec<ProgramForm<'a>>,
    frames: Vec<std::borrow::Cow<'a, Frame>>,
    sites: Vec<SiteForm>,
    unchanged: SumForm,
    suppressed: SumForm,
    warnings: &'a [String],
}

/// Where the numbers of one side come from.
#[derive(Serialize)]
struct SnapshotForm<'a> {
    leaktrace_version: &'a str,
    started: Timestamp,
    #[serde(rename = "elapsed_s", with = "seconds")]
    elapsed: Duration,
    sequence: u64,
    #[serde(rename = "final")]
    is_final: bool,
    sampled: bool,
    target: &'a Target,
    options: &'a Options,
    #[serde(skip_serializing_if = "Option::is_none")]
    reproduction: Option<&'a Reproduction>,
    losses: &'a Losses,
}

#[derive(Serialize)]
struct ProgramForm<'a> {
    /// Null on the side that has none of it.
    comm: Pair<Option<&'a str>>,
    processes: Pair<u64>,
    #[serde(flatten)]
    difference: DifferenceForm,
    /// What is outstanding at sites that a snapshot does not list.
    #[serde(skip_serializing_if = "is_empty")]
    unlisted: Pair<Tally>,
}

/// What is outstanding before and after.
#[derive(Serialize)]
struct DifferenceForm {
    before: AmountForm,
    after: AmountForm,
    /// After less before; null where one side is not listed.
    difference: Option<AmountsForm>,
    /// The difference over `between_s`; of two traces the difference of what each gathered a second. Null for no time.
    bytes_per_s: Option<f64>,
}

#[derive(Serialize)]
struct AmountForm {
    outstanding_bytes: u64,
    outstanding_count: u64,
    /// Where the bytes are an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    outstanding_bytes_ci95: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct AmountsForm {
    bytes: i128,
    count: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_ci95: Option<[i128; 2]>,
}

#[derive(Serialize)]
struct SiteForm {
    change: Change,
    /// Null where the site is in one snapshot only.
    matched_by: Option<Matched>,
    /// Place in `programs`.
    program: usize,
    ids: Pair<Vec<SiteId>>,
    #[serde(flatten)]
    difference: DifferenceForm,
    /// Places in `frames`, innermost first.
    stack: Vec<u32>,
}

#[derive(Serialize)]
struct SumForm {
    sites: u64,
    before: Tally,
    after: Tally,
}

impl Serialize for WrittenDiff<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { diff, warnings } = *self;
        let mut table = Table::default();
        let sites = diff.changed().map(|site| site_form(diff, site, &mut table)).collect();
        let Pair { before, after } = diff.snapshots.as_ref().map(snapshot_form);
        let program = |program: &ProgramDiff| {
            let exact = program.outstanding.map(|outstanding| Amount { outstanding, ..Amount::default() });
            difference(diff, &exact, true)
        };
        let programs = diff.programs.iter().map(|it| ProgramForm {
            comm: it.name.as_ref().map(Option::as_deref),
            processes: it.processes,
            difference: program(it),
            unlisted: it.unlisted,
        });
        let document = Document {
            schema: SCHEMA,
            leaktrace_version: env!("CARGO_PKG_VERSION"),
            before,
            after,
            between: match diff.lapse {
                Lapse::Between(time) => Some(time),
                Lapse::Each(_) => None,
            },
            total: difference(diff, &diff.totals(), true),
            programs: programs.collect(),
            frames: table.frames,
            sites,
            unchanged: sum(diff, |site| site.change == Change::Unchanged && !site.suppressed),
            suppressed: sum(diff, |site| site.suppressed),
            warnings,
        };
        document.serialize(serializer)
    }
}

fn snapshot_form(snapshot: &Snapshot) -> SnapshotForm<'_> {
    SnapshotForm {
        leaktrace_version: &snapshot.leaktrace_version,
        started: snapshot.started,
        elapsed: snapshot.elapsed,
        sequence: snapshot.sequence,
        is_final: snapshot.is_final,
        sampled: snapshot.sampled,
        target: &snapshot.target,
        options: &snapshot.options,
        reproduction: snapshot.reproduction.as_ref(),
        losses: &snapshot.losses,
    }
}

fn site_form<'a>(diff: &'a Diff, site: &SiteDiff, table: &mut Table<'a>) -> SiteForm {
    let stack = diff.shown(site).map_or(&[][..], |(_, shown)| shown.stack.as_slice());
    SiteForm {
        change: site.change,
        matched_by: site.matched,
        program: site.program,
        ids: diff.snapshots.as_ref().zip(site.sites.as_ref()).map(|(snapshot, places)| ids(snapshot, places)),
        difference: difference(diff, &site.amount, site.change != Change::NotListed),
        stack: stack.iter().map(|frame| table.place(frame)).collect(),
    }
}

fn ids(snapshot: &Snapshot, places: &[usize]) -> Vec<SiteId> {
    let mut ids: Vec<_> = places.iter().filter_map(|place| snapshot.sites.get(*place)?.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn difference(diff: &Diff, amount: &Pair<Amount>, is_known: bool) -> DifferenceForm {
    let amounts = amount.difference();
    let form = |amount: Amount| AmountForm {
        outstanding_bytes: amount.outstanding.bytes,
        outstanding_count: amount.outstanding.count,
        outstanding_bytes_ci95: amount.ci95.filter(|_| diff.is_estimate()),
        verdict: amount.verdict,
    };
    let Pair { before, after } = amount.map(form);
    DifferenceForm {
        before,
        after,
        difference: is_known.then(|| AmountsForm {
            bytes: amounts.bytes,
            count: amounts.count,
            bytes_ci95: amount.difference_ci95().filter(|_| diff.is_estimate()),
        }),
        bytes_per_s: diff.rate(amount.map(|amount| amount.outstanding.bytes)).filter(|_| is_known),
    }
}

fn sum(diff: &Diff, is_one: impl Fn(&SiteDiff) -> bool) -> SumForm {
    let mut sum = SumForm { sites: 0, before: Tally::default(), after: Tally::default() };
    for site in diff.sites.iter().filter(|site| is_one(site)) {
        sum.sites += 1;
        sum.before.join(site.amount.before.outstanding);
        sum.after.join(site.amount.after.outstanding);
    }
    sum
}

fn is_empty(tallies: &Pair<Tally>) -> bool {
    *tallies == Pair::default()
}
