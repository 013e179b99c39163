//! The options, in the groups that `--help` shows. A doc comment's first line is what `-h` says; help texts are written for
//! users, without a full stop at the end of the short one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::alerts::AlertArgs;
use super::checks::CheckArgs;
use super::values::{
    Burst, Percent, Pids, Top, parse_burst, parse_bytes, parse_count, parse_percent, parse_pids, parse_positive_bytes,
    parse_positive_time, parse_rate, parse_sample_bytes, parse_time, parse_uid,
};
use crate::model::Options;
use crate::probes::functions::AllocSymbol;

/// Largest table capacity accepted: what a table of 32-bit positions can hold, with room to spare.
const MAX_CAPACITY: i64 = 1_000_000_000;

/// Everything that says what to trace and how.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Whom to trace.
    #[command(flatten)]
    pub whom: WhomArgs,
    /// What to record.
    #[command(flatten)]
    pub record: RecordArgs,
    /// Which blocks are lost.
    #[command(flatten)]
    pub check: CheckArgs,
    /// What to report of it.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Exit status.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Alerts.
    #[command(flatten)]
    pub alerts: AlertArgs,
    /// Messages.
    #[command(flatten)]
    pub messages: MessageArgs,
    /// Fetch the debug information that stripped files lack, from the servers in `DEBUGINFOD_URLS`
    #[arg(
        long,
        help_heading = "What to report",
        help = "Fetch the debug information that stripped files lack, from the servers in DEBUGINFOD_URLS",
        long_help = "Fetch the debug information that stripped files lack, from the servers in DEBUGINFOD_URLS\n\n\
                     For names and source lines where the distribution keeps them apart. Files are asked for by build id, after \
                     tracing or between reports, and kept in the cache that other debuginfod clients use. DEBUGINFOD_TIMEOUT, \
                     DEBUGINFOD_MAXTIME, DEBUGINFOD_MAXSIZE and DEBUGINFOD_CACHE_PATH are heeded. Ctrl-C while the last report \
                     waits for files has it made without them. sudo drops the variable unless it is run with \
                     --preserve-env=DEBUGINFOD_URLS."
    )]
    pub debuginfod: bool,
    /// Show no status line on a terminal while tracing
    ///
    /// With a COMMAND there is none, since that may write to the same terminal.
    #[arg(long, help_heading = "Messages")]
    pub no_progress: bool,
}

/// Whom to trace.
#[derive(Debug, Args)]
#[command(next_help_heading = "Whom to trace")]
pub struct WhomArgs {
    /// Trace running processes
    ///
    /// Several are joined by commas, or the option is repeated.
    #[arg(short, long = "pid", value_name = "PID[,PID...]", value_parser = parse_pids)]
    pub pids: Vec<Pids>,

    /// Trace processes of this name, also those that start later
    ///
    /// The name is what ps -o comm= and /proc/PID/comm show: the program's file name, or what the process calls itself.
    /// The kernel keeps its first 15 bytes, and only these are compared. May be repeated.
    #[arg(long = "comm", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub comms: Vec<String>,

    /// Trace the processes in this control group (version 2) and in groups below it, also those that start later
    ///
    /// A directory such as /sys/fs/cgroup/system.slice/nginx.service; what lies above the group may be left out. May be
    /// repeated. Of --comm, --cgroup and --uid a process must meet one of each kind that is given.
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<PathBuf>,

    /// Trace the processes of this user, also those that start later
    ///
    /// A name or a number. It is compared with the real user id, which in a set-user-ID program is that of the user who started
    /// it. May be repeated.
    #[arg(long = "uid", value_name = "UID", value_parser = parse_uid)]
    pub uids: Vec<u32>,

    /// Do not trace the children of --pid or COMMAND
    ///
    /// Children are traced from their first instruction on. The price is paid by others: a program or library that a traced
    /// process allocates with has its probes in every process that uses the same file, and a pair of malloc and free takes
    /// a microsecond or two longer there, although nothing is recorded of it. Programs that Valgrind runs end with SIGTRAP
    /// where they meet a probe. With --no-follow only the named processes have probes.
    #[arg(long)]
    pub no_follow: bool,

    /// Launch COMMAND with leaktrace's sampler in it, instead of probing every call
    ///
    /// The sampler is a preloaded library that tells of a sample of COMMAND's allocations, and of those of its descendants. That
    /// costs them little, so that a service can always run so: leaktrace sampler --print-path says where it is, and
    /// --pid finds it in a process. In return all numbers are estimates, as with --sample-bytes, and nothing is judged lost. It
    /// samples one byte in 16 KiB, or fewer, so that there are at most 200 samples in a second. Static programs and such as
    /// change users (set-user-ID) do not load it.
    #[arg(long)]
    pub sampler: bool,

