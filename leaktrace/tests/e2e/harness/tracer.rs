//! The program under test, run as its users run it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::lines::Lines;
use super::{Accounts, DEADLINE, Snapshot, Victim, build, locks, require_privileges};

/// The line on standard error that says that every probe is in place.
const TRACING: &str = "leaktrace: tracing";

/// The binary under test; `LEAKTRACE_BIN` names another one, such as the copy inside a test kernel.
pub fn binary() -> PathBuf {
    std::env::var_os("LEAKTRACE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_leaktrace").into(), PathBuf::from)
}

/// `leaktrace` with those arguments, as a command that can be changed before it runs.
pub fn leaktrace<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env("LC_ALL", "C").env_remove("RUST_LOG").stdin(Stdio::null());
    // On a slow machine too, tables of what runs already are there before the trace begins.
    command.env("LEAKTRACE_TABLES_WITHIN", "120");
    command
}

/// A `leaktrace` that runs. Dropping it kills it.
pub struct Tracer {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    /// Where it writes its files; lives as long as the tracer.
    directory: TempDir,
    _calm: Arc<File>,
}

impl Tracer {
    /// Traces a running victim, `--json` and `--show-allocs` included; returns once the probes are in place.
    pub fn attach(victim: &Victim, options: &[&str]) -> Self {
        let pid = victim.pid().to_string();
        Self::start(&[&["-p", &pid, "--show-allocs"], options].concat())
    }

    /// Traces with those arguments and `--json`; returns once the probes are in place.
    pub fn start(arguments: &[&str]) -> Self {
        let tracer = Self::start_unready(arguments);
        tracer.wait_until_tracing();
        tracer
    }

    /// Starts with those arguments, `--json` and `--all-sites`, and returns at once.
    pub fn start_unready(arguments: &[&str]) -> Self {
        require_privileges();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let json = directory.path().join("snapshot.json");
        Self::spawn(
            leaktrace([OsStr::new("--all-sites"), OsStr::new("--json"), json.as_os_str()]).args(arguments),
            directory,
        )
    }

    /// Starts a command prepared by the test; `directory` goes when the tracer goes.
    pub fn spawn(command: &mut Command, directory: TempDir) -> Self {
        let calm = locks::calm();
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("leaktrace can be started");
        let stdout = Lines::of("leaktrace's standard output", child.stdout.take().expect("it was piped"));
        let stderr = Lines::of("leaktrace's standard error", child.stderr.take().expect("it was piped"));
        Self { child, stdout, stderr, directory, _calm: calm }
    }

    /// Waits for the word that every probe is in place.
    pub fn wait_until_tracing(&self) {
        self.stderr.wait_for("the line that tracing has begun", |line| line.starts_with(TRACING));
    }

    /// Waits for a message on standard error.
    pub fn wait_for_message(&self, expected: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stderr.wait_for(expected, wanted)
    }

    /// Waits for a line of a report, or of the traced command, on standard output.
    pub fn wait_for_output(&self, expected: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stdout.wait_for(expected, wanted)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file that it writes at each report.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("leaktrace still runs");
    }

    /// To it and whatever it launched, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id() as i32), signal).expect("leaktrace still runs");
    }

    /// Ends the trace as SIGINT to it alone does, and collects what it said.
    pub fn stop(self) -> Finished {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Waits for its end only: what it launched may live on and hold its standard output open.
    pub fn wait_status(&mut self) -> ExitStatus {
        wait_in_time(&mut self.child).expect("leaktrace ends")
    }

    /// Waits until it ends by itself, and collects what it said.
    pub fn wait(mut self) -> Finished {
        let status = wait_in_time(&mut self.child).unwrap_or_else(|| {
            panic!("leaktrace does not end; standard error:\n{}", self.stderr.text());
        });
        // A child that outlives leaktrace may still hold its standard output; what was written until now is there.
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().expect("a temporary directory"));
        Finished { status, stdout, stderr, directory }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run of `leaktrace` left behind.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    directory: TempDir,
}

impl Finished {
    /// Runs a command prepared by the test to its end.
    pub fn of(command: &mut Command) -> Self {
        Tracer::spawn(command, tempfile::tempdir().expect("a temporary directory")).wait()
    }

