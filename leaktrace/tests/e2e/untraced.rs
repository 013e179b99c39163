//! What is not traced is said, with the reason: no process vanishes.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::build::Recipe;
use crate::harness::snapshot::Untraced;
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Late, Tracer, Victim, build, leaktrace, locks};

const I386: Recipe =
    Recipe::new("i386", "i386.c", &["-m32", "-nostdlib", "-static", "-ffreestanding", "-fno-pie", "-no-pie"]);
const STATIC: Recipe = Recipe::new("portable-static", "portable.c", &["-static"]);

/// What the JSON says of a process of this name.
fn entry(finished: &Finished, comm: &str) -> Untraced {
    let listed = finished.unchecked_snapshot().untraced;
    let entry = listed.iter().find(|process| process.comm.starts_with(comm));
    entry.unwrap_or_else(|| panic!("{comm} is not in {listed:?}")).clone()
}

/// The reason that the JSON gives for not tracing a process of this name.
fn reason(finished: &Finished, comm: &str) -> String {
    let entry = entry(finished, comm);
    assert!(!entry.partly, "{entry:?}");
    entry.reason
}

#[test]
fn a_32_bit_program_is_refused_with_one_true_sentence() {
    let program = I386.built();
    let mut running = Victim::spawn("i386", Command::new(&program).arg("wait"));
    let pid = running.pid().to_string();
    for arguments in [&["-p", &pid][..], &["--", path_str(&program)]] {
        let finished = Tracer::start_unready(arguments).wait();
        finished.assert_refused(1, &["cannot be traced", "i386", "64-bit programs"]);
        assert!(!finished.stderr.contains("--object"), "{}", finished.stderr);
    }
    assert!(running.lives());
}

#[test]
fn children_that_cannot_be_traced_are_listed_beside_one_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let stripped = build::stripped(&STATIC.built(), directory.path());
    let victim = build::victim("family.c");
    let script =
        format!("{}; {} run >/dev/null; {} run", path_str(&I386.built()), path_str(&stripped), path_str(&victim));
    let finished = Tracer::start_unready(&["--show-allocs", "--", "/bin/sh", "-c", &script]).wait();
    let mut accounts = Accounts::parse(&finished.stdout);
    // What the dynamic linker and the shell ask for beside is no victim's.
    accounts.totals.clear();
    finished.exact().assert_equals(&accounts);
    assert!(reason(&finished, "i386").contains("i386"), "{}", finished.stdout);
    assert!(reason(&finished, "portable").contains("no symbols to find it by"), "{}", finished.stdout);
    for comm in ["i386", "portable"] {
        let told = |line: &str| line.starts_with("warning: not traced: ") && line.contains(comm);
        assert!(finished.stdout.lines().any(told), "{comm}:\n{}", finished.stdout);
    }
    // The shell itself, its copies between fork and exec included, is traced.
    assert!(!finished.stdout.contains("not traced: sh"), "{}", finished.stdout);
}

#[test]
fn descendants_that_run_already_are_traced_too() {
    let mut master = Victim::start("prefork.c", &["3"]);
    let tracer = Tracer::attach(&master, &[]);
    let accounts = master.work();
    let finished = tracer.stop();
    let snapshot = finished.exact();
    assert_eq!(accounts.sites.len(), 3);
    snapshot.assert_equals(&accounts);
    assert!(snapshot.untraced.is_empty(), "whole from the beginning of the trace: {:?}", snapshot.untraced);
    master.finish();
}

#[test]
fn a_program_that_is_over_before_it_is_probed_is_listed() {
    let (program, victim) = (STATIC.built(), build::victim("family.c"));
    let script = format!("{} run >/dev/null; {} run >/dev/null", path_str(&program), path_str(&victim));
    let finished = Tracer::start_unready(&["--", "/bin/sh", "-c", &script]).wait();
    finished.assert_success();
    // Mapped before anybody could know of it. Whether its last allocations were seen is a matter of time.
    let entry = entry(&finished, "portable");
    assert!(entry.reason.contains("probed"), "{entry:?}");
    let listed = finished.snapshot().untraced;
    assert_eq!(listed.len(), 1, "the shell and the other program are traced from their first instruction: {listed:?}");
}

#[test]
fn a_program_that_is_probed_while_it_runs_is_traced_in_part() {
    let late = Late::start(&STATIC.built(), "", &[]);
    late.go();
    let finished = late.end().wait();
    finished.assert_success();
    let entry = entry(&finished, "portable");
    assert!(entry.partly && entry.reason.contains("in between is missing"), "{entry:?}");
    assert!(finished.snapshot().processes.iter().any(|process| process.pid == entry.pid));
    let told = |line: &str| line.starts_with("warning: traced in part: portable");
    assert!(finished.stdout.lines().any(told), "{}", finished.stdout);
}

