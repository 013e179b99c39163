//! The text report: one line of totals, what to know before believing them, then the sites, largest first.

use std::cmp::Reverse;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::estimates;
use super::growth;
use super::heap_pages;
use super::holders;
use super::human::{Bytes, Count, Span, counted};
use super::names;
use super::net_flow;
use super::notices::{notices, whole_stacks};
use super::stack;
use super::style::Paint;
pub use super::style::{GroupBy, TextStyle};
use super::types;
use super::{suppressed, verdicts};
use crate::clean::clean;
use crate::model::{Block, Only, Options, Site, Snapshot, SortKey, Tally, Totals};

const HEADER: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Recommendations that are shown, at most.
const ADVICE: usize = 3;
const AMOUNT: Style = AnsiColor::Red.on_default().bold();

/// Writes the report.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, style: TextStyle, out: &mut dyn Write) -> io::Result<()> {
    let totals = snapshot.totals();
    let paint = Paint::of(style);
    writeln!(out, "{}", paint.with(HEADER, &header(snapshot, &totals)))?;
    for notice in notices(snapshot) {
        writeln!(out, "{} {}", paint.with(WARNING, "warning:"), notice.line())?;
    }

    for line in verdicts::lines(snapshot) {
        writeln!(out, "{}", paint.with(HEADER, &line))?;
    }

    for (line, is_leak) in net_flow::lines(snapshot).into_iter().chain(growth::lines(snapshot)) {
        writeln!(out, "{}", paint.with(if is_leak { AMOUNT } else { HEADER }, &line))?;
    }
    for line in heap_pages::lines(snapshot) {
        writeln!(out, "{}", paint.with(HEADER, &line))?;
    }

    for line in suppressed::lines(snapshot) {
        writeln!(out, "{}", paint.with(HEADER, &line))?;
    }
    if style.holders {
        holders::largest(snapshot, out)?;
    }

    for note in &snapshot.notes {
        writeln!(out, "{} {}", paint.with(HEADER, "note:"), clean(note))?;
    }

    let outstanding = outstanding(snapshot);
    if style.group_by == GroupBy::Type {
        return types::write(snapshot, &outstanding, style.top, out);
    }
    let shown = style.top.unwrap_or(outstanding.len()).min(outstanding.len());
    let (shown, rest) = outstanding.split_at(shown);
    for (site, amount) in shown {
        writeln!(out)?;
        writeln!(out, "{}", site_line(snapshot, site, *amount, &totals, paint))?;
        stack::write(site, style, &snapshot.options, paint, out)?;
        if style.holders {
            holders::of_site(site, out)?;
        }
        if style.show_allocs {
            for block in site.blocks.iter().flatten().filter(|block| !site.hides(block)) {
                writeln!(out, "        {}", block_line(block))?;
            }
        }
    }
    if !rest.is_empty() {
        let bytes = rest.iter().fold(0u64, |sum, (_, amount)| sum.saturating_add(amount.bytes));
        let count = rest.iter().fold(0u64, |sum, (_, amount)| sum.saturating_add(amount.count));
        let sites = counted(rest.len() as u64, if shown.is_empty() { "site" } else { "more site" });
        let (bytes, count) = amounts(snapshot, bytes, count, None);
        writeln!(out, "\n{sites}: {bytes} in {count}; --top all shows them")?;
    }
    advice(snapshot, paint, out)
}

/// What to do next, at the end, where a reader looks when he has read the rest.
fn advice(snapshot: &Snapshot, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let shown = snapshot.recommendations.iter().take(ADVICE);
    if !snapshot.recommendations.is_empty() {
        writeln!(out)?;
    }
    for one in shown {
        writeln!(out, "{} {}", paint.with(HEADER, "next:"), clean(&one.message))?;
    }
    Ok(())
}

/// The sites that have something outstanding that no suppression hides, with that, in the snapshot's order.
fn outstanding(snapshot: &Snapshot) -> Vec<(&Site, Tally)> {
    let mut sites: Vec<_> = snapshot.sites.iter().map(|site| (site, site.shown())).collect();
    sites.retain(|(_, amount)| amount.count > 0);
    // Where a part is hidden, the order is that of the rest.
    match snapshot.options.sort {
        SortKey::Bytes | SortKey::Unknown => sites.sort_by_key(|(_, amount)| Reverse(amount.bytes)),
        SortKey::Count => sites.sort_by_key(|(_, amount)| Reverse(amount.count)),
        SortKey::Age | SortKey::Growth => {}
    }
    sites
}

