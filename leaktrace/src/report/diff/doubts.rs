//! What makes a comparison doubtful: each thing in a sentence, the most serious first.

use std::collections::HashSet;

use jiff::Timestamp;

use super::words;
use crate::clean::{clean, elide};
use crate::model::{Diff, Lapse, Matched, Only, Options, Pair, ProgramDiff, Snapshot, Tally, TraceMode, Unwind};
use crate::report::human::{Bytes, Count, Span, counted};
use crate::report::notices::{Notice, notices};

/// Names that a sentence has.
const NAMED: usize = 6;
/// Characters of a name from outside that a sentence shows.
const LONGEST: usize = 80;

/// Everything to know before believing the differences; safe to print.
#[must_use]
pub fn doubts(diff: &Diff) -> Vec<String> {
    let snapshots = diff.snapshots.as_ref();
    let mut doubts = Vec::new();
    doubts.extend(order(snapshots));
    doubts.extend(targets(snapshots));
    doubts.extend(programs(diff));
    doubts.extend(unlisted(diff));
    doubts.extend(samples(snapshots));
    doubts.extend(filters(snapshots.map(|snapshot| &snapshot.options)));
    doubts.extend(stacks(diff));
    doubts.extend(ends(snapshots));
    doubts.extend(checks(snapshots));
    doubts.extend(durations(diff));
    doubts.extend(losses(snapshots));
    doubts
}

fn order(Pair { before, after }: Pair<&Snapshot>) -> Option<String> {
    let taken = |snapshot: &Snapshot| -> Option<Timestamp> { snapshot.started.checked_add(snapshot.elapsed).ok() };
    let late = taken(before)?.duration_since(taken(after)?);
    let late = std::time::Duration::try_from(late).ok().filter(|late| !late.is_zero())?;
    Some(format!("OLD was taken {} after NEW: what grew has shrunk in truth; swap them", Span(late)))
}

fn targets(snapshots: Pair<&Snapshot>) -> Vec<String> {
    let mut lines = Vec::new();
    let host = snapshots.map(|snapshot| snapshot.reproduction.as_ref()?.host.as_deref());
    if let (Some(before), Some(after)) = (host.before, host.after)
        && before != after
    {
        lines.push(format!("OLD is of the machine {}, NEW of {}", short(before), short(after)));
    }
    let target = snapshots.map(|snapshot| &snapshot.target);
    let how = |mode: TraceMode| match mode {
        TraceMode::Pid => "processes that ran before",
        TraceMode::Command => "a command from its start on",
        TraceMode::Filter => "processes chosen by filters",
        TraceMode::System => "every process",
        TraceMode::Kernel => "the kernel",
        TraceMode::Grow => "address spaces",
        TraceMode::Unknown => "something that this version does not know",
    };
    let Pair { before, after } = target;
    if before.mode != after.mode {
        lines.push(format!("OLD is of {}, NEW of {}: they do not see the same", how(before.mode), how(after.mode)));
    } else if before.command != after.command {
        let command = |command: &[String]| short(&command.join(" "));
        let (before, after) = (command(&before.command), command(&after.command));
        lines.push(format!("the commands differ: OLD ran {before}, NEW {after}"));
    } else if (&before.comms, &before.cgroups, &before.uids) != (&after.comms, &after.cgroups, &after.uids) {
        lines.push("the processes were not chosen by the same --comm, --cgroup and --uid".to_owned());
    }
    lines
}

