//! Programs whose symbols were made to harm whoever reads them. They lose their own names, and no other's.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leaktrace::model::Address;
use leaktrace::symbolize::CodeAddress;

use crate::harness::{Names, Victim, compile, functions, line, places, run, scratch, source};

/// `hostile.S` with these definitions, and the function in it as it is named.
fn hostile(definitions: &[&str], mut names: Names) -> (Vec<String>, Vec<String>, Names) {
    let dir = scratch();
    let program = dir.path().join("hostile");
    let assembly = source("hostile.S");
    compile("hostile.c", &program, &[definitions, &[assembly.to_str().expect("a path")]].concat());
    let victim = Victim::start(&mut Command::new(&program));
    let space = victim.capture(&names.store);
    let frames = names.exact(&space, victim.address("deep") + 3);
    let functions = functions(&frames).into_iter().map(str::to_owned).collect();
    (functions, places(&frames), names)
}

#[test]
fn inlined_calls_nested_without_end_do_not_overflow_the_stack() {
    let (functions, places, names) = hostile(&["-DDEPTH=1000"], Names::new(&[]));
    assert_eq!((&functions[..], &places[..]), (&["deep".to_owned()][..], &["hostile.S:1".to_owned()][..]));
    assert_eq!(names.notes(), [""; 0]);

    let (functions, places, names) = hostile(&["-DDEPTH=1000000"], Names::new(&[]));
    assert_eq!((&functions[..], &places[..]), (&["deep".to_owned()][..], &["hostile.S:1".to_owned()][..]));
    let notes = names.notes().join("\n");
    assert!(notes.contains("nests functions more than 1024 deep"), "{notes}");
}

#[test]
fn debug_information_that_takes_for_ever_is_given_up_and_delays_the_others_once() {
    let (dir, mut names) = (scratch(), Names::new(&[]));
    names.symbolizer = names.symbolizer.with_patience(Duration::from_millis(300));
    // Some seconds, so that the thread that is left with it ends as well.
    let (functions_, places, mut names) = hostile(&["-DFLAGS=2000"], names);
    assert_eq!((&functions_[..], &places[..]), (&["-".to_owned()][..], &["-".to_owned()][..]));
    let notes = names.notes().join("\n");
    assert!(notes.contains("took too long"), "{notes}");

    // Whichever thread is left with it, the next objects are read.
    names.symbolizer = names.symbolizer.with_patience(Duration::from_mins(1));
    for copy in 0..8 {
        let program = dir.path().join(format!("plain{copy}"));
        compile("plain.c", &program, &["-g"]);
        let victim = Victim::start(&mut Command::new(&program));
        let space = victim.capture(&names.store);
        let frames = names.returning(&space, victim.address("hidden"));
        assert_eq!(functions(&frames), ["hidden"]);
        assert_eq!(crate::harness::places(&frames), [format!("plain.c:{}", line("plain.c", "hidden"))]);
    }
}

/// Sections that claim to unpack to more memory than there is.
#[test]
fn sizes_beyond_all_memory_are_not_believed() {
    let dir = scratch();
    let (whole, packed, program) = (dir.path().join("whole"), dir.path().join("packed"), dir.path().join("plain"));
    compile("plain.c", &whole, &["-g"]);
    run(Command::new("objcopy").arg("--compress-debug-sections=zlib").arg(&whole).arg(&packed));
    let mut bytes = fs::read(&packed).expect("read");
    // Compression header of zlib: type 1, reserved 0, unpacked size, alignment, then zlib's own first byte.
    let headers: Vec<usize> = (0..bytes.len() - 25)
        .filter(|&at| {
            bytes[at..at + 8] == [1, 0, 0, 0, 0, 0, 0, 0] && bytes[at + 16..at + 25] == [1, 0, 0, 0, 0, 0, 0, 0, 0x78]
        })
        .collect();
    assert!(headers.len() >= 2, "{headers:?}");
    for at in headers {
        bytes[at + 8..at + 16].copy_from_slice(&(1u64 << 46).to_le_bytes());
    }
    fs::write(&packed, bytes).expect("written");
    // By another process: a file that somebody may write to cannot be executed, and what other threads start inherits our
    // descriptors for a moment.
    run(Command::new("cp").args([&packed, &program]));
    run(Command::new("chmod").arg("+x").arg(&program));
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("hidden"));
    assert_eq!((functions(&frames), places(&frames)), (vec!["hidden"], vec!["-".to_owned()]));
    let notes = names.notes().join("\n");
    assert!(notes.contains("more than 4 GiB"), "{notes}");
}

/// A program cannot have us open a file of its choice by naming it as a part of its debug information.
#[test]
fn a_reference_to_another_file_is_not_followed() {
    let dir = scratch();
    let (whole, link, program) = (dir.path().join("whole"), dir.path().join("link"), dir.path().join("plain"));
    compile("plain.c", &whole, &["-g"]);
    let target = dir.path().join("pipe");
    nix::unistd::mkfifo(&target, nix::sys::stat::Mode::S_IRWXU).expect("a pipe, which blocks whoever opens it");
    let content = [target.to_str().expect("a path").as_bytes(), b"\0", &[7; 20]].concat();
    fs::write(&link, content).expect("written");
    let add = |section: &str, file: &Path| format!("--add-section={section}={}", file.display());
    run(Command::new("objcopy").arg(add(".gnu_debugaltlink", &link)).arg(&whole).arg(&program));
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("hidden"));
    assert_eq!((functions(&frames), places(&frames)), (vec!["hidden"], vec!["-".to_owned()]));
    let notes = names.notes().join("\n");
    assert!(notes.contains("parts of it are in another file"), "{notes}");
}

/// Whatever single byte is changed in a program's headers and symbols, the program that reads them goes on.
#[test]
fn damaged_headers_cost_names_and_nothing_else() {
    let dir = scratch();
    let (whole, damaged) = (dir.path().join("whole"), dir.path().join("damaged"));
    compile("plain.c", &whole, &["-g"]);
    let bytes = fs::read(&whole).expect("read");
    let sections = u64::from_le_bytes(bytes[40..48].try_into().expect("eight")) as usize;
    let mapper = dir.path().join("library_map");
    compile("library_map.c", &mapper, &[]);
    // Every field of the file header and of all section headers, set to the largest value.
    let fields: Vec<usize> = (16..64).step_by(2).chain((sections..bytes.len()).step_by(4)).collect();
    assert!(fields.len() > 300, "{}", fields.len());
    let files: Vec<_> = fields
        .iter()
        .map(|&field| {
            let mut bytes = bytes.clone();
            let end = (field + 4).min(bytes.len());
            bytes[field..end].fill(0xff);
            let file = damaged.with_extension(field.to_string());
            fs::write(&file, bytes).expect("written");
            file
        })
        .collect();
    let list = files.iter().fold(String::new(), |list, file| list + &file.to_string_lossy() + "\n") + "\n";
    let victim = Victim::start_with(&mut Command::new(&mapper), &list);
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let (outer, _) = crate::harness::symbol(&whole, "outer");
    let addresses: Vec<_> =
        files.iter().map(|file| CodeAddress::exact(Address(victim.address(&file.to_string_lossy()) + outer))).collect();
    let frames = names.symbolizer.resolve(&space, &addresses);
    let right = frames.iter().filter(|frames| functions(frames).last() == Some(&"outer")).count();
    let wrong = frames.iter().filter(|frames| !["outer", "-"].contains(functions(frames).last().expect("a frame")));
    assert_eq!(wrong.count(), 0);
    assert!(right > fields.len() / 2 && right < fields.len(), "{right} of {}", fields.len());
}