    /// A file it wrote.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A text file it wrote.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; standard error:\n{}", name, self.stderr))
    }

    /// The last snapshot, whatever the exit status; every sum in it holds.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.unchecked_snapshot();
        snapshot.assert_consistent();
        snapshot
    }

    /// The last snapshot of a trace whose filters leave out part of it, so that sums need not hold.
    pub fn unchecked_snapshot(&self) -> Snapshot {
        let snapshot = Snapshot::parse(self.read("snapshot.json").as_bytes());
        assert!(snapshot.r#final, "the last snapshot does not say that it is the last");
        snapshot
    }

    /// The snapshot of a trace that went well and lost nothing.
    pub fn lossless(&self) -> Snapshot {
        self.assert_success();
        let snapshot = self.snapshot();
        snapshot.assert_lossless();
        snapshot
    }

    /// The snapshot of a trace that went well and booked everything. Of a program that has just begun the first stacks may
    /// be walked by frame pointers, which is counted, until its mappings are known.
    pub fn exact(&self) -> Snapshot {
        self.assert_success();
        let snapshot = self.snapshot();
        snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
        snapshot
    }

    /// [`Self::lossless`] where processes or programs start during the trace: they do not wait until their mappings are
    /// known, so their first stacks may be cut short, and are counted.
    pub fn lossless_but_for_early_stacks(&self) -> Snapshot {
        self.assert_success();
        let snapshot = self.snapshot();
        snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
        snapshot
    }

    pub fn assert_success(&self) {
        assert!(self.status.success(), "leaktrace ended with {}; standard error:\n{}", self.status, self.stderr);
    }

    /// It was refused as bad input is: that exit status, and one line on standard error that names what is at fault.
    pub fn assert_refused(&self, status: i32, names: &[&str]) {
        self.assert_failed_with_line(status, names);
        let lines = self.stderr.trim_end().lines().count();
        assert_eq!(lines, 1, "not one line; status {}, standard error:\n{}", self.status, self.stderr);
    }

    /// It failed with that status after it had begun, and its last line on standard error names what is at fault. A thread that
    /// was logging at that moment, as with `-vv`, may finish its own line behind it.
    pub fn assert_failed_with_line(&self, status: i32, names: &[&str]) {
        let what = format!("{}, standard error:\n{}", self.status, self.stderr);
        assert_eq!(self.status.code(), Some(status), "{what}");
        let last: Vec<&str> = self.stderr.trim_end().lines().rev().take(2).collect();
        let says_all = |line: &&str| names.iter().all(|name| line.contains(name));
        assert!(last.iter().any(says_all), "not all of {names:?} are named in the last line; {what}");
        assert!(!self.stderr.contains("panicked"), "{what}");
    }
}

/// Traces a victim as COMMAND, from its first allocation to its end.
pub fn trace_command(options: &[&str], source: &str, arguments: &[&str]) -> (Finished, Accounts) {
    let victim = build::victim(source);
    let mut all = options.to_vec();
    all.extend(["--show-allocs", "--", path_str(&victim), "run"]);
    all.extend(arguments);
    let finished = Tracer::start_unready(&all).wait();
    let accounts = Accounts::parse(&finished.stdout);
    (finished, accounts)
}

/// Attaches with those options to a victim, lets it work and stops; what was lost is the test's business. With the victim's pid.
pub fn attached(options: &[&str], source: &str, arguments: &[&str]) -> (Finished, Accounts, u32) {
    let mut victim = Victim::start(source, arguments);
    let tracer = Tracer::attach(&victim, options);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let pid = victim.pid();
    victim.finish();
    (finished, accounts, pid)
}

/// A path that this repository made up, which is always readable.
pub fn path_str(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are UTF-8")
}

/// Waits for the child's end until the deadline; `None` where it does not come.
pub fn wait_in_time(child: &mut Child) -> Option<ExitStatus> {
    // Its number means nothing any more once it was waited for.
    if let Some(status) = child.try_wait().expect("it is our child") {
        return Some(status);
    }
    // SAFETY: pidfd_open takes plain numbers; the child is ours and not yet waited for, so the pid is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).expect("the deadline fits");
    match poll(&mut fds, timeout) {
        Ok(0) => None,
        Ok(_) => Some(child.wait().expect("it is our child")),
        Err(e) => panic!("poll: {e}"),
    }
}