    /// Trace even where the kernel may kill what is traced, or is too old to be tested
    ///
    /// Linux 6.11 to 6.13 kill processes under a seccomp filter, such as those in containers and browsers, when they
    /// return from a probed function. Linux 5.15 to 6.0 have what leaktrace needs, but nobody has tried them.
    #[arg(long)]
    pub force: bool,

    /// Launch this command and trace it, from before its first allocation, with its descendants
    ///
    /// No debugger can attach to its first process meanwhile, as that is held with ptrace; to trace a program under a
    /// debugger, trace it with --pid, or launch the debugger.
    ///
    /// Ctrl-C and SIGHUP of a terminal reach COMMAND as well, and SIGTERM is passed on to it. Where it has not ended one second
    /// later, the last report is made without its end, and it goes on without being traced. It goes on likewise when --duration
    /// or --count ends the trace.
    #[arg(last = true, value_name = "-- COMMAND")]
    pub command: Vec<OsString>,

    /// Probe this executable or library too, beside the allocators that are found
    ///
    /// May be repeated.
    #[arg(long = "object", value_name = "PATH")]
    pub objects: Vec<PathBuf>,

    // The help stands in the attribute where rustdoc would want marks that a terminal shows as they are.
    #[doc = "Prefixes of functions to probe."]
    #[arg(
        long = "symbols-prefix",
        value_name = "PREFIX",
        help = "Probe functions with this prefix too: je_ for je_malloc, je_free and so on",
        long_help = "Probe functions with this prefix too: je_ for je_malloc, je_free and so on\n\nMay be repeated."
    )]
    pub symbols_prefixes: Vec<String>,

    #[doc = "Functions of the user's to probe."]
    #[arg(
        long = "alloc-symbols",
        value_name = "NAME[=LIKE],...",
        value_delimiter = ',',
        help = "Probe these functions too, each called like one of the C library's: pool_get=malloc,pool_put=free",
        long_help = "Probe these functions too, each called like one of the C library's: pool_get=malloc,pool_put=free\n\n\
                     The name alone where it ends like the function that it is like: xmalloc. C++ names as the symbol table \
                     has them (mangled). May be repeated."
    )]
    pub alloc_symbols: Vec<AllocSymbol>,
}

/// What to record.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to record")]
pub struct RecordArgs {
    /// Stop after this time [default: at Ctrl-C, or when the traced processes have ended]
    #[arg(short, long, value_name = "TIME", value_parser = parse_positive_time)]
    pub duration: Option<Duration>,

    /// Report every TIME [default: only at the end]
    ///
    /// Files are written anew at each report. On standard output JSON reports follow one another, a line each; flame
    /// graphs and folded stacks come once, at the end.
    #[arg(short, long, value_name = "TIME", value_parser = parse_positive_time)]
    pub interval: Option<Duration>,

