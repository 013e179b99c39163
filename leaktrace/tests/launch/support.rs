//! What the tests of holding a command share: building programs, hearing from them, and a leaktrace of one's own to kill.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leaktrace::process::launch::{Ending, Event, Held, LaunchOptions, Launched};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

/// How long a thing that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Options that leave the test process' own signal dispositions alone.
pub const QUIET: LaunchOptions = LaunchOptions { job_control: false, hold_later_programs: true };

/// A directory with programs that were built for one test.
pub struct Programs {
    home: TempDir,
}

impl Programs {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// In a certain place.
    pub fn new_in(place: &Path) -> Self {
        Self { home: tempfile::tempdir_in(place).unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Builds tests/launch/programs/`source` as `name`.
    pub fn build(&self, compiler: &str, source: &str, name: &str, options: &[&str]) -> PathBuf {
        let output = self.path(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/launch/programs").join(source);
        let status =
            Command::new(compiler).arg("-O1").arg(source).arg("-o").arg(&output).args(options).status().unwrap();
        assert!(status.success(), "{compiler} failed");
        output
    }

    /// A file that may be executed, with these bytes. Copied by another process: what another thread starts meanwhile inherits
    /// our descriptors until it has begun its program, and a file that somebody may write to cannot be executed.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let (text, program) = (self.path("bytes"), self.path(name));
        fs::write(&text, bytes).unwrap();
        assert!(Command::new("cp").args([&text, &program]).status().unwrap().success());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// A file in which programs leave word.
    pub fn notes(&self) -> PathBuf {
        let notes = self.path("notes");
        File::create(&notes).unwrap();
        notes
    }
}

/// A pipe with a name, which programs can open and other tests' programs do not inherit.
pub struct Fifo {
    pub path: PathBuf,
    end: File,
}

impl Fifo {
    pub fn new(path: PathBuf) -> Self {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Both ends, so that neither side has to wait for the other to open it.
        let end = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path).unwrap();
        Self { path, end }
    }

    /// The next line, or a panic if none comes.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            assert!(readable(&self.end, PATIENCE), "nothing more came after {line:?}");
            let mut byte = [0];
            self.end.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    pub fn is_empty(&self) -> bool {
        !readable(&self.end, Duration::ZERO)
    }

    pub fn send(&mut self, text: &str) {
        self.end.write_all(text.as_bytes()).unwrap();
    }
}

/// Whether `fd` becomes readable within `patience`.
pub fn readable(fd: &impl AsFd, patience: Duration) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(patience).unwrap()).unwrap() == 1
}

pub fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Runs a future to its end within the tests' patience.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it took too long") })
}

/// A command that does not outlive its test, should that fail.
pub struct Mortal(Launched);

impl std::ops::Deref for Mortal {
    type Target = Launched;

    fn deref(&self) -> &Launched {
        &self.0
    }
}

impl std::ops::DerefMut for Mortal {
    fn deref_mut(&mut self) -> &mut Launched {
        &mut self.0
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        // It should have ended long ago, and then there is nobody to signal.
        let _ = self.0.signal(libc::SIGKILL);
    }
}

/// Starts `command` and holds it where its libraries are mapped.
pub async fn hold(command: &[OsString]) -> (Mortal, Held) {
    let mut launched = Launched::spawn(command, QUIET).unwrap();
    let held = launched.hold_until_mapped().await.unwrap();
    (Mortal(launched), held)
}

/// Lets a command run, through every further hold, and gives all that happened.
pub async fn see_through(launched: &mut Launched) -> (Vec<&'static str>, Ending) {
    let mut events = Vec::new();
    loop {
        match launched.next_event().await {
            Event::Held(held) => {
                events.push("held");
                held.release();
            }
            Event::Stopped(held) => {
                events.push("stopped");
                held.into_iter().for_each(Held::release);
            }
            Event::Exiting(held) => {
                events.push("exiting");
                assert!(!maps(launched.pid().0).is_empty(), "the memory of a process that is about to exit is there");
                held.release();
            }
            Event::Ended(ending) => return (events, ending),
        }
    }
}

pub fn maps(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

/// The state letter of a process (proc(5)).
pub fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
}

/// Waits until a process is in one of `states`. Nothing tells a bystander of that, so this looks until it is so.
pub fn await_state(pid: u32, states: &str) {
    let begun = std::time::Instant::now();
    while !states.contains(state(pid)) {
        assert!(begun.elapsed() < PATIENCE, "process {pid} is {} and not {states}", state(pid));
        std::thread::yield_now();
    }
}

