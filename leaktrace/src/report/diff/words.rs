//! Differences in words.

use crate::model::{Amount, Change, Diff, Lapse, Pair, Tally};
use crate::report::human::{Bytes, Count, Rate, Span, counted};
use crate::report::{estimates, names};

/// The word for what became of a site.
pub fn change(change: Change) -> &'static str {
    match change {
        Change::Grew => "grew",
        Change::Shrank => "shrank",
        Change::New => "new",
        Change::Gone => "gone",
        Change::Unchanged => "unchanged",
        Change::NotListed => "not listed",
    }
}

/// `grew by 40 B, from 60 B in 6 allocations to 100 B in 10`; the same of what shrank, is new or gone.
pub fn amounts(diff: &Diff, change: Change, amount: &Pair<Amount>) -> String {
    let sampled = diff.snapshots.as_ref().map(|snapshot| snapshot.sampled);
    let whole = amount.zip(sampled).map(|(amount, sampled)| outstanding(amount.outstanding, sampled));
    let word = self::change(change);
    let difference = amount.difference();
    let by = estimates::bytes(magnitude(difference.bytes), diff.is_estimate(), None);
    let says = match change {
        Change::New | Change::Unchanged => format!("{word}: {}", whole.after),
        Change::Gone => format!("{word}: {}", whole.before),
        Change::NotListed if amount.after.is_outstanding() => format!("{word} in OLD: {} in NEW", whole.after),
        Change::NotListed => format!("{word} in NEW: {} in OLD", whole.before),
        Change::Grew | Change::Shrank => {
            let count = estimates::allocations(amount.after.outstanding.count, sampled.after);
            let short = count.strip_suffix(" allocations").or_else(|| count.strip_suffix(" allocation"));
            let bytes = estimates::bytes(amount.after.outstanding.bytes, sampled.after, None);
            format!("{word} by {by}, from {} to {bytes} in {}", whole.before, short.unwrap_or(&count))
        }
    };
    let is_known = !matches!(change, Change::NotListed | Change::Unchanged) && diff.is_estimate();
    let bounds = amount.difference_ci95().filter(|_| is_known).map(|[low, high]| {
        let doubt = if low <= 0 && high >= 0 { ", may be chance" } else { "" };
        format!(" (95%: {} to {}{doubt})", signed(low), signed(high))
    });
    format!("{says}{}", bounds.unwrap_or_default())
}

/// How fast it came between reports of one trace. Of two traces that lasted differently long, what is outstanding in each for every
/// second traced: that is no growth, since much of it may have been there from the start.
pub fn rate(diff: &Diff, bytes: Pair<u64>) -> Option<String> {
    match diff.lapse {
        Lapse::Between(_) => Some(Rate(diff.rate(bytes)?).to_string()),
        Lapse::Each(_) if !durations_differ(diff) => None,
        Lapse::Each(_) => {
            let rates = diff.rates(bytes);
            let (before, after) = (Rate(rates.before?), Rate(rates.after?));
            let rates = match bytes {
                Pair { before: 0, .. } => after.to_string(),
                Pair { after: 0, .. } => format!("{before} before"),
                Pair { .. } => format!("{before} before and {after} after"),
            };
            Some(format!("outstanding per second traced: {rates}"))
        }
    }
}

/// Whether two traces lasted so differently long that it matters: by more than a tenth.
pub fn durations_differ(diff: &Diff) -> bool {
    let Lapse::Each(Pair { before, after }) = diff.lapse else { return false };
    before.abs_diff(after) > before.max(after) / 10
}

/// What was compared, in one line.
pub fn compared(diff: &Diff) -> String {
    let Pair { before, after } = &diff.snapshots;
    match diff.lapse {
        Lapse::Between(time) if time.is_zero() => {
            format!("OLD and NEW are one report, after {} of {}", Span(after.elapsed), names::target(after))
        }
        Lapse::Between(time) => format!(
            "OLD and NEW: reports {} and {} of one trace of {}, {} apart",
            before.sequence,
            after.sequence,
            names::target(after),
            Span(time)
        ),
        Lapse::Each(_) => format!(
            "OLD: after {} of {}; NEW: after {} of {}",
            Span(before.elapsed),
            names::target(before),
            Span(after.elapsed),
            names::target(after)
        ),
    }
}

/// The difference of the totals.
pub fn sum(diff: &Diff) -> String {
    let totals = diff.totals();
    let sizes = totals.map(|amount| (amount.outstanding.bytes, amount.outstanding.count));
    match sizes.after.cmp(&sizes.before) {
        std::cmp::Ordering::Equal if sizes.after == (0, 0) => "nothing outstanding in either".to_owned(),
        std::cmp::Ordering::Equal => format!("{} in both", amounts(diff, Change::Unchanged, &totals)),
        std::cmp::Ordering::Greater => amounts(diff, Change::Grew, &totals),
        std::cmp::Ordering::Less => amounts(diff, Change::Shrank, &totals),
    }
}

/// The difference of the totals, how fast that came, and how many sites differ and how.
pub fn totals(diff: &Diff) -> String {
    let sizes = diff.totals().map(|amount| amount.outstanding);
    let rate = rate(diff, sizes.map(|size| size.bytes)).filter(|_| sizes.before != sizes.after);
    let kinds =
        [Change::Grew, Change::Shrank, Change::New, Change::Gone, Change::NotListed, Change::Unchanged].map(|kind| {
            let number = diff.number(kind);
            (number > 0).then(|| format!("{} {}", Count(number), change(kind)))
        });
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    let mut parts = vec![sum(diff)];
    parts.extend(rate);
    if !kinds.is_empty() {
        parts.push(format!("sites: {}", kinds.join(", ")));
    }
    parts.join("; ")
}

/// What suppressions leave out of the lists; `None` where that is nothing.
pub fn suppressed(diff: &Diff) -> Option<String> {
    let hidden: Vec<_> = diff.sites.iter().filter(|site| site.suppressed).collect();
    let mut sums = Pair::<Tally>::default();
    for site in &hidden {
        sums.before.join(site.amount.before.outstanding);
        sums.after.join(site.amount.after.outstanding);
    }
    (!hidden.is_empty()).then(|| {
        let Pair { before, after } = diff.snapshots.as_ref().zip(sums);
        format!(
            "suppressed: {} before and {} after at {}; in the totals, not listed",
            estimates::bytes(before.1.bytes, before.0.sampled, None),
            estimates::bytes(after.1.bytes, after.0.sampled, None),
            counted(hidden.len() as u64, "site")
        )
    })
}

/// `60 B in 6 allocations`.
pub fn outstanding(tally: Tally, sampled: bool) -> String {
    let bytes = estimates::bytes(tally.bytes, sampled, None);
    format!("{bytes} in {}", estimates::allocations(tally.count, sampled))
}

/// A difference's size, without its sign.
pub fn magnitude(difference: i128) -> u64 {
    u64::try_from(difference.unsigned_abs()).unwrap_or(u64::MAX)
}

fn signed(bytes: i128) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", Bytes(magnitude(bytes)))
}
