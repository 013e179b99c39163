//! The options of `leaktrace diff`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::{MeasureArg, MessageArgs};
use super::values::Top;

/// `leaktrace diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The earlier snapshot: a file that --json wrote; - for standard input
    #[arg(value_name = "OLD")]
    pub before: PathBuf,
    /// The later snapshot
    #[arg(value_name = "NEW")]
    pub after: PathBuf,
    /// What to report.
    #[command(flatten)]
    pub output: DiffOutputArgs,
    /// Messages.
    #[command(flatten)]
    pub messages: MessageArgs,
}

/// What to report of a difference.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to report")]
pub struct DiffOutputArgs {
    /// Write a differential flame graph: as wide as NEW, red where it grew, blue where it shrank
    ///
    /// What is gone has no width; swap OLD and NEW to see it.
    #[arg(long, value_name = "FILE.svg")]
    pub flamegraph: Option<PathBuf>,

    /// What the width of the flame graph's frames stands for
    #[arg(long, value_name = "MEASURE", value_enum, default_value_t = MeasureArg::Bytes, requires = "flamegraph")]
    pub flamegraph_by: MeasureArg,

    /// Write folded stacks with both numbers: program;outermost;...;innermost before after
    ///
    /// As inferno-diff-folded and difffolded.pl write them. Lines that begin with # say what makes the comparison doubtful.
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,

    // The help stands in the attribute where rustdoc would want marks that a terminal shows as they are.
    #[doc = "Where the difference goes as JSON."]
    #[arg(
        long,
        value_name = "FILE",
        help = "Write the difference, every number in it, for scripts (schema leaktrace-diff/1)",
        long_help = "Write the difference, every number in it, for scripts (schema leaktrace-diff/1)\n\n\
                     total, each of programs and each of sites have before and after, with outstanding_bytes and outstanding_count, \
                     difference, with bytes and count, and bytes_per_s: between two reports of one trace the difference over the \
                     time between them; of two traces what is outstanding in NEW per second traced less that of OLD, which is no growth \
                     rate. A site also has change (grew, shrank, new, gone, or \
                     not_listed, and then difference is null), matched_by (code, names or null), program (its place in programs), \
                     ids in both snapshots, and stack (places in frames). What did not change is summed in unchanged, what \
                     suppressions hide in suppressed. between_s is the time between two reports of one trace, else null."
    )]
    pub json: Option<PathBuf>,

    /// Show N sites in the text report, or all; the others are summed
    #[arg(short = 'T', long, value_name = "N|all", default_value = "10")]
    pub top: Top,

    /// Order sites by their difference in this, what grew first
    #[arg(long, value_name = "KEY", value_enum, default_value_t = DiffSortArg::Bytes)]
    pub sort: DiffSortArg,
}

/// Values of `--sort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiffSortArg {
    /// Bytes not freed
    Bytes,
    /// Allocations not freed
    Count,
}

/// What stands under the options.
pub(super) const AFTER_HELP: &str = "\
A site is recognised by its code, the build ids and offsets of its stack, in whichever process; in another build of a program by the \
names of the functions. Sites of all processes of one name are summed.

  grew    more is outstanding than in OLD
  shrank  less is
  new     something is outstanding, and in OLD nothing was
  gone    nothing is outstanding, and in OLD something was

Of two traces that lasted differently long the bytes a second stand beside; of two reports of one trace the growth a second.
Exit status: 0 done, whether something differs or not; 1 it failed; 2 the command line could not be understood.

Examples:
  leaktrace diff monday.json friday.json
  leaktrace diff v1.json v2.json --flamegraph diff.svg --json diff.json";
