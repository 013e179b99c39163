//! The resolved configuration: what the rest of the program sees of the command line.
//!
//! In: [`Cli`] and what kind of terminal there is. Out: an [`Invocation`] in which every default is filled in and every
//! conflict is settled, or a [`UsageError`].

mod alerts;
mod bursts;
mod checks;
mod diff;
mod outputs;
mod sampler;
mod suppressions;
mod whom;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::analysis::suppressions::Rules;
use crate::cli::{
    Action, Cli, GateArgs, MessageArgs, OnlyArg, OutputArgs, RecordArgs, ReportArgs, SortArg, TraceArgs, UnwindArg,
    UsageError, WhomArgs,
};
use crate::host::memory;
use crate::model::{Only, Options, SortKey, Target, TraceMode, Unwind, sampling};
use crate::probes::functions::AllocSymbol;
use crate::probes::plan::Seen;
use crate::report::Outputs;
use crate::symbolize::debuginfod::Settings;

pub use alerts::AlertPlan;
pub use bursts::BurstPlan;
pub use checks::{CheckMode, CheckPlan, NoChecks};
pub use diff::DiffConfig;
pub use sampler::Sampler;
pub use whom::{Filters, Whom};

/// What to do.
#[derive(Debug)]
pub enum Invocation {
    /// Trace.
    Trace(Box<Config>),
    /// Render a saved snapshot.
    Report(Box<ReportConfig>),
    /// Compare two saved snapshots.
    Diff(Box<DiffConfig>),
    /// Examine this machine.
    Doctor(Messages),
    /// Print completions.
    Completions(clap_complete::Shell),
    /// Print the manual page.
    Man,
    /// Print where the sampler is.
    Sampler,
}

/// A trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whom to trace.
    pub whom: Whom,
    /// Whether children of named processes and of a command are traced as well.
    pub follow: bool,
    /// Whether processes are seen by a sampler of their own.
    pub sampler: Sampler,
    /// `--force`: trace where the kernel may kill what is traced.
    pub force: bool,
    /// What to record.
    pub recording: Recording,
    /// `--leak-check`: how blocks are judged, or why not at all.
    pub leak_check: Result<CheckPlan, NoChecks>,
    /// `--debuginfod`: fetch debug information that is missing.
    pub debuginfod: bool,
    /// `--sort`.
    pub sort: SortKey,
    /// What is not to be reported.
    pub suppressions: Rules,
    /// `--only`; `None` to report everything.
    pub only: Option<Only>,
    /// Where reports go.
    pub outputs: Outputs,
    /// When leaks are a failure.
    pub gate: Gate,
    /// When alerts are raised.
    pub alerts: AlertPlan,
    /// What to say on standard error.
    pub messages: Messages,
}

/// What to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// When to stop; `None` at an interrupt or when the traced processes have ended.
    pub duration: Option<Duration>,
    /// Time between reports, above zero; `None` for one at the end.
    pub interval: Option<Duration>,
    /// After how many interval reports to stop; the last of them is the final report.
    pub count: Option<u64>,
    /// Smallest size recorded, in bytes.
    pub min_size: u64,
    /// Largest size recorded, in bytes, not below the smallest; `None` for no limit.
    pub max_size: Option<u64>,
    /// Mean distance between sampled bytes, from 1 to `MAX_SAMPLE_BYTES`; `None` to record every allocation. Where programs draw the
    /// sample, what is taken for theirs until they tell.
    pub sample_bytes: Option<u64>,
    /// How allocations are seen.
    pub seen: Seen,
    /// `--burst`: when they are seen at all; `None` for always.
    pub bursts: Option<BurstPlan>,
    /// Smallest age reported.
    pub older_than: Duration,
    /// How stacks are walked.
    pub unwind: Unwind,
    /// Capacity of the block table.
    pub max_allocs: u32,
    /// Capacity of the stack table.
    pub max_stacks: u32,
    /// Frames kept of a stack, from 1 to [`Options::DEEPEST`].
    pub max_depth: u32,
    /// Objects to probe beside those that are discovered.
    pub objects: Vec<PathBuf>,
    /// Prefixes of allocator functions to probe beside those that are discovered.
    pub symbols_prefixes: Vec<String>,
    /// Allocator functions to probe beside those that are known, in every object that has them.
    pub alloc_symbols: Vec<AllocSymbol>,
    /// Whether sites carry their blocks.
    pub show_allocs: bool,
    /// Whether sites with nothing outstanding are kept.
    pub all_sites: bool,
    /// From when on growth is judged, after tracing began.
    pub warm_up: Duration,
}

