//! Several leaktraces at once: none stops another unasked, and who finds a process taken is told by whom.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build};

/// Two that have each other stopped would wait for each other for ever. A victim stands for the other here, by its file's name: the real
/// one's stacks would take a minute to walk and name.
#[test]
fn another_leaktrace_is_not_stopped_for_a_leak_check_unless_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leaktrace");
    build::copied(&build::victim("puppet.c"), &file);
    // By another name, since the other tests' are not to be traced.
    let name = "another-tracer";
    let link = directory.path().join(name);
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut other = Victim::spawn("puppet.c", Command::new(&link).arg("wait"));
    other.wait_until_ready();
    other.go();
    let pid = other.pid().to_string();
    for (options, is_judged) in [(["--comm", name], false), (["-p", &pid], true)] {
        let tracer = Tracer::start(&[&options[..], &["--leak-check", "--max-pause", "1h"]].concat());
        other.tell("a a 1000 5");
        let finished = tracer.stop();
        let snapshot = finished.exact();
        let said = format!("no verdict on the blocks of process {pid}: it is another leaktrace");
        assert_eq!(snapshot.process(other.pid()).leak_check.is_some(), is_judged, "{}", finished.stdout);
        assert_eq!(finished.stdout.contains(&said), !is_judged, "{}", finished.stdout);
    }
}

#[test]
fn the_command_of_another_leaktrace_is_said_to_be_that() {
    let losing = build::victim("losing.c");
    let script = format!("echo pid $$; exec {} run 3000", path_str(&losing));
    let other = Tracer::start_unready(&["--leak-check=no", "--", "/bin/sh", "-c", &script]);
    let line = other.wait_for_output("its pid", |line| line.starts_with("pid "));
    let pid: i32 = line["pid ".len()..].parse().unwrap();
    let tracer = Tracer::start(&["-p", &pid.to_string(), "-i", "200ms", "-n", "2"]);
    let finished = tracer.wait();
    let said = format!(
        "no verdict on the blocks of process {pid}: process {pid} is the COMMAND of another leaktrace (process {})",
        other.pid()
    );
    assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    other.wait();
}
