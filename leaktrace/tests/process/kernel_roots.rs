//! Pointers that a program has given to the kernel are found there.

use leaktrace::process::kernel_roots::KernelRoots;
use leaktrace::process::stop::Stopped;

use super::support::{PATIENT, Victim};

#[test]
fn pointers_that_the_kernel_keeps_are_found_there() {
    let (mut victim, mut line) = Victim::start("roots.c", &[]);
    let (mut watched, mut timed) = (Vec::new(), Vec::new());
    while line != "ready" {
        let (kind, value) = line.split_once(' ').unwrap_or((&line, ""));
        let value = u64::from_str_radix(value, 16).ok();
        if kind == "epoll" {
            watched.push(value.unwrap());
        } else {
            timed.push(value);
        }
        line = victim.line();
    }
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    let roots = KernelRoots::of(victim.pid());
    drop(stopped);
    assert!(roots.missing.is_empty(), "{:?}", roots.missing);
    watched.sort_unstable();
    let mut data: Vec<u64> = roots.epoll.iter().map(|entry| entry.data).collect();
    data.sort_unstable();
    assert_eq!(data, watched);
    assert_eq!(roots.timers.len(), timed.len());
    for value in timed.into_iter().flatten() {
        assert!(roots.timers.iter().any(|timer| timer.value == value), "{value:x} of {:x?}", roots.timers);
    }
    assert_eq!(roots.words().count(), 6);
}
