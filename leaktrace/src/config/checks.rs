//! When and how it is found out which blocks of a process are lost.

use std::time::Duration;

pub use crate::analysis::reachability::Heuristics;
use crate::cli::{CheckArgs, CheckModeArg, HeuristicArg, LeakCheckArg, RecordArgs, UsageError, WhomArgs};

/// When and how it is found out which blocks of a process are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPlan {
    /// `--leak-check-mode`: how memory is read; `None` for the strongest way that keeps to the pause.
    pub mode: Option<CheckMode>,
    /// `--max-pause`: how long a process may be stopped for it.
    pub max_pause: Duration,
    /// For each report at an interval, not only for the last and those that are asked for by a signal.
    pub at_intervals: bool,
    /// `--leak-check-processes`: how many processes are judged beside those that are named.
    pub most_others: u32,
    /// `--leak-check-heuristics`.
    pub heuristics: Heuristics,
}

/// A way to read the memory of a process that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckMode {
    /// All of it while it is stopped.
    Exact,
    /// A copy that is made while it is stopped.
    Snapshot,
    /// While it goes on.
    Live,
}

/// Why there are no leak checks. The texts say so to whoever asks for one by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoChecks {
    /// The user wants none.
    #[error("no leak check was made: --leak-check=no")]
    Declined,
    /// Of a sample they would be wrong.
    #[error("no leak check was made: it must know every allocation, which --sample-bytes leaves out")]
    Sampled,
    /// As of a sample.
    #[error(
        "no leak check was made: it must know every allocation, and the process tells of a sample that it draws itself; --leak-check has \
         every call traced instead, which costs the process more"
    )]
    BySampler,
    /// Most blocks are not on record.
    #[error(
        "no leak check was made: it must know every allocation, and --burst sees those in windows only; trace without it"
    )]
    InWindows,
    /// To be judged a process is stopped, which nobody has asked for.
    #[error(
        "no leak check was made: processes that neither --pid nor COMMAND names are stopped for one only with --leak-check; trace \
         with that"
    )]
    Unnamed,
}

/// The leak checks, or why there are none.
///
/// # Errors
/// They cannot be had beside another option.
pub(super) fn resolve(
    args: &CheckArgs,
    whom: &WhomArgs,
    record: &RecordArgs,
) -> Result<Result<CheckPlan, NoChecks>, UsageError> {
    let is_named = !whom.pids.is_empty() || !whom.command.is_empty();
    match args.leak_check {
        Some(LeakCheckArg::No) => return Ok(Err(NoChecks::Declined)),
        None if record.burst.is_some() || record.max_overhead.is_some() => return Ok(Err(NoChecks::InWindows)),
        None if record.sample_bytes.is_some() => return Ok(Err(NoChecks::Sampled)),
        None if !is_named => return Ok(Err(NoChecks::Unnamed)),
        _ => {}
    }
    if record.sample_bytes.is_some() {
        return Err(UsageError::new(
            "--leak-check must know every allocation, which --sample-bytes leaves out; give one of them",
        ));
    }
    Ok(Ok(CheckPlan {
        mode: match args.leak_check_mode {
            CheckModeArg::Auto => None,
            CheckModeArg::Exact => Some(CheckMode::Exact),
            CheckModeArg::Snapshot => Some(CheckMode::Snapshot),
            CheckModeArg::Live => Some(CheckMode::Live),
        },
        max_pause: args.max_pause,
        at_intervals: args.leak_check == Some(LeakCheckArg::Summary),
        most_others: args.leak_check_processes,
        heuristics: heuristics(&args.leak_check_heuristics)?,
    }))
}

fn heuristics(asked: &[HeuristicArg]) -> Result<Heuristics, UsageError> {
    let is_alone = |arg: &HeuristicArg| matches!(arg, HeuristicArg::All | HeuristicArg::None);
    if asked.len() > 1 && asked.iter().any(is_alone) {
        return Err(UsageError::new("--leak-check-heuristics: all and none stand alone; give names, or one of these"));
    }
    let mut heuristics = Heuristics::NONE;
    for arg in asked {
        match arg {
            HeuristicArg::All => heuristics = Heuristics::ALL,
            HeuristicArg::None => {}
            HeuristicArg::Stdstring => heuristics.stdstring = true,
            HeuristicArg::Length64 => heuristics.length64 = true,
            HeuristicArg::Newarray => heuristics.newarray = true,
            HeuristicArg::Multipleinheritance => heuristics.multipleinheritance = true,
        }
    }
    Ok(heuristics)
}
