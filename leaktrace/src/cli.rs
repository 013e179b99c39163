//! The command line as typed: options, their help, and what is wrong with a line that cannot be understood.
//!
//! In: the process's arguments. Out: [`Cli`], which only [`crate::config`] reads, or a [`UsageError`] of one line.
//! Invariant: nothing here decides what an option does; defaults and conflicts are resolved in [`crate::config`].

mod alerts;
mod args;
mod checks;
mod diff;
mod manual;
mod usage;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use alerts::AlertArgs;
pub use args::{
    ColorArg, GateArgs, GroupByArg, MeasureArg, MessageArgs, OnlyArg, OutputArgs, RecordArgs, ReportArgs, SchemaArg,
    SortArg, TraceArgs, UnwindArg, WhomArgs,
};
pub use checks::{CheckArgs, CheckModeArg, HeuristicArg, LeakCheckArg};
pub use diff::{DiffArgs, DiffOutputArgs, DiffSortArg};
pub use manual::{completions, manual};
pub use usage::UsageError;
pub use values::Top;

const ABOUT: &str = "Finds memory leaks in running programs, without recompiling, restarting or touching them";

const LONG_ABOUT: &str = "\
Finds memory leaks in running programs, without recompiling, restarting or touching them.

leaktrace watches every malloc and free of one process, of a command that it launches, or of the whole system, and reports \
what was allocated and not freed, by the stacks that allocated it: as text, as a flame graph, as JSON. Tracing needs root, \
or the capabilities that `leaktrace doctor` names.";

const USAGE: &str = "\
leaktrace [OPTIONS]                       trace every process
       leaktrace [OPTIONS] -p PID[,PID...]       trace running processes
       leaktrace [OPTIONS] -- COMMAND [ARGS]...  launch a command and trace it
       leaktrace report SNAPSHOT [OPTIONS]       render a saved snapshot again
       leaktrace diff OLD NEW [OPTIONS]          say what grew between two saved snapshots
       leaktrace doctor                          say what this machine lacks for tracing";

const AFTER_HELP: &str = "See --help for defaults, exit status and examples.";

const AFTER_LONG_HELP: &str = "\
Times are numbers with a unit: 500ms, 30s, 5m, 1h30m, 2d; a bare number is seconds.
Sizes are bytes, with 1024-based units: 4096, 4k, 1M, 1MiB.

Notes:
  With nobody named, every process is traced, also those that start later.
  Any number of output files can be written together; - is standard output, in the place of the text report.
  Standard output carries reports only, beside what COMMAND writes there; progress, warnings and errors go to standard error.
  Whatever could not be recorded is counted and said in every report. No loss, no estimate: the numbers are exact.
  A program named like a subcommand is traced as any other: leaktrace -- doctor

Exit status:
  0   done; with a COMMAND that has ended, its own status instead (128 + n if signal n ended it)
  1   it failed: one line on standard error says what, why, and what to do
  2   the command line could not be understood
  23  with --fail-on-leak: that much is leaked; with --fail-on-growth: a site leaks that much in
      each second (--leak-exitcode changes the number)

Examples:
  See what a server has not freed of what it allocated in 30 seconds:
    sudo leaktrace -p $(pidof -s redis-server) -d 30s
  The same as a flame graph; leave out what lives for less than 10 seconds:
    sudo leaktrace -p $(pidof -s redis-server) -d 1m -o 10s --flamegraph out.svg
  Trace a command from before its first allocation, and fail a test if it leaks:
    sudo leaktrace --fail-on-leak -- ./my-test --quick
  A report every 10 seconds of everything on the machine, six times:
    sudo leaktrace -i 10 -n 6
  Record now, look later:
    sudo leaktrace -p 4242 -d 5m --show-allocs --json leak.json
    leaktrace report leak.json --older-than 1m --flamegraph leak.svg
  See what grew from one such file to another:
    leaktrace diff monday.json friday.json";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "leaktrace",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    override_usage = USAGE,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do instead of tracing.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// What to trace.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// What there is to do beside tracing.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Render a snapshot that --json saved: any output format, other sites, other order
    #[command(override_usage = "leaktrace report SNAPSHOT [OPTIONS]")]
    Report(Box<ReportArgs>),
    /// Say what grew between two snapshots that --json saved, at which sites and how fast
    #[command(override_usage = "leaktrace diff OLD NEW [OPTIONS]", after_long_help = diff::AFTER_HELP)]
    Diff(Box<DiffArgs>),
    #[doc = "Where the sampler is."]
    #[command(
        override_usage = "leaktrace sampler --print-path",
        about = "Say where the sampler is, for programs to be started with: LD_PRELOAD=$(leaktrace sampler --print-path)"
    )]
    Sampler {
        /// Print the path of the library
        #[arg(long, required = true)]
        print_path: bool,
    },
    /// Say what this kernel and machine support, and what to do about what is missing
    Doctor(MessageArgs),
    /// Print shell completions
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff: leaktrace man | man -l -
    Man,
}

/// What came of reading the arguments.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Cli(Box<Cli>),
    /// Help or the version, to be printed on standard output.
    Text(clap::builder::StyledStr),
}

/// Reads arguments, the program's name first.
///
/// # Errors
/// One line that says what is wrong with them and what to do.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let subcommand =
        args.get(1).and_then(|arg| arg.to_str()).filter(|name| Cli::command().find_subcommand(name).is_some());
    let subcommand = subcommand.map(str::to_owned);
    let ends_in_dashes = args.iter().position(|arg| arg == "--").is_some_and(|at| at + 1 == args.len());
    let after_lsan = args.windows(2).find(|pair| pair[0] == "--lsan").and_then(|pair| pair[1].to_str());
    let after_lsan = after_lsan.map(str::to_owned);
    match Cli::try_parse_from(args) {
        // It would trace every process instead.
        Ok(cli) if cli.action.is_none() && ends_in_dashes => Err(UsageError::new(
            "a COMMAND is missing behind --; name a program, or leave -- out to trace every process".to_owned(),
        )),
        Ok(cli) => Ok(Parsed::Cli(Box::new(cli))),
        Err(error) if error.use_stderr() => Err(usage::one_line(&error, subcommand.as_deref(), after_lsan.as_deref())),
        Err(error) => Ok(Parsed::Text(error.render())),
    }
}
