//! How a trace ended, and the resulting exit status.

use crate::config::Gate;
use crate::model::{Site, Snapshot, Tally};
use crate::process::launch::Ending;

/// The result of a trace.
#[derive(Debug)]
pub struct Outcome {
    /// The last report, not delivered yet.
    pub snapshot: Snapshot,
    /// How the launched command ended; `None` if none was launched, or if it was still running when tracing stopped.
    pub command: Option<Ending>,
    /// Why the trace ended early, if it did.
    pub cut_short: Option<String>,
}

/// The exit status after the last report was delivered: that for leaks if they count as failure, else the command's own,
/// else 0. Says what it does not show.
#[must_use]
pub fn exit_code(snapshot: &Snapshot, command: Option<Ending>, gate: Gate) -> u8 {
    let of_growth = undecided_growth(snapshot, gate);
    for warning in uncounted(snapshot, gate).into_iter().chain(unjudged(snapshot, gate)).chain(of_growth) {
        log::warn!("{warning}");
    }
    let grows = |from: u64| {
        let mut leaking = snapshot.sites.iter().filter(|site| site.leaks_by_growth() && site.shown().count > 0);
        leaking.any(|site| site.growth_rate() >= from as f64)
    };
    if gate.fail_from.is_some_and(|bytes| snapshot.leaked_bytes() >= bytes) || gate.grows_from.is_some_and(grows) {
        gate.exitcode
    } else {
        command.map_or(0, Ending::code)
    }
}

/// What to say of blocks that may be lost and are no failure: a job that passes must not hide them.
fn uncounted(snapshot: &Snapshot, gate: Gate) -> Vec<String> {
    if gate.fail_from.is_none() {
        return Vec::new();
    }
    let (mut probably, mut undecided) = (Tally::default(), Tally::default());
    for verdict in snapshot.sites.iter().filter_map(Site::shown_verdict) {
        probably.join(verdict.probably_lost);
        undecided.join(verdict.undecided);
    }
    let probably = (!probably.is_empty()).then(|| {
        format!(
            "--fail-on-leak does not count {} bytes that are probably lost, since the process was searched while it ran; \
             --leak-check-mode exact with a longer --max-pause is certain",
            probably.bytes
        )
    });
    let undecided = (!undecided.is_empty()).then(|| {
        format!(
            "--fail-on-leak does not count {} bytes that are undecided, since what points to them may be memory that was not recorded",
            undecided.bytes
        )
    });
    probably.into_iter().chain(undecided).collect()
}

/// What to say of blocks that are a failure only because nobody has judged them, while others were: a report that says that nothing is
/// lost would not explain the exit status.
fn unjudged(snapshot: &Snapshot, gate: Gate) -> Option<String> {
    gate.fail_from?;
    snapshot.processes.iter().find(|process| process.leak_check.is_some())?;
    let unjudged = snapshot.unjudged_bytes();
    let (pid, most) = unjudged.iter().max_by_key(|(_, bytes)| **bytes)?;
    let bytes: u64 = unjudged.values().sum();
    let whose = match unjudged.len() {
        1 => format!("process {pid} holds, on which there is no verdict"),
        count => format!("{count} processes hold, on which there is no verdict (process {pid} {most} of them)"),
    };
    Some(format!(
        "--fail-on-leak counts all {bytes} bytes that {whose}: what ends before it is searched is judged only as COMMAND itself"
    ))
}

/// What to say of growth that is no failure only because there is no decision: a job that passes must not hide it.
fn undecided_growth(snapshot: &Snapshot, gate: Gate) -> Vec<String> {
    let Some(from) = gate.grows_from else { return Vec::new() };
    let ended = snapshot.processes.iter().filter(|process| process.ended_unjudged());
    let (ended, bytes) =
        ended.fold((0, 0_u64), |(count, bytes), process| (count + 1, bytes.saturating_add(process.outstanding_bytes)));
    let ended =
        if ended == 1 { "a process held when it".to_owned() } else { format!("{ended} processes held when they") };
    let of_ended = (bytes > 0).then(|| {
        format!(
            "--fail-on-growth does not count {bytes} bytes that {ended} ended: growth is judged of what goes on, \
             and of COMMAND itself"
        )
    });
    if !snapshot.sites.is_empty() && !snapshot.has_growth() && of_ended.is_none() {
        let nothing = "--fail-on-growth has nothing to go by: growth was not followed, or for too short a time";
        return vec![nothing.to_owned()];
    }
    open_growth(snapshot, from).into_iter().chain(of_ended).collect()
}

