//! What happens to programs and their files between the moment an address is captured and the report.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;

use crate::harness::{Names, Victim, compile, functions, line, places, scratch, symbol};

const CHAIN: [&str; 3] = ["inlined_leaf", "inlined_middle", "outer"];

#[test]
fn a_process_that_has_ended_keeps_its_names() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let address = victim.address("inlined");
    victim.end();
    fs::remove_file(&program).expect("removed");
    assert_eq!(functions(&names.returning(&space, address)), CHAIN);
}

#[test]
fn a_program_deleted_before_we_came_has_its_names_and_its_path() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    fs::remove_file(&program).expect("removed");
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("inlined"));
    assert_eq!(functions(&frames), CHAIN);
    assert_eq!(frames[0].module.as_deref(), Some(&*program));
}

#[test]
fn another_program_at_the_same_path_lends_no_names() {
    let dir = scratch();
    let program = dir.path().join("plain");
    let impostor = dir.path().join("impostor");
    compile("plain.c", &program, &["-g"]);
    compile("impostor.c", &impostor, &["-g"]);

    // Replaced before the first look, and again between the look and the report.
    let victim = Victim::start(&mut Command::new(&program));
    fs::rename(&impostor, &program).expect("replaced");
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    compile("impostor.c", &impostor, &["-g"]);
    fs::rename(&impostor, &program).expect("replaced again");
    assert_eq!(functions(&names.returning(&space, victim.address("inlined"))), CHAIN);

    // Without a descriptor to hold there is only the path, which lies: no name is better than a wrong one.
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names { store: leaktrace::process::maps::ObjectStore::with_limit(0), ..Names::new(&[]) };
    let space = victim.capture(&names.store);
    compile("impostor.c", &impostor, &["-g"]);
    fs::rename(&impostor, &program).expect("replaced");
    let frames = names.returning(&space, victim.address("inlined"));
    assert_eq!(functions(&frames), ["-"]);
    assert!(frames[0].module_offset.is_some());
    let notes = names.notes().join("\n");
    assert!(notes.contains("another file took its place"), "{notes}");
}

#[test]
fn a_library_overwritten_in_place_lends_no_names() {
    let dir = scratch();
    let (program, plugin) = (dir.path().join("host"), dir.path().join("plugin.so"));
    compile("host.c", &program, &["-g"]);
    compile("plugin.c", &plugin, &["-g", "-shared", "-fPIC"]);
    let victim = Victim::start(Command::new(&program).arg(&plugin));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    assert_eq!(functions(&names.returning(&space, victim.address("plugin"))), ["plugin_entry"]);

    // A symbolizer that had not read it yet, after its content has gone. Not a byte of it is mapped by us.
    fs::write(&plugin, "short").expect("overwritten in place");
    let late = Names::new(&[]);
    names.symbolizer = late.symbolizer;
    assert_eq!(functions(&names.returning(&space, victim.address("plugin"))), ["-"]);
    let notes = names.notes().join("\n");
    assert!(notes.contains("overwritten after it was mapped"), "{notes}");
}

#[test]
fn a_library_that_was_only_touched_keeps_its_names() {
    let dir = scratch();
    let (program, plugin) = (dir.path().join("host"), dir.path().join("plugin.so"));
    compile("host.c", &program, &["-g"]);
    compile("plugin.c", &plugin, &["-g", "-shared", "-fPIC", "-Wl,--build-id"]);
    let victim = Victim::start(Command::new(&program).arg(&plugin));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let file = fs::File::options().write(true).open(&plugin).expect("open");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
    assert_eq!(functions(&names.returning(&space, victim.address("plugin"))), ["plugin_entry"]);
}

#[test]
fn a_plugin_that_was_unloaded_keeps_its_names() {
    let dir = scratch();
    let (program, plugin) = (dir.path().join("host"), dir.path().join("plugin.so"));
    compile("host.c", &program, &["-g"]);
    compile("plugin.c", &plugin, &["-g", "-shared", "-fPIC"]);
    let mut victim = Victim::start(Command::new(&program).arg(&plugin));
    let mut names = Names::new(&[]);
    let mut space = victim.capture(&names.store);
    victim.step();
    space.recapture(&names.store).expect("still there");
    let address = victim.address("plugin");
    let location = space.locate(leaktrace::model::Address(address)).expect("remembered");
    assert!(!location.mapped);
    let frames = names.returning(&space, address);
    assert_eq!(functions(&frames), ["plugin_entry"]);
    assert_eq!(places(&frames), [format!("plugin.c:{}", line("plugin.c", "plugin_entry"))]);
    assert_eq!(frames[0].module.as_deref(), Some(&*plugin));
}

