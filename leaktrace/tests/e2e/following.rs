//! Children: traced from their first instruction, however they are made, unless the user does not want them.

use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Tracer, Victim, build, trace_command};

/// Every way in which `spawning.c` makes a child.
const WAYS: [&str; 7] = ["fork", "grandchild", "thread", "vfork", "posix_spawn", "clone", "fexecve"];

/// As many leaves as there should be gave their accounts, and the snapshot says the same.
fn assert_followed(finished: &Finished, accounts: &Accounts, leaves: usize) {
    let snapshot = finished.exact();
    assert_eq!(accounts.sites.iter().filter(|site| site.site == "leak_leaf").count(), leaves);
    snapshot.assert_equals(accounts);
    // From their first instruction on.
    assert_eq!(snapshot.untraced, []);
}

#[test]
fn every_kind_of_child_of_a_command_is_booked_exactly() {
    for way in WAYS {
        let (finished, accounts) = trace_command(&[], "spawning.c", &[way, "5"]);
        assert_followed(&finished, &accounts, 5);
    }
}

#[test]
fn every_kind_of_child_of_a_running_process_is_booked_exactly() {
    for way in WAYS {
        let mut victim = Victim::start("spawning.c", &[way, "5"]);
        let tracer = Tracer::attach(&victim, &[]);
        let accounts = victim.work();
        assert_followed(&tracer.stop(), &accounts, 5);
        victim.finish();
    }
}

#[test]
fn a_forked_child_may_free_what_its_parent_allocated_without_touching_the_parents_account() {
    let mut victim = Victim::start("forking.c", &["5"]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    assert_eq!(accounts.sites.len(), 6);
    snapshot.assert_equals(&accounts);
    // Ten blocks of the parent's, and none that anybody booked for the child.
    for child in accounts.sites.iter().filter(|site| site.site == "leak_child") {
        assert_eq!(snapshot.process(child.pid).untracked_frees, 10);
    }
    victim.finish();
}

#[test]
fn children_are_left_alone_where_asked() {
    let mut victim = Victim::start("forking.c", &["3"]);
    let tracer = Tracer::attach(&victim, &["--no-follow"]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    let parent = accounts.site("leak_parent");
    assert_eq!(snapshot.through(parent.pid, "leak_parent").outstanding(), (parent.bytes, parent.count));
    assert_eq!(snapshot.processes.len(), 1);
    victim.finish();
}

#[test]
fn a_shells_pipeline_of_twenty_short_programs_is_booked_exactly() {
    let leaf = build::victim("spawning.c");
    let programs: Vec<String> =
        (0..20).map(|number| format!("{} run leaf {} >&3", path_str(&leaf), 2000 + 10 * number)).collect();
    let line = format!("{{ {}; }} 3>&1", programs.join(" | "));
    let finished = Tracer::start_unready(&["--", "sh", "-c", &line]).wait();
    let accounts = Accounts::parse(&finished.stdout);
    assert_followed(&finished, &accounts, 20);
    let mut names: Vec<&str> = Vec::new();
    let snapshot = finished.snapshot();
    let mut cut = 0;
    for account in &accounts.sites {
        // Also after their ends, and also those that nobody could have looked at in time.
        let sites = snapshot.sites_through(account.pid, "leak_leaf");
        assert!(!sites.is_empty(), "{}", snapshot.digest());
        cut += sites.iter().filter(|site| !site.passes("main")).count() as u64;
        names.extend(snapshot.processes.iter().filter(|it| it.pid == account.pid).map(|it| it.comm.as_str()));
    }
    // The first of them run before their program's table can be there; what that cuts short is counted.
    assert!(cut <= snapshot.loss("unwind_failed"), "{cut} stacks are cut short\n{}", snapshot.digest());
    assert!(names.iter().any(|name| name.starts_with("spawning")), "{names:?}");
}

#[test]
fn a_program_that_has_run_before_has_whole_stacks_from_its_first_instruction() {
    // The children execute the very program that has made them, so its table is there; nobody waits for their mappings.
    for way in ["posix_spawn", "fexecve"] {
        let (finished, accounts) = trace_command(&[], "spawning.c", &[way, "5"]);
        assert_followed(&finished, &accounts, 5);
        let snapshot = finished.snapshot();
        for account in &accounts.sites {
            let sites = snapshot.sites_through(account.pid, "leak_leaf");
            assert!(sites.iter().all(|site| site.passes("main")), "{way}\n{}", snapshot.digest());
        }
    }
}

#[test]
fn a_process_beside_the_one_that_is_followed_is_not_recorded() {
    let mut followed = Victim::start("puppet.c", &[]);
    let mut beside = Victim::start("puppet.c", &[]);
    followed.go();
    beside.go();
    let tracer = Tracer::attach(&followed, &[]);
    beside.tell("a a 100 10");
    followed.tell("a a 100 10");
    let accounts = followed.report();
    let snapshot = tracer.stop().lossless_but_for_early_stacks();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.processes.len(), 1, "{}", snapshot.digest());
}

#[test]
fn exec_by_a_thread_begins_a_life_of_its_own() {
    let mut victim = Victim::start("execing.c", &["thread"]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    tracer.stop().exact().assert_equals(&accounts);
    victim.finish();
    let (finished, accounts) = trace_command(&[], "execing.c", &["thread"]);
    finished.exact().assert_equals(&accounts);
}
