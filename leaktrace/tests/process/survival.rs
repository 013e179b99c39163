//! leaktrace is killed while it stops a process: the process runs on as if nothing had been.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leaktrace::model::Pid;
use leaktrace::process::stop::Stopped;
use nix::sys::signal::Signal;

use super::support::{PATIENT, Victim, await_state, state, status, threads};

/// The process that the role is to stop.
pub const TARGET: &str = "LEAKTRACE_TEST_TARGET";

/// A process of its own that stops another for ever: this test program again, with this one test, which becomes the role.
#[test]
fn a_role_stops_a_process_again_and_again() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let target = Pid(target.parse().unwrap());
    // The test harness writes to standard output.
    eprintln!("begins");
    loop {
        drop(Stopped::stop(target, PATIENT).unwrap());
    }
}

fn stop_and_be_killed(target: Pid, after: Duration) {
    play_and_be_killed("survival::a_role_stops_a_process_again_and_again", target, after);
}

/// Starts the role and kills it this long after its beginning.
pub fn play_and_be_killed(role: &str, target: Pid, after: Duration) {
    let mut role = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture", "--test-threads=1"])
        .env(TARGET, target.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(role.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < after {
        std::hint::spin_loop();
    }
    role.kill().unwrap();
    role.wait().unwrap();
    assert_eq!(line, "begins\n");
}

#[test]
fn a_process_outlives_us_whenever_we_are_killed() {
    let (mut victim, _) = Victim::puppet(9);
    let pid = victim.nix_pid().as_raw();
    for round in 0..200_u32 {
        // A stop takes a millisecond or two, so that these moments fall everywhere into one.
        stop_and_be_killed(victim.pid(), Duration::from_micros(25) * round);
        // SAFETY: sends a number to a child of this process.
        unsafe { libc::sigqueue(pid, libc::SIGRTMIN() + 1, libc::sigval { sival_ptr: std::ptr::null_mut() }) };
        victim.assert_alive();
        for tid in threads(victim.pid()) {
            assert_eq!(status(victim.pid(), tid, "TracerPid"), "0");
        }
    }
    while !victim.ask("count").ends_with(" 200 0") {
        std::thread::yield_now();
    }
}

#[test]
fn a_stopped_process_stays_stopped_when_we_are_killed() {
    let (mut victim, _) = Victim::puppet(9);
    victim.signal(Signal::SIGSTOP);
    await_state(victim.pid(), "T");
    for round in 0..20_u32 {
        stop_and_be_killed(victim.pid(), Duration::from_micros(150) * round);
        for tid in threads(victim.pid()) {
            while state(victim.pid(), tid) != 'T' {
                std::thread::yield_now();
            }
        }
    }
    victim.signal(Signal::SIGCONT);
    victim.assert_alive();
}
