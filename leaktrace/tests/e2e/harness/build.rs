//! Builds victims on demand, once per source text, safely under any number of test processes at once.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

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
    super::require_privileges();
    let stem = Path::new(source).file_stem().expect("a victim has a name");
    if let Some(built) = std::env::var_os("LEAKTRACE_VICTIMS") {
        return Path::new(&built).join(stem);
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims");
    let text = read(&sources.join(source)) + &read(&sources.join("victim.h"));
    let compiler = compiler(source);

    let mut hasher = DefaultHasher::new();
    (&text, &compiler).hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let cache = target.join("victims");
    fs::create_dir_all(&cache).expect("the target directory is writable");
    // Tests run as root in the directory of a user, who must be able to remove what they leave there.
    let owner = fs::metadata(target).expect("it exists");
    chown(&cache, Some(owner.uid()), Some(owner.gid())).expect("root may give away what it made");
    let executable = cache.join(format!("{}-{:016x}", stem.display(), hasher.finish()));

    // The lock keeps two test processes from compiling the same; the rename keeps a third from running half of it.
    let lock = File::create(executable.with_extension("lock")).expect("the cache is writable");
    lock.lock().expect("flock works on the target directory");
    if !executable.exists() {
        let unfinished = executable.with_extension("unfinished");
        let output = Command::new(&compiler[0])
            .args(&compiler[1..])
            .arg("-o")
            .args([&unfinished, &sources.join(source)])
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
