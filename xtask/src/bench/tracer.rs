//! Tracers, attached to a program and gone again.
//!
//! In: a [`Variant`] and a pid. Out: a [`Tracer`] once all its probes are in place. When leaktrace ends, also what it has
//! recorded, so that a tracer that did not trace cannot win.

use super::catalog::Variant;
use super::sites::{self, Sites};
use crate::{root, shell};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Seconds between reports of memleak; its first report is the sign that it traces. Long, since its reports are expensive.
const MEMLEAK_INTERVAL: &str = "5";
/// What leaktrace says when its probes are in place.
pub const TRACING: &str = "leaktrace: tracing ";

/// The tracers that there are.
pub struct Tracers {
    /// `leaktrace`.
    pub leaktrace: PathBuf,
    /// The example of the same crate.
    pub floor: PathBuf,
    /// BCC's, or why it cannot be measured.
    pub memleak: Result<PathBuf, String>,
    /// For leaktrace's reports.
    pub scratch: PathBuf,
    /// Options that this leaktrace has.
    pub help: String,
}

impl Tracers {
    /// Looks for them. `built` is where cargo has put ours.
    pub fn find(built: &Path, scratch: &Path) -> Result<Self> {
        let leaktrace = built.join("leaktrace");
        let help = shell::output(Command::new(&leaktrace).arg("--help"))?;
        Ok(Self {
            leaktrace,
            floor: built.join("examples/floor"),
            memleak: memleak()?,
            scratch: scratch.to_owned(),
            help,
        })
    }

    /// Why a variant cannot be measured here, if it cannot.
    pub fn missing(&self, variant: Variant) -> Option<String> {
        let absent = |name: &str| shell::find(name).is_none().then(|| format!("there is no {name} here"));
        match variant {
            Variant::Sampled if !self.help.contains("--sample-bytes") => {
                Some("this leaktrace has no --sample-bytes".to_owned())
            }
            Variant::Memleak => self.memleak.as_ref().err().cloned(),
            Variant::Heaptrack => absent("heaptrack"),
            Variant::Valgrind => absent("valgrind"),
            _ => None,
        }
    }

    /// Attaches one to a process; `None` where there is nothing to attach.
    pub fn attach(&self, variant: Variant, pid: u32) -> Result<Option<Tracer>> {
        let floor = |option: Option<&str>| {
            let mut command = privileged(&self.floor)?;
            command.arg(pid.to_string()).args(option);
            Tracer::start(command, "ready", End::CloseInput).map(Some)
        };
        let leaktrace = |technique: Option<&str>, options: &[&str]| {
            let mut command = match technique {
                // sudo would not pass the variable on.
                Some(technique) => {
                    let mut command = root::command("env", "trace a process")?;
                    command.arg(format!("LEAKTRACE_ATTACH={technique}")).arg(&self.leaktrace);
                    command
                }
                None => privileged(&self.leaktrace)?,
            };
            let report = self.scratch.join("report.json");
            command
                .arg("--no-follow")
                .arg("--pid")
                .arg(pid.to_string())
                .arg("--verbose")
                .args(options)
                .arg("--json")
                .arg(&report);
            Tracer::start(command, TRACING, End::Signal("-TERM", Some(report))).map(Some)
        };
        let tracer = match variant {
            Variant::Bare | Variant::SamplerAlone | Variant::Heaptrack | Variant::Valgrind => Ok(None),
            Variant::Floor => floor(None),
            Variant::FloorTwoTraps => floor(Some("--two-traps")),
            Variant::FloorNoReturns => floor(Some("--skip-returns")),
            Variant::Stepped => floor(Some("--free-at-entry")),
            Variant::Full | Variant::Sampler => leaktrace(None, &[]),
            Variant::Filtered => leaktrace(None, &["--min-size", "1M"]),
            Variant::Sampled => leaktrace(None, &["--sample-bytes", "512K"]),
            Variant::Multi => leaktrace(Some("multi"), &[]),
            Variant::PerfEvents => leaktrace(Some("perf"), &[]),
            Variant::Memleak => self.memleak(pid).map(Some),
        };
        tracer.with_context(|| format!("attaching to process {pid}: {}", variant.title()))
    }

