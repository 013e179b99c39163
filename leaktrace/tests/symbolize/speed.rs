//! How long a report waits for names.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use leaktrace::model::Address;
use leaktrace::process::maps::AddressSpace;
use leaktrace::symbolize::CodeAddress;

use crate::harness::{Names, Victim, compile, run, scratch};

/// A process that maps these files as code.
fn mapping(dir: &Path, files: &[PathBuf]) -> Victim {
    let program = dir.join("library_map");
    compile("library_map.c", &program, &[]);
    let list = files.iter().fold(String::new(), |list, file| list + &file.to_string_lossy() + "\n");
    Victim::start_with(&mut Command::new(program), &(list + "\n"))
}

/// So many addresses in each file, spread over its code.
fn spread(space: &AddressSpace, files: &[PathBuf], each: u64) -> Vec<CodeAddress> {
    let mut addresses = Vec::new();
    for file in files {
        let location = space.mappings().find(|location| **location.module == **file).expect("mapped");
        let code = location.object.expect("opened").segments().iter().find(|segment| segment.executable).expect("code");
        let start = location.start.0 + code.offset;
        let step = code.size / each;
        addresses.extend((0..each).map(|index| CodeAddress::returning(Address(start + index * step + 1))));
    }
    addresses
}

/// 10,000 addresses, 200 in each of 50 objects whose DWARF nothing has read yet, are named within 2 seconds. Code that is
/// not optimised takes some ten times as long, and may share the machine with anything: it is given what only another order of
/// growth exceeds.
#[test]
fn ten_thousand_addresses_in_fifty_objects_take_less_than_two_seconds() {
    const OBJECTS: usize = 50;
    const EACH: u64 = 200;
    let dir = scratch();
    let source = dir.path().join("many.c");
    let mut text = String::from("static inline __attribute__((always_inline)) int twice(int x) { return x * 2; }\n");
    for function in 0..1000 {
        writeln!(text, "__attribute__((noipa)) int function_{function}(int *x) {{")
            .and_then(|()| {
                writeln!(text, "  for (int i = 0; i < x[0]; i++) x[i] += twice(x[i + 1] ^ {function}) / (i + 3);")
            })
            .and_then(|()| writeln!(text, "  return x[{function}];\n}}"))
            .expect("a string takes all");
    }
    fs::write(&source, text).expect("written");
    let first = dir.path().join("lib0.so");
    run(Command::new("gcc").args(["-O1", "-g", "-shared", "-fPIC", "-o"]).arg(&first).arg(&source));
    let files: Vec<PathBuf> = (0..OBJECTS).map(|index| dir.path().join(format!("lib{index}.so"))).collect();
    for file in &files[1..] {
        fs::copy(&first, file).expect("copied");
    }

    let victim = mapping(dir.path(), &files);
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let addresses = spread(&space, &files, EACH);
    assert_eq!(addresses.len(), 10_000);
    let start = Instant::now();
    let frames = names.symbolizer.resolve(&space, &addresses);
    let cold = start.elapsed();
    let start = Instant::now();
    let again = names.symbolizer.resolve(&space, &addresses);
    let warm = start.elapsed();

    eprintln!("cold {cold:?}, warm {warm:?}");
    let known =
        frames.iter().filter(|frames| frames.iter().all(|frame| frame.function.is_some() && frame.line.is_some()));
    assert!(known.count() > 9_500, "all but what lies in gaps and start-up code");
    assert_eq!(frames, again);
    assert!(cold < Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 2 }), "{cold:?}");
    assert!(warm < cold / 2, "what is known is not looked up again: {warm:?} of {cold:?}");
}

/// Not a limit but a figure: the same over files of one's own choice.
/// `LEAKTRACE_SPEED_FILES=/usr/lib/a.so:/usr/lib/b.so cargo test --release --test symbolize figure -- --nocapture`
#[test]
fn figure_for_files_of_ones_own_choice() {
    let chosen = std::env::var_os("LEAKTRACE_SPEED_FILES");
    let (files, total): (Vec<PathBuf>, u64) = match &chosen {
        Some(list) => (std::env::split_paths(list).collect(), 10_000),
        None => (vec![std::env::current_exe().expect("own path")], 200),
    };
    let dir = scratch();
    let victim = mapping(dir.path(), &files);
    let mut names = Names::new(&[Path::new("/usr/lib/debug")]);
    let space = victim.capture(&names.store);
    let addresses = spread(&space, &files, total / files.len() as u64);
    let start = Instant::now();
    let frames = names.symbolizer.resolve(&space, &addresses);
    let cold = start.elapsed();
    let known = frames.iter().filter(|frames| frames.iter().any(|frame| frame.function.is_some())).count();
    let lines = frames.iter().filter(|frames| frames.iter().any(|frame| frame.line.is_some())).count();
    eprintln!("{} addresses, {} objects: {cold:?}; {known} named, {lines} with lines", addresses.len(), files.len());
    assert_eq!(frames.len(), addresses.len());
    assert!(known > addresses.len() / 10 && lines > 0, "{known} {lines}");
}