#[test]
fn a_program_whose_file_is_gone_with_its_process_is_listed() {
    // Nobody else sees the file system that it lies in.
    let script = format!("mount -t tmpfs none /mnt && cp {} /mnt/hidden && /mnt/hidden run", path_str(&STATIC.built()));
    let finished = Tracer::start_unready(&["--", "unshare", "-m", "/bin/sh", "-c", &script]).wait();
    finished.assert_success();
    let entry = entry(&finished, "hidden");
    assert!(entry.reason.contains("files could not be opened") || entry.reason.contains("probed"), "{entry:?}");
}

#[test]
fn processes_for_which_no_slot_is_left_are_listed() {
    let mut master = Victim::start("prefork.c", &["3"]);
    let (pid, directory) = (master.pid().to_string(), tempfile::tempdir().unwrap());
    let json = directory.path().join("snapshot.json");
    let mut command = leaktrace(["-p", &pid, "--json", path_str(&json)]);
    let tracer = Tracer::spawn(command.env("LEAKTRACE_SLOTS", "2"), directory);
    tracer.wait_until_tracing();
    master.go();
    master.wait_for_line("\"done\"", |line| line == "done");
    let finished = tracer.stop();
    finished.assert_success();
    let listed = finished.unchecked_snapshot().untraced;
    let without: Vec<_> = listed.iter().filter(|it| !it.partly && it.reason.contains("told apart")).collect();
    // The master itself may be without one, too.
    assert!(without.iter().any(|it| it.pid != master.pid()), "{listed:?}");
    assert!(listed.iter().all(|it| !it.partly), "two are traced from the beginning: {listed:?}");
    master.finish();
}

#[test]
fn system_wide_what_ran_before_is_traced_from_the_beginning_and_what_begins_is_whole() {
    let _machine = locks::whole_machine();
    let mut before = Victim::start("family.c", &[]);
    let tracer = Tracer::start(&crate::system_wide::ROOM);
    let mut since = Victim::start("family.c", &[]);
    before.work();
    since.work();
    let finished = tracer.stop();
    finished.assert_success();
    let listed = finished.unchecked_snapshot().untraced;
    assert!(listed.iter().all(|it| !it.comm.starts_with("family")), "{listed:?}");
    let lines = finished.stdout.lines().filter(|line| line.contains("traced in part: ")).count();
    assert!(lines <= 3, "a line for each reason:\n{}", finished.stdout);
    before.finish();
    since.finish();
}

#[test]
fn system_wide_what_may_not_be_read_is_listed() {
    let _machine = locks::whole_machine();
    let finished = Tracer::start_unready(&["-d", "1"]).wait();
    finished.assert_success();
    let listed = finished.unchecked_snapshot().untraced;
    // Init, where a virtual machine's host keeps it.
    let is_denied =
        std::fs::read("/proc/1/maps").is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    let told = listed.iter().any(|it| it.pid == 1 && it.reason.contains("no permission to read its mappings"));
    assert_eq!(told, is_denied, "{listed:?}");
}

#[test]
fn descendants_that_are_left_out_are_counted() {
    let mut master = Victim::start("prefork.c", &["2"]);
    let tracer = Tracer::attach(&master, &["--no-follow"]);
    master.go();
    master.wait_for_line("\"done\"", |line| line == "done");
    let text = tracer.stop().stdout;
    assert!(text.contains("2 running processes that descend from those named are left out"), "{text}");
    assert!(text.contains("descendants that run and are left out; trace without --no-follow"), "{text}");
    assert!(!text.contains("trace for longer"), "{text}");
    master.finish();
}

#[test]
fn filters_that_no_process_passes_are_said_to_match_none() {
    let finished = Tracer::start_unready(&["--comm", "no-such-name", "-d", "300ms"]).wait();
    finished.assert_success();
    let text = finished.stdout;
    assert!(text.contains("no process was seen that matches --comm no-such-name"), "{text}");
    assert!(!text.contains("trace for longer"), "{text}");
}

#[test]
fn a_process_that_is_stopped_all_the_time_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let name = "stopped-puppet";
    let copy = directory.path().join(name);
    build::copied(&build::victim("puppet.c"), &copy);
    let puppet = Victim::spawn("puppet.c", Command::new(&copy).arg("wait"));
    puppet.wait_until_ready();
    let pid = puppet.pid();
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    signal(Signal::SIGSTOP);
    for options in [["-p", &pid.to_string()], ["--comm", name]] {
        let tracer = Tracer::start(&options);
        let finished = tracer.stop();
        finished.assert_success();
        let said = format!("not one allocation was seen: process {pid} is stopped by a signal");
        assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    }
    signal(Signal::SIGCONT);
}