    fn memleak(&self, pid: u32) -> Result<Tracer> {
        let memleak = self.memleak.as_ref().map_err(|why| anyhow!("{why}"))?;
        // Its output must arrive when it is written, not when a buffer is full.
        let mut command = root::command("env", "trace a process")?;
        command.args(["PYTHONUNBUFFERED=1", "stdbuf", "-oL"]).arg(memleak);
        command.args(["-p", &pid.to_string(), "-T", "1"]);
        // memleak looks for functions only in libc unless told otherwise.
        if let Some(object) = mapped_allocator(pid)? {
            command.arg("-O").arg(object);
        }
        command.arg(MEMLEAK_INTERVAL);
        Tracer::start(command, "outstanding allocations", End::Signal("-INT", None))
    }

    /// Where a process' probes go. Fails unless the floor and leaktrace have the same sites, so that they can be compared.
    pub fn sites(&self, pid: u32) -> Result<Sites> {
        let said = |variant| {
            let tracer = self.attach(variant, pid)?.context("nothing was attached")?;
            let said = tracer.said.clone();
            tracer.end()?;
            Ok::<_, anyhow::Error>(said)
        };
        let (floor, leaktrace) = (said(Variant::Floor)?, said(Variant::Full)?);
        ensure!(
            sites::named(&floor) == sites::named(&leaktrace),
            "leaktrace/examples/floor.rs chooses other sites than leaktrace does:\n{floor:#?}\nagainst\n{leaktrace:#?}"
        );
        Sites::parse(&floor)
    }
}

/// BCC's memleak, whose name in Debian includes the package's, if it is on PATH and runs. It compiles its program at each
/// start and needs the headers of the running kernel for that.
fn memleak() -> Result<Result<PathBuf, String>> {
    let Some(path) = shell::find("memleak").or_else(|| shell::find("memleak-bpfcc")) else {
        return Ok(Err("there is no memleak on PATH".to_owned()));
    };
    let mut trial = privileged(&path)?;
    // One report, after a second, of the process that has the least to do: this one, which waits for it.
    trial.args(["-p", &std::process::id().to_string(), "-T", "1", "1", "1"]);
    Ok(match shell::output(&mut trial) {
        Ok(_) => Ok(path),
        Err(error) => Err(why(&error.to_string())),
    })
}

/// The last line of a failed program's output: Python puts the error there.
fn why(said: &str) -> String {
    let last = said.trim().lines().last().unwrap_or_default().trim();
    format!("memleak does not run here: {last}")
}

/// A command that runs `program` as root.
pub fn privileged(program: &Path) -> Result<Command> {
    root::command(&program.to_string_lossy(), "trace a process")
}

/// The allocator that a process has beside the C library's, if it is a library.
fn mapped_allocator(pid: u32) -> Result<Option<PathBuf>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("the program's mappings")?;
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    Ok(paths.map(PathBuf::from).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ["libjemalloc", "libtcmalloc", "libmimalloc"].iter().any(|allocator| name.starts_with(allocator))
    }))
}

/// How a tracer is told to end.
enum End {
    /// It ends where its standard input does.
    CloseInput,
    /// By this signal; leaves a report there.
    Signal(&'static str, Option<PathBuf>),
}

/// A tracer whose probes are in place.
pub struct Tracer {
    child: Child,
    input: Option<ChildStdin>,
    end: End,
    /// What it said until it was ready.
    said: Vec<String>,
    /// What it says on.
    rest: Box<dyn Read>,
    ended: bool,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // An error is being reported; the tracer must not outlive it.
        if let Ok(mut kill) = root::command("kill", "end the tracer") {
            let _ = shell::output(kill.arg(self.child.id().to_string()));
        }
        let _ = self.child.wait();
    }
}