/// When leaks are a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Leaked bytes from which on they are; `None` for never.
    pub fail_from: Option<u64>,
    /// Bytes in each second from which on a site that is judged to leak by its growth is one; `None` for never.
    pub grows_from: Option<u64>,
    /// The exit status then.
    pub exitcode: u8,
}

/// What to say on standard error while working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// `-q`: errors only.
    pub quiet: bool,
    /// Number of `-v`.
    pub verbose: u8,
    /// Whether to show a status line.
    pub progress: bool,
}

/// A saved snapshot to render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportConfig {
    /// The file; `None` for standard input.
    pub snapshot: Option<PathBuf>,
    /// Smallest age to report; `None` for what the snapshot holds.
    pub older_than: Option<Duration>,
    /// Another order; `None` for the snapshot's.
    pub sort: Option<SortKey>,
    /// What is not to be reported.
    pub suppressions: Rules,
    /// `--only`; `None` to report everything.
    pub only: Option<Only>,
    /// Where reports go.
    pub outputs: Outputs,
    /// When leaks are a failure.
    pub gate: Gate,
    /// What to say on standard error.
    pub messages: Messages,
}

/// What the process's surroundings decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether colours on standard output are welcome.
    pub color: bool,
    /// Columns of the terminal on standard output; `None` where it is none.
    pub columns: Option<usize>,
    /// Whether a person watches standard error.
    pub interactive: bool,
    /// Bytes of memory that can be had; `None` where that is not known.
    pub available_memory: Option<u64>,
    /// Whether `DEBUGINFOD_URLS` names a server that we can ask.
    pub debuginfod: bool,
}

impl Surroundings {
    /// Those of this process. Honours `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM=dumb`.
    #[must_use]
    pub fn detect() -> Self {
        let size = terminal_size::terminal_size_of(io::stdout());
        Self {
            color: anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
            columns: size.map(|(width, _)| usize::from(width.0)).filter(|columns| *columns > 0),
            interactive: io::stderr().is_terminal(),
            available_memory: memory::available(),
            debuginfod: Settings::from_environment().has_servers(),
        }
    }
}

impl Invocation {
    /// Settles what `cli` asks for.
    ///
    /// # Errors
    /// What contradicts itself on the command line, and what to do about it.
    pub fn resolve(cli: Cli, surroundings: Surroundings) -> Result<Self, UsageError> {
        Ok(match cli.action {
            None => Self::Trace(Box::new(Config::resolve(cli.trace, surroundings)?)),
            Some(Action::Report(args)) => Self::Report(Box::new(ReportConfig::resolve(*args, surroundings)?)),
            Some(Action::Diff(args)) => Self::Diff(Box::new(DiffConfig::resolve(*args, surroundings)?)),
            Some(Action::Doctor(messages)) => Self::Doctor(Messages::resolve(&messages, false, surroundings)),
            Some(Action::Completions { shell }) => Self::Completions(shell),
            Some(Action::Man) => Self::Man,
            Some(Action::Sampler { print_path: _ }) => Self::Sampler,
        })
    }
}

