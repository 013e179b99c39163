//! Costs that do not depend on the speed of probes: how long leaktrace takes to attach and to detach, what a report takes
//! with millions of outstanding blocks, how long leak checks stop a program, and what leaktrace itself uses meanwhile.
//!
//! In: the loops, told to hold blocks and to churn. Out: [`Figure`]s. Times of leaktrace are by the wall clock, from
//! outside: what a user waits for.

use super::catalog::{Program, Variant};
use super::stats::Summary;
use super::table::{Table, number};
use super::tracer::{TRACING, Tracers, privileged};
use super::victim::{Setting, Victim};
use crate::{root, shell};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// For `--only`.
pub const NAME: &str = "scale";

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Times that leaktrace is attached.
    attachments: u32,
    /// Blocks outstanding, thousands.
    thousands: u32,
    /// Blocks of 1 KiB that a leak check judges, thousands.
    judged: u32,
    /// How often it does so.
    checks: u32,
    /// How long the program churns, ms of its CPU time.
    churn: u32,
}

impl Effort {
    /// For the record.
    pub const FULL: Self = Self { attachments: 9, thousands: 10_000, judged: 1000, checks: 5, churn: 15_000 };
    /// For a look.
    pub const QUICK: Self = Self { attachments: 3, thousands: 3_000, judged: 1000, checks: 2, churn: 3_000 };
}

/// One row.
#[derive(Debug)]
pub struct Figure {
    what: String,
    goal: String,
    measured: String,
    reached: bool,
}

/// `measured` in some unit, and what it is to stay below.
fn figure(what: impl Into<String>, measured: Summary, limit: f64, unit: &str) -> Figure {
    let range = if measured.count > 1 {
        format!(" ({}–{})", number(measured.min), number(measured.max))
    } else {
        String::new()
    };
    Figure {
        what: what.into(),
        goal: format!("< {limit} {unit}"),
        measured: format!("{}{range} {unit}", number(measured.median)),
        reached: measured.median < limit,
    }
}

/// The section of the document.
pub fn render(figures: &[Figure]) -> String {
    let mut table = Table::new(["figure", "goal", "measured", "reached"]);
    for Figure { what, goal, measured, reached } in figures {
        table.row([what.as_str(), goal, measured, if *reached { "yes" } else { "no" }]);
    }
    format!(
        "\n## Scale\n\nMedian (smallest–largest) where there are several. By the wall clock, except for CPU time; memory is \
         what leaktrace has to itself, without the tables that it shares with the kernel.\n\n{}",
        table.render()
    )
}

/// Measures all of it.
pub fn measure(setting: &Setting, tracers: &Tracers, effort: Effort) -> Result<Vec<Figure>> {
    shell::step("scale");
    let mut victim = Victim::start(Program::Loops, Variant::Bare, setting)?;
    let mut figures = attachments(&victim, tracers, effort)?;
    figures.extend(upkeep(&mut victim, tracers, effort)?);
    figures.extend(reports(&mut victim, tracers, effort)?);
    figures.push(all_blocks(&mut victim, tracers, setting, effort)?);
    // Its threads stay: last.
    figures.extend(leak_checks(&mut victim, tracers, setting, effort)?);
    Ok(figures)
}

fn attachments(victim: &Victim, tracers: &Tracers, effort: Effort) -> Result<Vec<Figure>> {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..effort.attachments {
        let (trace, attached) = Trace::start(tracers, victim.pid(), &[])?;
        there.push(milliseconds(attached));
        gone.push(milliseconds(trace.end()?.took));
    }
    let of = |times: Vec<f64>| Summary::of(times).context("leaktrace was never attached");
    Ok(vec![
        figure("from the command to the first block seen", of(there)?, 300.0, "ms"),
        figure("from Ctrl-C to the end, last report included", of(gone)?, 300.0, "ms"),
    ])
}

/// What leaktrace uses between reports, while the program allocates as fast as it can.
fn upkeep(victim: &mut Victim, tracers: &Tracers, effort: Effort) -> Result<Vec<Figure>> {
    let (trace, _) = Trace::start(tracers, victim.pid(), &[])?;
    // By then all one-time work is done.
    victim.order("mixed", effort.churn / 5)?;
    let (before, begun, memory) = (trace.cpu_time()?, Instant::now(), trace.own_memory()?);
    let done = victim.order("mixed", effort.churn)?;
    let used = trace.cpu_time()?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let grown = trace.own_memory()?.saturating_sub(memory);
    trace.end()?;
    let events = number(done.units as f64 * 2.0);
    let once = |value| Summary::of([value]).context("nothing was measured");
    Ok(vec![
        figure("CPU time between reports", once(used)?, 1.0, "% of a core"),
        figure(format!("memory grown over {events} events"), once(grown as f64 / 1024.0)?, 256.0, "KiB"),
    ])
}

