//! Stopping a command that runs, on behalf of another thread: the one that traces it waits in the kernel.

use std::time::{Duration, Instant};

use leaktrace::process::launch::{Ending, Event, Held, HeldAt};
use leaktrace::process::stop::{Limits, Stopped};

use crate::support::{
    Fifo, Mortal, Programs, await_state, hold, see_through, threads, wait_for, without_first_thread, words,
};

/// A stopped thread, however many times the program was held before.
async fn stop(launched: &mut Mortal) -> Option<Held> {
    launched.ask_to_stop();
    loop {
        match launched.next_event().await {
            Event::Stopped(held) => return held,
            Event::Held(held) => held.release(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_command_is_stopped_as_often_as_that_is_asked_for() {
    let programs = Programs::new();
    let mut input = Fifo::new(programs.path("input"));
    let command = words(["sh", "-c", "read -r line <\"$0\"; exit $line", input.path.to_str().unwrap()]);
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        held.release();
        for _ in 0..200 {
            let held = stop(&mut launched).await.expect("it is traced");
            assert_eq!((held.at(), held.thread().unwrap().tid), (HeldAt::Anywhere, launched.pid()));
            assert!(held.since().elapsed() < Duration::from_mins(1));
            assert!(held.thread().unwrap().registers.stack_pointer().0 != 0);
            held.release();
        }
        input.send("9\n");
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(9)));
    });
}

/// Whoever asked has given up, and would let it go late.
#[test]
fn a_stop_that_is_called_off_does_not_come_later() {
    let programs = Programs::new();
    let program = programs.build("cc", "vforking.c", "vforking", &[]);
    let mut input = Fifo::new(programs.path("input"));
    wait_for(async {
        let (mut launched, held) = hold(&[program.into(), input.path.clone().into()]).await;
        held.release();
        await_state(launched.pid().0, "D");
        launched.ask_to_stop();
        launched.call_stop_off();
        input.send("9\n");
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(9)));
    });
}

#[test]
fn all_threads_of_a_command_can_be_stopped_beside_the_one_that_is_held() {
    let programs = Programs::new();
    let program = programs.build("cc", "ending.c", "ending", &["-pthread"]);
    wait_for(async {
        let (mut launched, held) = hold(&[program.into(), "thread-waits".into()]).await;
        held.release();
        let pid = launched.pid();
        let begun = Instant::now();
        while threads(pid.0).len() < 2 {
            assert!(begun.elapsed() < Duration::from_mins(1), "it makes no thread");
        }
        let held = stop(&mut launched).await.unwrap();
        let thread = held.thread().unwrap().clone();
        let stopped = Stopped::stop_beside(thread, pid, Limits::default()).unwrap();
        assert_eq!(stopped.threads().len(), 2);
        drop(stopped);
        held.release();
        launched.signal(libc::SIGTERM).unwrap();
        let ending = Ending::Killed { signal: libc::SIGTERM, dumped: false };
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], ending));
    });
}

#[test]
fn a_command_whose_first_thread_has_ended_is_stopped_by_another() {
    let programs = Programs::new();
    wait_for(async {
        let (mut launched, last, mut input) = without_first_thread(&programs).await;
        let held = stop(&mut launched).await.expect("it is traced");
        assert_eq!(held.thread().unwrap().tid.0, last);
        held.release();
        input.send("x");
        let Event::Exiting(held) = launched.next_event().await else { panic!("its end was not announced") };
        held.release();
        assert_eq!(see_through(&mut launched).await, (vec![], Ending::Exited(23)));
    });
}

#[test]
fn a_command_that_job_control_has_stopped_stays_so() {
    wait_for(async {
        let (mut launched, held) = hold(&words(["sleep", "1000"])).await;
        held.release();
        launched.signal(libc::SIGSTOP).unwrap();
        await_state(launched.pid().0, "t");
        let held = stop(&mut launched).await.expect("it is traced");
        held.release();
        // Once more, from the stop that it is left in.
        let held = stop(&mut launched).await.expect("it is traced");
        held.release();
        await_state(launched.pid().0, "t");
        launched.signal(libc::SIGCONT).unwrap();
        await_state(launched.pid().0, "S");
        launched.signal(libc::SIGKILL).unwrap();
        let ending = Ending::Killed { signal: libc::SIGKILL, dumped: false };
        assert_eq!(see_through(&mut launched).await.1, ending);
    });
}

#[test]
fn a_command_may_end_while_it_is_asked_to_stop() {
    wait_for(async {
        for _ in 0..100 {
            let (mut launched, held) = hold(&words(["true"])).await;
            held.release();
            launched.ask_to_stop();
            assert_eq!(see_through(&mut launched).await.1, Ending::Exited(0));
        }
    });
}

#[test]
fn a_command_that_is_killed_in_the_stop_ends() {
    wait_for(async {
        let (mut launched, held) = hold(&words(["sleep", "1000"])).await;
        held.release();
        let held = stop(&mut launched).await.unwrap();
        launched.signal(libc::SIGKILL).unwrap();
        await_state(launched.pid().0, "t");
        held.release();
        let ending = Ending::Killed { signal: libc::SIGKILL, dumped: false };
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], ending));
    });
}

#[test]
fn a_command_that_is_left_alone_says_so_when_it_is_asked_to_stop() {
    wait_for(async {
        let (mut launched, held) = hold(&words(["sleep", "1000"])).await;
        held.leave_alone();
        assert!(stop(&mut launched).await.is_none());
        launched.signal(libc::SIGKILL).unwrap();
        assert!(matches!(see_through(&mut launched).await.1, Ending::Killed { .. }));
    });
}
