//! What the tests of stopping and reading processes share: building programs, and talking to them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use leaktrace::model::Pid;
use leaktrace::process::stop::Limits;
use nix::sys::signal::Signal;

/// How long a thing that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Limits that a busy machine does not reach.
pub const PATIENT: Limits = Limits { stop_within: PATIENCE, hold_at_most: PATIENCE };

/// Sends a signal to a process that is not our child.
pub fn kill(pid: Pid, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.0 as i32), signal).unwrap();
}

/// A process that runs one of tests/process/programs and does not outlive its test.
pub struct Victim {
    child: Child,
    output: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

/// Builds tests/`source` in `home`.
fn build(home: &Path, source: &str, options: &[&str]) -> PathBuf {
    let output = home.join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source);
    let status = Command::new("cc").arg("-O1").args(options).arg(source).arg("-o").arg(&output).status().unwrap();
    assert!(status.success(), "cc failed");
    output
}

impl Victim {
    /// Builds and starts a program, and waits for its first line, which it gives.
    pub fn start(source: &str, arguments: &[&str]) -> (Self, String) {
        let mut victim = Self::start_silent(&format!("process/programs/{source}"), &["-pthread"], arguments);
        let line = victim.line();
        (victim, line)
    }

    /// Builds and starts a program of tests/, which says nothing.
    pub fn start_silent(source: &str, options: &[&str], arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let program = build(home.path(), source, options);
        let mut child =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, _home: home }
    }

    /// A puppet of so many threads, and their ids.
    pub fn puppet(threads: usize) -> (Self, Vec<u32>) {
        let (victim, line) = Self::start("puppet.c", &[&threads.to_string()]);
        let tids = line.strip_prefix("ready ").unwrap().split(' ').map(|tid| tid.parse().unwrap()).collect();
        (victim, tids)
    }

    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    pub fn nix_pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// Its next line, without the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "it ended after {line:?}");
        line.trim_end().to_owned()
    }

    /// Sends a line.
    pub fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    /// Sends a line and gives the answer.
    pub fn ask(&mut self, word: &str) -> String {
        self.tell(word);
        self.line()
    }

    /// All its threads run: each answers.
    pub fn assert_alive(&mut self) {
        assert_eq!(self.ask("ping"), "pong");
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.nix_pid(), signal).unwrap();
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of a process' threads, in order.
pub fn threads(pid: Pid) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut tids: Vec<u32> = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    tids.sort_unstable();
    tids
}

/// The state letter of a thread (`proc_pid_stat(5)`).
pub fn state(pid: Pid, tid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
}

/// A field of a thread's status file.
pub fn status(pid: Pid, tid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Waits until the first thread is in one of `states`. Nothing tells a bystander of that, so this looks until it is so.
pub fn await_state(pid: Pid, states: &str) {
    let begun = Instant::now();
    while !states.contains(state(pid, pid.0)) {
        assert!(begun.elapsed() < PATIENCE, "process {pid} is {} and not {states}", state(pid, pid.0));
        std::thread::yield_now();
    }
}
