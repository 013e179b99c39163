//! The machine on which the figures were measured, and how busy other programs kept it meanwhile.
//!
//! In: /proc and programs' `--version`. Out: facts for the report. Names of hosts and users stay out of it.

use crate::{shell, workspace};
use anyhow::{Context as _, Result};
use std::fs;
use std::process::Command;
use std::time::Instant;

/// `USER_HZ`: what /proc counts CPU time in, per second; 100 on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// The share of the machine from which on others disturb the measurement.
const DISTURBING: f64 = 0.1;

/// A heading and what is to be said of it.
pub type Fact = (&'static str, String);

/// What was measured on and with.
pub fn facts(versions_of: &[(&'static str, &str)]) -> Vec<Fact> {
    let mut facts = vec![
        ("date", first_line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))),
        ("machine", machine()),
        ("kernel", kernel()),
        ("C library", first_line(Command::new("ldd").arg("--version"))),
        ("leaktrace", commit()),
    ];
    for (name, program) in versions_of {
        facts.push((name, first_line(Command::new(program).arg("--version"))));
    }
    facts
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let is_virtual = field("flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    format!("{model}, {} CPUs{}", cpus(), if is_virtual { ", virtual" } else { "" })
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    let preemption =
        version.split_whitespace().filter(|word| word.starts_with("PREEMPT")).collect::<Vec<_>>().join(" ");
    format!("Linux {} {preemption}", release.trim()).trim_end().to_owned()
}

fn commit() -> String {
    let git = |args: &[&str]| shell::output(Command::new("git").current_dir(workspace::root()).args(args));
    match git(&["describe", "--always", "--dirty", "--exclude=*"]) {
        Ok(commit) => format!("commit {}", commit.trim()),
        Err(_) => format!("version {}", env!("CARGO_PKG_VERSION")),
    }
}

fn first_line(command: &mut Command) -> String {
    shell::output(command)
        .ok()
        .and_then(|out| out.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// How many CPUs there are.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// CPU time since the machine's start, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Busy {
    /// Of all programs, and of interrupts.
    all: f64,
    /// Taken by the hypervisor for others.
    stolen: f64,
    /// Of this process and of its children that have been waited for.
    own: f64,
}

impl Busy {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let own = fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
        let (all, stolen) = busy(&stat).context("/proc/stat has no line of the kind expected")?;
        Ok(Self { all, stolen, own: own_time(&own).context("/proc/self/stat is not of the kind expected")? })
    }
}

/// Busy and stolen time, of the first line of /proc/stat: user nice system idle iowait irq softirq steal.
fn busy(stat: &str) -> Option<(f64, f64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(str::parse::<f64>);
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen] =
        *fields.take(8).collect::<Result<Vec<_>, _>>().ok()?
    else {
        return None;
    };
    Some(((user + nice + system + irq + softirq) / TICKS_PER_SECOND, stolen / TICKS_PER_SECOND))
}

/// utime, stime, cutime and cstime: fields 14 to 17 of `proc_pid_stat(5)`, of which the second is in parentheses and may
/// contain anything.
fn own_time(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(')')?.1;
    let times: Vec<f64> = after_name.split_whitespace().skip(11).take(4).map_while(|word| word.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// Measures how much others use the machine.
pub struct Watch {
    since: Instant,
    busy: Busy,
    load_before: String,
}

impl Watch {
    /// From now on.
    pub fn start() -> Result<Self> {
        Ok(Self { since: Instant::now(), busy: Busy::now()?, load_before: load()? })
    }

    /// The load since the start; all programs that we started must have exited, or they count as others.
    pub fn end(&self) -> Result<Load> {
        let (seconds, now) = (self.since.elapsed().as_secs_f64(), Busy::now()?);
        let others = (now.all - self.busy.all) - (now.own - self.busy.own);
        Ok(Load {
            seconds,
            cpus: cpus() as f64,
            others: (others / seconds).max(0.0),
            stolen: (now.stolen - self.busy.stolen) / seconds,
            averages: (self.load_before.clone(), load()?),
        })
    }
}

/// The load averages.
fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// How busy the machine was.
#[derive(Debug)]
pub struct Load {
    /// For how long, seconds.
    pub seconds: f64,
    cpus: f64,
    /// CPUs that others used, on average.
    others: f64,
    /// CPUs that the hypervisor took away, on average.
    stolen: f64,
    averages: (String, String),
}

impl Load {
    /// In words.
    pub fn describe(&self) -> String {
        format!(
            "other programs used {:.2} of {:.0} CPUs, {:.2} were stolen; load averages {} before, {} after",
            self.others, self.cpus, self.stolen, self.averages.0, self.averages.1
        )
    }

    /// What to say if others disturbed.
    pub fn warning(&self) -> Option<String> {
        (self.others + self.stolen > DISTURBING * self.cpus).then(|| {
            format!(
                "the machine was not quiet ({:.2} of {:.0} CPUs were used by others): trust ratios of CPU time, not times, and \
                 nothing by the wall clock",
                self.others + self.stolen,
                self.cpus
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, busy, own_time};

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        let stat = "cpu  100 20 30 9999 8888 40 50 60 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(busy(stat), Some((2.4, 0.6)));
        assert_eq!(busy("intr 1 2 3"), None);
    }

    #[test]
    fn own_time_is_found_behind_any_name() {
        let stat = "42 (a) b) (c) R 1 42 42 0 -1 4194304 500 600 0 0 100 200 300 400 20 0 1 0 12345";
        assert_eq!(own_time(stat), Some(10.0));
        assert_eq!(own_time("42 (short) R 1 2"), None);
    }

    #[test]
    fn others_beyond_a_tenth_of_the_machine_are_warned_of() {
        let load =
            |others| Load { seconds: 1.0, cpus: 2.0, others, stolen: 0.0, averages: (String::new(), String::new()) };
        assert_eq!(load(0.19).warning(), None);
        assert!(load(0.21).warning().is_some());
    }
}