/// Reports by the second with all blocks outstanding, and the last one, which reads the age of each.
fn reports(victim: &mut Victim, tracers: &Tracers, effort: Effort) -> Result<Vec<Figure>> {
    let room = format!("{}", u64::from(effort.thousands) * 1100);
    let (mut trace, _) = Trace::start(tracers, victim.pid(), &["--max-allocs", &room, "--interval", "1s"])?;
    let held = victim.order("hold", effort.thousands)?;
    trace.forget_reports();
    let reports = (0..3).map(|_| trace.next_report()).collect::<Result<Vec<_>>>()?;
    let ended = trace.end()?;
    let blocks = number(held.units as f64);
    let site_reports = Summary::of(reports).context("leaktrace did not report")?;
    let last = Summary::of([ended.took.as_secs_f64()]).context("nothing was measured")?;
    Ok(vec![
        figure(format!("a report on the way, {blocks} blocks outstanding"), site_reports, 50.0, "ms"),
        figure("the last report, with the ages of all of them, to the end", last, 10.0, "s"),
    ])
}

/// Every single block in the report.
fn all_blocks(victim: &mut Victim, tracers: &Tracers, setting: &Setting, effort: Effort) -> Result<Figure> {
    let room = format!("{}", u64::from(effort.thousands) * 1100);
    let json = setting.scratch.join("blocks.json");
    let path = json.to_string_lossy();
    let options = ["--max-allocs", &room, "--show-allocs", "--top", "0", "--json", &path];
    let (trace, _) = Trace::start(tracers, victim.pid(), &options)?;
    let held = victim.order("hold", effort.thousands)?;
    let Ended { took, memory } = trace.end()?;
    let written = fs::metadata(&json).context("leaktrace's report")?.len();
    // The file belongs to root if we are not root.
    shell::output(root::command("rm", "remove a report")?.arg(&json))?;
    // Each has an address, a size and an age.
    ensure!(written > held.units * 30, "{written} bytes of JSON cannot hold {} blocks", held.units);
    let (seconds, megabytes) = (took.as_secs_f64(), memory as f64 / 1e6);
    Ok(Figure {
        what: format!("the same with all of them in the JSON ({} MB)", number(written as f64 / 1e6)),
        goal: "< 10 s, < 1,000 MB of memory".to_owned(),
        measured: format!("{} s, {} MB", number(seconds), number(megabytes)),
        reached: seconds < 10.0 && megabytes < 1000.0,
    })
}

