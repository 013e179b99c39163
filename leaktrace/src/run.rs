//! The top level: reads the command line, runs what it asks for, and turns the result into messages and an exit status.

mod saved;

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::analysis::diff;
use crate::clean::clean;
use crate::cli::{Parsed, UsageError};
use crate::config::{Config, DiffConfig, Invocation, ReportConfig, Surroundings};
use crate::holder;
use crate::host::{errno, limits, sampler};
use crate::model::{Only, Sink, Snapshot, Status};
use crate::outcome::{Outcome, exit_code};
use crate::report::{Delivery, Reporter};
use crate::show::StatusLine;
use crate::{cli, doctor, logging, model, report, trace};

/// Exit status of a failure, which one line on standard error names.
const FAILED: u8 = 1;
/// Exit status of a command line that cannot be understood.
const USAGE: u8 = 2;

/// The whole program: from the process's arguments to its exit status.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == holder::NAME) {
        return holder::main();
    }
    trace::expect_requests();
    ExitCode::from(match invocation() {
        Ok(None) => 0,
        Ok(Some(invocation)) => run(&invocation).unwrap_or_else(|error| {
            // Threads that set-up has left behind may still log: the error is the last line.
            log::set_max_level(log::LevelFilter::Off);
            complain(&format!("{error:#}{}", next_step(&error)));
            FAILED
        }),
        Err(error) => {
            complain(&error.to_string());
            USAGE
        }
    })
}

/// What to do about an error that the kernel gives wherever files are opened.
fn next_step(error: &anyhow::Error) -> &'static str {
    match errno::of(error) {
        Some(libc::EMFILE) => "; raise the limit on open files (ulimit -n, or LimitNOFILE= of a service)",
        Some(libc::ENFILE) => "; the machine has no room for more open files (sysctl fs.file-max)",
        _ => "",
    }
}

/// What the arguments ask for; `None` if they asked only for help or the version, which has been printed.
fn invocation() -> Result<Option<Invocation>, UsageError> {
    match cli::parse(std::env::args_os())? {
        Parsed::Cli(cli) => Invocation::resolve(*cli, Surroundings::detect()).map(Some),
        Parsed::Text(text) => {
            // A closed pager is not a failure.
            let _ = write!(anstream::stdout(), "{}", text.ansi());
            Ok(None)
        }
    }
}

fn run(invocation: &Invocation) -> anyhow::Result<u8> {
    limits::outlive_file_size();
    match invocation {
        Invocation::Trace(config) => {
            logging::start(config.messages);
            if let Some(warning) = config.unseen_leaks() {
                log::warn!("{warning}");
            }
            trace_and_report(config)
        }
        Invocation::Report(config) => {
            logging::start(config.messages);
            report_again(config)
        }
        Invocation::Diff(config) => {
            logging::start(config.messages);
            compare(config)
        }
        Invocation::Doctor(messages) => {
            logging::start(*messages);
            examine()
        }
        Invocation::Completions(shell) => print(&cli::completions(*shell)),
        Invocation::Man => print(&cli::manual()?),
        Invocation::Sampler => {
            let mut line = sampler::library()?.into_os_string().into_vec();
            line.push(b'\n');
            print(&line)
        }
    }
}

/// Traces, and delivers the interim reports and the last one.
fn trace_and_report(config: &Config) -> anyhow::Result<u8> {
    let reporter = Reporter::prepare(&config.outputs)?;
    doctor::preflight(config.force)?;
    let line = config.messages.progress.then(StatusLine::new);
    let mut outputs = Outputs { reporter: &reporter, only: config.only, line, last: Ok(()) };
    let traced = trace::run(config, &mut outputs);
    let Outputs { line, last, .. } = outputs;
    // The status line is removed before other output follows it.
    drop(line);
    let Outcome { snapshot, command, cut_short } = traced?;
    last?;
    if let Some(reason) = cut_short {
        anyhow::bail!("{reason}");
    }
    Ok(exit_code(&snapshot, command, config.gate))
}

/// The files, standard output and the status line.
struct Outputs<'a> {
    reporter: &'a Reporter,
    only: Option<Only>,
    line: Option<StatusLine>,
    /// How the last report's delivery went.
    last: anyhow::Result<()>,
}

