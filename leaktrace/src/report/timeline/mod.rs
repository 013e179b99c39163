//! Memory over time as a picture: a panel for each process with what is outstanding by site, resident memory and events.
//!
//! In: a snapshot with a timeline. Out: an SVG without scripts and without anything from elsewhere, written by hand: it is
//! paths and words, and a library for plots would bring neither bands with names nor the signs.

mod panel;
mod scales;
mod series;
mod svg;
mod verdict;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Write};

use super::estimates;
use super::flamegraph::{self, escape_xml};
use super::human::{Count, Span, counted};
use super::names;
use crate::clean::clean;
use crate::model::choice::{self, Candidate};
use crate::model::{GrowthVerdict, Process, Snapshot};
use scales::Scale;
use series::Series;
use svg::{Svg, wrapped};

/// Processes with a panel.
const PANELS: usize = 6;
/// Pixels of the whole, of its margin, and from where to where the plots are.
const WIDTH: f64 = 1200.0;
const EDGE: f64 = 12.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 916.0;
/// Characters in a line of the subtitle.
const LINE: usize = 180;

/// Writes the SVG. A snapshot without a timeline gives a picture that says so.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let title = format!("Memory of {} over {}", names::target(snapshot), Span(snapshot.elapsed));
    let subtitle = flamegraph::subtitle(snapshot);
    let panels = panels(snapshot);
    if panels.is_empty() {
        return flamegraph::write_empty(&title, &subtitle, "Memory was not followed over time.", out);
    }
    let mut svg = Svg::default();
    let mut y = 34.0;
    svg.text((EDGE, y), r##"font-size="19" font-weight="bold" fill="#1f2933""##, &title);
    let mut lines = wrapped(&subtitle, LINE);
    lines.extend(unlike_the_list(snapshot));
    lines.extend(not_shown(snapshot, &panels));
    y += 5.0;
    for line in &lines {
        y += 16.0;
        svg.text((EDGE, y), r##"font-size="12" fill="#4b5563""##, line);
    }
    // One axis of time, so that panels can be compared.
    let from = panels.iter().filter_map(|series| series.at.first()).copied().fold(f64::INFINITY, f64::min);
    let to = panels.iter().filter_map(|series| series.at.last()).copied().fold(0.0, f64::max);
    // What was read first some milliseconds after the beginning stands at 0.
    let from = if from < to * 0.02 { 0.0 } else { from };
    let x = Scale { numbers: (from, to), pixels: (LEFT, RIGHT) };
    let height = if panels.len() == 1 { 280.0 } else { 170.0 };
    for series in &panels {
        y = panel::draw(&mut svg, series, x, y + 16.0, height);
    }
    y += 24.0;
    svg.text(
        (f64::midpoint(LEFT, RIGHT), y),
        r##"font-size="12" text-anchor="middle" fill="#4b5563""##,
        "time since tracing began",
    );
    y += 14.0;
    let title = escape_xml(&clean(&title));
    writeln!(
        out,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="{WIDTH}" height="{y:.0}" viewBox="0 0 {WIDTH} {y:.0}" role="img" xmlns="http://www.w3.org/2000/svg">
<title>{title}</title>
<rect width="100%" height="100%" fill="#ffffff"/>
<g font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif">
{}</g>
</svg>"##,
        svg.into_text()
    )
}

fn leaks(process: &Process) -> bool {
    process.growth.as_ref().is_some_and(|growth| growth.verdict == GrowthVerdict::Leak)
}

/// The processes that ever had most, and the fastest leaks; those that leak come first.
fn panels(snapshot: &Snapshot) -> Vec<Series<'_>> {
    let Some(timeline) = &snapshot.timeline else { return Vec::new() };
    let all = timeline.processes.iter().filter_map(|of| Series::of(snapshot, timeline, of));
    let candidates = all.map(|series| Candidate {
        most: series.most(),
        leak: series.process.growth.as_ref().filter(|_| leaks(series.process)).map(|growth| growth.bytes_per_s),
        of: series,
    });
    let mut panels: Vec<_> = choice::largest(candidates.collect(), PANELS).into_iter().map(|it| it.of).collect();
    panels.sort_by_key(|series| Reverse(leaks(series.process)));
    let undrawn = undrawn(snapshot, &panels).fold(0u64, |sum, process| sum.saturating_add(process.outstanding_bytes));
    for series in &mut panels {
        series.others_hold_more = undrawn > series.process.outstanding_bytes;
    }
    panels
}

/// The processes without a panel: those beyond the largest, and such as have ended and are not followed any more.
fn undrawn<'a>(snapshot: &'a Snapshot, panels: &[Series<'a>]) -> impl Iterator<Item = &'a Process> + use<'a> {
    let shown: HashSet<_> = panels.iter().map(|series| std::ptr::from_ref(series.process)).collect();
    snapshot.processes.iter().filter(move |process| !shown.contains(&std::ptr::from_ref(*process)))
}

/// Where other outputs leave something out, the curves do not.
fn unlike_the_list(snapshot: &Snapshot) -> Option<String> {
    let has_suppressed = !snapshot.suppressed().is_empty();
    (has_suppressed || !series::is_whole(snapshot))
        .then(|| "The curves show all that was outstanding at each moment, also what the totals leave out.".to_owned())
}

/// What the processes without a panel hold, and which of them holds most.
fn not_shown(snapshot: &Snapshot, panels: &[Series<'_>]) -> Option<String> {
    let (mut count, mut bytes, mut leaking) = (0u64, 0u64, 0u64);
    for process in undrawn(snapshot, panels) {
        count = count.saturating_add(process.merged.max(1));
        bytes = bytes.saturating_add(process.outstanding_bytes);
        leaking += u64::from(leaks(process));
    }
    let leaking =
        if leaking == 0 { String::new() } else { format!(", {} that leak by their growth among them", Count(leaking)) };
    let amount = |bytes| estimates::bytes(bytes, snapshot.sampled, None);
    let largest = undrawn(snapshot, panels).max_by_key(|process| process.outstanding_bytes);
    let largest = match largest.filter(|process| count > process.merged.max(1) && process.outstanding_bytes > 0) {
        Some(process) => format!(", {} of it by {}", amount(process.outstanding_bytes), names::one(process)),
        None => String::new(),
    };
    (count > 0).then(|| {
        format!("Not drawn: {} with {} outstanding{largest}{leaking}.", counted(count, "process"), amount(bytes))
    })
}
