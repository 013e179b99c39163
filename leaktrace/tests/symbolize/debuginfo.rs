//! Debug information that is kept apart from the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Names, Victim, compile, functions, line, places, run, scratch, symbol};

/// Splits `plain.c` into a stripped program and its debug file.
fn split(dir: &Path, flags: &[&str], debug: &Path) -> PathBuf {
    let (whole, program) = (dir.join("whole"), dir.join("plain"));
    compile("plain.c", &whole, &[&["-g"], flags].concat());
    fs::create_dir_all(debug.parent().expect("a directory")).expect("created");
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&whole).arg(debug));
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(debug);
    run(Command::new("objcopy").arg("--strip-all").arg(link).arg(&whole).arg(&program));
    program
}

fn chain(names: &mut Names, program: &Path) -> (Vec<String>, Vec<String>) {
    let victim = Victim::start(&mut Command::new(program));
    let space = victim.capture(&names.store);
    let address = victim.address("inlined");
    victim.end();
    let frames = names.returning(&space, address);
    (functions(&frames).into_iter().map(str::to_owned).collect(), places(&frames))
}

fn assert_whole((functions, places): (Vec<String>, Vec<String>)) {
    assert_eq!(functions, ["inlined_leaf", "inlined_middle", "outer"]);
    assert_eq!(places, ["leaf", "middle", "outer"].map(|marker| format!("plain.c:{}", line("plain.c", marker))));
}

#[test]
fn a_debug_link_is_followed_beside_the_program() {
    for place in ["plain.debug", ".debug/plain.debug"] {
        let dir = scratch();
        let program = split(dir.path(), &["-Wl,--build-id=none"], &dir.path().join(place));
        assert_whole(chain(&mut Names::new(&[]), &program));
    }
}

#[test]
fn a_debug_link_is_followed_into_the_debug_directory() {
    let (dir, debug) = (scratch(), scratch());
    let place = dir.path().strip_prefix("/").expect("absolute");
    let program = split(dir.path(), &["-Wl,--build-id=none"], &debug.path().join(place).join("plain.debug"));
    assert_whole(chain(&mut Names::new(&[debug.path()]), &program));
    assert_eq!(chain(&mut Names::new(&[]), &program).0, ["-"], "nowhere else to look");
}

#[test]
fn a_debug_file_of_another_build_lends_no_names() {
    for id in ["-Wl,--build-id=none", "-Wl,--build-id"] {
        let dir = scratch();
        let debug = dir.path().join("plain.debug");
        let program = split(dir.path(), &[id], &debug);
        let other = dir.path().join("other");
        compile("impostor.c", &other, &["-g", id]);
        run(Command::new("objcopy").arg("--only-keep-debug").arg(&other).arg(&debug));
        let mut names = Names::new(&[]);
        assert_eq!(chain(&mut names, &program), (vec!["-".to_owned()], vec!["-".to_owned()]));
        let notes = names.notes().join("\n");
        assert!(notes.contains("plain.debug belongs to another build"), "{notes}");
    }
}

#[test]
fn a_build_id_leads_to_the_debug_file() {
    let (dir, debug) = (scratch(), scratch());
    let id = "0123456789abcdef0123456789abcdef01234567";
    let place = debug.path().join(".build-id/01/23456789abcdef0123456789abcdef01234567.debug");
    let program = split(dir.path(), &[&format!("-Wl,--build-id=0x{id}")], &place);
    run(Command::new("objcopy").arg("--remove-section=.gnu_debuglink").arg(&program));
    assert_whole(chain(&mut Names::new(&[debug.path()]), &program));
}