fn programs(diff: &Diff) -> Vec<String> {
    let has_some = |program: &&ProgramDiff| program.outstanding != Pair::<Tally>::default();
    let programs = || diff.programs.iter().filter(has_some);
    let name = |name: &Option<String>| short(name.as_deref().filter(|name| !name.is_empty()).unwrap_or("?"));
    let mut lines = Vec::new();
    let (before, after): (Vec<_>, Vec<_>) = (
        programs().filter(|it| it.name.after.is_none()).map(|it| name(&it.name.before)).collect(),
        programs().filter(|it| it.name.before.is_none()).map(|it| name(&it.name.after)).collect(),
    );
    if !before.is_empty() {
        lines.push(format!("programs in OLD only: {}", listed(&before)));
    }
    if !after.is_empty() {
        lines.push(format!("programs in NEW only: {}", listed(&after)));
    }
    for program in programs() {
        if let Pair { before: Some(before), after: Some(after) } = &program.name
            && before != after
        {
            lines.push(format!("{} of OLD and {} of NEW are taken for one program", short(before), short(after)));
        }
    }
    lines
}

fn unlisted(diff: &Diff) -> Vec<String> {
    let sum = |side: fn(&ProgramDiff) -> Tally| {
        diff.programs.iter().map(side).fold(Tally::default(), |mut sum, tally| {
            sum.join(tally);
            sum
        })
    };
    let line = |(name, missing): (&str, Tally)| {
        (missing != Tally::default()).then(|| {
            format!(
                "{name} does not list all of its sites: {} are missing; what is not listed there is not called gone or new",
                words::outstanding(missing, false)
            )
        })
    };
    let sums = [("OLD", sum(|it| it.unlisted.before)), ("NEW", sum(|it| it.unlisted.after))];
    sums.into_iter().filter_map(line).collect()
}

fn samples(snapshots: Pair<&Snapshot>) -> Option<String> {
    let sample = |snapshot: &Snapshot| match snapshot.options.sample_bytes {
        _ if !snapshot.sampled => "exact".to_owned(),
        Some(mean) => format!("estimated from a sample, one byte in {} hit", Bytes(mean)),
        None => "estimated from a sample".to_owned(),
    };
    let Pair { before, after } = snapshots.map(sample);
    match (snapshots.before.sampled, snapshots.after.sampled) {
        (false, false) => None,
        (true, true) if before == after => Some(format!("both are {before}: small differences are chance")),
        _ => Some(format!("OLD is {before}, NEW is {after}: small differences are chance")),
    }
}

fn filters(Pair { before, after }: Pair<&Options>) -> Vec<String> {
    let mut lines = Vec::new();
    let sizes = |options: &Options| match (options.min_size, options.max_size) {
        (0, None) => "all sizes".to_owned(),
        (min, None) => format!("sizes from {}", Bytes(min)),
        (0, Some(max)) => format!("sizes up to {}", Bytes(max)),
        (min, Some(max)) => format!("sizes from {} to {}", Bytes(min), Bytes(max)),
    };
    if sizes(before) != sizes(after) {
        lines.push(format!("OLD has {}, NEW {} (--min-size, --max-size)", sizes(before), sizes(after)));
    }
    let ages = |options: &Options| match options.older_than {
        age if age.is_zero() => "everything".to_owned(),
        age => format!("what is at least {} old", Span(age)),
    };
    if before.older_than != after.older_than {
        lines.push(format!("OLD has {}, NEW {} (--older-than)", ages(before), ages(after)));
    }
    let only = |options: &Options| match options.only {
        None => "everything",
        Some(Only::Growing) => "what keeps growing",
        Some(Only::Lost) => "what is lost",
        Some(Only::Unknown) => "a part that this version does not know",
    };
    if before.only != after.only {
        lines.push(format!("OLD has {}, NEW {} (--only)", only(before), only(after)));
    } else if before.only.is_some() {
        lines.push(format!("both have only {} (--only)", only(after)));
    }
    if before.follow != after.follow {
        let (with, without) = if before.follow { ("OLD", "NEW") } else { ("NEW", "OLD") };
        lines.push(format!("{with} has children of the processes, {without} has not (--no-follow)"));
    }
    let probed = |options: &Options| {
        let Options { objects, symbols_prefixes, alloc_symbols, .. } = options;
        (objects.clone(), symbols_prefixes.clone(), alloc_symbols.clone())
    };
    if probed(before) != probed(after) {
        let options = "--object, --symbols-prefix, --alloc-symbols";
        lines.push(format!("not the same functions were probed ({options})"));
    }
    lines
}

