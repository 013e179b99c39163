//! On the real kernel, in the libraries that are installed: a probe at the chosen site counts exactly as many calls as one
//! at the entry. Nothing of leaktrace takes part but the plan.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise, its helpers too")]

mod counters;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use counters::Counters;
use leaktrace::probes::functions::Table;
use leaktrace::probes::plan::{PlanOptions, PlannedProbe, plan};

/// The first that is installed of each line is tested beside the C library.
const ALLOCATORS: &[&[&str]] = &[
    &["libjemalloc.so.2"],
    &["libtcmalloc_minimal.so.4"],
    &["libmimalloc.so.3", "libmimalloc.so.2.1", "libmimalloc.so.2.0"],
];

fn caller() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/site_counts/caller.c");
    let program = directory.join("site-counts-caller");
    let flags = ["-O1", "-fno-builtin", "-pthread", "-Wall", "-Wextra", "-Werror"];
    let status = Command::new("cc").args(flags).arg("-o").arg(&program).arg(source).arg("-ldl").status().unwrap();
    assert!(status.success(), "caller.c does not compile");
    program
}

/// The name of a probe's function that a program can call, and how, in the words of caller.c.
fn instruction(probe: &PlannedProbe) -> String {
    let name = &probe.names[0];
    let [a, b, c] = Table::new([], &[]).find(name.as_bytes()).unwrap().signature.positions();
    format!("{name}={},{a},{b},{c}", probe.kind)
}

/// Calls every function of a copy of the library, and compares. Returns how many moved probes were passed.
fn compare(library: &Path, environment: impl Fn(&mut Command, &Path)) -> usize {
    // A copy of its own: other processes use the original, and their calls would count.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = directory.path().join(library.file_name().unwrap());
    fs::copy(library, &copy).unwrap();
    let plan = plan(&fs::read(&copy).unwrap(), &PlanOptions::default()).unwrap();
    assert!(!plan.probes.is_empty(), "{} has no allocation functions", library.display());

    let mut offsets = BTreeMap::new();
    for (index, probe) in plan.probes.iter().enumerate() {
        offsets.insert(format!("entry{index}"), probe.entry_offset);
        if probe.site.offset > 0 {
            offsets.insert(format!("site{index}"), probe.offset);
        }
    }
    let counters = Counters::set(&copy, &offsets);
    let mut command = Command::new(caller());
    command.arg(&copy).args(plan.probes.iter().map(instruction));
    environment(&mut command, &copy);
    let output = command.output().unwrap();
    let hits = counters.read();
    drop(counters);

    assert!(output.status.success(), "{}: {output:?}", library.display());
    let uncalled: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let mut moved = 0;
    for (index, probe) in plan.probes.iter().enumerate() {
        let at_entry = hits[&format!("entry{index}")];
        let name = &probe.names[0];
        assert!(at_entry > 0 || uncalled.contains(name), "{name} of {} was never entered", library.display());
        if let Some(at_site) = hits.get(&format!("site{index}")) {
            assert_eq!(*at_site, at_entry, "{name} of {} at +{}", library.display(), probe.site.offset);
            moved += usize::from(at_entry > 0);
        }
    }
    moved
}

fn installed(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    directories.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// The C library that this test runs on.
fn c_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    paths.filter(|path| path.ends_with("/libc.so.6")).map(PathBuf::from).next().unwrap()
}

#[test]
fn in_the_c_library_and_installed_allocators_the_site_counts_what_the_entry_counts() {
    let mut moved = vec![compare(&c_library(), |command, copy| {
        command.env("LD_LIBRARY_PATH", copy.parent().unwrap());
    })];
    for library in ALLOCATORS.iter().filter_map(|names| names.iter().find_map(|name| installed(name))) {
        moved.push(compare(&library, |command, copy| {
            command.env("LD_PRELOAD", copy);
        }));
    }
    // There is no build of any of them, glibc from 2.31 on, of which each function begins with something emulated.
    assert!(moved.iter().all(|moved| *moved > 0) || cfg!(not(target_arch = "x86_64")), "{moved:?}");
}
