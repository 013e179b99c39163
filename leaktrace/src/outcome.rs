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
    if let Some(warning) = uncounted(snapshot, gate) {
        log::warn!("{warning}");
    }
    if gate.fail_from.is_some_and(|bytes| snapshot.leaked_bytes() >= bytes) {
        gate.exitcode
    } else {
        command.map_or(0, Ending::code)
    }
}

/// What to say of blocks that are probably lost and are no failure: a job that passes must not hide them.
fn uncounted(snapshot: &Snapshot, gate: Gate) -> Option<String> {
    gate.fail_from?;
    let mut probably = Tally::default();
    for verdict in snapshot.sites.iter().filter_map(Site::shown_verdict) {
        probably.join(verdict.probably_lost);
    }
    (!probably.is_empty()).then(|| {
        format!(
            "--fail-on-leak does not count {} bytes that are probably lost, since the process was searched while it ran;              --leak-check-mode exact with a longer --max-pause is certain",
            probably.bytes
        )
    })
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
    fn what_is_probably_lost_is_no_failure_and_said() {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,"target":{"mode":"pid"},
            "sites":[{"pid":7,"outstanding_bytes":9,"outstanding_count":1,"verdict":{"probably_lost":{"bytes":9,"count":1}}}]}"#;
        let snapshot = Snapshot::from_json(text.as_bytes()).unwrap();
        let gate = Gate { fail_from: Some(1), exitcode: 23 };
        assert_eq!(exit_code(&snapshot, None, gate), 0);
        assert!(uncounted(&snapshot, gate).unwrap().contains("9 bytes that are probably lost"));
        assert_eq!(uncounted(&snapshot, Gate { fail_from: None, exitcode: 23 }), None);
        assert_eq!(uncounted(&leaking(9), gate), None);
    }

    #[test]
    fn leaks_outrank_the_command_only_where_they_are_a_failure() {
        let gate = |fail_from| Gate { fail_from, exitcode: 23 };
        let failed = Some(Ending::Exited(3));
        assert_eq!(exit_code(&leaking(64), failed, gate(None)), 3);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(1))), 23);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(64))), 23);
        assert_eq!(exit_code(&leaking(64), failed, gate(Some(65))), 3);
        assert_eq!(exit_code(&leaking(0), Some(Ending::Exited(0)), gate(Some(1))), 0);
        assert_eq!(exit_code(&leaking(0), None, gate(Some(1))), 0);
        assert_eq!(exit_code(&leaking(0), Some(Ending::Killed { signal: 11, dumped: true }), gate(Some(1))), 139);
        assert_eq!(exit_code(&leaking(9), None, Gate { fail_from: Some(1), exitcode: 99 }), 99);
    }
}