/// Waits until the thread `tid` is traced.
pub fn await_tracer(tid: u32) {
    let begun = std::time::Instant::now();
    while std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap().contains("TracerPid:\t0\n") {
        assert!(begun.elapsed() < PATIENCE, "nobody traces {tid}");
        std::thread::yield_now();
    }
}

/// The ids of a process' threads.
pub fn threads(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// `ending.c` whose first thread has ended, held twice before, and its last thread, which is traced. It exits with 23 once it can
/// read something.
pub async fn without_first_thread(programs: &Programs) -> (Mortal, u32, Fifo) {
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    let input = Fifo::new(programs.path("input"));
    let script = "exec \"$0\" first-thread-leaves <\"$1\"";
    let command = words(["sh", "-c", script, program.to_str().unwrap(), input.path.to_str().unwrap()]);
    let (mut launched, held) = hold(&command).await;
    held.release();
    let Event::Held(held) = launched.next_event().await else { panic!("not held") };
    held.release();
    // The second thread reads only when the first has gone; the one that sees it to its end must be there by then.
    await_state(launched.pid().0, "Z");
    let last = threads(launched.pid().0).into_iter().find(|&tid| tid != launched.pid().0).unwrap();
    await_tracer(last);
    (launched, last, input)
}

const PHASE: &str = "LEAKTRACE_TEST_PHASE";
const COMMAND: &str = "LEAKTRACE_TEST_COMMAND";
const OUTPUT: &str = "LEAKTRACE_TEST_OUTPUT";
const BETWEEN_WORDS: &str = "\u{1f}";

/// A process of its own that launches a command and goes as far with it as it is told: this test program again, with one
/// test, which becomes the role.
pub fn role(test: &str, phase: &str, command: &[&str], output: &Path) -> Command {
    let mut role = Command::new("sh");
    role.args(["-c", "exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    role.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    role.env(PHASE, phase).env(COMMAND, command.join(BETWEEN_WORDS)).env(OUTPUT, output);
    role.stdout(Stdio::null()).stderr(Stdio::piped()).stdin(Stdio::null());
    role
}

/// The role's own side; `None` where this process plays none.
pub fn play() -> Option<()> {
    let phase = std::env::var(PHASE).ok()?;
    let command: Vec<OsString> = std::env::var(COMMAND).unwrap().split(BETWEEN_WORDS).map(OsString::from).collect();
    // The test harness writes to standard output; the command must not share it.
    let output = File::options().append(true).open(std::env::var_os(OUTPUT).unwrap()).unwrap();
    nix::unistd::dup2_stdout(&output).unwrap();
    drop(output);
    let mut launched = match Launched::spawn(&command, LaunchOptions::default()) {
        Ok(launched) => launched,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let reached = |here: &str| {
        if phase == here {
            eprintln!("reached {}", launched.pid());
            // To be killed.
            loop {
                std::thread::park();
            }
        }
    };
    reached("exec");
    if phase == "linking" {
        eprintln!("reached {}", launched.pid());
    }
    wait_for(async {
        let held = launched.hold_until_mapped().await.unwrap();
        if phase == "mapped" {
            eprintln!("reached {}", launched.pid());
            std::future::pending::<()>().await;
        }
        held.release();
        if phase == "released" {
            eprintln!("reached {}", launched.pid());
        }
        let ending = loop {
            match launched.next_event().await {
                Event::Held(held) | Event::Stopped(Some(held)) => held.release(),
                Event::Stopped(None) => {}
                Event::Exiting(held) => {
                    if phase == "exit" {
                        eprintln!("reached {}", launched.pid());
                        std::future::pending::<()>().await;
                    }
                    held.release();
                }
                Event::Ended(ending) => break ending,
            }
        };
        std::process::exit(ending.code().into());
    })
}

/// The pid that a role reports once it has got as far as it was told.
pub fn reached(role: &mut Child) -> u32 {
    let mut line = String::new();
    let stderr = role.stderr.as_mut().unwrap();
    while !line.ends_with('\n') {
        assert!(readable(stderr, PATIENCE), "the role says no more than {line:?}");
        let mut byte = [0];
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "the role ended after {line:?}");
        line.push(byte[0].into());
    }
    line.strip_prefix("reached ").unwrap_or_else(|| panic!("the role says {line:?}")).trim().parse().unwrap()
}
