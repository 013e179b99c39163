//! The programs that are measured, running.
//!
//! In: a [`Program`], alone or under a tool that has to launch it. Out: a [`Sample`] each time it is told to work. All
//! end with their [`Victim`].

use super::catalog::{Program, Variant, WORKLOADS, Workload};
use super::redis::Redis;
use super::results::Sample;
use crate::{shell, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Debian's own: built with the flags that people's Pythons are built with.
const PYTHON: &str = "/usr/bin/python3";
/// Flags for the C loops: tracers find the frames of a debugging build, at the speed of an optimizing build.
const FLAGS: [&str; 4] = ["-O2", "-g", "-fno-builtin", "-fno-optimize-sibling-calls"];

/// How much a measurement is to do.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// CPU time of one thread, ms.
    pub milliseconds: u32,
    /// Requests to a server.
    pub requests: u32,
}

/// Where things are, and where they run.
pub struct Setting {
    /// The compiled loops.
    pub loops: PathBuf,
    /// For what programs leave behind.
    pub scratch: PathBuf,
    /// Where the programs find their C library.
    libraries: PathBuf,
    /// leaktrace's sampler.
    sampler: PathBuf,
    /// The CPU that programs of one thread stay on.
    pub cpu: usize,
}

impl Setting {
    /// Compiles the loops. `built` is where cargo has put ours.
    pub fn prepare(built: &Path, scratch: &Path) -> Result<Self> {
        std::fs::create_dir_all(scratch).with_context(|| format!("creating {}", scratch.display()))?;
        let sources = workspace::root().join("xtask/bench");
        let compile = |flag: &str, define: Option<&str>, inputs: &[&OsStr], output: &Path| {
            let mut cc = Command::new("cc");
            cc.args(FLAGS).arg(flag).args(define).args(inputs).arg("-o").arg(output);
            shell::output(&mut cc).map(drop)
        };
        let (with, without) = (scratch.join("deep-with.o"), scratch.join("deep-without.o"));
        let deep = sources.join("deep.c");
        let object = [OsStr::new("-c"), deep.as_os_str()];
        compile("-fno-omit-frame-pointer", Some("-DDEEP=deep_with_frame_pointers"), &object, &with)?;
        compile("-fomit-frame-pointer", Some("-DDEEP=deep_without_frame_pointers"), &object, &without)?;
        let (main, loops) = (sources.join("loops.c"), scratch.join("loops"));
        let all = [main.as_os_str(), with.as_os_str(), without.as_os_str(), OsStr::new("-pthread")];
        compile("-fno-omit-frame-pointer", None, &all, &loops)?;
        let libraries = scratch.join("lib");
        copy_libc(&libraries)?;
        let sampler = built.join("libleaktrace_sampler.so");
        Ok(Self { loops, scratch: scratch.to_owned(), libraries, sampler, cpu: super::machine::cpus() - 1 })
    }

    /// A command that runs `program`, under `launcher` (a program and its arguments) if that is not empty.
    pub fn command(&self, launcher: &[OsString], program: &Path) -> Command {
        let mut command = match launcher.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("LD_LIBRARY_PATH", &self.libraries);
        command
    }
}

/// Puts a copy of the C library there. At a probe the kernel asks all tracers that have a probe at the same place of the
/// same file, whichever process they trace, and tracers of other processes do not decline the return. With a file of our
/// own, tracers that run at the same time do not slow down what is measured here.
fn copy_libc(directory: &Path) -> Result<()> {
    const NAME: &str = "libc.so.6";
    let maps = std::fs::read_to_string("/proc/self/maps").context("our own mappings")?;
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new);
    // If the library has another name, such as musl's, the programs use the system's.
    let Some(libc) = paths.find(|path| path.file_name().is_some_and(|name| name == NAME)) else { return Ok(()) };
    shell::write_if_changed(&directory.join(NAME), &shell::read(libc)?).map(drop)
}

/// Whether a program can be run here; if not, why.
pub fn missing(program: Program) -> Option<String> {
    let needed: &[&str] = match program {
        Program::Loops | Program::Threads => &[],
        Program::Python | Program::PythonMalloc => &[PYTHON],
        Program::Redis => &["redis-server", "redis-benchmark"],
    };
    needed.iter().find(|name| shell::find(name).is_none()).map(|name| format!("there is no {name} here"))
}

/// A program at our command.
pub enum Victim {
    /// Reads orders, writes measurements.
    Lines(Lines),
    /// Is measured from outside.
    Redis(Redis),
}