#[test]
fn memory_that_grows_without_malloc_is_said_with_where() {
    let mut victim = Victim::start("mapping.c", &["100"]);
    let tracer = Tracer::attach(&victim, &[]);
    victim.go();
    victim.wait_for_line("\"done\"", |line| line == "done");
    let finished = tracer.stop();
    finished.assert_success();
    let line = finished.stdout.lines().find(|line| line.contains("not one allocation was seen")).unwrap_or_default();
    assert!(line.contains("without malloc: 100.") && line.contains("anonymous mappings (mmap)"), "{}", finished.stdout);
    victim.finish();
}

/// Lets a victim that was traced take its memory, and what the report says of that.
fn silence(victim: &mut Victim, tracer: Tracer) -> String {
    victim.go();
    victim.wait_for_line("\"done\"", |line| line == "done");
    let finished = tracer.stop();
    finished.assert_success();
    let line = finished.stdout.lines().find(|line| line.contains("without malloc: 100.")).map(str::to_owned);
    line.unwrap_or_else(|| panic!("{}", finished.stdout))
}

#[test]
fn memory_that_a_descendant_takes_without_malloc_is_said_too() {
    let mapping = build::victim("mapping.c");
    let script = format!("{} wait 100; true", path_str(&mapping));
    let mut shell = Victim::spawn("sh", Command::new("/bin/sh").args(["-c", &script]));
    shell.wait_until_ready();
    let tracer = Tracer::attach(&shell, &[]);
    let line = silence(&mut shell, tracer);
    assert!(!line.contains(&format!("process {} ", shell.pid())), "{line}");
    shell.finish();
}

#[test]
fn memory_that_a_process_takes_that_passes_the_filters_is_said_too() {
    const USER: u32 = 54_321;
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("takes-memory");
    build::copied(&build::victim("mapping.c"), &program);
    for filter in [["--uid", "54321"], ["--comm", "takes-memory"]] {
        let mut command = Command::new(&program);
        let mut victim =
            Victim::spawn("mapping", std::os::unix::process::CommandExt::uid(&mut command, USER).args(["wait", "100"]));
        victim.wait_until_ready();
        let tracer = Tracer::start(&filter);
        let line = silence(&mut victim, tracer);
        assert!(line.contains(&format!("process {} ", victim.pid())), "{line}");
        victim.finish();
    }
}

#[test]
fn memory_that_a_child_of_a_command_takes_without_malloc_is_said_too() {
    let directory = tempfile::tempdir().unwrap();
    let (said, pipe) = (directory.path().join("said"), directory.path().join("pipe"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&said, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let [said, pipe] = [&said, &pipe].map(|path| path_str(path).to_owned());
    let mapping = build::victim("mapping.c");
    let script = format!("{} wait 60 0<>{pipe} 1<>{said} & echo $!; wait", path_str(&mapping));
    let tracer = Tracer::start_unready(&["--", "/bin/sh", "-c", &script]);
    let pid = tracer.wait_for_output("the child's number", |line| line.parse::<u32>().is_ok());
    let mut words = std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::open(&said).unwrap()));
    assert_eq!(words.next().unwrap().unwrap(), "ready");
    std::fs::write(&pipe, "\n").unwrap();
    assert!(words.any(|word| word.unwrap() == "done"));
    tracer.signal(nix::sys::signal::Signal::SIGINT);
    tracer.wait_for_output("the report", |line| line.contains("grew by"));
    // What was launched goes on and holds the tracer's standard error.
    std::fs::write(&pipe, "\n").unwrap();
    let finished = tracer.wait();
    let told = format!("the memory of process {pid} grew by 60.");
    assert!(finished.stdout.contains(&told), "{}", finished.stdout);
}

#[test]
fn memory_that_grows_far_beyond_what_was_ever_outstanding_is_said_not_to_be_mallocs() {
    let finished = Tracer::start_unready(&["--", path_str(&build::victim("mapping.c")), "run", "60", "40"]).wait();
    finished.assert_success();
    let line = finished.stdout.lines().find(|line| line.contains("is not malloc's")).unwrap_or_default();
    assert!(line.contains("grew by 60.") && line.contains("anonymous mappings (mmap)"), "{}", finished.stdout);
}

#[test]
fn a_python_that_has_ended_is_known_to_have_shown_everything() {
    let python = "/usr/bin/python3";
    assert!(Path::new(python).exists(), "set-up installs it");
    let note = |variable: &str| {
        let finished = Tracer::start_unready(&["--", "/usr/bin/env", variable, python, "-c", "pass"]).wait();
        finished.assert_success();
        finished.stdout.lines().any(|line| line.starts_with("note:") && line.contains("PYTHONMALLOC=malloc"))
    };
    assert!(note("NOTHING=1"));
    assert!(!note("PYTHONMALLOC=malloc"));
}
