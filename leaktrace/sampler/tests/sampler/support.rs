//! The library as it is built, victims, and the part of a tracer: raising semaphores and reading the state through `/proc/PID/mem`.

use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// `target/debug`, or its like.
fn profile_dir() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// Builds the library unless it is there and newer than its sources: cargo makes no cdylib for tests, which cannot link one.
fn build() -> PathBuf {
    let dir = profile_dir();
    let library = dir.join("libleaktrace_sampler.so");
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if modified(&library)
        .is_some_and(|built| sources().iter().all(|source| modified(source).is_some_and(|at| at < built)))
    {
        return library;
    }
    let profile = match dir.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let cargo = Path::new(env!("CARGO"));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", env!("CARGO_PKG_NAME"), "--profile", profile]);
    command.arg("--target-dir").arg(dir.parent().unwrap()).env("RUSTC", cargo.with_file_name("rustc"));
    assert!(command.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "{command:?}");
    // Cargo leaves a library alone that it finds to be the same.
    File::options().append(true).open(&library).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    library
}

fn sources() -> Vec<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let others = ["build.rs", "Cargo.toml", "../../Cargo.toml", "../../leaktrace-common/src/sampling.rs"];
    let mut sources: Vec<_> = others.iter().map(|name| package.join(name)).collect();
    let mut dirs = vec![package.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut dirs } else { &mut sources }.push(path);
        }
    }
    sources
}

/// The library that is preloaded.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(build)
}

/// The archive for static programs.
pub fn archive() -> PathBuf {
    library().with_extension("a")
}

/// Compiles a victim, once for each name.
pub fn compile(compiler: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let dir = profile_dir().join("sampler-victims");
    std::fs::create_dir_all(&dir).unwrap();
    let victims = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims");
    // Several tests may want it: each has its own until it is in place.
    let draft = dir.join(format!("{name}.{:?}", std::thread::current().id()));
    let mut command = Command::new(compiler);
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-fno-builtin", "-Wno-alloc-size-larger-than", "-o"]).arg(&draft);
    let output = command.args(arguments).current_dir(&victims).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let place = dir.join(name);
    std::fs::rename(draft, &place).unwrap();
    place
}

/// A victim that waits at its gate.
pub struct Victim {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Samples and frees before somebody listened.
    before: Cell<(u64, u64)>,
}

/// The sampler's books: see `state.rs`.
#[derive(Debug, PartialEq, Eq)]
pub struct Books {
    pub flags: u64,
    pub floor: u64,
    pub interval: u64,
    pub samples: u64,
    pub frees: u64,
    pub full: u64,
    pub missed_frees: u64,
}

impl Victim {
    /// Starts a program with the library and these others preloaded.
    pub fn start(program: &Path, arguments: &[&str], others: &[&str], interval: &str) -> Self {
        let sampler = library().to_str().unwrap();
        let preload = [&[sampler], others].concat().join(" ");
        Self::of(Command::new(program).args(arguments).env("LD_PRELOAD", preload), interval)
    }

    /// Starts a command that is preloaded already, or has the sampler in itself.
    pub fn of(command: &mut Command, interval: &str) -> Self {
        command.env("LEAKTRACE_SAMPLER_INTERVAL", interval);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, before: Cell::default() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the victim says at its next gate: its allocations and frees.
    pub fn gate(&mut self) -> (u64, u64) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
        let (Some(allocations), Some(frees)) = (numbers.next(), numbers.next()) else {
            panic!("the victim ended: {:?}", self.child.wait());
        };
        (allocations, frees)
    }

    pub fn go(&mut self) {
        self.input.write_all(b"x").unwrap();
    }

