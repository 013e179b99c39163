//! Compiles and runs the programs in `programs/`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use leaktrace::model::{Address, Frame, Pid};
use leaktrace::process::maps::{AddressSpace, ObjectStore};
use leaktrace::symbolize::{CodeAddress, Symbolizer};
use tempfile::TempDir;

/// A directory that goes when the test ends.
pub fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbolize/programs").join(name)
}

/// The line of a program's source that carries `LINE marker`.
pub fn line(name: &str, marker: &str) -> u32 {
    let text = std::fs::read_to_string(source(name)).expect("source");
    let marker = format!("LINE {marker}");
    let holds = |line: &str| {
        line.split_once(&marker).is_some_and(|(_, rest)| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let found: Vec<_> = (1..).zip(text.lines()).filter(|(_, line)| holds(line)).map(|(number, _)| number).collect();
    assert_eq!(found.len(), 1, "{marker} in {name}");
    found[0]
}

/// Runs a tool to its end and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Compiles a program, optimised, without frame pointers, every function's start aligned so that gaps lie between them.
pub fn compile(name: &str, to: &Path, flags: &[&str]) {
    let compiler = if Path::new(name).extension().is_some_and(|ending| ending == "cpp") { "g++" } else { "gcc" };
    let mut command = Command::new(compiler);
    command.args(["-O2", "-fno-omit-frame-pointer", "-falign-functions=64", "-pthread", "-o"]).arg(to).args(flags);
    run(command.arg(source(name)).arg("-ldl"));
}

/// Start and size of a symbol, as nm gives them.
pub fn symbol(program: &Path, name: &str) -> (u64, u64) {
    let text = run(Command::new("nm").arg("-S").arg(program));
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    text.lines()
        .find_map(|line| match *line.split_ascii_whitespace().collect::<Vec<_>>() {
            [start, size, _, symbol] if symbol == name => Some((hex(start), hex(size))),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no {name} in {}", program.display()))
}

/// A running program.
pub struct Victim {
    child: Child,
    pid: u32,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    addresses: BTreeMap<String, u64>,
}

impl Victim {
    /// Starts it and takes in the addresses it prints.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, "")
    }

    pub fn start_with(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let pid = child.id();
        let mut victim = Self { child, pid, input: Some(stdin), output, addresses: BTreeMap::new() };
        victim.listen();
        victim
    }

    /// One step, and whatever addresses it brings.
    pub fn step(&mut self) {
        self.input.as_mut().expect("running").write_all(b"\n").expect("it listens");
        self.listen();
    }

    fn listen(&mut self) {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("readable") > 0, "it ended early");
            let Some((name, address)) = line.trim_end().rsplit_once(' ') else { return };
            self.addresses.insert(name.to_owned(), u64::from_str_radix(address, 16).expect("hexadecimal"));
        }
    }

    /// The program itself, where it runs as the only child of what was started.
    pub fn step_into_child(&mut self) {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).expect("children");
        self.pid = children.trim().parse().expect("one child");
    }

    pub fn pid(&self) -> Pid {
        Pid(self.pid)
    }

    /// An address that it printed.
    pub fn address(&self, name: &str) -> u64 {
        *self.addresses.get(name).unwrap_or_else(|| panic!("it printed no {name}: {:?}", self.addresses))
    }

    pub fn capture(&self, store: &ObjectStore) -> AddressSpace {
        AddressSpace::capture(self.pid(), store).expect("its mappings")
    }

    /// Lets it end, and waits until it has.
    pub fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().expect("ended").success());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.input.take());
        // A program whose input has ended ends by itself.
        let _ = self.child.wait();
    }
}

/// A store and a symbolizer that look nowhere but in `directories` for separate debug information.
pub struct Names {
    pub store: ObjectStore,
    pub symbolizer: Symbolizer,
}

impl Names {
    pub fn new(directories: &[&Path]) -> Self {
        let directories = directories.iter().map(|path| path.to_path_buf()).collect();
        let symbolizer = Symbolizer::with_debug_directories(directories).expect("threads");
        Self { store: ObjectStore::new(), symbolizer }
    }

    pub fn returning(&mut self, space: &AddressSpace, address: u64) -> Vec<Frame> {
        self.one(space, CodeAddress::returning(Address(address)))
    }

    pub fn exact(&mut self, space: &AddressSpace, address: u64) -> Vec<Frame> {
        self.one(space, CodeAddress::exact(Address(address)))
    }

    fn one(&mut self, space: &AddressSpace, address: CodeAddress) -> Vec<Frame> {
        let frames = self.symbolizer.resolve(space, &[address]).pop().expect("an answer for each address");
        assert!(frames.iter().all(|frame| frame.address == address.address));
        assert_eq!(frames.iter().rposition(|frame| !frame.inlined), Some(frames.len() - 1), "{frames:?}");
        frames
    }

    pub fn notes(&self) -> Vec<String> {
        self.symbolizer.notes().map(ToString::to_string).collect()
    }
}

/// `function` of each frame, innermost first; `-` where there is none.
pub fn functions(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_deref().unwrap_or("-")).collect()
}

/// `file:line` of each frame, of the file only its name; `-` where there is none.
pub fn places(frames: &[Frame]) -> Vec<String> {
    let place = |frame: &Frame| {
        let file = frame.file.as_ref()?.file_name()?.to_string_lossy();
        Some(format!("{file}:{}", frame.line?))
    };
    frames.iter().map(|frame| place(frame).unwrap_or_else(|| "-".to_owned())).collect()
}