/// What makes one site look like two.
fn stacks(diff: &Diff) -> Vec<String> {
    let mut lines = Vec::new();
    let Pair { before, after } = diff.snapshots.as_ref().map(|snapshot| &snapshot.options);
    let is_by_tables = |unwind: Unwind| unwind != Unwind::Fp;
    if before.max_depth != after.max_depth || is_by_tables(before.unwind) != is_by_tables(after.unwind) {
        lines.push(
            "stacks were not recorded alike (--unwind, --max-depth): one site may appear as gone and as new".to_owned(),
        );
    }
    if diff.without_ids {
        lines.push(
            "a version that gave sites no ids wrote one of the snapshots: sites are matched by file, offset and function"
                .to_owned(),
        );
    }
    let by_names = diff.sites.iter().filter(|site| site.matched == Some(Matched::Names)).count() as u64;
    if by_names > 0 {
        let sites = counted(by_names, "site");
        lines.push(format!(
            "{sites} matched by the names of functions, since the programs or libraries are other builds"
        ));
    }
    lines
}

/// What a program frees at its end is outstanding while it runs.
fn ends(snapshots: Pair<&Snapshot>) -> Option<String> {
    let ended = snapshots.map(|snapshot| {
        let mut processes = snapshot.processes.iter().filter(|process| process.merged == 0).map(|it| it.exited);
        let first = processes.next()?;
        processes.all(|it| it == first).then_some(first)
    });
    let (end, run) = match (ended.before?, ended.after?) {
        (true, false) => ("OLD", "NEW"),
        (false, true) => ("NEW", "OLD"),
        _ => return None,
    };
    Some(format!("{end} is of processes that had ended, {run} of such as ran: what is freed at the end differs"))
}

fn checks(snapshots: Pair<&Snapshot>) -> Option<String> {
    let checked = snapshots.map(Snapshot::has_verdict);
    let with = match (checked.before, checked.after) {
        (true, false) => "OLD",
        (false, true) => "NEW",
        _ => return None,
    };
    Some(format!("a leak check ran in {with} only: what is lost cannot be compared"))
}

fn durations(diff: &Diff) -> Option<String> {
    let Lapse::Each(Pair { before, after }) = diff.lapse else { return None };
    words::durations_differ(diff).then(|| {
        format!(
            "OLD was traced for {}, NEW for {}: what grows steadily is larger in the longer, what was allocated at the start is \
             not; outstanding per second traced compares the former alone",
            Span(before),
            Span(after)
        )
    })
}

/// What each snapshot says of itself.
fn losses(snapshots: Pair<&Snapshot>) -> Vec<String> {
    let mut lines = Vec::new();
    let noticed = snapshots.map(notices);
    for (name, notices) in [("OLD", &noticed.before), ("NEW", &noticed.after)] {
        let lost: Vec<_> = notices.iter().filter(|it| it.is_loss).map(|it| it.short.as_str()).collect();
        if !lost.is_empty() {
            lines.push(format!("lost in {name}: {}; sites may differ by that alone", lost.join(", ")));
        }
    }
    let said =
        noticed.map(|notices| -> Vec<String> { notices.iter().filter(|it| !it.is_loss).map(Notice::line).collect() });
    let Pair { before, after } = said.as_ref().map(|lines| lines.iter().collect::<HashSet<_>>());
    for line in &said.before {
        lines.push(format!("{}: {line}", if after.contains(line) { "OLD and NEW" } else { "OLD" }));
    }
    lines.extend(said.after.iter().filter(|line| !before.contains(line)).map(|line| format!("NEW: {line}")));
    lines
}

/// A name from outside.
fn short(name: &str) -> String {
    elide(&clean(name), LONGEST)
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED) as u64;
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {} more", Count(more)) } else { shown }
}
