//! Whatever is wrong from outside is said in one line that names it, with the right exit status.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;

use crate::harness::confined::{as_nobody, with_hidden, with_small_disk, without_syscall};
use crate::harness::tracer::path_str;
use crate::harness::{Finished, Snapshot, Tracer, Victim, build, leaktrace, require_privileges};

fn run(arguments: &[&str]) -> Finished {
    Finished::of(&mut leaktrace(arguments))
}

/// The command of bpf(2) that attaches programs to many functions at once (linux/bpf.h).
const BPF_LINK_CREATE: u32 = 28;

/// The pid of a process that has just ended: nobody has it now.
fn dead_pid() -> String {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    child.wait().unwrap();
    pid
}

#[test]
fn no_such_pid() {
    require_privileges();
    let pid = dead_pid();
    run(&["-p", &pid]).assert_refused(1, &[&pid]);
}

#[test]
fn one_of_several_pids_does_not_exist() {
    require_privileges();
    let victim = Victim::start("idle.c", &[]);
    let pid = dead_pid();
    run(&["-p", &format!("{},{pid}", victim.pid())]).assert_refused(1, &[&pid]);
}

#[test]
fn the_pid_of_another_user() {
    require_privileges();
    let victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let (mut command, _directory) = as_nobody(&["-p", &pid]);
    Finished::of(&mut command).assert_refused(1, &[]);
}

#[test]
fn no_capabilities_and_not_root() {
    require_privileges();
    let (mut command, _directory) = as_nobody(&["--", "/bin/true"]);
    Finished::of(&mut command).assert_refused(1, &["root"]);
    let (mut command, _directory) = as_nobody(&[]);
    Finished::of(&mut command).assert_refused(1, &["root"]);
}

#[test]
fn a_kernel_without_bpf() {
    require_privileges();
    let victim = Victim::start("idle.c", &[]);
    let mut command = leaktrace(["-p", &victim.pid().to_string()]);
    without_syscall(&mut command, libc::SYS_bpf, None);
    Finished::of(&mut command).assert_refused(1, &["BPF"]);
}

#[test]
fn a_kernel_without_uprobes() {
    require_privileges();
    let victim = Victim::start("idle.c", &[]);
    let mut command = leaktrace(["-p", &victim.pid().to_string()]);
    // Whichever way probes go in: by perf events or by links of BPF programs.
    with_hidden(&mut command, "/sys/bus/event_source/devices");
    without_syscall(&mut command, libc::SYS_perf_event_open, None);
    without_syscall(&mut command, libc::SYS_bpf, Some(BPF_LINK_CREATE));
    Finished::of(&mut command).assert_refused(1, &["uprobe"]);
}

#[test]
fn a_command_that_does_not_exist() {
    require_privileges();
    run(&["--", "/no/such/program"]).assert_refused(1, &["/no/such/program"]);
    run(&["--", "no-such-program-on-the-path"]).assert_refused(1, &["no-such-program-on-the-path"]);
}

#[test]
fn a_command_that_is_not_executable() {
    require_privileges();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    fs::write(&file, "not a program").unwrap();
    run(&["--", path_str(&file)]).assert_refused(1, &[path_str(&file)]);
    run(&["--", path_str(directory.path())]).assert_refused(1, &[path_str(directory.path())]);
    // Executable by its permissions, and still not a program.
    fs::write(&file, b"\x7fELF and then nothing").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    run(&["--", path_str(&file)]).assert_refused(1, &[path_str(&file)]);
}

/// The options that take a file.
const FILE_OPTIONS: [&str; 4] = ["--json", "--folded", "--flamegraph", "--timeline"];

#[test]
fn an_output_directory_that_does_not_exist_is_found_before_tracing() {
    require_privileges();
    for option in FILE_OPTIONS {
        let finished = run(&[option, "/no/such/directory/file", "--", "sh", "-c", "echo it ran"]);
        finished.assert_refused(1, &["/no/such/directory"]);
        assert!(!finished.stdout.contains("it ran"), "{option}: the command was started");
    }
}

