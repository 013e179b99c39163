//! The flame graph of what is outstanding: an SVG by inferno, in the palette that flame graphs of memory use.

use std::io::{self, Write};

use inferno::flamegraph::color::BasicPalette;
use inferno::flamegraph::{self, Options, Palette};

use super::estimates;
use super::human::{Bytes, Span, counted};
use super::notices::{notices, whole_stacks};
use super::{Measure, folded, names, suppressed, verdicts};
use crate::model::{Only, Snapshot};

/// Writes the SVG. A snapshot with nothing outstanding gives a picture that says so.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, measure: Measure, out: &mut dyn Write) -> io::Result<()> {
    let stacks = folded::stacks(snapshot, measure, snapshot.processes.len() > 1);
    let title = title(snapshot, measure);
    let subtitle = subtitle(snapshot);
    if stacks.is_empty() {
        let empty = match estimates::unseen(snapshot) {
            Some(unseen) => format!("Nothing was hit: less than {} is outstanding (95%).", Bytes(unseen)),
            None => nothing(snapshot).to_owned(),
        };
        return write_empty(&title, &subtitle, &empty, out);
    }
    // BTreeMap orders by the names alone; inferno requires the order of whole lines.
    let mut lines: Vec<String> = stacks.into_iter().map(|(stack, value)| format!("{stack} {value}")).collect();
    lines.sort_unstable();
    draw((title, subtitle), measure, &lines, out)
}

/// Draws a graph of these sorted lines, each with one number or with those before and after.
pub(super) fn draw(
    (title, subtitle): (String, String),
    measure: Measure,
    lines: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut options = Options::default();
    // Of two numbers the difference is the colour, and only the background is of this palette.
    options.colors = Palette::Basic(BasicPalette::Mem);
    // The same function has the same colour in every graph, so that two can be compared.
    options.deterministic = true;
    options.title = title;
    options.subtitle = Some(subtitle);
    match measure {
        Measure::Bytes => "bytes",
        Measure::Count => "allocations",
    }
    .clone_into(&mut options.count_name);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    write_labelled(&String::from_utf8_lossy(&svg), out)
}

/// Writes a graph of inferno's, which titles the frame of all stacks "all (N bytes, 100%)" and leaves its label empty.
fn write_labelled(svg: &str, out: &mut dyn Write) -> io::Result<()> {
    // The title of any other frame that takes the whole width says 100.00%.
    let frame = svg.find(", 100%)</title>");
    match frame.and_then(|frame| Some(frame + svg.get(frame..)?.find("</text>")?)) {
        Some(label) => {
            let (before, after) = svg.split_at(label);
            write!(out, "{before}all{after}")
        }
        None => out.write_all(svg.as_bytes()),
    }
}

/// What to say where there is nothing to draw.
fn nothing(snapshot: &Snapshot) -> &'static str {
    match (snapshot.options.only, snapshot.totals().count) {
        (Some(Only::Lost), 0) => "Nothing is lost.",
        (Some(Only::Growing), 0) => "Nothing keeps growing.",
        (_, 0) => "Nothing is outstanding.",
        _ => "Nothing is outstanding but what is left out.",
    }
}

fn title(snapshot: &Snapshot, measure: Measure) -> String {
    let what = match (measure, snapshot.options.only) {
        (Measure::Bytes, Some(Only::Lost)) => "Lost memory",
        (Measure::Count, Some(Only::Lost)) => "Lost allocations",
        (Measure::Bytes, Some(Only::Growing)) => "Growing memory",
        (Measure::Count, Some(Only::Growing)) => "Growing allocations",
        (Measure::Bytes, _) => "Unfreed memory",
        (Measure::Count, _) => "Unfreed allocations",
    };
    format!("{what} of {} after {}", names::target(snapshot), Span(snapshot.elapsed))
}

/// Totals and every loss; also below the title of memory over time.
pub(super) fn subtitle(snapshot: &Snapshot) -> String {
    // What the picture shows: the widths of its frames add up to this.
    let shown = suppressed::shown(snapshot);
    let left_out = suppressed::short(snapshot);
    // The interval is that of everything.
    let interval = snapshot.outstanding_bytes_ci95.filter(|_| left_out.is_none());
    let bytes = estimates::bytes(shown.bytes, snapshot.sampled, interval);
    let mut parts = vec![format!("{bytes} in {}", estimates::allocations(shown.count, snapshot.sampled))];
    parts.extend(verdicts::of_all(snapshot));
    parts.extend(left_out);
    if snapshot.options.only == Some(Only::Lost) {
        parts.push("only what is definitely or indirectly lost".to_owned());
    }
    if snapshot.options.only == Some(Only::Growing) {
        parts.push("only sites that keep growing".to_owned());
    }
    if !snapshot.options.older_than.is_zero() {
        parts.push(format!("at least {} old", Span(snapshot.options.older_than)));
    }
    parts.extend(estimates::note(snapshot));
    parts.extend(whole_stacks(snapshot));
    let losses: Vec<String> = notices(snapshot).into_iter().filter(|it| it.is_loss).map(|it| it.short).collect();
    if !losses.is_empty() {
        parts.push(format!("lost: {}", losses.join(", ")));
    }
    // Of these there is no room for the reasons: they stand in the text, the JSON and the folded stacks.
    let untraced = snapshot.untraced.iter().fold(0u64, |sum, it| sum.saturating_add(it.more).saturating_add(1));
    if untraced > 0 {
        parts.push(format!("{} not traced, or in part", counted(untraced, "process")));
    }
    if !snapshot.warnings.is_empty() {
        parts.push(format!("{} in the text report", counted(snapshot.warnings.len() as u64, "warning")));
    }
    if snapshot.saw_nothing() {
        parts.push("not one allocation was seen".to_owned());
    }
    parts.join("; ")
}

/// For a graph without samples inferno returns an error and draws a picture that says so. Nothing outstanding is no error.
pub(super) fn write_empty(title: &str, subtitle: &str, empty: &str, out: &mut dyn Write) -> io::Result<()> {
    let (title, subtitle, empty) = (escape_xml(title), escape_xml(subtitle), escape_xml(empty));
    writeln!(
        out,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="120" viewBox="0 0 1200 120" xmlns="http://www.w3.org/2000/svg">
<rect width="100%" height="100%" fill="#eef2ee"/>
<g font-family="monospace" font-size="12" text-anchor="middle">
<text id="title" x="50%" y="30" font-size="17">{title}</text>
<text id="subtitle" x="50%" y="55">{subtitle}</text>
<text x="50%" y="90">{empty}</text>
</g>
</svg>"##
    )
}

pub(super) fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
