//! The text of a difference: totals, what was compared, what makes the comparison doubtful, then the sites that differ.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::doubts::doubts;
use super::words;
use crate::clean::clean;
use crate::model::{Amount, Change, Diff, Matched, Pair, ProgramDiff, SiteDiff};
use crate::report::human::{Count, counted};
use crate::report::style::{Paint, TextStyle};
use crate::report::verdicts;
use crate::report::{estimates, stack};

const HEADER: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const MORE: Style = AnsiColor::Red.on_default().bold();
const LESS: Style = AnsiColor::Green.on_default().bold();

/// Writes the report.
///
/// # Errors
/// What `out` reports.
pub fn write(diff: &Diff, style: TextStyle, out: &mut dyn Write) -> io::Result<()> {
    let paint = Paint::of(style);
    writeln!(out, "{}", paint.with(HEADER, &words::totals(diff)))?;
    writeln!(out, "{}", paint.with(HEADER, &words::compared(diff)))?;
    for line in doubts(diff) {
        writeln!(out, "{} {line}", paint.with(WARNING, "warning:"))?;
    }
    if let Some(line) = words::suppressed(diff) {
        writeln!(out, "{}", paint.with(HEADER, &line))?;
    }
    programs(diff, style, paint, out)?;

    let changed: Vec<_> = diff.changed().collect();
    let shown = style.top.unwrap_or(changed.len()).min(changed.len());
    let (shown, rest) = changed.split_at(shown);
    for site in shown {
        writeln!(out, "\n{}", line(diff, site, paint))?;
        if let Some((snapshot, shown)) = diff.shown(site) {
            stack::write(shown, style, &snapshot.options, paint, out)?;
        }
    }
    if !rest.is_empty() {
        writeln!(out, "\n{}", sum(diff, rest, if shown.is_empty() { "site" } else { "more site" }))?;
    }
    Ok(())
}

fn line(diff: &Diff, site: &SiteDiff, paint: Paint) -> String {
    let style = match site.change {
        Change::Grew | Change::New => MORE,
        Change::Shrank | Change::Gone => LESS,
        Change::NotListed | Change::Unchanged => WARNING,
    };
    let mut parts = vec![paint.with(style, &words::amounts(diff, site.change, &site.amount))];
    if site.change != Change::NotListed {
        parts.extend(words::rate(diff, site.amount.map(|amount| amount.outstanding.bytes)));
    }
    parts.extend(verdict(&site.amount.after));
    if site.matched == Some(Matched::Names) {
        parts.push("matched by names".to_owned());
    }
    if diff.programs.len() > 1 {
        parts.extend(diff.programs.get(site.program).map(name));
    }
    parts.join(", ")
}

/// What a leak check found of what is there now.
fn verdict(amount: &Amount) -> Option<String> {
    let found: Vec<_> = verdicts::kinds(&amount.verdict?).into_iter().filter(|(_, tally)| tally.count > 0).collect();
    match found.as_slice() {
        [] => None,
        [(kind, tally)] if tally.count == amount.outstanding.count => Some(format!("now {kind}")),
        several => {
            let parts: Vec<_> = several.iter().map(|(kind, tally)| format!("{} {kind}", Count(tally.count))).collect();
            Some(format!("now {}", parts.join(", ")))
        }
    }
}

/// A line for each program that differs, if there are several.
fn programs(diff: &Diff, style: TextStyle, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if diff.programs.len() < 2 {
        return Ok(());
    }
    let mut programs: Vec<_> =
        diff.programs.iter().filter(|it| it.outstanding.before != it.outstanding.after).collect();
    programs.sort_by_key(|it| std::cmp::Reverse(it.outstanding.difference().bytes));
    let shown = style.top.unwrap_or(programs.len()).min(programs.len());
    for program in programs.iter().take(shown) {
        let amount = program.outstanding.map(|outstanding| Amount { outstanding, ..Amount::default() });
        let sizes = program.outstanding.map(|tally| (tally.bytes, tally.count));
        let change = if sizes.after > sizes.before { Change::Grew } else { Change::Shrank };
        let mut parts = vec![words::amounts(diff, change, &amount)];
        parts.extend(words::rate(diff, program.outstanding.map(|tally| tally.bytes)));
        let Pair { before, after } = program.processes;
        if before.max(after) > 1 {
            parts.push(format!("{} before and {} after", counted(before, "process"), Count(after)));
        }
        writeln!(out, "{}", paint.with(HEADER, &format!("{}: {}", name(program), parts.join(", "))))?;
    }
    if shown < programs.len() {
        writeln!(out, "{}", counted((programs.len() - shown) as u64, "more program"))?;
    }
    Ok(())
}

fn name(program: &ProgramDiff) -> String {
    let name = program.current_name();
    clean(if name.is_empty() { "?" } else { name }).into_owned()
}

/// What the sites that are not shown come to.
fn sum(diff: &Diff, rest: &[&SiteDiff], what: &str) -> String {
    let (mut more, mut less) = (0u128, 0u128);
    for site in rest.iter().filter(|site| site.change != Change::NotListed) {
        let bytes = site.amount.difference().bytes;
        *(if bytes > 0 { &mut more } else { &mut less }) += bytes.unsigned_abs();
    }
    let size = |bytes: u128| estimates::bytes(u64::try_from(bytes).unwrap_or(u64::MAX), diff.is_estimate(), None);
    let sites = counted(rest.len() as u64, what);
    format!("{sites}: {} more and {} less; --top all shows them", size(more), size(less))
}