impl Config {
    fn resolve(args: TraceArgs, surroundings: Surroundings) -> Result<Self, UsageError> {
        let TraceArgs { whom, record, check, output, gate, alerts, messages, debuginfod, no_progress } = args;
        if debuginfod && !surroundings.debuginfod {
            return Err(UsageError::new(
                "--debuginfod asks the servers in DEBUGINFOD_URLS, which names none; set it to the http or https URL of your \
                 distribution's, and under sudo give --preserve-env=DEBUGINFOD_URLS to sudo",
            ));
        }
        let (follow, force, launches) = (!whom.no_follow, whom.force, !whom.command.is_empty());
        let sampler = Sampler::resolve(&whom, &record, &check, &output, &gate)?;
        let bursts = BurstPlan::resolve(&whom, &record, &check, &output, &gate, &alerts)?;
        let leak_check = checks::resolve(&check, &whom, &record)?;
        let only = output.only.map(only);
        if only == Some(Only::Lost) && leak_check.is_err() {
            return Err(UsageError::new(
                "--only lost shows what a leak check finds lost, and none would run; name processes with --pid, launch a COMMAND or \
                 give --leak-check, without --leak-check=no and --sample-bytes",
            ));
        }
        if gate.fail_on_growth.is_some() && record.sample_bytes.is_some() {
            return Err(UsageError::new(
                "--fail-on-growth needs every allocation, since of a sample it cannot be told which blocks stay; leave --sample-bytes out",
            ));
        }
        let config = Self {
            sampler,
            leak_check,
            recording: Recording { bursts, ..Recording::resolve(&whom, &record, &output, surroundings)? },
            whom: Whom::resolve(whom)?,
            follow,
            force,
            debuginfod,
            sort: output.sort.map_or(SortKey::Bytes, sort_key),
            suppressions: suppressions::resolve(&output)?,
            only,
            outputs: outputs::resolve(&output, messages.color, surroundings)?,
            gate: Gate::resolve(&gate),
            alerts: AlertPlan::resolve(alerts)?,
            // A command writes to the same standard error, and would write into the line.
            messages: Messages::resolve(&messages, no_progress || launches, surroundings),
        };
        Ok(if sampler == Sampler::Preloaded { config.by_sampler() } else { config })
    }

    /// The target of the trace, as the snapshot records it. `pids` are those named; a launched command's is not known yet.
    #[must_use]
    pub fn target(&self) -> Target {
        match &self.whom {
            Whom::Pids(pids) => Target { pids: pids.clone(), ..Target::new(TraceMode::Pid) },
            Whom::Command(command) => Target {
                command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
                ..Target::new(TraceMode::Command)
            },
            Whom::Filtered(filters) => Target {
                comms: filters.comms.clone(),
                cgroups: filters.cgroups.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
                uids: filters.uids.clone(),
                ..Target::new(TraceMode::Filter)
            },
            Whom::System => Target::new(TraceMode::System),
        }
    }

    /// The options as the snapshot says them.
    #[must_use]
    pub fn options(&self) -> Options {
        let recording = &self.recording;
        Options {
            duration: recording.duration,
            interval: recording.interval,
            count: recording.count,
            min_size: recording.min_size,
            max_size: recording.max_size,
            older_than: recording.older_than,
            max_allocs: u64::from(recording.max_allocs),
            max_stacks: u64::from(recording.max_stacks),
            max_depth: recording.max_depth,
            objects: recording.objects.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            symbols_prefixes: recording.symbols_prefixes.clone(),
            alloc_symbols: recording.alloc_symbols.iter().map(ToString::to_string).collect(),
            sample_bytes: recording.sample_bytes,
            sampler: recording.seen == Seen::Samples,
            unwind: recording.unwind,
            sort: self.sort,
            show_allocs: recording.show_allocs,
            all_sites: recording.all_sites,
            warm_up: recording.warm_up,
            only: None,
            follow: self.follow,
        }
    }

    /// What to say where a sample may miss leaks that the threshold of failure is below.
    pub fn unseen_leaks(&self) -> Option<String> {
        let (fail_from, mean) = (self.gate.fail_from?, self.recording.sample_bytes?);
        let overlooked = sampling::overlooked(mean);
        (fail_from < overlooked).then(|| {
            format!(
                "--fail-on-leak={fail_from} is below what a sample of one byte in {mean} may overlook, {overlooked} bytes (95%); give \
                 a smaller --sample-bytes"
            )
        })
    }
}

