//! Processes that are not copied, each for its reason, and that go on as they were.

use std::time::Duration;

use leaktrace::model::Pid;
use leaktrace::process::snapshot::{Plan, Refused};
use leaktrace::process::stop::{Limits, Stopped};
use nix::sys::signal::Signal;

use super::copying::Program;
use super::freezing::Group;
use super::support::{PATIENT, Victim, await_state};

fn unfit(reason: &str) -> (Victim, Pid) {
    let (victim, line) = Victim::start("unfit.c", &[reason]);
    let pid = Pid(line.strip_prefix("ready ").unwrap().parse().unwrap());
    (victim, pid)
}

/// Why it is not copied.
fn refusal(pid: Pid) -> Refused {
    match Plan::of(pid) {
        Ok(plan) => Stopped::stop(pid, PATIENT).unwrap().copy(&plan).unwrap_err(),
        Err(refused) => refused,
    }
}

/// It ends as it would have, when there is no more to read.
fn assert_healthy(mut victim: Victim) {
    drop(victim.child().stdin.take());
    assert!(victim.child().wait().unwrap().success());
}

#[test]
fn each_obstacle_is_named() {
    for (reason, words) in [
        ("seccomp", "seccomp restricts its system calls"),
        ("adopts", "it adopts orphans"),
        ("faults", "it handles page faults itself (userfaultfd)"),
        ("aio", "it uses asynchronous input and output"),
        ("huge", "it has private huge pages"),
        ("dispatch", "it handles its system calls itself"),
        ("coroutine", "no thread that waits in a system call has enough room in memory below its stack pointer"),
        ("init", "it adopts orphans, as pid 1 of a container"),
    ] {
        let (victim, pid) = unfit(reason);
        if reason == "coroutine" {
            // It says so before it goes there.
            await_state(pid, "S");
        }
        let refused = refusal(pid).to_string();
        assert!(refused.starts_with(&format!("process {pid} cannot be copied: ")), "{reason}: {refused}");
        assert!(refused.contains(words), "{reason}: {refused}");
        assert_healthy(victim);
    }
}

#[test]
fn a_process_without_obstacles_is_copied() {
    // Otherwise the above would prove nothing.
    let (victim, pid) = unfit("none");
    await_state(pid, "S");
    drop(Stopped::stop(pid, PATIENT).unwrap().copy(&Plan::of(pid).unwrap()).unwrap());
    assert_healthy(victim);
}

#[test]
fn a_process_in_user_code_is_refused() {
    let (_victim, pid) = unfit("spins");
    await_state(pid, "R");
    std::thread::sleep(Duration::from_millis(20));
    let refused = refusal(pid);
    assert!(matches!(refused, Refused::Busy(_)), "{refused}");
}

#[test]
fn a_go_program_is_refused() {
    let mut victim = Victim::start_silent("process/programs/unfit.c", &["-DGO"], &["none"]);
    assert!(victim.line().starts_with("ready "));
    let refused = refusal(victim.pid());
    assert!(matches!(refused, Refused::Go(_)), "{refused}");
    assert_healthy(victim);
}

#[test]
fn a_container_whose_first_process_waits_for_nobody_keeps_no_zombie() {
    let (victim, init) = unfit("unreaped");
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let pid = Pid(children.trim().parse().unwrap());
    let refused = refusal(pid);
    assert!(matches!(refused, Refused::Unreaped { init: named, .. } if named == init), "{refused}");
    assert_healthy(victim);
}

#[test]
fn a_stopped_job_stays_so() {
    let mut program = Program::start(&["calls"]);
    program.victim.signal(Signal::SIGSTOP);
    await_state(program.pid(), "T");
    let refused = refusal(program.pid());
    assert!(matches!(refused, Refused::JobControl(_)), "{refused}");
    await_state(program.pid(), "T");
    program.victim.signal(Signal::SIGCONT);
    assert_eq!(program.victim.ask("ping"), "pong");
}

#[test]
fn a_process_that_runs_again_is_not_copied() {
    let mut program = Program::start(&["calls"]);
    let plan = Plan::of(program.pid()).unwrap();
    let stopped = Stopped::stop(program.pid(), Limits { hold_at_most: Duration::ZERO, ..PATIENT }).unwrap();
    assert_eq!(program.victim.ask("ping"), "pong");
    let refused = stopped.copy(&plan).unwrap_err();
    assert!(matches!(refused, Refused::Released(_)), "{refused}");
}

#[test]
fn a_process_that_has_ended_or_executed_another_program_is_not_copied() {
    let (victim, _) = Victim::start("executing.c", &["first"]);
    // Between two programs it has none.
    let plan = loop {
        if let Ok(plan) = Plan::of(victim.pid()) {
            break plan;
        }
    };
    loop {
        let Ok(stopped) = Stopped::stop(victim.pid(), PATIENT) else { continue };
        match stopped.copy(&plan).map(drop) {
            // It has not come to that yet, or runs.
            Ok(()) | Err(Refused::Busy(_) | Refused::Stack(_)) => {}
            Err(Refused::Replaced(_)) => break,
            Err(refused) => panic!("{refused}"),
        }
    }
    let pid = victim.pid();
    drop(victim);
    assert!(matches!(Plan::of(pid), Err(Refused::Ended(_))));
}

#[test]
fn what_memory_and_tasks_do_not_suffice_for_is_refused() {
    let mut program = Program::start(&["calls", "128"]);
    let pid = program.pid().to_string();
    if let Some(group) = Group::new("cgroup", "pids") {
        group.write("cgroup.procs", &pid);
        group.write("pids.max", "30");
        let refused = refusal(program.pid());
        assert!(matches!(refused, Refused::Tasks { left, .. } if left < 30), "{refused}");
        group.write("pids.max", "max");
        assert!(Plan::of(program.pid()).is_ok());
        group.leave(&pid);
    }
    if let Some(group) = Group::new("cgroup", "memory") {
        group.write("cgroup.procs", &pid);
        group.write("memory.limit_in_bytes", &(100 << 20).to_string());
        let refused = refusal(program.pid());
        assert!(
            matches!(refused, Refused::Memory { needed, free, .. } if needed > 128 << 20 && free <= 100 << 20),
            "{refused}"
        );
        group.write("memory.limit_in_bytes", "-1");
        assert!(Plan::of(program.pid()).is_ok());
        group.leave(&pid);
    }
    assert_eq!(program.victim.ask("ping"), "pong");
}