    /// Stop after N interval reports
    ///
    /// The N-th is the last report of the trace, with which files are written for the last time.
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_count)]
    pub count: Option<u64>,

    /// Ignore allocations below this size
    #[arg(short = 'z', long, value_name = "BYTES", value_parser = parse_bytes)]
    pub min_size: Option<u64>,

    /// Ignore allocations above this size
    #[arg(short = 'Z', long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_size: Option<u64>,

    /// Record a sample: one byte in BYTES is hit on average, and the allocation that it belongs to is recorded
    ///
    /// Makes tracing cheap where a program allocates much: what is not hit costs neither a stack nor memory, only the
    /// probe itself. In return all numbers are estimates: right on average, whatever the mix of sizes, and stated with
    /// the interval that holds the truth 95 times in 100. 512k suits most programs. Allocations well above BYTES are all
    /// recorded, of what is small only leaks of many times BYTES in all show up for certain, and allocations of 0 bytes
    /// not at all. N outstanding bytes are known to about 2 * sqrt(N * BYTES): 100 MiB at 512k to 14 MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_sample_bytes)]
    pub sample_bytes: Option<u64>,

    /// See calls in windows only, one of WINDOW at a random place in each PERIOD, such as 1s/100s
    ///
    /// For processes that are too busy to be traced all the time, or to be traced for long. What is counted is net flow: what is allocated
    /// less what is freed while a window is open, by size, with the interval that holds the truth 95 times in 100. Of sizes into which
    /// more comes than goes stacks are recorded in the windows after. Sizes of freed blocks are known where glibc allocates; of other
    /// allocators only the number of all blocks is. Between windows nothing is in the process. With --pid; --no-follow leaves its children out.
    #[arg(long, value_name = "WINDOW/PERIOD", value_parser = parse_burst)]
    pub burst: Option<Burst>,

    /// Open windows so seldom that they cost a process no more than this part of the processor time that it uses, such as 1%
    ///
    /// Estimated by the number of calls. With --burst windows are at least its PERIOD apart; without it they are one second long.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub max_overhead: Option<Percent>,

    /// Judge growth from TIME after tracing began, when the program has warmed up
    ///
    /// Whether a site leaks is told by blocks that stay for longer than any that was freed has lived, while more keep coming. The
    /// first quarter of the time counts as warm-up in any case.
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true, value_parser = parse_time)]
    pub warmup: Duration,

    /// How stacks are walked
    ///
    /// By unwind tables, which the kernel-side programs follow as a debugger would, or by frame pointers, which most
    /// programs are built without.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub unwind: UnwindArg,

    /// Make room for at least N outstanding allocations at a time
    ///
    /// What finds no room is counted as lost. The room is taken at the start, some 48 bytes each. The default is 1,000,000; for the
    /// whole machine and for a COMMAND whose children are followed it grows with the memory that is available, up to 4,000,000.
    /// Of allocations at addresses of 48 bits and more, as of pointers with tags, at least a sixteenth of N fit beside all others.
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub max_allocs: Option<u32>,

    /// Make room for at least N different stacks
    ///
    /// Those that find no room are counted as lost, and their allocations under a site without stack. The room is taken at the
    /// start, some 1.7 KB each. The default is 16,384; for the whole machine and for a COMMAND whose children are followed it
    /// grows with the memory that is available, up to 131,072.
    #[arg(long, value_name = "N", value_parser = capacity())]
    pub max_stacks: Option<u32>,

    /// Record at most N frames of a stack, 1,024 at most
    ///
    /// The outermost frames of deeper stacks are left out, which is counted. Room is for stacks of 128 frames on average: see
    /// --max-stacks.
    #[arg(long, value_name = "N", default_value_t = Options::MAX_DEPTH,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Options::DEEPEST)))]
    pub max_depth: u32,
}

fn capacity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_CAPACITY)
}

/// What to report.
#[expect(clippy::struct_excessive_bools, reason = "each is an option without a value")]
#[derive(Debug, Args)]
#[command(next_help_heading = "What to report")]
pub struct OutputArgs {
    /// Write a flame graph of what is not freed
    #[arg(long, value_name = "FILE.svg")]
    pub flamegraph: Option<PathBuf>,

    /// What the width of the flame graph's frames stands for
    #[arg(long, value_name = "MEASURE", value_enum, default_value_t = MeasureArg::Bytes, requires = "flamegraph")]
    pub flamegraph_by: MeasureArg,

    /// Write a picture of memory over time, with the largest sites as bands
    ///
    /// A panel for each process, six at most, those that leak by their growth first: bytes outstanding by site, the resident and
    /// the proportional set, what is allocated in each second, execs, exits and leak checks.
    #[arg(long, value_name = "FILE.svg")]
    pub timeline: Option<PathBuf>,

    /// Write folded stacks: comm-pid;outermost;...;innermost bytes
    ///
    /// Lines that begin with # say what is missing or uncertain.
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,

    /// Write the snapshot, every number in it, for scripts and for leaktrace report
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write sites with nothing outstanding to --json too
    ///
    /// Everything that they allocated was freed again. Of a program that allocates much they are most of the sites. The
    /// numbers of the processes hold them in any case.
    #[arg(long, requires = "json")]
    pub all_sites: bool,

    /// Write --json in this schema
    ///
    /// 2 has each frame once, in a table that stacks refer to. 1 is the form of the first versions, with every site and all
    /// frames of each; it is many times as large.
    #[arg(long, value_name = "1|2", default_value = "2", requires = "json")]
    pub json_schema: SchemaArg,

    /// Write what is lost as LeakSanitizer's text, to standard output unless a FILE is given [FILE: - if not given]
    ///
    /// There it takes the place of the text report. Definitely lost blocks are direct leaks, indirectly lost ones indirect
    /// leaks. Frame #0 stands for the allocation function, which leaktrace does not tell by name: it reads malloc, or operator
    /// new. Without leaks nothing is written. What makes the report uncertain, such as a leak check that could not run,
    /// stands in lines of the form ==PID==WARNING: leaktrace: ... before it. With --show-allocs each leak lists its
    /// objects.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub lsan: Option<PathBuf>,

    /// Report only allocations at least this old
    ///
    /// What is just being used is not leaked yet. Totals count old allocations only, too.
    #[arg(short, long, value_name = "TIME", value_parser = parse_time)]
    pub older_than: Option<Duration>,

    /// Show N sites in the text report, or all; the others are summed
    #[arg(short = 'T', long, value_name = "N|all", default_value = "10")]
    pub top: Top,