#[test]
fn a_program_that_runs_from_memory_has_its_names() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let memory = nix::sys::memfd::memfd_create(c"in memory", nix::sys::memfd::MFdFlags::empty()).expect("memfd");
    let mut file = fs::File::from(memory);
    std::io::copy(&mut fs::File::open(&program).expect("open"), &mut file).expect("copied");
    fs::remove_file(&program).expect("removed");
    let victim = Victim::start(&mut Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())));
    drop(file);
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let address = victim.address("inlined");
    victim.end();
    let frames = names.returning(&space, address);
    assert_eq!(functions(&frames), CHAIN);
    assert_eq!(frames[0].module.as_deref(), Some(std::path::Path::new("/memfd:in memory")));
}

#[test]
fn a_program_that_only_its_mount_namespace_shows_has_its_names() {
    let dir = scratch();
    let (program, impostor) = (dir.path().join("plain"), dir.path().join("impostor"));
    compile("plain.c", &program, &["-g"]);
    compile("impostor.c", &impostor, &["-g"]);
    // In the namespace the path leads to one program, here to the other.
    let script = "mount --bind \"$1\" \"$2\" && exec \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&program).arg(&impostor);
    let victim = Victim::start(&mut command);
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let address = victim.address("inlined");
    victim.end();
    let frames = names.returning(&space, address);
    assert_eq!(functions(&frames), CHAIN);
    assert_eq!(frames[0].module.as_deref(), Some(&*impostor), "as the process sees it");
}

#[test]
fn two_processes_share_one_descriptor_and_one_reading() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let (first, second) = (Victim::start(&mut Command::new(&program)), Victim::start(&mut Command::new(&program)));
    let mut names = Names::new(&[]);
    let space = first.capture(&names.store);
    let held = names.store.held();
    let other = second.capture(&names.store);
    assert_eq!(names.store.held(), held);
    let ours = names.returning(&space, first.address("inlined"));
    // Known by now, so that nothing is read again, which would say that the file has gone bad.
    fs::File::options().append(true).open(dir.path().join("plain")).expect_err("it runs");
    first.end();
    let other_address = second.address("inlined");
    second.end();
    fs::write(&program, "").expect("overwritten");
    let theirs = names.returning(&other, other_address);
    let offsets =
        |frames: &[leaktrace::model::Frame]| frames.iter().map(|frame| frame.module_offset).collect::<Vec<_>>();
    assert_eq!(functions(&ours), functions(&theirs));
    assert_eq!(offsets(&ours), offsets(&theirs));
}

#[test]
fn a_process_whose_first_thread_has_ended_has_its_names() {
    let dir = scratch();
    let program = dir.path().join("leaderless");
    compile("leaderless.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("second"));
    assert_eq!(functions(&frames), ["second"]);
    assert_eq!(places(&frames), [format!("leaderless.c:{}", line("leaderless.c", "second"))]);
}

#[test]
fn the_kernels_own_page_has_names() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let page = space.mappings().find(|location| location.module.to_str() == Some("[vdso]")).expect("mapped");
    let image = dir.path().join("vdso");
    std::io::copy(
        &mut page.object.expect("readable").open().expect("open"),
        &mut fs::File::create(&image).expect("created"),
    )
    .expect("copied");
    let text = crate::harness::run(Command::new("nm").args(["-D", "-S", "--defined-only"]).arg(&image));
    let start = text
        .lines()
        .find(|line| line.ends_with(" __vdso_clock_gettime") || line.contains(" __vdso_clock_gettime@"))
        .and_then(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok())
        .expect("every x86-64 kernel has it");
    let frames = names.exact(&space, page.start.0 + start + 1);
    assert_eq!(functions(&frames), ["clock_gettime"], "the shorter of its two names");
    assert_eq!(frames[0].module_offset, Some(start + 1));
}

#[test]
fn a_stripped_program_is_shown_by_offset() {
    let dir = scratch();
    let (program, stripped) = (dir.path().join("plain"), dir.path().join("stripped"));
    compile("plain.c", &program, &["-g", "-rdynamic"]);
    crate::harness::run(Command::new("strip").arg("-o").arg(&stripped).arg(&program));
    let victim = Victim::start(&mut Command::new(&stripped));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    assert_eq!(functions(&names.returning(&space, victim.address("exported"))), ["exported"]);
    let hidden = names.returning(&space, victim.address("hidden"));
    assert_eq!(functions(&hidden), ["-"]);
    let (start, size) = symbol(&program, "hidden");
    let offset = hidden[0].module_offset.expect("an offset");
    assert!((start..start + size).contains(&offset), "{offset:#x} lies in what was hidden");
    assert_eq!(hidden[0].module.as_deref(), Some(&*stripped));
}