/// The same of sites on which there is no decision.
fn open_growth(snapshot: &Snapshot, from: u64) -> Option<String> {
    let is_open = |site: &&Site| {
        site.shown().count > 0 && !site.leaks_by_growth() && site.growth.is_some() && site.growth_rate() >= from as f64
    };
    let open: Vec<_> = snapshot.sites.iter().filter(is_open).collect();
    let rate: f64 = open.iter().map(|site| site.growth_rate()).sum();
    let reason = open.first()?.growth.as_ref().map_or("", |growth| &*growth.reason);
    let sites = if open.len() == 1 { "a site".to_owned() } else { format!("{} sites", open.len()) };
    Some(format!(
        "--fail-on-growth does not count {rate:.0} bytes/s at {sites} on which there is no decision: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaking(bytes: u64) -> Snapshot {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{{"mode":"command"}},
            "sites":[{{"pid":7,"outstanding_bytes":{bytes},"outstanding_count":1}}]}}"#
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_may_be_lost_is_no_failure_and_said() {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{"mode":"pid"},
            "sites":[{"pid":7,"outstanding_bytes":15,"outstanding_count":2,"verdict":{"probably_lost":{"bytes":9,"count":1},
            "undecided":{"bytes":6,"count":1}}}]}"#;
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        let gate = Gate { fail_from: Some(1), grows_from: None, exitcode: 23 };
        assert_eq!(exit_code(&snapshot, None, gate), 0);
        let words = uncounted(&snapshot, gate).join(" ");
        assert!(
            words.contains("9 bytes that are probably lost") && words.contains("6 bytes that are undecided"),
            "{words}"
        );
        assert!(uncounted(&snapshot, Gate { fail_from: None, grows_from: None, exitcode: 23 }).is_empty());
        assert!(uncounted(&leaking(9), gate).is_empty());
    }

    #[test]
    fn what_nobody_has_judged_is_a_failure_and_said() {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{"mode":"command"},
            "processes":[{"pid":7,"comm":"sh","outstanding_bytes":9,"outstanding_count":1,
            "leak_check":{"mode":"exact","pause_ms":0,"scanned_bytes":1,"passes":1}},{"pid":8,"comm":"a","outstanding_bytes":5,"outstanding_count":1}],
            "sites":[{"pid":7,"outstanding_bytes":9,"outstanding_count":1,"verdict":{"still_reachable":{"bytes":9,"count":1}}},
            {"pid":8,"outstanding_bytes":5,"outstanding_count":1}]}"#;
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        let gate = Gate { fail_from: Some(1), grows_from: None, exitcode: 23 };
        assert_eq!(exit_code(&snapshot, Some(Ending::Exited(0)), gate), 23);
        let words = unjudged(&snapshot, gate).unwrap();
        assert!(words.contains("counts all 5 bytes that process 8 holds, on which there is no verdict"), "{words}");
        assert_eq!(unjudged(&leaking(9), gate), None, "no leak check ran");
    }

    #[test]
    fn growth_is_a_failure_where_it_is_judged_a_leak_and_said_where_it_is_not() {
        let of = |growth: &str| {
            let text = format!(
                r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":99,"target":{{"mode":"pid"}},
                "sites":[{{"pid":7,"outstanding_bytes":64,"outstanding_count":1,"growth":{growth}}}]}}"#
            );
            Snapshot::from_json(text.as_bytes()).unwrap()
        };
        let gate = |from| Gate { fail_from: None, grows_from: Some(from), exitcode: 23 };
        let leak = of(r#"{"verdict":"leak","bytes_per_s":64.0}"#);
        assert_eq!(exit_code(&leak, None, gate(64)), 23);
        assert_eq!((exit_code(&leak, None, gate(65)), undecided_growth(&leak, gate(1))), (0, Vec::new()));
        let open = of(r#"{"verdict":"undecided","bytes_per_s":64.0,"reason":"never freed"}"#);
        assert_eq!(exit_code(&open, None, gate(1)), 0);
        let words = undecided_growth(&open, gate(1)).join(" ");
        assert!(words.contains("64 bytes/s at a site") && words.contains("never freed"), "{words}");
        assert!(undecided_growth(&open, gate(65)).is_empty());
        assert!(undecided_growth(&of("null"), gate(1)).join(" ").contains("not followed"));
        let mut ended = open;
        let process = r#"{"pid":7,"comm":"a","exited":true,"outstanding_bytes":5,"outstanding_count":1}"#;
        ended.processes.push(serde_json::from_str(process).unwrap());
        let words = undecided_growth(&ended, gate(65)).join(" ");
        assert!(words.contains("5 bytes that a process held when it ended"), "{words}");
    }

    #[test]
    fn leaks_outrank_the_command_only_where_they_are_a_failure() {
        let gate = |fail_from| Gate { fail_from, grows_from: None, exitcode: 23 };
        let failed = Some(Ending::Exited(3));
        assert_eq!(exit_code(&leaking(64), failed, gate(None)), 3);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(1))), 23);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(64))), 23);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(65))), 3);
        assert_eq!(exit_code(&leaking(0), Some(Ending::Exited(0)), gate(Some(1))), 0);
        assert_eq!(exit_code(&leaking(0), None, gate(Some(1))), 0);
        assert_eq!(exit_code(&leaking(0), Some(Ending::Killed { signal: 11, dumped: true }), gate(Some(1))), 139);
        assert_eq!(exit_code(&leaking(9), None, Gate { fail_from: Some(1), grows_from: None, exitcode: 99 }), 99);
    }
}