#[test]
fn debug_information_in_the_root_of_a_container_is_found_there() {
    let root = scratch();
    fs::create_dir_all(root.path().join("bin")).expect("created");
    let id = "ab23456789abcdef0123456789abcdef01234567";
    let debug = "usr/lib/debug/.build-id/ab/23456789abcdef0123456789abcdef01234567.debug";
    let build_id = format!("-Wl,--build-id=0x{id}");
    split(&root.path().join("bin"), &["-static", &build_id], &root.path().join(debug));

    let victim = Victim::start(Command::new("chroot").arg(root.path()).arg("/bin/plain"));
    let mut names = Names::new(&[Path::new("/usr/lib/debug")]);
    let space = victim.capture(&names.store);
    let address = victim.address("inlined");
    victim.end();
    let frames = names.returning(&space, address);
    assert_eq!(functions(&frames), ["inlined_leaf", "inlined_middle", "outer"]);
    assert_eq!(frames[0].module.as_deref(), Some(Path::new("/bin/plain")), "as the process sees it");
}

#[test]
fn compressed_debug_information_is_read() {
    for format in ["zlib", "zstd"] {
        let dir = scratch();
        let (whole, program) = (dir.path().join("whole"), dir.path().join("plain"));
        compile("plain.c", &whole, &["-g"]);
        let flag = format!("--compress-debug-sections={format}");
        run(Command::new("objcopy").arg(flag).arg(&whole).arg(&program));
        let headers = run(Command::new("readelf").arg("-SW").arg(&program));
        let compressed = headers.lines().any(|line| line.contains(".debug_info") && line.contains(" C "));
        assert!(compressed, "{headers}");
        assert_whole(chain(&mut Names::new(&[]), &program));
    }
}

#[test]
fn the_packed_symbol_table_of_a_stripped_program_is_read() {
    let dir = scratch();
    let (whole, mini) = (dir.path().join("whole"), dir.path().join("mini"));
    let (packed, program) = (dir.path().join("packed"), dir.path().join("plain"));
    compile("plain.c", &whole, &["-g"]);
    // As "MiniDebugInfo" in gdb's manual says.
    run(Command::new("objcopy").args(["--only-keep-debug", "--strip-debug"]).arg(&whole).arg(&mini));
    let options = lzma_rust2::XzOptions::with_preset(6);
    let mut writer = lzma_rust2::XzWriter::new(fs::File::create(&packed).expect("created"), options).expect("writer");
    std::io::copy(&mut fs::File::open(&mini).expect("open"), &mut writer).expect("packed");
    writer.finish().expect("packed");
    let mut section = std::ffi::OsString::from("--add-section=.gnu_debugdata=");
    section.push(&packed);
    run(Command::new("objcopy").arg("--strip-all").arg(section).arg(&whole).arg(&program));

    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("hidden"));
    assert_eq!(functions(&frames), ["hidden"]);
    assert_eq!(places(&frames), ["-"], "it has no lines");
    let (start, size) = symbol(&whole, "hidden");
    assert!((start..start + size).contains(&frames[0].module_offset.expect("an offset")));
}

#[test]
fn a_program_without_any_symbol_is_said() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-s", "-static"]);
    let mut names = Names::new(&[]);
    assert_eq!(chain(&mut names, &program).0, ["-"]);
    let notes = names.notes().join("\n");
    assert!(notes.contains("has no symbols"), "{notes}");
}

#[test]
fn broken_debug_information_costs_lines_and_nothing_else() {
    let dir = scratch();
    let (whole, program) = (dir.path().join("whole"), dir.path().join("plain"));
    compile("plain.c", &whole, &["-g"]);
    let noise = dir.path().join("noise");
    for (seed, section) in
        [".debug_info", ".debug_abbrev", ".debug_line", ".debug_aranges", ".debug_str"].iter().enumerate()
    {
        // A fixed generator (Knuth's MMIX constants), so that a failure can be had again.
        let mut state = seed as u64 + 1;
        let bytes: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        fs::write(&noise, bytes).expect("written");
        let mut update = std::ffi::OsString::from(format!("--update-section={section}="));
        update.push(&noise);
        run(Command::new("objcopy").arg(update).arg(&whole).arg(&program));
        let (functions, _) = chain(&mut Names::new(&[]), &program);
        assert_eq!(functions.last().map(String::as_str), Some("outer"), "{section}");
    }
}