#[test]
fn an_output_that_is_a_directory_is_found_before_tracing() {
    require_privileges();
    let directory = tempfile::tempdir().unwrap();
    for option in FILE_OPTIONS {
        let finished = run(&[option, path_str(directory.path()), "--", "sh", "-c", "echo it ran"]);
        finished.assert_refused(1, &[path_str(directory.path())]);
        assert!(!finished.stdout.contains("it ran"), "{option}: the command was started");
    }
}

#[test]
fn an_output_on_a_read_only_file_system_is_found_before_tracing() {
    require_privileges();
    // Nothing can be created there, by anybody.
    let finished = run(&["--json", "/proc/snapshot.json", "--", "sh", "-c", "echo it ran"]);
    finished.assert_refused(1, &["/proc/snapshot.json"]);
    assert!(!finished.stdout.contains("it ran"), "the command was started");
}

#[test]
fn a_full_disk_costs_the_file_and_not_the_report() {
    require_privileges();
    // 4,096 sites make a snapshot of many megabytes, for which a disk of one has no room.
    let place = tempfile::tempdir().unwrap();
    let json = place.path().join("snapshot.json");
    let victim = build::victim("stacks.c");
    let mut command = leaktrace(["--json", path_str(&json), "--", path_str(&victim), "run", "12"]);
    with_small_disk(&mut command, place.path(), 1 << 20);
    let finished = Finished::of(&mut command);
    finished.assert_failed_with_line(1, &[path_str(&json)]);
    assert!(finished.stdout.contains("leak_path"), "no report on standard output:\n{}", finished.stdout);
}

/// A directory in which device nodes work: temporary directories are often on file systems where they do not.
fn place_for_devices() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev").unwrap()
}

#[test]
fn a_full_device_costs_the_output_and_stays_a_device() {
    require_privileges();
    // A full device of our own: writing to it says ENOSPC, and nothing may be renamed over it.
    let place = place_for_devices();
    let full = place.path().join("full");
    nix::sys::stat::mknod(
        &full,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 7),
    )
    .unwrap();
    let victim = build::victim("family.c");
    let finished = run(&["--folded", path_str(&full), "--", path_str(&victim), "run"]);
    assert!(fs::metadata(&full).unwrap().file_type().is_char_device(), "the device was replaced by a file");
    finished.assert_failed_with_line(1, &[path_str(&full)]);
    assert!(finished.stdout.contains("leak_malloc"), "no report on standard output:\n{}", finished.stdout);
}

#[test]
fn a_null_device_is_a_fine_place_for_an_output() {
    require_privileges();
    let place = place_for_devices();
    let null = place.path().join("null");
    nix::sys::stat::mknod(
        &null,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    )
    .unwrap();
    let victim = build::victim("family.c");
    run(&["--json", path_str(&null), "--", path_str(&victim), "run"]).assert_success();
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device(), "the device was replaced by a file");
}

#[test]
fn a_target_without_an_allocator() {
    require_privileges();
    let mut command = Command::new(build::victim("nolibc.c"));
    let victim = Victim::spawn("nolibc", &mut command);
    victim.wait_until_ready();
    let finished = run(&["-p", &victim.pid().to_string(), "-d", "1s"]);
    finished.assert_refused(1, &["alloc", &victim.pid().to_string()]);
}

#[test]
fn more_stacks_than_a_map_holds_are_refused() {
    require_privileges();
    // A billion stacks of 127 frames would need more than 2^32 elements of 32 frames.
    let finished = run(&["--max-stacks", "1000000000", "--max-depth", "127", "--", "sh", "-c", "echo it ran"]);
    finished.assert_refused(1, &["--max-stacks", "more than a map holds"]);
    assert!(!finished.stdout.contains("it ran"), "the command was started");
}

