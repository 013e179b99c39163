//! The panel of one process: what is outstanding by site, resident memory, what is allocated in each second, and events.

use super::super::human::{Bytes, Rate};
use super::scales::{Scale, moment};
use super::series::{Band, Peak, Series};
use super::svg::{Place, Svg};
use super::verdict::{Sign, words};
use super::{EDGE, LEFT, RIGHT, WIDTH};
use crate::clean::elide;
use crate::model::EventKind;

/// Resident memory that is so many times what is outstanding has a scale of its own, or nothing would be seen of the bands.
const OWN_SCALE: u64 = 4;
/// Heights in pixels.
const HEAD: f64 = 66.0;
const RESIDENT: f64 = 80.0;
const RATE: f64 = 40.0;
const GAP: f64 = 16.0;
/// Space that an event's name takes.
const LABEL: f64 = 70.0;
/// About as wide is a letter of the labels.
const LETTER: f64 = 5.6;
/// Leak checks that have a line each.
const MANY_CHECKS: usize = 10;
const OTHERS: &str = "#ccd1d8";
const ALLOCATED: &str = "#7b8794";
const INK: &str = "#1f2933";
const FAINT: &str = "#6b7280";

/// Draws it from this height on, and returns where it ends.
pub fn draw(svg: &mut Svg, series: &Series, x: Scale, top: f64, height: f64) -> f64 {
    let sign = match Sign::of(series.process, series.lost) {
        // That all is well is not to be read off the smaller part.
        Sign::Steady if series.others_hold_more => Sign::Unjudged,
        sign => sign,
    };
    // What lies behind everything is as high as the rest, which is known at the end.
    let mut front = Svg::default();
    head(&mut front, series, sign, top);
    let plot = top + HEAD;
    let mut bottom = plot + height;
    let resident = Resident::of(series);
    let most = series.bands.iter().fold(series.others(), |mut sum, band| {
        sum.iter_mut().zip(&band.bytes).for_each(|(sum, bytes)| *sum = sum.saturating_add(*bytes));
        sum
    });
    let mut most = most.into_iter().max().unwrap_or_default().max(series.peak.bytes);
    if !resident.is_apart {
        most = most.max(resident.most);
    }
    let y = Scale { numbers: (0.0, (most as f64 * 1.12).max(1.0)), pixels: (bottom, plot) };
    let what = if resident.is_apart || resident.most == 0 { "bytes outstanding" } else { "bytes" };
    grid(&mut front, y, 5.0, what);
    bands(&mut front, series, x, y);
    if !resident.is_apart {
        resident.draw(&mut front, x, y);
    }
    let strips_from = bottom;
    if resident.is_apart {
        let from = bottom + GAP;
        bottom = from + RESIDENT;
        let y = Scale { numbers: (0.0, resident.most as f64 * 1.12), pixels: (bottom, from) };
        front.rect((LEFT, from), (RIGHT - LEFT, RESIDENT), r##"fill="#ffffff""##);
        grid(&mut front, y, 4.0, "resident");
        resident.draw(&mut front, x, y);
    }
    let fastest = series.rates.iter().map(|(_, _, rate)| *rate).fold(0.0, f64::max);
    if !series.rates.is_empty() {
        let from = bottom + GAP;
        bottom = from + RATE;
        rates(&mut front, series, x, (from, bottom), fastest);
    }
    events(&mut front, series, x, (plot, bottom));
    peak(&mut front, series, x, y);
    moments(&mut front, x, (plot, strips_from, bottom));
    let legend = legend(&mut front, series, &resident, fastest, plot + 6.0);
    let end = (bottom + 30.0).max(legend + 6.0);
    svg.rect((EDGE, top), (WIDTH - 2.0 * EDGE, end - top), &format!(r#"rx="8" fill="{}""#, sign.shade()));
    svg.rect((EDGE, top), (7.0, end - top), &format!(r#"rx="3" fill="{}""#, sign.colour()));
    svg.rect((LEFT, plot), (RIGHT - LEFT, height), r##"fill="#ffffff""##);
    svg.put(format_args!("{}", front.into_text()));
    end
}

/// The sign, the name and the verdict.
fn head(svg: &mut Svg, series: &Series, sign: Sign, top: f64) {
    sign.draw(svg, (EDGE + 16.0, top + 9.0));
    let name = super::super::names::one(series.process);
    let words_at = EDGE + 60.0;
    let title = format!("{}: {} outstanding at the end", elide(&name, 60), series.end);
    let style = format!(r#"font-size="16" font-weight="bold" fill="{INK}""#);
    svg.text((words_at, top + 23.0), &style, &title);
    let (verdict, all) = words(series.process, series.lost);
    let style = format!(r#"font-size="13" font-weight="bold" fill="{}""#, sign.colour());
    svg.text_with_tooltip((words_at, top + 41.0), &style, &verdict, &all);
}

/// Resident memory of a process.
struct Resident<'a> {
    series: &'a Series<'a>,
    most: u64,
    is_apart: bool,
}

impl<'a> Resident<'a> {
    fn of(series: &'a Series<'a>) -> Self {
        let all = [&series.rss, &series.pss, &series.swap];
        let most = all.into_iter().flatten().map(|(_, bytes)| *bytes).max().unwrap_or_default();
        let outstanding = series.outstanding.iter().copied().max().unwrap_or_default();
        Self { series, most, is_apart: most > outstanding.saturating_mul(OWN_SCALE) }
    }

    /// Its lines with names, attributes and points.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &'static str, &'a [(f64, u64)])> {
        let lines = [
            ("RSS", r##"stroke="#1f2933" stroke-width="2.2""##, self.series.rss.as_slice()),
            ("PSS", r##"stroke="#1f2933" stroke-width="1.6" stroke-dasharray="6 4""##, self.series.pss.as_slice()),
            ("swap", r##"stroke="#8b1e3f" stroke-width="2" stroke-dasharray="1.5 3""##, self.series.swap.as_slice()),
        ];
        lines.into_iter().filter(|(_, _, points)| !points.is_empty())
    }

    fn draw(&self, svg: &mut Svg, x: Scale, y: Scale) {
        for (name, style, points) in self.lines() {
            let places = points.iter().map(|(at, bytes)| (x.place(*at), y.place(*bytes as f64)));
            if let [only] = points {
                let (cx, cy) = (x.place(only.0), y.place(only.1 as f64));
                svg.put(format_args!(r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="2.5" fill="{INK}"/>"#));
            }
            svg.path(places, &format!(r#"fill="none" stroke-linejoin="round" {style}"#), name);
        }
    }
}

/// Horizontal lines with their numbers, and what they are numbers of.
fn grid(svg: &mut Svg, y: Scale, most: f64, what: &str) {
    let (bottom, top) = y.pixels;
    for (number, words) in y.bytes(most) {
        let at = y.place(number);
        svg.line((LEFT, at), (RIGHT, at), r##"stroke="#d9dde3" stroke-width="1""##);
        svg.text((LEFT - 7.0, at + 4.0), &format!(r#"font-size="11" text-anchor="end" fill="{INK}""#), &words);
    }
    let (x, y) = (EDGE + 24.0, f64::midpoint(bottom, top));
    let turned = format!(r#"font-size="11" text-anchor="middle" fill="{FAINT}" transform="rotate(-90 {x:.1} {y:.1})""#);
    svg.text((x, y), &turned, what);
}

/// The bands, one upon the other, the sites without one on top of them.
fn bands(svg: &mut Svg, series: &Series, x: Scale, y: Scale) {
    let mut places: Vec<f64> = series.at.iter().map(|at| x.place(*at)).collect();
    let is_moment = places.first() == places.last();
    if is_moment {
        // One moment has no width: a bar stands for it.
        places.insert(0, places[0] - 12.0);
    }
    let stretched = |bytes: &[u64]| -> Vec<u64> {
        let again = bytes.first().filter(|_| is_moment);
        again.into_iter().chain(bytes).copied().collect()
    };
    let mut below = vec![0u64; places.len()];
    let others = series.others();
    let rest = (&others, OTHERS, "other sites");
    let bands = series.bands.iter().map(|band| (&band.bytes, band.colour, band.path.as_str()));
    for (bytes, colour, name) in bands.chain([rest]) {
        let bytes = stretched(bytes);
        if bytes.iter().all(|bytes| *bytes == 0) {
            continue;
        }
        let above: Vec<u64> = below.iter().zip(&bytes).map(|(below, bytes)| below.saturating_add(*bytes)).collect();
        let edge = |heights: &[u64]| -> Vec<Place> {
            places.iter().zip(heights).map(|(x, bytes)| (*x, y.place(*bytes as f64))).collect()
        };
        let outline = edge(&above).into_iter().chain(edge(&below).into_iter().rev());
        let style = format!(r##"fill="{colour}" stroke="#ffffff" stroke-width="0.8" stroke-linejoin="round""##);
        svg.path(outline, &style, name);
        below = above;
    }
    let top = places.iter().zip(&below).map(|(x, bytes)| (*x, y.place(*bytes as f64)));
    svg.path(top, r##"fill="none" stroke="#4b5563" stroke-width="1.4" stroke-linejoin="round""##, "outstanding");
}

/// What is allocated in each second, as steps.
fn rates(svg: &mut Svg, series: &Series, x: Scale, (top, bottom): (f64, f64), fastest: f64) {
    let y = Scale { numbers: (0.0, fastest.max(f64::MIN_POSITIVE)), pixels: (bottom, top) };
    svg.rect((LEFT, top), (RIGHT - LEFT, bottom - top), r##"fill="#ffffff""##);
    let steps = series.rates.iter().flat_map(|(from, to, rate)| {
        let height = y.place(*rate);
        [(x.place(*from), height), (x.place(*to), height)]
    });
    let ends = series.rates.first().zip(series.rates.last());
    let ends = ends.map(|((from, _, _), (_, to, _))| [(x.place(*to), bottom), (x.place(*from), bottom)]);
    svg.path(steps.chain(ends.into_iter().flatten()), &format!(r#"fill="{ALLOCATED}""#), "allocated per second");
    svg.line((LEFT, bottom), (RIGHT, bottom), r##"stroke="#d9dde3" stroke-width="1""##);
    let style = format!(r#"font-size="11" text-anchor="end" fill="{INK}""#);
    svg.text((LEFT - 7.0, bottom + 4.0), &style, "0");
    if fastest > 0.0 {
        svg.text((LEFT - 7.0, top + 8.0), &style, &Rate(fastest).to_string());
    }
    svg.text((EDGE + 14.0, f64::midpoint(top, bottom) + 4.0), &format!(r#"font-size="11" fill="{FAINT}""#), "rate");
}

/// Vertical lines with names above, as far as there is room. Of many leak checks only the upper ends are drawn.
fn events(svg: &mut Svg, series: &Series, x: Scale, (top, bottom): (f64, f64)) {
    let checks = series.events.iter().filter(|(_, kind)| *kind == EventKind::LeakCheck).count();
    let are_many = checks > MANY_CHECKS;
    let mut free = LEFT;
    let mut last = f64::NEG_INFINITY;
    let mut is_said = false;
    for (at, kind) in &series.events {
        let is_check = *kind == EventKind::LeakCheck;
        let (words, colour) = match kind {
            EventKind::Exec => ("exec", "#5b21b6"),
            EventKind::Exit => ("exit", INK),
            EventKind::LeakCheck => ("leak check", "#0b5cad"),
            EventKind::Unknown => continue,
        };
        let place = x.place(*at);
        // Those of one pixel are one line.
        if place - last < 1.0 && is_check {
            continue;
        }
        last = place;
        let (end, dashes) = if is_check && are_many { (top + 3.0, "none") } else { (bottom, "3 3") };
        let style = format!(r#"stroke="{colour}" stroke-width="1.2" stroke-dasharray="{dashes}""#);
        svg.line((place, top - 4.0), (place, end), &style);
        let words_from = (place - LABEL / 2.0).clamp(LEFT, RIGHT - LABEL);
        if words_from < free || (is_check && are_many && is_said) {
            continue;
        }
        is_said |= is_check;
        free = words_from + LABEL;
        let style = format!(r#"font-size="11" text-anchor="middle" fill="{colour}""#);
        let words = if is_check && are_many { "leak checks" } else { words };
        svg.text((words_from + LABEL / 2.0, top - 7.0), &style, words);
    }
}

/// The moment at which most was outstanding, and where most of that had been allocated.
fn peak(svg: &mut Svg, series: &Series, x: Scale, y: Scale) {
    let &Peak { at, bytes, ref site } = &series.peak;
    if bytes == 0 {
        return;
    }
    let (cx, cy) = (x.place(at), y.place(bytes as f64));
    svg.put(format_args!(
        r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="4" fill="#ffffff" stroke="{INK}" stroke-width="1.8"/>"##
    ));
    // The process' own peak is exact, and may lie between two readings.
    let exact = series.process.peak_bytes;
    let is_peak = series.amount(exact) == series.amount(bytes);
    let name = if is_peak { "peak" } else { "most at a reading:" };
    let mut words = format!("{name} {} at {}", series.amount(bytes), moment(at));
    if let Some((name, part)) = site {
        let part = if *part >= bytes { "all".to_owned() } else { series.amount(*part) };
        words = format!("{words}, {part} of it at {name}");
    }
    if !is_peak && exact > 0 {
        words = format!("{words}; peak {}", series.amount(exact));
    }
    let half = words.chars().count() as f64 * LETTER / 2.0;
    let anchor = match cx {
        _ if cx > RIGHT - half => "end",
        _ if cx < LEFT + half => "start",
        _ => "middle",
    };
    let style = format!(
        r##"font-size="11" text-anchor="{anchor}" fill="{INK}" stroke="#ffffff" stroke-width="3" paint-order="stroke""##
    );
    svg.text((cx, cy - 8.0), &style, &words);
}

/// The axis of time: marks through all strips, and their words below the last.
fn moments(svg: &mut Svg, x: Scale, (top, strips_from, bottom): (f64, f64, f64)) {
    svg.line((LEFT, strips_from), (RIGHT, strips_from), &format!(r#"stroke="{INK}" stroke-width="1""#));
    svg.line((LEFT, top), (LEFT, bottom), &format!(r#"stroke="{INK}" stroke-width="1""#));
    for (number, words) in x.moments() {
        let at = x.place(number);
        svg.line((at, bottom), (at, bottom + 5.0), &format!(r#"stroke="{INK}" stroke-width="1""#));
        svg.text((at, bottom + 18.0), &format!(r#"font-size="11" text-anchor="middle" fill="{INK}""#), &words);
    }
}

/// What colours and lines are, in the order in which they lie; returns where it ends.
fn legend(svg: &mut Svg, series: &Series, resident: &Resident, fastest: f64, top: f64) -> f64 {
    let left = RIGHT + 22.0;
    let mut y = top;
    let strong = format!(r#"font-size="12" fill="{INK}""#);
    let small = format!(r#"font-size="11" fill="{FAINT}""#);
    let mut entry = |swatch: &dyn Fn(&mut Svg, f64), name: &str, tooltip: &str, words: &str| {
        swatch(svg, y);
        svg.text_with_tooltip((left + 20.0, y + 10.0), &strong, &elide(name, 30), tooltip);
        svg.text((left + 20.0, y + 23.0), &small, words);
        y += 31.0;
    };
    let last = |points: &[(f64, u64)]| Bytes(points.last().map_or(0, |(_, bytes)| *bytes)).to_string();
    for (name, style, points) in resident.lines() {
        let line = |svg: &mut Svg, y: f64| svg.line((left, y + 6.0), (left + 14.0, y + 6.0), style);
        entry(&line, name, name, &last(points));
    }
    let square = |colour: &'static str| {
        move |svg: &mut Svg, y: f64| svg.rect((left, y), (13.0, 13.0), &format!(r#"rx="2" fill="{colour}""#))
    };
    let others = series.others();
    if others.iter().any(|bytes| *bytes > 0) {
        let end = series.amount(others.last().copied().unwrap_or_default());
        entry(&square(OTHERS), "other sites", "other sites", &end);
    }
    for Band { name, path, words, colour, .. } in series.bands.iter().rev() {
        entry(&square(colour), name, path, words);
    }
    if fastest > 0.0 {
        entry(
            &square(ALLOCATED),
            "allocated per second",
            "allocated per second",
            &format!("at most {}", Rate(fastest)),
        );
    }
    y
}
