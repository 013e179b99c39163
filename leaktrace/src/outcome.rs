//! How a trace ended, and the resulting exit status.

use crate::config::Gate;
use crate::model::Snapshot;
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
/// else 0.
#[must_use]
pub fn exit_code(snapshot: &Snapshot, command: Option<Ending>, gate: Gate) -> u8 {
    if gate.fail_from.is_some_and(|bytes| snapshot.leaked_bytes() >= bytes) {
        gate.exitcode
    } else {
        command.map_or(0, Ending::code)
    }
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