    /// Lets it end, which must be well.
    pub fn end(mut self) {
        self.go();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status:?}");
    }

    fn memory(&self) -> File {
        OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", self.pid())).unwrap()
    }

    /// Address at which `file` is loaded.
    fn base(&self, file: &Path) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let name = file.canonicalize().unwrap().display().to_string();
        let line = maps.lines().find(|line| line.ends_with(&name)).expect("the library is mapped");
        let first = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let elf = Elf::read(file);
        // Programs at fixed addresses have theirs in the file.
        if elf.is_fixed { 0 } else { first }
    }

    /// Sets both semaphores, as the kernel does for a tracer.
    pub fn listen(&self, on: bool) {
        self.listen_in(library(), on);
    }

    pub fn listen_in(&self, file: &Path, on: bool) {
        let (base, elf) = (self.base(file), Elf::read(file));
        // free first, so that no sample's end is missed.
        for probe in ["free", "alloc"] {
            let address = base + elf.probe(probe).semaphore;
            self.memory().write_all_at(&u16::from(on).to_ne_bytes(), address).unwrap();
        }
        if on {
            let Books { samples, frees, .. } = self.books_in(file);
            self.before.set((samples, frees));
        }
    }

    /// Samples that were held when somebody began to listen.
    pub fn held_before(&self) -> u64 {
        let (samples, frees) = self.before.get();
        samples - frees
    }

    pub fn books(&self) -> Books {
        self.books_in(library())
    }

    /// Samples and frees are those since somebody began to listen.
    pub fn books_in(&self, file: &Path) -> Books {
        let mut bytes = [0; 112];
        self.memory().read_exact_at(&mut bytes, self.base(file) + Elf::read(file).state).unwrap();
        assert_eq!(&bytes[..8], b"LEAKSMPL");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 112, 0, 0, 0], "version and size");
        let word = |offset: usize| u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap());
        Books {
            flags: word(16),
            floor: word(24),
            interval: word(40),
            samples: word(64) - self.before.get().0,
            frees: word(72) - self.before.get().1,
            full: word(80),
            missed_frees: word(96),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A probe of a file, as its note has it.
#[derive(Clone, Debug)]
pub struct Probe {
    pub provider: String,
    pub name: String,
    pub arguments: String,
    pub location: u64,
    pub base: u64,
    pub semaphore: u64,
}

/// What the tests need of an ELF file.
pub struct Elf {
    pub probes: Vec<Probe>,
    pub state: u64,
    pub is_fixed: bool,
    bytes: Vec<u8>,
}

impl Elf {
    pub fn read(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        let elf = object::File::parse(&*bytes).unwrap();
        let notes = elf.section_by_name(".note.stapsdt").unwrap().data().unwrap().to_vec();
        let mut symbols = elf.dynamic_symbols().chain(elf.symbols());
        let state = symbols.find(|symbol| symbol.name() == Ok("leaktrace_sampler_state")).unwrap().address();
        let is_fixed = elf.kind() == object::ObjectKind::Executable;
        Self { probes: probes(&notes), state, is_fixed, bytes }
    }

    pub fn probe(&self, name: &str) -> Probe {
        self.probes.iter().find(|probe| probe.name == name).unwrap().clone()
    }

    /// The segment that has this address, with the address' offset in the file if it has one.
    pub fn place(&self, address: u64) -> (object::SegmentFlags, Option<u64>) {
        let elf = object::File::parse(&*self.bytes).unwrap();
        let segment =
            elf.segments().find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address));
        let segment = segment.unwrap();
        let (offset, size) = segment.file_range();
        let within = address - segment.address();
        (segment.flags(), (within < size).then(|| offset + within))
    }

    pub fn bytes_at(&self, address: u64, count: usize) -> &[u8] {
        let offset = self.place(address).1.unwrap() as usize;
        &self.bytes[offset..offset + count]
    }
}

/// Notes of the kind 3, each of which has three addresses and three strings.
fn probes(mut notes: &[u8]) -> Vec<Probe> {
    let mut probes = Vec::new();
    while !notes.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(notes[at..at + 4].try_into().unwrap()) as usize;
        let (name, size, kind) = (word(0), word(4), word(8));
        assert_eq!((&notes[12..12 + name], kind), (&b"stapsdt\0"[..], 3));
        let body = &notes[12 + name.next_multiple_of(4)..][..size];
        let address = |n: usize| u64::from_ne_bytes(body[n * 8..n * 8 + 8].try_into().unwrap());
        let mut strings = body[24..].split(|byte| *byte == 0).map(|text| String::from_utf8(text.to_vec()).unwrap());
        let mut string = || strings.next().unwrap();
        probes.push(Probe {
            location: address(0),
            base: address(1),
            semaphore: address(2),
            provider: string(),
            name: string(),
            arguments: string(),
        });
        notes = &notes[12 + name.next_multiple_of(4) + size.next_multiple_of(4)..];
    }
    probes
}
