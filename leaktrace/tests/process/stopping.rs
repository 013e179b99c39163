//! Which threads are stopped, what is read of them, and whom leaktrace refuses to stop.

use std::sync::mpsc;
use std::time::Duration;

use leaktrace::model::Pid;
use leaktrace::process::stop::{Limits, StopError, Stopped};

use super::support::{PATIENT, Victim, state, status, threads};

fn tids(stopped: &Stopped) -> Vec<u32> {
    let mut tids: Vec<u32> = stopped.threads().iter().map(|thread| thread.tid.0).collect();
    tids.sort_unstable();
    tids
}

#[test]
fn every_thread_stands_still_until_the_release() {
    for count in [1, 9, 101] {
        let (mut victim, mut all) = Victim::puppet(count);
        all.sort_unstable();
        let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
        assert_eq!(tids(&stopped), all);
        for &tid in &all {
            assert_eq!(state(victim.pid(), tid), 't');
        }
        assert!(stopped.threads().iter().all(|thread| thread.comm == "program"));
        victim.tell("ping");
        let pause = stopped.release();
        assert!(!pause.cut_short && pause.length > Duration::ZERO, "{pause:?}");
        assert_eq!(victim.line(), "pong");
        for &tid in &all {
            assert_eq!(status(victim.pid(), tid, "TracerPid"), "0");
        }
        println!("{count} threads: {:?}", pause.length);
    }
}

#[test]
fn a_process_is_stopped_again_and_again() {
    let (mut victim, _) = Victim::puppet(9);
    for _ in 0..100 {
        drop(Stopped::stop(victim.pid(), PATIENT).unwrap());
    }
    victim.assert_alive();
}

#[test]
fn threads_that_are_created_meanwhile_are_stopped_too() {
    let (victim, _) = Victim::start("breeding.c", &[]);
    for _ in 0..50 {
        let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
        // Those that were ending do so even now.
        let running = |tid: &u32| !"tZX".contains(state_or_gone(victim.pid(), *tid));
        let listed = threads(victim.pid());
        let missed: Vec<_> =
            listed.iter().filter(|tid| !tids(&stopped).contains(tid)).filter(|tid| running(tid)).collect();
        assert!(missed.is_empty(), "{missed:?} of {listed:?}");
        assert!(stopped.threads().iter().any(|thread| thread.tid == victim.pid()));
    }
}

fn state_or_gone(pid: Pid, tid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_else(|_| ") X".to_owned());
    stat.rsplit(')').next().unwrap().trim_start().chars().next().unwrap()
}

#[test]
fn registers_are_what_the_thread_has_in_them() {
    let (victim, _) = Victim::start("registers.c", &[]);
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    let main = stopped.threads().iter().find(|thread| thread.tid == victim.pid()).unwrap();
    let (general, extended) = (main.registers.general(), main.registers.extended());
    // rbx is the sixth of user_regs_struct, x19 the twentieth of user_pt_regs; xmm7 is at byte 160 + 7 * 16 of an XSAVE area.
    let (number, vector) = if cfg!(target_arch = "aarch64") { (19, 14) } else { (5, 34) };
    assert_eq!(general[number], 0x1bad_b002_dead_beef);
    assert_eq!(extended[vector..vector + 2], [0x2222_3333_4444_5555, 0x6666_7777_8888_9999]);

    let maps = std::fs::read_to_string(format!("/proc/{}/maps", victim.pid())).unwrap();
    let mapping_of = |address: u64| {
        maps.lines().find(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&address)
        })
    };
    assert!(mapping_of(main.registers.stack_pointer().0).unwrap().ends_with("[stack]"));
    assert!(mapping_of(main.registers.instruction_pointer().0).unwrap().ends_with("program"));
    let control_blocks = stopped.threads().iter().map(|thread| thread.registers.thread_pointer());
    for control_block in control_blocks {
        assert!(mapping_of(control_block.0).unwrap().contains("rw-p"));
    }
}

#[test]
fn a_stop_ends_by_itself_after_its_longest_time() {
    let (mut victim, _) = Victim::puppet(9);
    let limits = Limits { hold_at_most: Duration::ZERO, ..PATIENT };
    let stopped = Stopped::stop(victim.pid(), limits).unwrap();
    victim.assert_alive();
    assert!(stopped.release().cut_short);
}