/// For how long leak checks stop a program of nine threads, at rest.
fn leak_checks(victim: &mut Victim, tracers: &Tracers, setting: &Setting, effort: Effort) -> Result<Vec<Figure>> {
    let room = format!("{}", u64::from(effort.judged) * 1100);
    let json = setting.scratch.join("judged.json");
    let mut figures = Vec::new();
    for (mode, limit) in [("exact", 200.0), ("live", 5.0)] {
        let (mut pauses, mut scanned) = (Vec::new(), 0.0);
        for _ in 0..effort.checks {
            let path = json.to_string_lossy();
            let options = ["--max-allocs", &room, "--leak-check-mode", mode, "--max-pause", "1m", "--json", &path];
            let (trace, _) = Trace::start(tracers, victim.pid(), &options)?;
            victim.order("graph", effort.judged)?;
            trace.end()?;
            let mut read = root::command("cat", "read a report")?;
            let report: Value = serde_json::from_str(&shell::output(read.arg(&json))?).context("leaktrace's report")?;
            shell::output(root::command("rm", "remove a report")?.arg(&json))?;
            let check = &report["processes"][0]["leak_check"];
            let figure = |key: &str| check[key].as_f64().with_context(|| format!("{key} of a leak check: {check}"));
            ensure!(check["mode"] == mode, "another leak check than {mode}: {check}");
            pauses.push(figure("pause_ms")?);
            scanned = figure("scanned_bytes")?;
        }
        let blocks = number(f64::from(effort.judged) * 1000.0);
        let what = format!("stopped for a leak check, {mode}: {} GB, {blocks} blocks", number(scanned / 1e9));
        figures.push(figure(what, Summary::of(pauses).context("no leak check")?, limit, "ms"));
    }
    Ok(figures)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// leaktrace, tracing.
struct Trace {
    child: Child,
    /// leaktrace's own pid, if the child is sudo.
    pid: u32,
    lines: Receiver<String>,
    ended: bool,
}

/// How it ended.
struct Ended {
    took: Duration,
    /// The most private memory that it had meanwhile, bytes.
    memory: u64,
}

impl Trace {
    /// Starts it. How long it took until it traced.
    fn start(tracers: &Tracers, pid: u32, options: &[&str]) -> Result<(Self, Duration)> {
        let mut command = privileged(&tracers.leaktrace)?;
        command.args(["--no-follow", "--verbose", "--pid", &pid.to_string()]).args(options.iter().map(OsStr::new));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().context("starting leaktrace")?;
        let output = BufReader::new(child.stderr.take().context("leaktrace has no standard error")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut said = Vec::new();
        loop {
            let Ok(line) = lines.recv() else { bail!("leaktrace ended before it traced: {}", said.join("\n")) };
            if line.contains(TRACING) {
                break;
            }
            said.push(line);
        }
        let attached = begun.elapsed();
        let pid = innermost(child.id());
        Ok((Self { child, pid, lines, ended: false }, attached))
    }

    /// Drops the reports that have been printed so far.
    fn forget_reports(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// What the next report takes, ms.
    fn next_report(&mut self) -> Result<f64> {
        loop {
            let line = self.lines.recv().context("leaktrace has ended")?;
            if let Some(time) = report_time(&line) {
                return Ok(time);
            }
        }
    }

    /// CPU time of all its threads: the first field of `schedstat`, in ns (Documentation/scheduler/sched-stats.rst).
    fn cpu_time(&self) -> Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).context("leaktrace's threads")? {
            let text = fs::read_to_string(task?.path().join("schedstat")).context("a thread's schedstat")?;
            let time = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            sum += time.context("a thread's schedstat")?;
        }
        Ok(Duration::from_nanos(sum))
    }

    fn own_memory(&self) -> Result<u64> {
        own_memory(self.pid).context("leaktrace's status")
    }

    /// Interrupts it, and waits for its end.
    fn end(mut self) -> Result<Ended> {
        let mut kill = root::command("kill", "end the tracer")?;
        kill.args(["-INT", &self.child.id().to_string()]);
        let begun = Instant::now();
        shell::output(&mut kill)?;
        let mut memory = 0;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            memory = memory.max(own_memory(self.pid).unwrap_or(0));
            thread::sleep(Duration::from_millis(2));
        };
        let took = begun.elapsed();
        self.ended = true;
        ensure!(status.success(), "leaktrace failed: {}", self.lines.iter().collect::<Vec<_>>().join("\n"));
        Ok(Ended { took, memory })
    }
}

impl Drop for Trace {
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

/// The process itself or, where it is sudo with one child, what that runs: leaktrace has a child of its own.
fn innermost(pid: u32) -> u32 {
    let is_sudo = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == "sudo");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    match children.split_whitespace().collect::<Vec<_>>()[..] {
        [child] if is_sudo => child.parse().map_or(pid, innermost),
        _ => pid,
    }
}

/// The line `RssAnon` of `proc_pid_status(5)`, in bytes.
fn own_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How long the event loop was at it: `… report 3: reading the tables took 12.5 ms, 10.1 ms of processor time`.
fn report_time(line: &str) -> Option<f64> {
    let (_, time) = line.split_once(": reading the tables took ")?;
    time.split_once(" ms")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Summary, figure, innermost, own_memory, render, report_time};

    #[test]
    fn the_time_of_a_report_is_read_from_what_leaktrace_says() {
        let line = "leaktrace: report 3: reading the tables took 12.5 ms, 10.1 ms of processor time";
        assert_eq!(report_time(line), Some(12.5));
        assert_eq!(report_time("leaktrace: report 3: naming the code took 1.0 ms, 1.0 ms of processor time"), None);
        assert_eq!(report_time("leaktrace: tracing process 3"), None);
    }

    #[test]
    fn our_own_memory_is_known() {
        let before = own_memory(std::process::id()).unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = own_memory(std::process::id()).unwrap();
        assert!(after >= before + (60 << 20), "{before} and {after} with {} bytes", block.len());
    }

    #[test]
    fn a_process_without_children_is_itself() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = innermost(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, child.id());
    }

    #[test]
    fn a_figure_is_reached_below_its_limit() {
        let of = |value| figure("attach", Summary::of([value]).unwrap(), 300.0, "ms");
        let text = render(&[of(299.0), of(300.0)]);
        assert!(text.contains("| attach | < 300 ms |   299 ms |     yes |"), "{text}");
        assert!(text.contains("| attach | < 300 ms |   300 ms |      no |"), "{text}");
    }
}
