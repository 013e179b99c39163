//! The differential flame graph: widths are what is outstanding now, colours what that is more (red) or less (blue) than before.

use std::io::{self, Write};

use super::doubts::doubts;
use super::{folded, words};
use crate::model::{Change, Diff, Pair};
use crate::report::Measure;
use crate::report::flamegraph::{draw, write_empty};
use crate::report::human::{Bytes, Count, counted};
use crate::report::names;

/// More than any machine has, and little enough that inferno can compute with it (`color_scale` multiplies by 150).
const MOST: u64 = 1 << 52;

/// Writes the SVG. Where nothing is outstanding any more, the picture says so.
///
/// # Errors
/// What `out` reports, and numbers that no machine produces.
pub fn write(diff: &Diff, measure: Measure, out: &mut dyn Write) -> io::Result<()> {
    let stacks = folded::stacks(diff, measure, diff.programs.len() > 1);
    let sum = |sums: Pair<u64>, values: &Pair<u64>| Pair {
        before: sums.before.saturating_add(values.before),
        after: sums.after.saturating_add(values.after),
    };
    let sums = stacks.values().fold(Pair::default(), sum);
    if sums.before.max(sums.after) > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshots hold more bytes than can be drawn"));
    }
    let (title, subtitle) = (title(diff, measure), subtitle(diff));
    if sums.after == 0 {
        let empty = if sums.before > 0 { "All of it is gone." } else { "Nothing is outstanding." };
        return write_empty(&title, &subtitle, empty, out);
    }
    let lines = stacks.into_iter().map(|(stack, Pair { before, after })| format!("{stack} {before} {after}"));
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    draw((title, subtitle), measure, &lines, out)
}

fn title(diff: &Diff, measure: Measure) -> String {
    let what = match measure {
        Measure::Bytes => "Difference in unfreed memory",
        Measure::Count => "Difference in unfreed allocations",
    };
    let Pair { before, after } = diff.snapshots.as_ref().map(names::target);
    if before == after { format!("{what} of {after}") } else { format!("{what} of {after} against {before}") }
}

/// The sum, how to read it, what it cannot show, and that there are warnings. It has one line of some 160 letters.
fn subtitle(diff: &Diff) -> String {
    let mut parts = vec![words::sum(diff), "red grew, blue shrank".to_owned()];
    let gone = diff.changed().filter(|site| site.change == Change::Gone);
    let gone = gone.fold(0u64, |sum, site| sum.saturating_add(site.amount.before.outstanding.bytes));
    if gone > 0 {
        parts.push(format!("not drawn: {}, gone", Bytes(gone)));
    }
    let not_listed = diff.number(Change::NotListed);
    if not_listed > 0 {
        parts.push(format!("{} not listed in one, not drawn", counted(not_listed, "site")));
    }
    for (name, snapshot) in [("OLD", &diff.snapshots.before), ("NEW", &diff.snapshots.after)] {
        if !snapshot.losses.is_lossless() {
            parts.push(format!("{name} lost {} records", Count(snapshot.losses.total())));
        }
    }
    let doubts = doubts(diff).len() as u64;
    if doubts > 0 {
        parts.push(format!("{} in the text report", counted(doubts, "warning")));
    }
    parts.join("; ")
}
