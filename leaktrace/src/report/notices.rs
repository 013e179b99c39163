//! What a reader must know before believing the numbers: each loss in words, with its number and the next step.

use std::collections::BTreeMap;

use super::human::{Bytes, Count, counted};
use crate::clean::clean;
use crate::model::{Options, Site, Snapshot, StackState, Stacks, Untraced};

/// One thing to know about a snapshot's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened, with its number, in a few words that fit into a subtitle.
    pub short: String,
    /// What happened, with its number.
    pub what: String,
    /// What it means or what to do about it; empty where `what` says it all.
    pub next: String,
    /// Whether it is a loss, as opposed to a warning of the session.
    pub is_loss: bool,
}

impl Notice {
    /// Both parts as one line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.next.is_empty() { self.what.clone() } else { format!("{}; {}", self.what, self.next) }
    }
}

/// The losses of a snapshot, the most serious first, and then its warnings.
#[must_use]
pub fn notices(snapshot: &Snapshot) -> Vec<Notice> {
    let losses = &snapshot.losses;
    let Options { max_allocs, max_stacks, max_depth, .. } = snapshot.options;
    let mut notices = Vec::new();
    let mut lose = |number: u64, thing: &str, short: &str, detail: String, next: String| {
        if number > 0 {
            let number = counted(number, thing);
            notices.push(Notice {
                short: format!("{number}{short}"),
                what: format!("{number} {detail}"),
                next,
                is_loss: true,
            });
        }
    };
    lose(
        losses.allocs_dropped,
        "allocation",
        "",
        format!("not recorded ({}table for at least {} full)", bytes_dropped(losses.bytes_dropped), Count(max_allocs)),
        // If a process finds no room even for its site without frames, its blocks cannot be recorded.
        if losses.stacks_dropped > 0 {
            "totals are too low, raise --max-stacks or --max-allocs".to_owned()
        } else {
            "totals are too low, raise --max-allocs".to_owned()
        },
    );
    lose(
        losses.wide_dropped,
        "allocation",
        " at wide addresses",
        format!(
            "at addresses of 48 bits and more not recorded ({}table for at least {} of them full)",
            bytes_dropped(losses.wide_bytes_dropped),
            Count(Options::wide_allocs(max_allocs))
        ),
        "totals are too low, raise --max-allocs".to_owned(),
    );
    lose(
        losses.threads_dropped,
        "call",
        "",
        "not recorded (too many processes or threads at once)".to_owned(),
        "totals are untrue, trace fewer processes with --pid".to_owned(),
    );
    lose(
        losses.returns_missed,
        "return",
        "",
        "of allocation functions missed".to_owned(),
        "totals are too low, trace fewer processes with --pid".to_owned(),
    );
    lose(
        losses.stacks_dropped,
        "stack",
        "",
        format!("not recorded (table for at least {} full)", Count(max_stacks)),
        "raise --max-stacks".to_owned(),
    );
    let cut = Weight::of(snapshot, |site| site.truncated);
    lose(
        losses.stacks_truncated,
        "stack",
        &format!(" cut{}", cut.short()),
        format!("cut at {}", counted(u64::from(max_depth), "frame")),
        if max_depth < Options::DEEPEST {
            format!("raise --max-depth (at most {})", Count(u64::from(Options::DEEPEST)))
        } else {
            "their outermost frames are missing".to_owned()
        } + &cut.line(),
    );
    // Stacks without any frame have a notice of their own.
    let has_gaps = |site: &Site| !site.truncated && !site.stack.is_empty();
    let is_complete =
        |site: &Site| matches!(site.stack_state, Some(StackState::Whole | StackState::Guessed | StackState::Unsure));
    let incomplete = Weight::of(snapshot, |site| has_gaps(site) && !is_complete(site));
    let guessed = Weight::of(snapshot, |site| site.stack_state == Some(StackState::Guessed));
    let unsure = Weight::of(snapshot, |site| site.stack_state == Some(StackState::Unsure));
    lose(
        losses.unwind_failed_total(),
        "stack",
        &format!(" incomplete{}", incomplete.short()),
        format!("incomplete{}", reasons(snapshot)),
        "their outer frames are missing, sites may be split or merged".to_owned() + &incomplete.line(),
    );
    lose(
        snapshot.stacks.map_or(0, |stacks| stacks.guessed),
        "stack",
        &format!(" that may lack callers{}", guessed.short()),
        "walked by frame pointers through code without unwind tables".to_owned(),
        "callers may be missing in between".to_owned() + &guessed.line(),
    );
    lose(
        losses.stacks_unsure,
        "stack",
        &format!(" unsure{}", unsure.short()),
        "with frames in code that was replaced meanwhile".to_owned(),
        "they may be called after what came later".to_owned() + &unsure.line(),
    );
    lose(
        losses.marks_lost,
        "mark",
        " of the program lost",
        "of the program's (__lsan_disable, __lsan_ignore_object) lost".to_owned(),
        "what it calls no leak may be reported".to_owned(),
    );
    lose(
        losses.samples_lost,
        "sample",
        " unreadable",
        "of the programs' own not recorded (what they told could not be read, or cannot be)".to_owned(),
        "estimates are untrue, trace every call with --leak-check".to_owned(),
    );
    lose(
        snapshot.bursts.map_or(0, |bursts| bursts.without_room),
        "process",
        " without net flow",
        "not counted in windows, for want of room".to_owned(),
        "look at fewer with --no-follow".to_owned(),
    );
    lose(
        snapshot.bursts.map_or(0, |bursts| bursts.frees_lost),
        "free",
        " not counted",
        "by the C library not counted: perhaps of blocks that the program had freed before".to_owned(),
        "net flow may be too high".to_owned(),
    );
    lose(
        losses.events_lost,
        "process event",
        "",
        "lost".to_owned(),
        "processes or names may be missing, trace fewer processes with --pid".to_owned(),
    );
    let warning = |text: &String| {
        let what = clean(text).into_owned();
        Notice { short: what.clone(), what, next: String::new(), is_loss: false }
    };
    notices.extend(untraced(snapshot).iter().map(warning));
    notices.extend(snapshot.warnings.iter().map(warning));
    notices
}

