//! What grew between two snapshots.
//!
//! In: two snapshots, of one trace or of two, of one machine or of two. Out: a [`Diff`] in which each of their sites stands once,
//! matched with those of the other snapshot that are the same, and summed over processes: those of two runs cannot be told to be
//! the same. Does not depend on the order of the snapshots' sites.

mod matching;
mod programs;

use matching::Match;
use programs::Programs;

use crate::model::{
    Amount, Change, Diff, Lapse, Pair, ProgramDiff, Site, SiteDiff, Snapshot, SortKey, Tally, Verdict, sampling,
};

/// Compares `after` with `before`.
#[must_use]
pub fn compare(before: Snapshot, after: Snapshot) -> Diff {
    let snapshots = Pair { before, after };
    let lacks_ids = |snapshot: &Snapshot| snapshot.sites.iter().any(|site| site.id.is_none());
    let without_ids = lacks_ids(&snapshots.before) || lacks_ids(&snapshots.after);
    let Programs { programs, of_site } = programs::pair(snapshots.as_ref());
    let matches = matching::pair(snapshots.as_ref(), of_site.as_ref().map(Vec::as_slice), without_ids);
    let sites = matches.into_iter().filter_map(|found| site(snapshots.as_ref(), &programs, found)).collect();
    let lapse = lapse(snapshots.as_ref());
    let mut diff = Diff { snapshots, lapse, without_ids, programs, sites };
    diff.sort_sites(SortKey::Bytes);
    diff
}

fn lapse(Pair { before, after }: Pair<&Snapshot>) -> Lapse {
    // Nobody begins two traces of the same target at the same nanosecond.
    let is_one_machine = match (&before.reproduction, &after.reproduction) {
        (Some(before), Some(after)) => before.is_of_one_trace(after),
        (before, after) => before == after,
    };
    let is_one_trace = before.started == after.started && before.target == after.target && is_one_machine;
    if is_one_trace {
        Lapse::Between(before.elapsed.abs_diff(after.elapsed))
    } else {
        Lapse::Each(Pair { before: before.elapsed, after: after.elapsed })
    }
}

/// A matched site; `None` where nothing is outstanding on either side.
fn site(snapshots: Pair<&Snapshot>, programs: &[ProgramDiff], found: Match) -> Option<SiteDiff> {
    let Match { program, sites, matched } = found;
    let of = snapshots.zip(sites.as_ref());
    let amount = of.map(|(snapshot, places)| amount(snapshot, places));
    let unlisted = programs.get(program).map(|program| program.unlisted).unwrap_or_default();
    let change = change(&amount, unlisted.map(|unlisted| unlisted != Tally::default()))?;
    let is_shown =
        |(snapshot, places): (&Snapshot, &Vec<usize>)| at(snapshot, places).any(|site| site.shown().count > 0);
    let shown = of.map(is_shown);
    Some(SiteDiff { change, matched, program, sites, amount, suppressed: !shown.before && !shown.after })
}

fn change(amount: &Pair<Amount>, has_unlisted: Pair<bool>) -> Option<Change> {
    let size = amount.map(|amount| (amount.outstanding.bytes, amount.outstanding.count));
    let is_there = amount.map(|amount| amount.is_outstanding());
    Some(match (is_there.before, is_there.after) {
        (false, false) => return None,
        (true, false) if has_unlisted.after => Change::NotListed,
        (false, true) if has_unlisted.before => Change::NotListed,
        (true, false) => Change::Gone,
        (false, true) => Change::New,
        (true, true) if size.after > size.before => Change::Grew,
        (true, true) if size.after < size.before => Change::Shrank,
        (true, true) => Change::Unchanged,
    })
}

/// What sites of a snapshot hold together.
fn amount(snapshot: &Snapshot, places: &[usize]) -> Amount {
    let mut outstanding = Tally::default();
    let mut verdict: Option<Verdict> = None;
    for site in at(snapshot, places) {
        outstanding.join(Tally { bytes: site.outstanding_bytes, count: site.outstanding_count });
        if let Some(of_site) = &site.verdict {
            verdict.get_or_insert_default().join(of_site);
        }
    }
    let ci95 = match snapshot.sampled {
        false => Some([outstanding.bytes; 2]),
        // What was not hit may be there all the same.
        true if places.is_empty() => snapshot.options.sample_bytes.map(|mean| [0, sampling::overlooked(mean)]),
        true => at(snapshot, places).map(|site| site.outstanding_bytes_ci95).try_fold([0u64, 0], |sum, bounds| {
            let [low, high] = bounds?;
            Some([sum[0].saturating_add(low), sum[1].saturating_add(high)])
        }),
    };
    Amount { outstanding, ci95, verdict }
}

fn at<'a>(snapshot: &'a Snapshot, places: &[usize]) -> impl Iterator<Item = &'a Site> {
    places.iter().filter_map(|place| snapshot.sites.get(*place))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