#[test]
fn a_process_that_is_traced_is_refused_and_its_tracer_named() {
    let (mut victim, _) = Victim::puppet(3);
    let pid = victim.nix_pid();
    let (sender, seized) = mpsc::channel();
    let (go_on, done) = mpsc::channel::<()>();
    let tracer = std::thread::Builder::new().name("debugger".to_owned()).spawn(move || {
        nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).unwrap();
        sender.send(()).unwrap();
        let _ = done.recv();
    });
    seized.recv().unwrap();
    let error = Stopped::stop(victim.pid(), PATIENT).unwrap_err();
    // The process is named, and not its thread.
    let own = std::fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
    let named = format!("is already traced by `{}` (process {}); detach", own.trim(), std::process::id());
    assert!(matches!(&error, StopError::Traced { .. }) && error.to_string().contains(&named), "{error}");
    victim.assert_alive();
    drop(go_on);
    tracer.unwrap().join().unwrap();
}

#[test]
fn a_thread_that_is_traced_lets_the_others_go_on() {
    let (mut victim, tids) = Victim::puppet(9);
    let thread = nix::unistd::Pid::from_raw(tids[8] as i32);
    let (sender, seized) = mpsc::channel();
    let (go_on, done) = mpsc::channel::<()>();
    let tracer = std::thread::spawn(move || {
        nix::sys::ptrace::seize(thread, nix::sys::ptrace::Options::empty()).unwrap();
        sender.send(()).unwrap();
        let _ = done.recv();
    });
    seized.recv().unwrap();
    let error = Stopped::stop(victim.pid(), PATIENT).unwrap_err();
    assert!(matches!(&error, StopError::Traced { .. }), "{error}");
    victim.assert_alive();
    drop(go_on);
    tracer.join().unwrap();
}

#[test]
fn a_thread_that_cannot_be_interrupted_is_named_and_the_others_go_on() {
    // The thread that called vfork(2) waits uninterruptibly for its child.
    let (mut victim, line) = Victim::start("vforking.c", &[]);
    let waiting: u32 = line.strip_prefix("ready ").unwrap().parse().unwrap();
    while state(victim.pid(), waiting) != 'D' {
        std::thread::yield_now();
    }
    let limits = Limits { stop_within: Duration::from_millis(50), ..PATIENT };
    let error = Stopped::stop(victim.pid(), limits).unwrap_err();
    let StopError::Late { tid, state: Some('D'), .. } = error else { panic!("{error}") };
    assert_eq!(tid.0, waiting);
    assert_eq!(victim.ask("ping"), "pong");
    // Once it has the lock that its child held, nothing is left of us.
    assert_eq!(victim.ask("end"), "ended");
    drop(Stopped::stop(victim.pid(), PATIENT).unwrap());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_process_is_refused_and_goes_on() {
    let options = ["-m32", "-nostdlib", "-static", "-ffreestanding", "-fno-pie", "-no-pie"];
    let mut victim = Victim::start_silent("victims/i386.c", &options, &["wait"]);
    let error = Stopped::stop(victim.pid(), PATIENT).unwrap_err();
    assert!(matches!(&error, StopError::WordSize(_)), "{error}");
    drop(victim.child().stdin.take());
    assert!(victim.child().wait().unwrap().success());
}

#[test]
fn processes_that_end_or_have_ended_are_refused() {
    let (mut victim, _) = Victim::puppet(9);
    victim.tell("exit");
    // Leaves the zombie in place.
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(victim.nix_pid()), flags).unwrap();
    assert!(matches!(Stopped::stop(victim.pid(), PATIENT), Err(StopError::Ended(_))));
    assert_eq!(victim.child().wait().unwrap().code(), Some(3));
    assert!(matches!(Stopped::stop(victim.pid(), PATIENT), Err(StopError::Ended(_))));
}

#[test]
fn programs_that_are_executed_meanwhile_never_wait_for_us() {
    let (victim, _) = Victim::start("executing.c", &["first"]);
    let mut stopped = 0;
    for _ in 0..300 {
        match Stopped::stop(victim.pid(), PATIENT) {
            Ok(threads) => {
                stopped += 1;
                drop(threads);
            }
            Err(StopError::Replaced(_) | StopError::Ended(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    println!("{stopped} of 300 were stopped");
    // It still executes programs: where things lie in memory is another each time.
    let layout = || loop {
        // Between two programs there is none.
        if let Ok(auxv) = std::fs::read(format!("/proc/{}/auxv", victim.pid())) {
            return auxv;
        }
    };
    let before = layout();
    while layout() == before {
        std::thread::yield_now();
    }
}