/// Processes that were not traced, or in part: a line for each reason, up to a number of reasons.
fn untraced(snapshot: &Snapshot) -> Vec<String> {
    /// Names in a line.
    const NAMED: usize = 6;
    /// Lines.
    const REASONS: usize = 8;
    let mut reasons: BTreeMap<(bool, &str), Vec<&Untraced>> = BTreeMap::new();
    for process in &snapshot.untraced {
        reasons.entry((process.partly, &process.reason)).or_default().push(process);
    }
    let count =
        |processes: &[&Untraced]| processes.iter().fold(0u64, |sum, it| sum.saturating_add(it.more).saturating_add(1));
    let line = |((partly, reason), processes): (&(bool, &str), &Vec<&Untraced>)| {
        let shown = &processes[..processes.len().min(NAMED)];
        let named: Vec<_> = shown.iter().map(|process| format!("{} (pid {})", process.comm, process.pid)).collect();
        let more = count(processes).saturating_sub(shown.len() as u64);
        let more = if more == 0 { String::new() } else { format!(" and {} more", Count(more)) };
        let how = if *partly { "traced in part" } else { "not traced" };
        format!("{how}: {}{more}: {reason}", named.join(", "))
    };
    let mut lines: Vec<_> = reasons.iter().take(REASONS).map(line).collect();
    let rest = reasons.values().skip(REASONS).fold(0u64, |sum, processes| sum.saturating_add(count(processes)));
    if rest > 0 {
        let others = counted((reasons.len() - REASONS) as u64, "other reason");
        lines.push(format!("not traced, or in part: {} more for {others}", Count(rest)));
    }
    lines
}

