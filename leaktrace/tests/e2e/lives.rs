//! What may happen to a process while it is traced: its pid given to another, its rights changed, its file gone.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build};

#[test]
fn a_pid_that_is_given_out_again_inherits_nothing() {
    const LIVES: usize = 20;
    let mut victim = Victim::start("reborn.c", &[&LIVES.to_string()]);
    let tracer = Tracer::start(&["-p", &victim.pid().to_string(), "--show-allocs"]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    assert_eq!(accounts.sites.len(), LIVES);
    let pid = accounts.sites[0].pid;
    assert!(accounts.sites.iter().all(|site| site.pid == pid), "the kernel was to give the pid again and again");
    let mut found: Vec<_> = snapshot
        .processes
        .iter()
        .filter(|life| life.pid == pid)
        .map(|life| (life.outstanding_count, life.outstanding_bytes, life.alloc_count, life.free_count))
        .collect();
    found.sort_unstable();
    // The victim's rule: n blocks of 1000 + n bytes stay, and one is freed.
    let expected: Vec<_> = (1..=LIVES as u64).map(|n| (n, n * (1000 + n), n + 1, 1)).collect();
    assert_eq!(found, expected, "{}", snapshot.digest());
    assert!(snapshot.processes.iter().filter(|life| life.pid == pid).all(|life| life.untracked_frees == 0));
    victim.finish();
}

#[test]
fn rights_that_a_process_gives_up_do_not_matter() {
    // 65534 is nobody.
    for change in [["user", "65534"], ["hidden", "-"]] {
        let mut victim = Victim::start("changing.c", &change);
        let tracer = Tracer::attach(&victim, &[]);
        let accounts = victim.work();
        tracer.stop().lossless().assert_equals(&accounts);
        victim.finish();
    }
}

#[test]
fn exec_by_a_thread_takes_no_probes_away_even_without_following() {
    let puppet = build::victim("puppet.c");
    let mut victim = Victim::start("execing.c", &["into", path_str(&puppet), "wait"]);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-vv"]);
    victim.go();
    victim.wait_until_ready();
    let is_libc = |line: &str| line.contains("libc.so.6: probed") && line.contains("after it was mapped");
    tracer.wait_for_message("the word that the new program's C library is probed", is_libc);
    victim.go();
    victim.tell("a a 100 10");
    victim.tell("f a 3");
    let accounts = victim.report();
    let finished = tracer.stop();
    let snapshot = finished.lossless_but_for_early_stacks();
    let found = snapshot.through(victim.pid(), "leak_a");
    assert_eq!(found.outstanding(), (700, 7), "{}", snapshot.digest());
    assert_eq!(found.alloc_count, accounts.site("leak_a").calls.unwrap().allocs, "each once: {}", snapshot.digest());
    // Between its beginning and the probes nobody looked, which is said.
    assert!(finished.stdout.contains("by a thread that is not its first"), "{}", finished.stdout);
}

#[test]
fn two_hundred_processes_at_once_are_booked_exactly() {
    let brood = build::victim("brood.c");
    let finished = Tracer::start_unready(&["--", path_str(&brood), "run", "200", "200"]).wait();
    let accounts = crate::harness::Accounts::parse(&finished.stdout);
    let snapshot = finished.exact();
    let children: Vec<_> = snapshot.processes.iter().filter(|process| process.alloc_count == 3).collect();
    assert_eq!(children.len(), 200, "{}", snapshot.digest());
    assert!(children.iter().all(|child| child.exited && child.outstanding_bytes == 200));
    let allocs: u64 = snapshot.processes.iter().map(|process| process.alloc_count).sum();
    assert_eq!(allocs, accounts.fact("allocs"));
}

/// A copy of the puppet that nobody else runs.
fn own_puppet() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("server");
    build::copied(&build::victim("puppet.c"), &path);
    (directory, path)
}

fn assert_named_after(change: impl Fn(&PathBuf)) {
    let (_directory, path) = own_puppet();
    let mut puppet = Victim::spawn("a copy of puppet.c", Command::new(&path).arg("wait"));
    puppet.wait_until_ready();
    change(&path);
    puppet.go();
    let tracer = Tracer::attach(&puppet, &[]);
    puppet.tell("a a 100 10");
    puppet.tell("a b 50 4");
    puppet.tell("f b 1");
    let accounts = puppet.report();
    // By name: the functions of the file that it runs, not of what is there now.
    tracer.stop().lossless().assert_equals(&accounts);
}

#[test]
fn a_deleted_program_is_named_as_if_it_were_there() {
    assert_named_after(|path| fs::remove_file(path).expect("it can be deleted"));
}

#[test]
fn a_program_that_is_replaced_while_it_runs_is_named_by_what_it_runs() {
    assert_named_after(|path| {
        fs::rename(path, path.with_extension("old")).expect("it can be renamed");
        fs::copy(build::victim("family.c"), path).expect("another takes its place");
    });
}

/// The one child of a process, by the number that we see.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the kernel lists children");
    children.trim().parse().expect("one child")
}

#[test]
fn a_process_in_a_pid_namespace_is_traced_by_the_number_that_we_see() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(build::victim("puppet.c")).arg("wait");
    let mut puppet = Victim::spawn("a puppet in a pid namespace", &mut command);
    puppet.wait_until_ready();
    let pid = child_of(puppet.pid());
    puppet.go();
    let tracer = Tracer::start(&["-p", &pid.to_string(), "--show-allocs"]);
    puppet.tell("a a 100 10");
    puppet.tell("f a 3");
    let accounts = puppet.report();
    let snapshot = tracer.stop().lossless();
    // To itself it is the first process.
    assert_eq!(accounts.site("leak_a").pid, 1);
    assert_eq!(snapshot.through(pid, "leak_a").outstanding(), (700, 7), "{}", snapshot.digest());
    assert_eq!(snapshot.processes.len(), 1);
}

#[test]
fn from_inside_a_pid_namespace_a_trace_is_refused_and_says_why() {
    crate::harness::require_privileges();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(crate::harness::tracer::binary()).args(["-p", "1"]);
    let finished = crate::harness::Finished::of(&mut command);
    finished.assert_failed_with_line(1, &["pid namespace"]);
}

#[test]
fn what_a_process_held_is_as_old_as_it_was_at_its_end() {
    let (mut short, mut long) = (Victim::start("puppet.c", &[]), Victim::start("puppet.c", &[]));
    short.go();
    long.go();
    let pids = format!("{},{}", short.pid(), long.pid());
    let tracer = Tracer::start(&["-p", &pids, "--show-allocs"]);
    let before = Instant::now();
    short.tell("a a 100 10");
    long.tell("a a 100 10");
    short.report();
    short.tell_last("q 0");
    short.wait();
    let life = before.elapsed();
    std::thread::sleep(life * 2 + Duration::from_millis(500));
    let snapshot = tracer.stop().lossless();
    let oldest = |pid| snapshot.sites_through(pid, "leak_a")[0].oldest_s.expect("it holds blocks");
    // A tick of the kernel's is at most 10 ms, and two of them are read.
    assert!(oldest(short.pid()) <= life.as_secs_f64() + 0.02, "{} of {life:?}", oldest(short.pid()));
    assert!(oldest(long.pid()) >= life.as_secs_f64(), "{} of {life:?}", oldest(long.pid()));
    assert!(snapshot.process(short.pid()).exited && !snapshot.process(long.pid()).exited);
}