impl Recording {
    fn resolve(
        whom: &WhomArgs,
        args: &RecordArgs,
        output: &OutputArgs,
        surroundings: Surroundings,
    ) -> Result<Self, UsageError> {
        let room = Room::of(whom, surroundings);
        let min_size = args.min_size.unwrap_or(0);
        if let Some(max_size) = args.max_size
            && min_size > max_size
        {
            return Err(UsageError::new(format!(
                "--min-size {min_size} is above --max-size {max_size}, so that no allocation could be recorded; swap them"
            )));
        }
        if let (Some(duration), Some(older_than)) = (args.duration, output.older_than)
            && older_than > duration
        {
            return Err(UsageError::new(format!(
                "--older-than {older_than:?} is above --duration {duration:?}, and blocks from before are not known: none could be \
                 that old; trace for longer"
            )));
        }
        if let Some(duration) = args.duration
            && !args.warmup.is_zero()
            && args.warmup >= duration
        {
            return Err(UsageError::new(format!(
                "--warmup {:?} leaves nothing of --duration {duration:?} to judge growth by; trace for longer",
                args.warmup
            )));
        }
        if args.count.is_some() && args.interval.is_none() {
            return Err(UsageError::new("--count counts interval reports; give --interval too, such as -i 10s"));
        }
        Ok(Self {
            duration: args.duration,
            interval: args.interval,
            count: args.count,
            min_size,
            max_size: args.max_size,
            sample_bytes: args.sample_bytes,
            seen: Seen::Calls,
            bursts: None,
            unwind: match args.unwind {
                UnwindArg::Auto => Unwind::Auto,
                UnwindArg::Dwarf => Unwind::Dwarf,
                UnwindArg::Fp => Unwind::Fp,
            },
            older_than: output.older_than.unwrap_or_default(),
            max_allocs: args.max_allocs.unwrap_or(room.allocs),
            max_stacks: args.max_stacks.unwrap_or(room.stacks),
            max_depth: args.max_depth,
            objects: whom.objects.clone(),
            symbols_prefixes: whom.symbols_prefixes.clone(),
            alloc_symbols: whom.alloc_symbols.clone(),
            show_allocs: output.show_allocs,
            all_sites: outputs::want_all_sites(output),
            warm_up: args.warmup,
        })
    }
}

/// The capacities of the block and stack tables where the user gives none.
struct Room {
    allocs: u32,
    stacks: u32,
}

impl Room {
    /// Two compilers at work made 240,000 stacks in ten seconds, while those of exited processes were already being removed.
    /// Twelve at work under one command passed 16,384 at a time. So a trace of the whole machine, or of a command and what it
    /// starts, takes up to a 32nd of the available memory, half for each table, within limits. Running processes have less, and
    /// for them leaktrace starts sooner: clearing 200 MiB takes 100 ms.
    fn of(whom: &WhomArgs, surroundings: Surroundings) -> Self {
        // Bytes for each entry of the tables: see `kernel::memory`.
        const ALLOC: u64 = 48;
        const STACK: u64 = 1_700;
        let (allocs, stacks) = (Options::MAX_ALLOCS as u32, Options::MAX_STACKS as u32);
        let has_few = !whom.pids.is_empty() || (whom.no_follow && !whom.command.is_empty());
        let share = surroundings.available_memory.filter(|_| !has_few).unwrap_or(0) / 64;
        let room = |bytes: u64, least: u32, most: u32| u32::try_from(share / bytes).unwrap_or(most).clamp(least, most);
        Self { allocs: room(ALLOC, allocs, 4 * allocs), stacks: room(STACK, stacks, 8 * stacks) }
    }
}

impl ReportConfig {
    fn resolve(args: ReportArgs, surroundings: Surroundings) -> Result<Self, UsageError> {
        let ReportArgs { snapshot, output, gate, messages } = args;
        Ok(Self {
            snapshot: (snapshot != Path::new("-")).then_some(snapshot),
            older_than: output.older_than,
            sort: output.sort.map(sort_key),
            suppressions: suppressions::resolve(&output)?,
            only: output.only.map(only),
            outputs: outputs::resolve(&output, messages.color, surroundings)?,
            gate: Gate::resolve(&gate),
            messages: Messages::resolve(&messages, true, surroundings),
        })
    }
}

impl Gate {
    fn resolve(args: &GateArgs) -> Self {
        Self { fail_from: args.fail_on_leak, grows_from: args.fail_on_growth, exitcode: args.leak_exitcode }
    }
}

impl Messages {
    fn resolve(args: &MessageArgs, no_progress: bool, surroundings: Surroundings) -> Self {
        let progress = surroundings.interactive && !args.quiet && !no_progress;
        Self { quiet: args.quiet, verbose: args.verbose, progress }
    }
}

fn only(arg: OnlyArg) -> Only {
    match arg {
        OnlyArg::Lost => Only::Lost,
        OnlyArg::Growing => Only::Growing,
    }
}

fn sort_key(arg: SortArg) -> SortKey {
    match arg {
        SortArg::Bytes => SortKey::Bytes,
        SortArg::Count => SortKey::Count,
        SortArg::Age => SortKey::Age,
        SortArg::Growth => SortKey::Growth,
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