/// How many of the stacks are whole; `None` where that is not known, or there is none.
#[must_use]
pub fn whole_stacks(snapshot: &Snapshot) -> Option<String> {
    let Stacks { recorded, complete, guessed } = snapshot.stacks.filter(|stacks| stacks.recorded > 0)?;
    if complete >= recorded {
        let (all, be) = if recorded == 1 { ("the", "is") } else { ("all", "are") };
        return Some(format!("{all} {} {be} complete", counted(recorded, "stack")));
    }
    // Cut, not rounded: 100 % is only what is.
    let permille = u128::from(complete) * 1000 / u128::from(recorded);
    let stacks = counted(recorded, "stack");
    let complete = format!("{} of {stacks} complete ({}.{}%)", Count(complete), permille / 10, permille % 10);
    Some(match guessed {
        0 => complete,
        guessed => format!("{complete}, {} by frame pointers, which may skip callers", Count(guessed)),
    })
}

/// How much of the outstanding memory has incomplete stacks: a single such stack may hold most of it.
struct Weight {
    under: u64,
    all: u64,
    /// Whether the snapshot says which stacks are incomplete.
    is_known: bool,
}

impl Weight {
    fn of(snapshot: &Snapshot, is_one: impl Fn(&Site) -> bool) -> Self {
        let sum = |sum: u64, site: &Site| sum.saturating_add(site.outstanding_bytes);
        Self {
            under: snapshot.sites.iter().filter(|site| is_one(site)).fold(0, sum),
            all: snapshot.sites.iter().fold(0, sum),
            is_known: snapshot.sites.iter().all(|site| site.stack_state.is_some()),
        }
    }

    /// For a subtitle.
    fn short(&self) -> String {
        if !self.is_known || self.under == 0 { String::new() } else { format!(" ({} under such)", Bytes(self.under)) }
    }

    /// For the end of a line.
    fn line(&self) -> String {
        match self {
            Self { is_known: false, .. } => String::new(),
            Self { under: 0, .. } => "; nothing that is outstanding stands under them".to_owned(),
            Self { under, all, .. } => {
                format!("; {} of the {} outstanding stand under stacks like these", Bytes(*under), Bytes(*all))
            }
        }
    }
}

fn bytes_dropped(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!("{}, ", Bytes(bytes)) }
}

fn reasons(snapshot: &Snapshot) -> String {
    let reasons: Vec<String> = snapshot
        .losses
        .unwind_failures
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(reason, number)| format!("{} {}", clean(reason), Count(*number)))
        .collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 stacks are complete and 371 by frame pointers, which hold 900 bytes of 1,024.
    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"target":{"mode":"system"},
            "sites":[{"pid":7,"outstanding_bytes":124,"outstanding_count":1,"stack_state":"whole","stack":[{"address":"0x1"}]},
                {"pid":7,"outstanding_bytes":900,"outstanding_count":1,"stack_state":"gap","guessed":true,
                    "stack":[{"address":"0x2"}]}],
            "stacks":{"recorded":374,"complete":3,"guessed":371}}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn stacks_by_frame_pointers_are_no_complete_ones_and_are_weighed() {
        let snapshot = snapshot();
        let header = "3 of 374 stacks complete (0.8%), 371 by frame pointers, which may skip callers";
        assert_eq!(whole_stacks(&snapshot).as_deref(), Some(header));
        let notices = notices(&snapshot);
        let lines: Vec<_> = notices.iter().map(Notice::line).collect();
        assert_eq!(
            lines,
            [
                "371 stacks walked by frame pointers through code without unwind tables; callers may be missing in between; \
              900 B of the 1.0 KiB outstanding stand under stacks like these"
            ]
        );
        assert_eq!(notices[0].short, "371 stacks that may lack callers (900 B under such)");
    }

    #[test]
    fn an_older_snapshot_has_no_stacks_by_frame_pointers() {
        let mut snapshot = snapshot();
        let stacks = serde_json::from_str(r#"{"recorded":374,"complete":374}"#).unwrap();
        snapshot.stacks = Some(stacks);
        assert_eq!(stacks.guessed, 0);
        assert_eq!(whole_stacks(&snapshot).as_deref(), Some("all 374 stacks are complete"));
        assert!(notices(&snapshot).is_empty());
    }
}
