//! Many threads at once: blocks change hands, addresses come again at once, threads come and go.

use std::process::Command;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::harness::build::Recipe;
use crate::harness::{Tracer, Victim, trace_command};

/// Calls of the allocator in a large run; `LEAKTRACE_TEST_OPERATIONS` changes it for slow machines.
fn operations(usual: &str) -> String {
    std::env::var("LEAKTRACE_TEST_OPERATIONS").unwrap_or_else(|_| usual.to_owned())
}

#[test]
fn sixteen_threads_that_free_each_others_blocks_are_booked_exactly() {
    let mut victim = Victim::start("threads.c", &["16", &operations("10000000")]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.process(victim.pid()).untracked_frees, 0);
    victim.finish();
}

/// Has a thread run on one processor only, the first that we may run on.
pub fn pin(thread: Pid) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(thread, &one).unwrap();
}

/// Each is preempted again and again in the middle of our programs, most of all by a kernel booted with `preempt=full`. From
/// 6.13 on such a kernel crashes if it has given a program a stack per processor.
#[test]
fn twelve_threads_on_one_processor_are_booked_exactly() {
    let mut victim = Victim::start("threads.c", &["12", &operations("1000000")]);
    for thread in std::fs::read_dir(format!("/proc/{}/task", victim.pid())).unwrap() {
        pin(Pid::from_raw(thread.unwrap().file_name().to_str().unwrap().parse().unwrap()));
    }
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.process(victim.pid()).untracked_frees, 0);
    victim.finish();
}

#[test]
fn many_threads_are_booked_exactly_when_launched() {
    let (finished, mut accounts) = trace_command(&[], "threads.c", &["32", "300000"]);
    // The C library allocates for each new thread, which the victim cannot know.
    accounts.totals.clear();
    finished.lossless().assert_equals(&accounts);
}

/// How many threads end in `ending_threads.c`.
const ENDING: u64 = 6;

const ENDING_STATIC: Recipe = Recipe::new("ending-threads-static", "ending_threads.c", &["-static"]);
const ENDING_MUSL: Recipe =
    Recipe { compiler: Some("musl-gcc"), ..Recipe::new("ending-threads-musl", "ending_threads.c", &["-static"]) };

/// All of these.
pub const RECIPES: [Recipe; 2] = [ENDING_STATIC, ENDING_MUSL];

/// Where an allocator frees blocks at a thread's end that it has kept for it, it frees at least one for each.
fn assert_ends_are_told_from_early_frees(victim: &mut Victim, keeps: bool) {
    let tracer = Tracer::attach(victim, &[]);
    let accounts = victim.work();
    // musl comes without unwind tables.
    let snapshot = tracer.stop().exact();
    snapshot.assert_equals(&accounts);
    let process = snapshot.process(victim.pid());
    // The last that each thread does is to free blocks from before the trace.
    assert_eq!(process.untracked_frees, accounts.fact("early_frees"));
    if keeps {
        assert!(process.thread_end_frees >= ENDING, "{}", process.thread_end_frees);
    } else {
        assert_eq!(process.thread_end_frees, 0);
    }
}

fn ending(recipe: &Recipe, how: &str) -> Victim {
    let program = recipe.built();
    let victim = Victim::spawn(recipe.name, Command::new(program).args(["wait", &ENDING.to_string(), how]));
    victim.wait_until_ready();
    victim
}

/// glibc keeps small blocks that a thread frees for the thread, and frees them and its list of them at the thread's end.
#[test]
fn what_the_c_library_frees_at_a_threads_end_is_told_from_blocks_of_the_time_before() {
    for how in ["free", "fclose"] {
        let mut victim = Victim::start("ending_threads.c", &[&ENDING.to_string(), how]);
        assert_ends_are_told_from_early_frees(&mut victim, true);
        victim.finish();
    }
    let (finished, accounts) = trace_command(&[], "ending_threads.c", &[&ENDING.to_string()]);
    let snapshot = finished.lossless();
    let process = snapshot.process(accounts.sites[0].pid);
    assert_eq!(process.untracked_frees, 0, "traced from its start");
    assert!(process.thread_end_frees >= ENDING, "{}", process.thread_end_frees);
}

/// Detached ones that end at the same time, whose stacks the C library frees; and one that ends as the last of its process.
#[test]
fn what_the_c_library_frees_at_other_ends_of_threads_is_no_block_of_the_time_before() {
    let many = (4 * ENDING).to_string();
    for arguments in [[many.as_str(), "detached"], ["1", "last"]] {
        let (finished, accounts) = trace_command(&[], "ending_threads.c", &arguments);
        let snapshot = finished.lossless();
        let process = snapshot.process(accounts.sites[0].pid);
        assert_eq!(process.untracked_frees, 0, "{arguments:?}");
        assert!(process.thread_end_frees > 0, "{arguments:?}");
    }
}

/// There the program's own code lies beside the C library's.
#[test]
fn what_a_static_program_frees_at_a_threads_end_is_told_from_blocks_of_the_time_before() {
    for how in ["free", "fclose"] {
        let mut victim = ending(&ENDING_STATIC, how);
        assert_ends_are_told_from_early_frees(&mut victim, true);
        victim.finish();
    }
}

#[test]
fn a_c_library_that_keeps_nothing_for_a_thread_frees_nothing_at_its_end() {
    let mut victim = ending(&ENDING_MUSL, "free");
    assert_ends_are_told_from_early_frees(&mut victim, false);
    victim.finish();
}

#[test]
fn what_a_thread_leaked_outlives_the_thread() {
    let mut victim = Victim::start("churn.c", &["800"]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    tracer.stop().lossless().assert_equals(&accounts);
    victim.finish();
}

#[test]
fn threads_that_come_and_go_are_booked_exactly_when_launched() {
    let (finished, accounts) = trace_command(&[], "churn.c", &["400"]);
    finished.lossless().assert_equals(&accounts);
}

#[test]
fn interval_reports_during_a_storm_are_consistent_and_the_last_is_exact() {
    let mut victim = Victim::start("threads.c", &["8", "1000000"]);
    let tracer = Tracer::attach(&victim, &["-i", "100ms"]);
    let accounts = victim.work();
    // However little time the storm took.
    tracer.wait_for_output("an interval report", |line| line.contains("leak_thread_malloc"));
    let finished = tracer.stop();
    let snapshot = finished.lossless();
    snapshot.assert_equals(&accounts);
    assert!(snapshot.sequence > 1, "no interval report before the last");
    victim.finish();
}

#[test]
fn a_trace_stopped_in_the_middle_of_a_storm_is_consistent() {
    // More work than there is time for: the victim is killed once it has served.
    for _ in 0..3 {
        let mut victim = Victim::start("threads.c", &["8", "1000000000"]);
        let tracer = Tracer::attach(&victim, &["-i", "300ms"]);
        victim.go();
        // The text of an interval report: work has been traced for a while.
        tracer.wait_for_output("an interval report", |line| line.contains("leak_thread_malloc"));
        let finished = tracer.stop();
        finished.assert_success();
        // Blocks, sites and process agree with one another; the victim has no account yet to compare with.
        let snapshot = finished.snapshot();
        snapshot.assert_lossless();
        assert!(snapshot.all(victim.pid()).alloc_count > 1000);
    }
}