impl Tracer {
    /// Starts it and waits until it says `ready`: leaktrace on standard error, others on standard output.
    fn start(mut command: Command, ready: &str, end: End) -> Result<Self> {
        let on_error = ready == TRACING;
        command.stdin(Stdio::piped());
        command.stdout(if on_error { Stdio::null() } else { Stdio::piped() });
        command.stderr(if on_error { Stdio::piped() } else { Stdio::inherit() });
        let mut child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        let input = child.stdin.take();
        let output: Option<Box<dyn Read>> = if on_error {
            child.stderr.take().map(|it| Box::new(it) as _)
        } else {
            child.stdout.take().map(|it| Box::new(it) as _)
        };
        let mut reader = BufReader::new(output.context("a tracer without output")?);
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                bail!("it ended before it traced ({status}): {}", said.concat());
            }
            let is_ready = line.contains(ready);
            said.push(line);
            if is_ready {
                break;
            }
        }
        Ok(Self { child, input, end, said, rest: Box::new(reader), ended: false })
    }

    /// Detaches it. What leaktrace has seen.
    pub fn end(mut self) -> Result<Option<Seen>> {
        self.input = None;
        if let End::Signal(signal, _) = self.end {
            let mut kill = root::command("kill", "end the tracer")?;
            shell::output(kill.args([signal, &self.child.id().to_string()]))?;
        }
        let mut rest = Vec::new();
        self.rest.read_to_end(&mut rest)?;
        let status = self.child.wait()?;
        self.ended = true;
        match &self.end {
            End::CloseInput => {
                ensure!(status.success(), "the tracer failed: {status}");
                Ok(None)
            }
            End::Signal(_, None) => Ok(None),
            End::Signal(_, Some(report)) => {
                ensure!(status.success(), "leaktrace failed: {}", String::from_utf8_lossy(&rest));
                let seen = serde_json::from_slice(&shell::read(report)?).context("leaktrace's report")?;
                Ok(Some(seen))
            }
        }
    }
}

/// What a report of leaktrace says.
#[derive(Debug, Deserialize)]
pub struct Seen {
    processes: Vec<SeenProcess>,
    losses: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct SeenProcess {
    alloc_count: u64,
}

impl Seen {
    /// Allocations recorded.
    pub fn allocations(&self) -> u64 {
        self.processes.iter().map(|process| process.alloc_count).sum()
    }

    /// What was lost, as `name: count`; cut stacks are no loss of what is measured.
    pub fn losses(&self) -> Vec<String> {
        let losses = self.losses.iter().filter_map(|(name, count)| Some((name, count.as_u64()?)));
        losses
            .filter(|(name, count)| *count > 0 && *name != "stacks_truncated" && *name != "unwind_failed")
            .map(|(name, count)| format!("{name}: {count}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn a_program_that_does_not_run_is_left_out_with_its_last_word() {
        let said = "`memleak -p 1` ended with 1: Traceback (most recent call last):\n  File \"memleak\"\nException: no headers\n";
        assert_eq!(super::why(said), "memleak does not run here: Exception: no headers");
    }

    #[test]
    fn a_report_tells_what_was_seen_and_what_was_lost() {
        let report = r#"{"schema": "leaktrace/1", "sites": [],
            "processes": [{"pid": 1, "alloc_count": 40, "free_count": 2}, {"pid": 2, "alloc_count": 2}],
            "losses": {"allocs_dropped": 3, "stacks_truncated": 7, "events_lost": 0}}"#;
        let seen: Seen = serde_json::from_str(report).unwrap();
        assert_eq!(seen.allocations(), 42);
        assert_eq!(seen.losses(), ["allocs_dropped: 3"]);
    }
}