#[test]
fn a_minimum_size_above_the_maximum_is_a_usage_error() {
    run(&["-z", "100", "-Z", "99", "--", "/bin/true"]).assert_refused(2, &["100", "99"]);
}

#[test]
fn usage_errors_have_status_two() {
    let bad: [&[&str]; 10] = [
        &["--no-such-option"],
        &["-p", "abc"],
        &["-p", "0"],
        &["-p", ""],
        &["-d", "5parsecs"],
        &["-z", "many"],
        &["--sort", "colour"],
        &["--flamegraph-by", "weight"],
        &["--max-allocs", "-1"],
        &["--max-depth", "1025"],
    ];
    for arguments in bad {
        let finished = run(arguments);
        assert_eq!(finished.status.code(), Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty(), "{arguments:?}");
    }
}

/// A snapshot of a small trace, as text.
fn a_snapshot() -> String {
    let victim = build::victim("family.c");
    let finished = Tracer::start_unready(&["--", path_str(&victim), "run"]).wait();
    finished.lossless();
    finished.read("snapshot.json")
}

#[test]
fn report_refuses_what_is_not_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let name = path_str(&file);
    run(&["report", name]).assert_refused(1, &[name]);
    for text in ["", "{", "[1, 2]", "hello", "{\"schema\": \"other/1\"}", "{}", "\u{0}\u{1}", "null"] {
        fs::write(&file, text).unwrap();
        run(&["report", name]).assert_refused(1, &[name]);
    }
    run(&["report", path_str(directory.path())]).assert_refused(1, &[path_str(directory.path())]);
}

#[test]
fn report_refuses_a_truncated_snapshot_at_whatever_place() {
    require_privileges();
    let whole = a_snapshot();
    let whole = whole.trim_end();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.json");
    for eighth in 1..8 {
        fs::write(&file, &whole.as_bytes()[..whole.len() * eighth / 8]).unwrap();
        run(&["report", path_str(&file)]).assert_refused(1, &[path_str(&file)]);
    }
    fs::write(&file, &whole.as_bytes()[..whole.len() - 1]).unwrap();
    run(&["report", path_str(&file)]).assert_refused(1, &[path_str(&file)]);
}

#[test]
fn report_refuses_a_newer_schema_and_says_so() {
    require_privileges();
    let newer = a_snapshot().replace("leaktrace/2\"", "leaktrace/3\"");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.json");
    fs::write(&file, newer).unwrap();
    run(&["report", path_str(&file)]).assert_refused(1, &[path_str(&file), "leaktrace/3"]);
}

#[test]
fn report_needs_no_rights() {
    require_privileges();
    let text = a_snapshot();
    let (mut command, directory) = as_nobody(&["report", "snapshot.json", "--folded", "out.folded"]);
    fs::write(directory.path().join("snapshot.json"), &text).unwrap();
    let finished = Finished::of(&mut command);
    finished.assert_success();
    let folded = fs::read_to_string(directory.path().join("out.folded")).unwrap();
    let stacks = folded.lines().filter(|line| !line.starts_with("# "));
    let bytes: u64 = stacks.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    let snapshot = Snapshot::parse(text.as_bytes());
    assert_eq!(bytes, snapshot.processes.iter().map(|process| process.outstanding_bytes).sum::<u64>());
}

#[test]
fn a_command_that_cannot_be_traced_does_not_run() {
    require_privileges();
    let place = tempfile::tempdir().unwrap();
    let trace = place.path().join("it-ran");
    let mut command = leaktrace(["--", "touch", path_str(&trace)]);
    without_syscall(&mut command, libc::SYS_bpf, None);
    Finished::of(&mut command).assert_refused(1, &[]);
    // Found only once the command is held: a program without an allocator.
    let nothing = build::victim("nolibc.c");
    let finished = run(&["--", path_str(&nothing)]);
    finished.assert_refused(1, &["alloc"]);
    assert!(!finished.stdout.contains("ready"), "the command ran: {}", finished.stdout);
    assert!(!trace.exists(), "the command ran");
}
