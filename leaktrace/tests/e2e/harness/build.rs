//! Builds victims on demand, once per source text, safely under any number of test processes at once.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::locks;

/// Frame pointers and unfolded calls, so that a stack names exactly the functions of the source.
const C_FLAGS: [&str; 8] = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-pthread",
    "-Wall",
    "-Wextra",
];
const RUST_FLAGS: [&str; 8] =
    ["--edition", "2024", "-C", "opt-level=1", "-C", "force-frame-pointers=yes", "-C", "debuginfo=2"];

/// The executable built from `tests/victims/SOURCE`, say `family.c`.
///
/// `LEAKTRACE_VICTIMS` names a directory of victims built elsewhere (`family`, without the extension), for machines
/// that have no compiler, such as the kernels of the test matrix.
pub fn victim(source: &str) -> PathBuf {
    let stem = Path::new(source).file_stem().and_then(|stem| stem.to_str()).expect("a victim has a name");
    make(stem, source, &compiler(source), &[])
}

/// A victim that is built in another way than [`victim`] builds it.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Its own name among all victims.
    pub name: &'static str,
    /// Its source.
    pub source: &'static str,
    /// The compiler instead of the usual one.
    pub compiler: Option<&'static str>,
    /// Beside the usual ones.
    pub flags: &'static [&'static str],
    /// Behind the source.
    pub libraries: &'static [&'static str],
}

impl Recipe {
    /// Builds `source` as `name`, with these flags.
    pub const fn new(name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Self {
        Self { name, source, compiler: None, flags, libraries: &[] }
    }

    /// The file that is built.
    pub fn built(&self) -> PathBuf {
        let mut command = compiler(self.source);
        if let Some(compiler) = self.compiler {
            compiler.clone_into(&mut command[0]);
        }
        command.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        make(self.name, self.source, &command, self.libraries)
    }
}

/// A program of `tests/victims/reachability`, say `graph.c`, at one of the compiler's levels of optimisation.
pub fn reachability_victim(source: &str, level: u8) -> PathBuf {
    let source = format!("reachability/{source}");
    let mut command = compiler(&source);
    command.push(format!("-O{level}"));
    make(&reachability_name(&source, level), &source, &command, &[])
}

/// The same program with another allocator, by libraries that are linked, or another C library's by its compiler.
pub fn reachability_victim_with_allocator(source: &str, level: u8, compiler_of: &str, libraries: &[&str]) -> PathBuf {
    let source = format!("reachability/{source}");
    let mut command = compiler(&source);
    if compiler_of != "cc" {
        compiler_of.clone_into(&mut command[0]);
    }
    command.push(format!("-O{level}"));
    let name = reachability_name(&source, level);
    make(&format!("{name}-{compiler_of}{}", libraries.concat().replace([':', '/'], "")), &source, &command, libraries)
}

/// The same program with LeakSanitizer in it.
pub fn reachability_victim_with_leak_sanitizer(source: &str, level: u8) -> PathBuf {
    let name = format!("{}-lsan", reachability_name(source, level));
    let source = format!("reachability/{source}");
    let mut command = compiler(&source);
    command.extend([format!("-O{level}"), "-fsanitize=leak".to_owned(), "-DWITH_SANITIZER".to_owned()]);
    make(&name, &source, &command, &[])
}

/// The name of a built program of `tests/victims/reachability`.
pub fn reachability_name(source: &str, level: u8) -> String {
    let stem = Path::new(source).file_stem().and_then(|stem| stem.to_str()).expect("a victim has a name");
    format!("reachability-{stem}-O{level}")
}

/// What a victim may include: headers beside it and above it.
fn headers(source: &Path) -> String {
    let above = source.ancestors().skip(1).take(2);
    let entries =
        above.filter_map(|directory| fs::read_dir(directory).ok()).flatten().map(|entry| entry.unwrap().path());
    let mut headers: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "h")).collect();
    headers.sort();
    headers.iter().map(|header| read(header)).collect()
}