/// Totals, what was traced, and what narrows the numbers, in one line.
fn header(snapshot: &Snapshot, totals: &Totals) -> String {
    let Options { older_than, min_size, max_size, only, .. } = snapshot.options;
    let (is_lost, is_growing) = (only == Some(Only::Lost), only == Some(Only::Growing));
    let traced = format!("after {} of {}", Span(snapshot.elapsed), names::target(snapshot));
    let mut parts = Vec::new();
    if totals.count > 0 {
        let (bytes, count) = amounts(snapshot, totals.bytes, totals.count, snapshot.outstanding_bytes_ci95);
        let sites = counted(totals.sites as u64, "site");
        parts.push(format!("{bytes} outstanding in {count} at {sites} {traced}"));
    } else {
        match estimates::unseen(snapshot) {
            Some(unseen) => parts
                .push(format!("of what is outstanding nothing was hit (95%: less than {}) {traced}", Bytes(unseen))),
            None if is_lost => parts.push(format!("nothing lost {traced}")),
            None if is_growing => parts.push(format!("nothing keeps growing {traced}")),
            None if snapshot.bursts.is_some() => parts.push(format!("no block recorded with its stack {traced}")),
            None => parts.push(format!("nothing outstanding {traced}")),
        }
        if totals.alloc_count > 0 && older_than.is_zero() && only.is_none() {
            parts.push(format!("freed again: {}", estimates::allocations(totals.alloc_count, snapshot.sampled)));
        }
    }
    if is_lost {
        parts.push("only what is definitely or indirectly lost".to_owned());
    }
    if is_growing {
        parts.push("only sites that keep growing".to_owned());
    }
    if !older_than.is_zero() {
        parts.push(format!("only what is at least {} old", Span(older_than)));
    }
    match (min_size, max_size) {
        (0, None) => {}
        (min, None) => parts.push(format!("only sizes from {}", Bytes(min))),
        (0, Some(max)) => parts.push(format!("only sizes up to {}", Bytes(max))),
        (min, Some(max)) => parts.push(format!("only sizes from {} to {}", Bytes(min), Bytes(max))),
    }
    parts.extend(estimates::note(snapshot));
    parts.extend(whole_stacks(snapshot));
    if !snapshot.is_final {
        parts.push(format!("report {}, tracing goes on", snapshot.sequence));
    }
    parts.join("; ")
}

fn amounts(snapshot: &Snapshot, bytes: u64, count: u64, interval: Option<[u64; 2]>) -> (String, String) {
    (estimates::bytes(bytes, snapshot.sampled, interval), estimates::allocations(count, snapshot.sampled))
}

fn site_line(snapshot: &Snapshot, site: &Site, shown: Tally, totals: &Totals, paint: Paint) -> String {
    let (bytes, count) = amounts(snapshot, shown.bytes, shown.count, site.outstanding_bytes_ci95);
    let amount = format!("{bytes} in {count}");
    let share = if totals.bytes > 0 {
        format!(" ({:.1}%)", 100.0 * shown.bytes as f64 / totals.bytes as f64)
    } else {
        String::new()
    };
    let mut parts = vec![format!("{}{share}", paint.with(AMOUNT, &amount))];
    parts.extend(verdicts::of_site(site, shown));
    parts.extend(match site.outstanding_count.saturating_sub(shown.count) {
        0 => None,
        hidden => Some(format!("{} suppressed", Count(hidden))),
    });
    parts.extend((site.ignored.count > 0).then(|| format!("{} ignored by the program", Count(site.ignored.count))));
    parts.extend(site.type_name.as_ref().map(|name| format!("type {}", clean(name))));
    parts.extend(growth::of_site(site));
    parts.extend(age(site));
    parts.extend((snapshot.processes.len() > 1).then(|| names::process(snapshot, site)));
    parts.join(", ")
}

/// `0.3 s to 11.2 s old`, or one age where youngest and oldest read the same.
fn age(site: &Site) -> Option<String> {
    let oldest = Span(site.oldest?).to_string();
    let youngest = site.youngest.map(|age| Span(age).to_string()).filter(|youngest| *youngest != oldest);
    Some(match youngest {
        Some(youngest) => format!("{youngest} to {oldest} old"),
        None => format!("{oldest} old"),
    })
}

fn block_line(block: &Block) -> String {
    let verdict = verdicts::of_block(block).map(|words| format!(", {words}")).unwrap_or_default();
    let class = block.type_name.as_ref().map(|name| format!(", type {}", clean(name))).unwrap_or_default();
    let ignored = if block.ignored { ", ignored by the program" } else { "" };
    let weight = block.weight.map(|weight| format!(", stands for ~{}", Bytes(weight.get()))).unwrap_or_default();
    let size = counted(block.size, "byte");
    format!("{}  {size}, {} old{weight}{verdict}{ignored}{class}", block.address, Span(block.age))
}
