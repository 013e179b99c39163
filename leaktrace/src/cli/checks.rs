//! The options of the leak check.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::parse_positive_time;

/// Which blocks are lost.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which blocks are lost")]
pub struct CheckArgs {
    /// Search the memory of processes for pointers to each block [default: full with --pid and COMMAND]
    ///
    /// What nothing points to any more is lost, in the words of Valgrind's memcheck. A COMMAND is searched at its end. SIGUSR1
    /// asks leaktrace for a report with a leak check at any time. Named processes are judged, and beside them those that hold
    /// most: see --leak-check-processes.
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, default_missing_value = "full")]
    pub leak_check: Option<LeakCheckArg>,

    /// How the memory of a process is read
    #[arg(long, value_name = "MODE", value_enum, default_value_t = CheckModeArg::Auto)]
    pub leak_check_mode: CheckModeArg,

    /// Stop a process for a leak check only if that takes no longer than TIME, by an estimate
    ///
    /// System calls that a stop interrupts (signal(7) lists them) return EINTR once in each thread. Where the estimate was wrong
    /// the process goes on after ten times TIME, or two seconds if that is more, without a verdict.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_positive_time)]
    pub max_pause: Duration,

    /// Judge at most N processes in each leak check, beside those that are named
    ///
    /// The traced processes with most outstanding are judged, one after the other: children of named processes, and with
    /// --leak-check any process of the machine.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub leak_check_processes: u32,

    /// Which pointers into the middle of a block are as good as one to its start
    ///
    /// By Valgrind's names, several with commas between them: stdstring, length64, newarray, multipleinheritance; or all, or none.
    #[arg(long, value_name = "SET", value_enum, value_delimiter = ',', default_value = "all")]
    pub leak_check_heuristics: Vec<HeuristicArg>,
}

/// Values of `--leak-check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LeakCheckArg {
    /// Not at all
    No,
    /// For each report, also those of --interval
    Summary,
    /// For the last report
    Full,
}

/// Values of `--leak-check-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckModeArg {
    /// The strongest that keeps to --max-pause; a COMMAND's end is always exact
    Auto,
    /// While it is stopped
    Exact,
    /// In a copy as by fork(2), for which it is stopped and a system call is made in its name
    Snapshot,
    /// While it runs, stopped for its registers and what has changed; where the kernel does not tell what has, blocks are at most
    /// probably lost
    Live,
}

/// Values of `--leak-check-heuristics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HeuristicArg {
    /// Every one
    All,
    /// Not one
    None,
    /// To the characters of a string of C++ that counts its references
    Stdstring,
    /// Behind a length of 64 bits
    Length64,
    /// To the first element of an array made by new[]
    Newarray,
    /// To a base class
    Multipleinheritance,
}
