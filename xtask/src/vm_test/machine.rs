//! A machine in QEMU: boots a kernel with an initramfs, forwards what its programs write, and judges the outcome.
//!
//! In: a kernel, an archive, a plan. Out: an [`Outcome`]. The kernel's own messages are kept in a file beside the image.
//! Must never: leave a QEMU behind, or report a machine that died as passed.

use super::kernels::Kernel;
use super::plan::{Answer, MARK};
use crate::second_run;
use anyhow::{Context as _, Result};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than any boot takes under emulation on a busy machine.
const BOOT: Duration = Duration::from_mins(2);

/// Exit status of a test program in which cases failed.
const CASES_FAILED: i32 = 101;

/// What to boot.
pub struct Machine<'a> {
    pub kernel: &'a Kernel,
    /// Prefix of each line of output.
    pub label: String,
    pub initramfs: &'a Path,
    /// Added to the kernel's command line.
    pub options: &'a str,
    pub processors: usize,
    /// How many programs its plan has.
    pub programs: usize,
    /// How long all of its programs may take.
    pub limit: Duration,
}

/// The outcome of a machine's run.
#[derive(Default)]
pub struct Outcome {
    /// Time until its first process ran.
    pub boot: Option<Duration>,
    /// Time from then to its end.
    pub work: Duration,
    /// The kernel, by its own name.
    pub release: String,
    /// Test cases that passed, and the names of those that did not.
    pub passed: usize,
    pub failed: Vec<String>,
    /// Cases that failed here and passed in a machine of their own.
    pub passed_alone: Vec<String>,
    /// How many programs have not begun.
    pub to_begin: usize,
    /// The programs that ended, each with its exit status.
    pub ended: Vec<(String, i32)>,
    /// Whether it finished its plan.
    pub done: bool,
    /// Lines in which the kernel reports its own errors.
    pub complaints: Vec<String>,
    /// The file with the kernel's messages.
    pub console: PathBuf,
}

impl Outcome {
    /// What is wrong, if anything is.
    pub fn problem(&self) -> Option<String> {
        let statuses: Vec<_> = self.ended.iter().filter(|(_, status)| *status != 0).collect();
        if !self.done {
            Some("the machine did not come to its end".to_owned())
        } else if !self.complaints.is_empty() {
            Some(format!("the kernel complains: {}", self.complaints.join("; ")))
        } else if !self.failed.is_empty() {
            Some(format!("failed: {}", self.failed.join(", ")))
        } else if let Some((title, status)) = statuses.first() {
            Some(format!("{title} ended with {status}"))
        } else {
            None
        }
    }

    /// Whether it came to its end before the last of its programs began, which is the tests.
    fn died_early(&self) -> bool {
        !self.done && self.to_begin > 0
    }

    /// Prints the end of what the kernel has said, for a reader who does not have the file.
    pub fn print_last_words(&self) {
        const MOST: usize = 30;
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
        let begin = lines.len().saturating_sub(MOST);
        for line in &lines[begin..] {
            println!("      | {}", line.escape_debug());
        }
    }

    /// The cases that failed, if nothing else went wrong and they are few enough to be run once more.
    pub fn few_failed(&self) -> Option<&[String]> {
        let sound = self.done && self.complaints.is_empty();
        let failing = self.ended.iter().all(|(_, status)| matches!(*status, 0 | CASES_FAILED));
        (sound && failing && (1..=second_run::MOST).contains(&self.failed.len())).then_some(&self.failed)
    }

    /// Those cases passed when they were run once more.
    pub fn forgive(&mut self) {
        self.passed_alone = std::mem::take(&mut self.failed);
        self.ended.retain(|(_, status)| *status != CASES_FAILED);
    }
}