    /// Order sites by this, largest or oldest first
    #[arg(long, value_name = "KEY", value_enum)]
    pub sort: Option<SortArg>,

    /// Show only sites where a leak check found blocks lost, and of these only what is lost; or only those that keep growing
    ///
    /// lost: what is definitely or indirectly lost. growing: sites that are judged to leak by their growth, and those that rise and on
    /// which there is no decision. In every output; the exit status of --fail-on-leak does not change.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub only: Option<OnlyArg>,

    /// Do not report the leaks that FILE names
    ///
    /// In the format of LeakSanitizer (leak:PATTERN) or of Valgrind's memcheck (blocks of Memcheck:Leak); which one is told by what
    /// stands in the file. Totals keep counting these leaks, the list of sites, flame graphs and folded stacks leave them out, and
    /// --fail-on-leak does not count them. With -v each rule says what it hid. May be repeated.
    #[arg(long, value_name = "FILE")]
    pub suppressions: Vec<PathBuf>,

    /// Report also what is known to be harmless: what the C and C++ libraries allocate once for themselves
    ///
    /// Without this option a list of such allocations that leaktrace brings along is left out as if --suppressions named it.
    #[arg(long)]
    pub no_default_suppressions: bool,
    /// Say who holds what can still be reached: which variable, and through which blocks
    ///
    /// Under each site, and the variables that hold most in all. Found out by the leak check, so the same processes have it. The
    /// JSON snapshot says it in any case.
    #[arg(long)]
    pub holders: bool,

    /// Sum the text report by this: each stack alone, or the types of objects
    ///
    /// The type of an object is known if it has virtual functions and its process was searched by the leak check.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = GroupByArg::Stack)]
    pub group_by: GroupByArg,

    /// List each outstanding allocation under its site: address, size, age
    ///
    /// The JSON snapshot then holds them as well, and leaktrace report can filter them by age.
    #[arg(long)]
    pub show_allocs: bool,
}

/// Exit status.
#[derive(Debug, Args)]
#[command(next_help_heading = "Failing on leaks")]
#[command(group = clap::ArgGroup::new("gate").multiple(true).args(["fail_on_leak", "fail_on_growth"]))]
pub struct GateArgs {
    /// Exit with 23 if at least BYTES are leaked [BYTES: 1 if not given]
    #[arg(long, value_name = "BYTES", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = parse_positive_bytes)]
    pub fail_on_leak: Option<u64>,

    /// Exit with 23 if a site is judged to leak by its growth, by at least BYTES in each second [BYTES/s: 1 if not given]
    ///
    /// Sites on which there is no decision are no failure; the report says why there is none.
    #[arg(long, value_name = "BYTES/s", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = parse_rate)]
    pub fail_on_growth: Option<u64>,

    /// Exit with N instead of 23
    #[arg(long, value_name = "N", default_value_t = 23, requires = "gate",
          value_parser = clap::value_parser!(u8).range(1..))]
    pub leak_exitcode: u8,
}

/// Messages on standard error, and colours.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub struct MessageArgs {
    /// Show reports and errors only: no progress, no warnings on standard error
    ///
    /// What was lost still stands in the reports.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what is being done; repeat for more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    #[doc = "When to use colours."]
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorArg::Auto,
          help = "Colour the text report; auto: on a terminal, unless NO_COLOR is set")]
    pub color: ColorArg,
}

/// `leaktrace report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A file that --json wrote; - for standard input
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: PathBuf,
    /// What to report of it.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Exit status.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Messages.
    #[command(flatten)]
    pub messages: MessageArgs,
}

/// Values of `--json-schema`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaArg {
    /// leaktrace/1
    #[value(name = "1")]
    V1,
    /// leaktrace/2
    #[value(name = "2")]
    V2,
}

/// Values of `--flamegraph-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MeasureArg {
    /// Bytes not freed
    Bytes,
    /// Allocations not freed
    Count,
}

/// Values of `--group-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupByArg {
    /// Each stack alone
    Stack,
    /// Objects of one class
    Type,
}

/// Values of `--sort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortArg {
    /// Bytes not freed
    Bytes,
    /// Allocations not freed
    Count,
    /// Age of the oldest
    Age,
    /// Bytes by which it grows in each second: leaks, then what there is no decision on, then the rest
    Growth,
}

/// Values of `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnlyArg {
    /// What is lost
    Lost,
    /// What keeps growing
    Growing,
}

/// Values of `--unwind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnwindArg {
    /// Unwind tables, and frame pointers in code that has none
    Auto,
    /// Unwind tables only
    Dwarf,
    /// Frame pointers only
    Fp,
}

/// Values of `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On a terminal
    Auto,
    /// Even into a file or pipe
    Always,
    /// Not at all
    Never,
}
