//! However a command ends: its memory is there for a last look, and its status is passed on.

use std::ffi::OsString;
use std::path::Path;

use leaktrace::process::launch::{Ending, Event};
use leaktrace::process::stop::{Limits, Stopped};

use super::support::{Fifo, Programs, hold, maps, see_through, wait_for, without_first_thread, words};

fn ends(program: &Path, how: &[&str]) -> (Vec<&'static str>, Ending) {
    let mut command = vec![program.as_os_str().to_owned()];
    command.extend(how.iter().map(OsString::from));
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        held.release();
        see_through(&mut launched).await
    })
}

#[test]
fn every_end_is_announced_and_passed_on() {
    let programs = Programs::new();
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    let killed = |signal| Ending::Killed { signal, dumped: false };
    for (how, ending) in [
        ("return", Ending::Exited(3)),
        ("_exit", Ending::Exited(4)),
        ("abort", killed(libc::SIGABRT)),
        ("crash", killed(libc::SIGSEGV)),
        ("kill", killed(libc::SIGKILL)),
        ("real-time", killed(40)),
        ("thread-exits", Ending::Exited(21)),
    ] {
        assert_eq!(ends(&program, &[how]), (vec!["exiting"], ending), "{how}");
    }
}

#[test]
fn a_signal_from_outside_is_an_announced_end_too() {
    let programs = Programs::new();
    let mut output = Fifo::new(programs.path("output"));
    let silence = Fifo::new(programs.path("silence"));
    let script = "echo ready >\"$0\"; read line <\"$1\"";
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGINT] {
        wait_for(async {
            let pipes = [&output.path, &silence.path].map(|path| path.to_str().unwrap());
            let (mut launched, held) = hold(&words(["sh", "-c", script, pipes[0], pipes[1]])).await;
            held.release();
            assert_eq!(output.line(), "ready");
            launched.signal(signal).unwrap();
            let ending = Ending::Killed { signal, dumped: false };
            assert_eq!(see_through(&mut launched).await, (vec!["exiting"], ending));
        });
    }
}

#[test]
fn the_end_of_the_first_thread_alone_is_no_end() {
    let programs = Programs::new();
    wait_for(async {
        let (mut launched, last, mut input) = without_first_thread(&programs).await;
        input.send("x");
        let Event::Exiting(held) = launched.next_event().await else { panic!("its end was not announced") };
        assert!(!maps(last).is_empty(), "the memory is there, seen through the last thread");
        held.release();
        assert_eq!(see_through(&mut launched).await, (vec![], Ending::Exited(23)));
    });
}

#[test]
fn a_program_executed_by_another_thread_is_seen_to_its_end() {
    let programs = Programs::new();
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    let path = program.to_str().unwrap().to_owned();
    for _ in 0..10 {
        let (events, ending) = ends(&program, &["thread-executes", &path, "return"]);
        assert_eq!(ending, Ending::Exited(3));
        assert!(events.len() <= 2 && events.iter().filter(|&&event| event == "exiting").count() <= 1, "{events:?}");
    }
}

#[test]
fn the_registers_of_the_exiting_thread_are_those_of_its_last_call() {
    let programs = Programs::new();
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    wait_for(async {
        let (mut launched, held) = hold(&[program.into(), "return".into()]).await;
        assert!(held.registers().is_none());
        held.release();
        let Event::Exiting(held) = launched.next_event().await else { panic!("it does not exit") };
        // The number of exit_group and its argument: orig_rax and rdi, or x8 and x0.
        let (number, argument) = if cfg!(target_arch = "aarch64") { (8, 0) } else { (15, 14) };
        let general = held.registers().unwrap().general();
        assert_eq!((general[number], general[argument]), (libc::SYS_exit_group as u64, 3));
        let exiting = held.thread().unwrap().clone();
        assert_eq!((exiting.tid, exiting.comm.as_str()), (launched.pid(), "ending"));
        // Another thread of ours traces it, and its memory can be read as that of any stopped process.
        let stopped = Stopped::stop_beside(exiting.clone(), launched.pid(), Limits::default()).unwrap();
        assert_eq!(stopped.threads(), [exiting]);
        drop(stopped);
        held.release();
        assert_eq!(see_through(&mut launched).await, (vec![], Ending::Exited(3)));
    });
}