impl Machine<'_> {
    /// Boots it and waits for its end. A machine that dies before the first of its tests began is booted once more, with a
    /// message: QEMU's emulation of the processor has crashed kernels there, and nothing of ours had been tested.
    pub fn run(&self) -> Result<Outcome> {
        let outcome = self.run_once()?;
        if !outcome.died_early() {
            return Ok(outcome);
        }
        println!("   {}: the machine died before its first test; trying once more", self.label);
        outcome.print_last_words();
        self.run_once()
    }

    fn run_once(&self) -> Result<Outcome> {
        let console = self.initramfs.with_extension("console");
        let started = Instant::now();
        let mut qemu = Qemu(self.command(&console).spawn().context("running qemu-system-x86_64")?);
        let lines = qemu.lines().context("QEMU's standard output was not given to us")?;
        let mut outcome = Outcome { console: console.clone(), to_begin: self.programs, ..Outcome::default() };
        let mut end = started + BOOT;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match answer(&line) {
                    Some(Answer::Up { release, processors }) => {
                        outcome.boot = Some(started.elapsed());
                        end = Instant::now() + self.limit;
                        self.print(started, &format!("Linux {release}, processors: {processors}"));
                        outcome.release = release;
                    }
                    Some(Answer::Begin { title }) => {
                        outcome.to_begin = outcome.to_begin.saturating_sub(1);
                        self.print(started, &format!("-- {title}"));
                    }
                    Some(Answer::End { title, status }) => outcome.ended.push((title, status)),
                    Some(Answer::Done) => outcome.done = true,
                    None => self.take(started, &line, &mut outcome),
                },
                Err(RecvTimeoutError::Timeout) => {
                    self.print(started, "out of time");
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        drop(qemu);
        outcome.work = started.elapsed().saturating_sub(outcome.boot.unwrap_or_default());
        let text = fs::read(&console).unwrap_or_default();
        outcome.complaints = complaints(&String::from_utf8_lossy(&text));
        Ok(outcome)
    }

    fn command(&self, console: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Without cmpxchg16b: after this instruction QEMU 7.2 uses part of a register as the flags, and if an interrupt
        // comes just then, the kernel crashes on the restored value (seen on 6.12, in the allocator). Kernels work without
        // the instruction.
        qemu.args(["-accel", "tcg", "-M", "q35", "-cpu", "max,-cx16", "-m", "2G", "-no-reboot", "-nographic"]);
        qemu.args(["-nodefaults", "-smp"]).arg(self.processors.to_string());
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        // An oops ends the machine, and nothing that follows it can pass.
        let options = format!("console=ttyS0 quiet panic=-1 oops=panic {}", self.options);
        qemu.arg("-append").arg(options.trim_end());
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        qemu
    }

    /// A line that a program wrote. Test programs say `test NAME ... ok`.
    fn take(&self, started: Instant, line: &str, outcome: &mut Outcome) {
        let line = line.trim_end();
        if let Some((name, verdict)) = line.strip_prefix("test ").and_then(|case| case.split_once(" ... ")) {
            match verdict {
                "ok" => outcome.passed += 1,
                _ => outcome.failed.push(name.to_owned()),
            }
        }
        if !line.is_empty() {
            self.print(started, line);
        }
    }

    fn print(&self, started: Instant, line: &str) {
        println!("   {} {:6.1} s  {line}", self.label, started.elapsed().as_secs_f64());
    }
}

/// The answer in a line, if it is one.
fn answer(line: &str) -> Option<Answer> {
    serde_json::from_str(line.trim_end().strip_prefix(MARK)?).ok()
}

/// Messages of a kernel that has found an error in itself. That something took long is not one of them: under emulation it
/// does.
fn complaints(console: &str) -> Vec<String> {
    const SIGNS: [&str; 7] =
        ["BUG: ", "Oops", "Kernel panic", "WARNING: ", "general protection fault", "KASAN", "list_add corruption"];
    const SLOW: [&str; 2] = ["soft lockup", "workqueue lockup"];
    let is_one =
        |line: &&str| SIGNS.iter().any(|sign| line.contains(sign)) && !SLOW.iter().any(|sign| line.contains(sign));
    console.lines().filter(is_one).map(|line| line.trim().to_owned()).collect()
}

/// QEMU, killed when this is dropped.
struct Qemu(Child);

impl Qemu {
    /// Its standard output, which is the machine's second serial port, line by line as they come.
    fn lines(&mut self) -> Option<Receiver<String>> {
        let output = self.0.stdout.take()?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while output.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                // The receiver is gone and needs no more lines.
                if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Some(lines)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail if it has exited and been waited for, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn complaints_are_told_from_slowness() {
        let console = "[1.0] Linux version 6.1\n\
                       [2.0] BUG: unable to handle page fault for address: ffffc90000000000\n\
                       [3.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n\
                       [4.0] rcu: INFO: rcu_preempt self-detected stall on CPU\n";
        assert_eq!(complaints(console), ["[2.0] BUG: unable to handle page fault for address: ffffc90000000000"]);
    }
}
