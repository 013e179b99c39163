//! A trace of the whole machine while programs with every kind of allocator run on it at once: each exact.

use std::process::Command;

use crate::harness::build::{self, Recipe};
use crate::harness::{Accounts, Tracer, Victim, locks};
use crate::system_wide::ROOM;

/// Each a program and how it is called here.
fn commands() -> Vec<(&'static str, Command)> {
    let built = |name, source, flags, libraries| {
        (name, Command::new(Recipe { libraries, ..Recipe::new(name, source, flags) }.built()))
    };
    let musl = |name, flags| {
        let recipe = Recipe { compiler: Some("musl-gcc"), ..Recipe::new(name, "portable.c", flags) };
        (name, Command::new(recipe.built()))
    };
    let mut preloaded = Command::new(build::victim("cxx.cc"));
    preloaded.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4");
    vec![
        ("family", Command::new(build::victim("family.c"))),
        ("cxx", Command::new(build::victim("cxx.cc"))),
        ("cxx with tcmalloc preloaded", preloaded),
        built("portable-static", "portable.c", &["-static"], &[]),
        built("portable-static-pie", "portable.c", &["-static-pie"], &[]),
        musl("portable-musl", &[]),
        musl("portable-musl-static", &["-static"]),
        built("cxx-tcmalloc", "cxx.cc", &[], &["-ltcmalloc_minimal"]),
        built("cxx-jemalloc", "cxx.cc", &[], &["-ljemalloc"]),
        built("jemalloc", "jemalloc.c", &[], &["-ljemalloc"]),
        built("mimalloc", "mimalloc.c", &[], &["-lmimalloc"]),
        built("several", "several.c", &[], &["-ljemalloc", "-lmimalloc"]),
        ("rust_leaks", Command::new(build::victim("rust_leaks.rs"))),
        ("rust_jemalloc", Command::new(build::rust_victim("rust_jemalloc"))),
        ("rust_mimalloc", Command::new(build::rust_victim("rust_mimalloc"))),
    ]
}

fn start((what, mut command): (&'static str, Command)) -> Victim {
    let victim = Victim::spawn(what, command.arg("wait"));
    victim.wait_until_ready();
    victim
}

#[test]
fn every_allocator_on_the_machine_is_traced_exactly_at_once() {
    let _machine = locks::whole_machine();
    let mut early: Vec<Victim> = commands().into_iter().map(start).collect();
    let tracer = Tracer::start(&ROOM);
    // Each once more, begun during the trace: its files are probed.
    let mut late: Vec<Victim> = commands().into_iter().map(start).collect();
    early.iter_mut().chain(&mut late).for_each(Victim::go);
    let accounts: Vec<Accounts> = early.iter_mut().chain(&mut late).map(Victim::done).collect();
    // Half of them end before the report, half of them live on.
    late.into_iter().for_each(Victim::finish);
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    // Of the machine's other processes stacks of any depth and kind may come; blocks must not be lost.
    for loss in ["allocs_dropped", "bytes_dropped", "stacks_dropped", "threads_dropped"] {
        assert_eq!(snapshot.loss(loss), 0, "{loss}");
    }
    for (index, mut accounts) in accounts.into_iter().enumerate() {
        if index >= early.len() {
            // Of its whole life: what libraries allocate before main is no account of the victim's.
            accounts.totals.clear();
        }
        snapshot.assert_equals(&accounts);
        let pid = accounts.sites[0].pid;
        for account in &accounts.sites {
            assert!(snapshot.sites_through(pid, &account.site).iter().all(|site| site.passes("main")));
        }
    }
    for mut victim in early {
        assert!(victim.lives());
        victim.finish();
    }
}