fn make(name: &str, source: &str, compiler: &[String], libraries: &[&str]) -> PathBuf {
    super::require_privileges();
    if let Some(built) = std::env::var_os("LEAKTRACE_VICTIMS") {
        return Path::new(&built).join(name);
    }
    let sources = sources();
    let text = read(&sources.join(source)) + &headers(&sources.join(source));
    let mut hasher = DefaultHasher::new();
    (&text, &compiler, &libraries).hash(&mut hasher);
    let executable = cache().join(format!("{name}-{:016x}", hasher.finish()));

    // There only when it is whole.
    if executable.exists() {
        return executable;
    }
    let _machine = locks::no_foreign_system_wide_trace();
    // The lock keeps two test processes from compiling the same; the rename keeps a third from running half of it.
    let lock = File::create(executable.with_extension("lock")).expect("the cache is writable");
    lock.lock().expect("flock works on the target directory");
    if !executable.exists() {
        let unfinished = executable.with_extension("unfinished");
        let output = Command::new(&compiler[0])
            .args(&compiler[1..])
            .arg("-o")
            .args([&unfinished, &sources.join(source)])
            .args(libraries)
            .output()
            .unwrap_or_else(|e| panic!("cannot run {} to build {source}: {e}", compiler[0]));
        assert!(
            output.status.success(),
            "{source} does not compile with {compiler:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(&unfinished, &executable).expect("the cache is writable");
    }
    executable
}

/// A program of the crate `tests/victims/allocators`: Rust with another allocator than the system's.
pub fn rust_victim(name: &str) -> PathBuf {
    super::require_privileges();
    if let Some(built) = std::env::var_os("LEAKTRACE_VICTIMS") {
        return Path::new(&built).join(name);
    }
    let _machine = locks::no_foreign_system_wide_trace();
    let target = cache().join("allocators");
    // Cargo has a lock of its own; what it downloads and compiles the first time takes a minute. As the user: what it
    // writes is the user's.
    let owner = fs::metadata(cache()).expect("it was just made");
    let output = Command::new("cargo")
        .uid(owner.uid())
        .gid(owner.gid())
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(sources().join("allocators/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap_or_else(|e| panic!("cannot run cargo to build {name}: {e}"));
    assert!(output.status.success(), "{name} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug").join(name)
}

/// Copies a program to where it can be executed at once, by whomever. Not by ourselves: what another thread starts meanwhile
/// inherits our descriptors until it has begun its program, and a file that somebody may write to cannot be executed.
pub fn copied(program: &Path, to: &Path) {
    let status = Command::new("cp").args([program, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot copy {}", program.display());
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// The same program without the symbols that only debuggers need.
pub fn stripped(program: &Path, into: &Path) -> PathBuf {
    let stripped = into.join(program.file_name().expect("a program has a name"));
    let status = Command::new("strip").arg("-o").args([&stripped, &program.to_path_buf()]).status();
    assert!(status.is_ok_and(|status| status.success()), "binutils are installed with the compiler");
    stripped
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims")
}

/// Where built victims lie.
fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let cache = target.join("victims");
    fs::create_dir_all(&cache).expect("the target directory is writable");
    // Tests run as root in the directory of a user, who must be able to remove what they leave there.
    let owner = fs::metadata(target).expect("it exists");
    chown(&cache, Some(owner.uid()), Some(owner.gid())).expect("root may give away what it made");
    cache
}

fn compiler(source: &str) -> Vec<String> {
    let (program, flags): (&str, &[&str]) = match source.rsplit_once('.').map(|(_, extension)| extension) {
        // Not position-independent code of the C runtime: no library at all.
        Some("c") if source == "nolibc.c" => ("cc", &["-O1", "-g", "-static", "-nostdlib", "-fno-stack-protector"]),
        Some("c") => ("cc", &C_FLAGS),
        Some("cc") => ("g++", &C_FLAGS),
        Some("rs") => ("rustc", &RUST_FLAGS),
        _ => panic!("nobody knows how to build {source}"),
    };
    std::iter::once(program).chain(flags.iter().copied()).map(str::to_owned).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}
