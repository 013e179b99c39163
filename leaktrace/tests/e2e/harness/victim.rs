//! A victim that runs: starts, waits where the test says, and is gone when the test is.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use super::lines::Lines;
use super::memory::state;
use super::tracer::wait_in_time;
use super::{Accounts, build};

/// A victim in its `wait` mode. Dropping it kills it.
pub struct Victim {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines,
    /// Where its own C library lies.
    libc: Option<TempDir>,
}

impl Victim {
    /// A puppet that has begun and waits for orders.
    pub fn puppet() -> Self {
        let mut puppet = Self::start("puppet.c", &[]);
        puppet.go();
        puppet
    }

    /// Builds and starts `tests/victims/SOURCE` and returns once it is ready, before it has done its work.
    pub fn start(source: &str, arguments: &[&str]) -> Self {
        let victim = Self::spawn(source, Command::new(build::victim(source)).arg("wait").args(arguments));
        victim.wait_until_ready();
        victim
    }

    /// The same with a C library of its own, in which no trace of others has probes unless it is system-wide.
    pub fn start_with_own_libc(source: &str, arguments: &[&str]) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("own mappings");
        let libc =
            maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|it| it.ends_with("/libc.so.6")));
        let libc = libc.expect("the tests are linked with the C library that victims use");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::copy(libc, directory.path().join("libc.so.6")).expect("it can be copied");
        let mut command = Command::new(build::victim(source));
        command.arg("wait").args(arguments).env("LD_LIBRARY_PATH", directory.path());
        let mut victim = Self::spawn(source, &mut command);
        victim.wait_until_ready();
        victim.libc = Some(directory);
        victim
    }

    /// The directory of its own C library.
    pub fn own_libc(&self) -> &Path {
        self.libc.as_ref().expect("it has one").path()
    }

    /// Waits for its word that it is ready.
    pub fn wait_until_ready(&self) {
        self.wait_for_line("\"ready\"", |line| line == "ready");
    }

    /// Waits for a line of its standard output.
    pub fn wait_for_line(&self, expected: &str, wanted: impl Fn(&str) -> bool) {
        self.output.wait_for(expected, wanted);
    }

    /// Starts any program whose standard input keeps it alive, without waiting for a word from it.
    pub fn spawn(what: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {what}: {e}"));
        let input = child.stdin.take();
        let output = Lines::of("the victim's standard output", child.stdout.take().expect("it was piped"));
        Self { child, input, output, libc: None }
    }

    /// What `-p` takes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it work. It goes on by itself; [`Self::done`] waits for its account.
    pub fn go(&mut self) {
        self.input.as_mut().expect("the victim still waits").write_all(b"\n").expect("the victim reads");
    }

    /// Its account, once its work is done and before it ends.
    pub fn done(&mut self) -> Accounts {
        Accounts::parse(&self.output.collect_until("\"done\"", |line| line == "done").join("\n"))
    }

    /// What it says until its work is done.
    pub fn collect_until_done(&mut self) -> String {
        self.output.collect_until("\"done\"", |line| line == "done").join("\n")
    }

    /// Lets it work to the end of its work.
    pub fn work(&mut self) -> Accounts {
        self.go();
        self.done()
    }

    /// Tells the puppet something and waits until it has done it.
    pub fn tell(&mut self, order: &str) -> Vec<String> {
        writeln!(self.input.as_mut().expect("the puppet still listens"), "{order}").expect("the puppet reads");
        self.output.collect_until("\"ok\"", |line| line == "ok")
    }

    /// Tells the puppet something that it does not answer: to end.
    pub fn tell_last(&mut self, order: &str) {
        writeln!(self.input.as_mut().expect("the puppet still listens"), "{order}").expect("the puppet reads");
    }

    /// The puppet's account.
    pub fn report(&mut self) -> Accounts {
        Accounts::parse(&self.tell("r").join("\n"))
    }

    /// Waits for its end: it has been told to end, or ends by itself.
    pub fn wait(&mut self) -> (ExitStatus, Accounts) {
        let status = self.ended();
        (status, Accounts::parse(&self.output.finish()))
    }

    /// Lets it end and checks that it ended as it would have without a tracer.
    pub fn finish(mut self) {
        drop(self.input.take().map(|mut input| input.write_all(b"\n")));
        let status = self.ended();
        assert!(status.success(), "the victim ended with {status}:\n{}", self.output.finish());
    }

    fn ended(&mut self) -> ExitStatus {
        wait_in_time(&mut self.child).unwrap_or_else(|| {
            panic!("the victim does not end, it is in state {}:\n{}", state(self.pid()), self.output.text())
        })
    }

    /// True while it has not ended.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
