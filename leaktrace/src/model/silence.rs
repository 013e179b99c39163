//! The reasons why a trace saw not one allocation.

use std::fmt;

use super::request::{Target, TraceMode};
use super::snapshot::{Process, Snapshot};
use super::types::Pid;
use super::untraced::Untraced;

/// Why not one allocation was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// A process' memory grew by other means than malloc.
    GrewOtherwise {
        /// The process.
        pid: Pid,
        /// By how much, in words.
        sum: String,
        /// How much of it in which kind of memory, in words.
        parts: String,
    },
    /// A process does not run.
    Stands {
        /// The process.
        pid: Pid,
        /// What keeps it from that and what to do, in words.
        how: String,
    },
    /// Descendants of the named processes run, and were not traced.
    DescendantsLeftOut,
    /// Perhaps no block had a size within `--min-size` and `--max-size`.
    SizesFiltered,
    /// Perhaps none was hit by the sample.
    Sampled,
    /// None of the processes could be traced; the reasons are in the list of untraced processes.
    NoneTraced,
    /// No process was seen that passes these filters, in words.
    NoneMatched(String),
    /// Nothing is known, except whether the processes have ended.
    Unexplained {
        /// Whether they have: then there is no longer trace of them.
        ended: bool,
    },
}

impl Silence {
    /// What there is to say of a snapshot by itself.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let is_named = matches!(snapshot.target.mode, TraceMode::Pid | TraceMode::Command);
        let has = |is_so: &dyn Fn(&Process) -> bool| {
            is_named && !snapshot.processes.is_empty() && snapshot.processes.iter().all(is_so)
        };
        let is_untraced = |process: &Process| {
            let is_it = |it: &Untraced| it.pid == process.pid && !it.partly;
            snapshot.untraced.iter().any(is_it)
        };
        if has(&is_untraced) {
            Self::NoneTraced
        } else if snapshot.sampled {
            Self::Sampled
        } else if snapshot.options.filters_sizes() {
            Self::SizesFiltered
        } else {
            Self::Unexplained { ended: has(&|process| process.exited) }
        }
    }

    /// No process was seen that passes the filters of this target.
    #[must_use]
    pub fn none_matched(target: &Target) -> Self {
        let comms = target.comms.iter().map(|comm| format!("--comm {comm}"));
        let cgroups = target.cgroups.iter().map(|path| format!("--cgroup {path}"));
        let uids = target.uids.iter().map(|uid| format!("--uid {uid}"));
        Self::NoneMatched(comms.chain(cgroups).chain(uids).collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one allocation was seen")?;
        match self {
            Self::GrewOtherwise { pid, sum, parts } => write!(
                f,
                ", but the memory of process {pid} grew by {sum} without malloc: {parts}; look for calls of mmap, brk or shmat \
                 in it, as by strace -k -e %memory"
            ),
            Self::Stands { pid, how } => write!(f, ": process {pid} {how}"),
            Self::DescendantsLeftOut => f.write_str(
                " in the processes named, which have descendants that run and are left out; trace without --no-follow",
            ),
            Self::SizesFiltered => {
                f.write_str(", which does not mean that nothing leaks; trace again without --min-size and --max-size")
            }
            Self::Sampled => f.write_str(
                ", which does not mean that nothing leaks: perhaps none was hit by the sample; trace for longer, or give a smaller \
                 --sample-bytes",
            ),
            Self::NoneTraced => {
                f.write_str(": none of the processes could be traced, for the reasons given as \"not traced\"")
            }
            Self::NoneMatched(filters) => write!(f, ": no process was seen that matches {filters}"),
            Self::Unexplained { ended } => {
                let longer = if *ended { "" } else { "trace for longer, or " };
                write!(
                    f,
                    ", which does not mean that nothing leaks: either none was made, or by functions that have no probes (-v lists \
                     those that have); {longer}name the allocator with --object"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command of one process that has made no call.
    fn silent(rest: &str) -> Snapshot {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,
                "target":{{"mode":"command","pids":[7]}},"processes":[{{"pid":7,"comm":"a","outstanding_bytes":0,
                "outstanding_count":0{rest}}}"#
        );
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn after_a_command_that_has_ended_nothing_is_traced_for_longer() {
        let running = Silence::of(&silent("}]")).to_string();
        assert!(running.ends_with("; trace for longer, or name the allocator with --object"), "{running}");
        let ended = Silence::of(&silent(r#","exited":true}]"#)).to_string();
        assert!(ended.ends_with("that have); name the allocator with --object"), "{ended}");
    }

    #[test]
    fn where_none_could_be_traced_the_reasons_are_referred_to() {
        let untraced = |partly| {
            let rest =
                format!(r#"}}],"untraced":[{{"pid":7,"comm":"a","reason":"it is run by Go","partly":{partly}}}]"#);
            Silence::of(&silent(&rest))
        };
        assert_eq!(untraced(false), Silence::NoneTraced);
        assert_eq!(untraced(true), Silence::Unexplained { ended: false });
        assert!(Silence::NoneTraced.to_string().contains("none of the processes could be traced"));
    }

    #[test]
    fn filters_that_no_process_passes_are_named() {
        let target = Target { comms: vec!["nginx".to_owned()], uids: vec![33], ..Target::new(TraceMode::Filter) };
        let said = "not one allocation was seen: no process was seen that matches --comm nginx --uid 33";
        assert_eq!(Silence::none_matched(&target).to_string(), said);
    }

    #[test]
    fn a_sample_may_have_hit_none() {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"sampled":true,
            "target":{"mode":"command","pids":[7]},"processes":[]}"#;
        let silence = Silence::of(&Snapshot::from_json(text.as_bytes()).unwrap()).to_string();
        assert!(silence.ends_with("give a smaller --sample-bytes"), "{silence}");
    }
}