impl Victim {
    /// Starts it, alone or under what has to launch it.
    pub fn start(program: Program, variant: Variant, setting: &Setting) -> Result<Self> {
        let launcher = launcher(variant, setting);
        let script = workspace::root().join("xtask/bench/python.py");
        let (file, script): (&Path, Option<&Path>) = match program {
            Program::Redis => return Ok(Self::Redis(Redis::start(setting, &launcher)?)),
            Program::Loops | Program::Threads => (&setting.loops, None),
            Program::Python | Program::PythonMalloc => (Path::new(PYTHON), Some(&script)),
        };
        let mut command = setting.command(&launcher, file);
        command.args(script);
        match program {
            Program::Threads => command.arg("-1"),
            _ => command.arg(setting.cpu.to_string()),
        };
        if program == Program::PythonMalloc {
            command.env("PYTHONMALLOC", "malloc");
        }
        let mut lines = Lines::start(&mut command)?;
        // The first answers show that it is up, its libraries loaded and its caches warm.
        for workload in WORKLOADS.iter().filter(|workload| workload.program == program) {
            lines.measure(workload.mode, 1).with_context(|| format!("starting {program:?}, {}", variant.title()))?;
        }
        Ok(Self::Lines(lines))
    }

    /// Whom tracers are to attach to.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Lines(lines) => lines.child.id(),
            Self::Redis(redis) => redis.pid(),
        }
    }

    /// Has a program that takes orders do something that is no workload.
    pub fn order(&mut self, mode: &str, number: u32) -> Result<Sample> {
        match self {
            Self::Lines(lines) => lines.measure(mode, number).with_context(|| format!("{mode} {number}")),
            Self::Redis(_) => bail!("redis takes no orders"),
        }
    }

    /// Has it work for a while.
    pub fn measure(&mut self, workload: &Workload, amount: Amount) -> Result<Sample> {
        match self {
            Self::Lines(lines) => lines.measure(workload.mode, amount.milliseconds),
            Self::Redis(redis) => redis.measure(workload.mode, amount.requests),
        }
        .with_context(|| format!("measuring {}", workload.name))
    }
}

/// What a program has to be launched under, with its arguments; nothing for tracers that attach.
fn launcher(variant: Variant, setting: &Setting) -> Vec<OsString> {
    let output = |option: &str, name: &str| {
        let mut word = OsString::from(option);
        word.push(setting.scratch.join(name));
        word
    };
    match variant {
        Variant::SamplerAlone | Variant::Sampler => {
            let mut preload = OsString::from("LD_PRELOAD=");
            preload.push(&setting.sampler);
            vec!["env".into(), preload]
        }
        Variant::Heaptrack => {
            // Raw: it neither interprets what it records meanwhile nor opens a window afterwards.
            vec!["heaptrack".into(), "--raw".into(), "-o".into(), output("", "heaptrack")]
        }
        Variant::Valgrind => vec!["valgrind".into(), "-q".into(), output("--log-file=", "valgrind.log")],
        _ => Vec::new(),
    }
}

/// A program that reads lines `MODE MILLISECONDS` and answers each with `CPU_NS WALL_NS UNITS`.
pub struct Lines {
    child: Child,
    // In this order: the program ends where its input does.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Lines {
    fn start(command: &mut Command) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("starting {what}"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().with_context(|| format!("{what} has no output"))?);
        Ok(Self { child, orders, answers })
    }

    fn measure(&mut self, mode: &str, milliseconds: u32) -> Result<Sample> {
        let orders = self.orders.as_mut().context("the program has been told to end")?;
        writeln!(orders, "{mode} {milliseconds}").and_then(|()| orders.flush()).context("the program has ended")?;
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.answers.read_line(&mut line)? > 0, "the program has ended");
            // Launchers print lines of their own.
            if let Some(sample) = parse(&line) {
                return Ok(sample);
            }
        }
    }
}

/// `CPU_NS WALL_NS UNITS`.
fn parse(line: &str) -> Option<Sample> {
    let mut words = line.split_whitespace();
    let (cpu, wall, units) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?, words.next()?);
    let units: u64 = units.parse().ok()?;
    if words.next().is_some() || units == 0 {
        return None;
    }
    Some(Sample { cpu_ns: cpu as f64 / units as f64, wall_ns: wall as f64 / units as f64, units })
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.orders = None;
        // It ends by itself; its launcher may have more to do.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_told_from_what_launchers_say() {
        let sample = parse("1000 2000 10\n").unwrap();
        assert_eq!((sample.cpu_ns, sample.wall_ns, sample.units), (100.0, 200.0, 10));
        for line in ["heaptrack output will be written to x", "1 2", "1 2 3 4", "1 2 0", ""] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