impl Sink for Outputs<'_> {
    fn take(&mut self, snapshot: &Snapshot) -> ControlFlow<()> {
        if snapshot.is_final {
            self.line = None;
            self.last = deliver_last(self.reporter, &chosen(snapshot, self.only));
            return ControlFlow::Break(());
        }
        let deliver = || self.reporter.deliver(&chosen(snapshot, self.only));
        let delivery = self.line.as_ref().map_or_else(deliver, |line| line.without(deliver));
        // The trace goes on: the next report may find room again, and only the last report determines success.
        for failure in &delivery.failures {
            log::warn!("{failure:#}");
        }
        if delivery.stdout_open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn wants_status(&self) -> bool {
        self.line.is_some()
    }

    fn show(&mut self, status: &Status) {
        if let Some(line) = &self.line {
            line.show(status);
        }
    }

    fn close(&mut self) {
        if let Some(line) = &self.line {
            line.say("making the report; Ctrl-C again ends without it");
        }
    }
}

/// Runs `doctor`: prints what this machine lacks.
fn examine() -> anyhow::Result<u8> {
    let mut lines = Vec::new();
    let works = doctor::run(&mut lines).context("cannot examine this machine")?;
    print(&lines)?;
    Ok(if works { 0 } else { FAILED })
}

/// Renders a saved snapshot.
fn report_again(config: &ReportConfig) -> anyhow::Result<u8> {
    let path = config.snapshot.as_deref();
    let cannot_use = || saved::cannot_use(path);
    let mut snapshot = saved::read(path)?;
    if let Some(age) = config.older_than {
        snapshot.retain_older_than(age).with_context(cannot_use)?;
    }
    if config.outputs.wants_all_sites() && snapshot.sites_left_out > 0 {
        let (name, left_out) = (saved::name(path), snapshot.sites_left_out);
        log::warn!("--all-sites: {name} was written without {left_out} sites that have nothing outstanding");
    }
    if config.outputs.text.show_allocs && !snapshot.has_blocks() {
        return Err(model::NoBlocks).with_context(cannot_use);
    }
    if let Some(key) = config.sort {
        snapshot.sort_sites(key);
    } else if config.older_than.is_some() {
        snapshot.sort_sites(snapshot.options.sort);
    }
    for used in config.suppressions.apply(&mut snapshot).rules {
        log::info!("{used}");
    }
    snapshot.sum_growth();
    if config.only == Some(Only::Lost) && !snapshot.has_verdict() {
        return Err(model::NoVerdict).with_context(cannot_use);
    }
    deliver_last(&Reporter::prepare(&config.outputs)?, &chosen(&snapshot, config.only))?;
    Ok(exit_code(&snapshot, None, config.gate))
}

/// Compares two saved snapshots.
fn compare(config: &DiffConfig) -> anyhow::Result<u8> {
    let read = |path: &Option<PathBuf>| -> anyhow::Result<Snapshot> {
        let mut snapshot = saved::read(path.as_deref())?;
        // A difference is of sums; the blocks may be most of what there is.
        snapshot.sites.iter_mut().for_each(|site| site.blocks = None);
        Ok(snapshot)
    };
    let mut diff = diff::compare(read(&config.snapshots.before)?, read(&config.snapshots.after)?);
    diff.sort_sites(config.sort);
    let reporter = Reporter::prepare(&config.outputs)?;
    if !reporter.writes_text() {
        for doubt in report::diff::doubts(&diff) {
            log::warn!("{doubt}");
        }
    }
    delivered(reporter.deliver(&diff))?;
    Ok(0)
}

/// The part of a snapshot that reports are to show.
fn chosen(snapshot: &Snapshot, only: Option<Only>) -> Cow<'_, Snapshot> {
    match only {
        Some(Only::Lost) => Cow::Owned(snapshot.only_lost()),
        Some(Only::Growing) => Cow::Owned(snapshot.only_growing()),
        Some(Only::Unknown) | None => Cow::Borrowed(snapshot),
    }
}

/// Delivers the last report; if it cannot be written, the run fails.
fn deliver_last(reporter: &Reporter, snapshot: &Snapshot) -> anyhow::Result<()> {
    if !reporter.writes_text() {
        // Standard output then has no text report, and losses go to standard error.
        for notice in report::notices(snapshot) {
            log::warn!("{}", notice.line());
        }
    }
    delivered(reporter.deliver(snapshot))
}

/// An error if a report could not be written.
fn delivered(delivery: Delivery) -> anyhow::Result<()> {
    let failures = delivery.failures;
    if failures.is_empty() {
        return Ok(());
    }
    let failures: Vec<String> = failures.iter().map(|failure| format!("{failure:#}")).collect();
    Err(anyhow::anyhow!(failures.join("; and ")))
}

fn print(bytes: &[u8]) -> anyhow::Result<u8> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(0),
    }
}

/// One line on standard error, whatever the message holds.
fn complain(message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // If standard error is closed, the message is dropped.
    let _ = writeln!(io::stderr(), "leaktrace: {}", clean(&line));
}
