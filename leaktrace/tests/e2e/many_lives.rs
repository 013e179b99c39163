//! More lives than there is room for at once: what the dead held is in the report, their room is somebody else's.

use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, locks};

/// All that the tables refused, with what they took, is all that there was.
fn assert_all_there(finished: &Finished, snapshot: &Snapshot, accounts: &Accounts) {
    let sum = |number: fn(&crate::harness::snapshot::Site) -> u64| snapshot.sites.iter().map(number).sum::<u64>();
    let (dropped, bytes) = (snapshot.loss("allocs_dropped"), snapshot.loss("bytes_dropped"));
    assert_eq!(sum(|site| site.alloc_count) + dropped, accounts.fact("allocs"), "{}", snapshot.digest());
    assert_eq!(sum(|site| site.alloc_bytes) + bytes, accounts.fact("alloc_bytes"), "{}", snapshot.digest());
    for lost in ["threads_dropped", "returns_missed"] {
        assert_eq!(snapshot.loss(lost), 0, "{lost}");
    }
    // A busy machine may keep leaktrace from the kernel's records for longer than they have room; names are lost with them,
    // and it says so.
    assert!(snapshot.loss("events_lost") == 0 || finished.stdout.contains("lost"), "{}", finished.stdout);
}

/// The largest process slot that was in use, as `-vv` tells.
fn largest_slot(finished: &Finished) -> u64 {
    let slots = finished.stderr.lines().filter_map(|line| {
        let (slot, rest) = line.split_once("slot ")?.1.split_once(": process ")?;
        if rest.contains("has left state") { slot.parse().ok() } else { None }
    });
    slots.max().expect("-vv tells of the ends of processes")
}

#[test]
fn room_of_the_dead_is_used_again_and_what_they_held_is_reported() {
    const CHILDREN: u64 = 3000;
    let mut victim = Victim::start("brood.c", &[&CHILDREN.to_string(), "2", "100", "fork", "500"]);
    let pid = victim.pid().to_string();
    // All of them together need 9,000 blocks and some 6,000 stacks.
    let tracer = Tracer::start(&["-p", &pid, "-vv", "--max-allocs", "4000", "--max-stacks", "2000", "--top", "1"]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_all_there(&finished, &snapshot, &accounts);
    let children: Vec<_> = snapshot.processes.iter().filter(|process| process.pid != victim.pid()).collect();
    assert_eq!(children.len() as u64, CHILDREN);
    assert!(children.iter().all(|child| child.exited));
    if snapshot.loss("allocs_dropped") == 0 {
        assert!(children.iter().all(|child| (child.alloc_count, child.outstanding_bytes) == (3, 200)));
    }
    if snapshot.loss("stacks_dropped") + snapshot.loss("events_lost") == 0 {
        // Named after their ends, like the living.
        let ours = |site: &crate::harness::snapshot::Site| {
            site.passes("leak_first") || site.passes("leak_second") || site.passes("leak_parent")
        };
        assert!(snapshot.sites.iter().all(ours), "{}", snapshot.digest());
    }
    let slots = largest_slot(&finished);
    assert!(slots < CHILDREN, "{slots} slots were used");
    victim.finish();
}

/// A size that nobody else on the machine asks for, another run of the tests included.
fn own_size() -> String {
    (1_000_000 + std::process::id()).to_string()
}

#[test]
fn a_storm_of_short_processes_is_accounted_for_on_the_whole_machine() {
    let _machine = locks::whole_machine();
    let ours = own_size();
    // As fast as the machine makes them, but no more than 1,500 a second.
    let mut victim = Victim::start("brood.c", &["2000", "8", &ours, "exec", "1500"]);
    let tracer = Tracer::start(&["-z", &ours, "-Z", &ours, "--top", "1"]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_all_there(&finished, &snapshot, &accounts);
    if snapshot.loss("allocs_dropped") == 0 {
        let children = snapshot.processes.iter().filter(|process| process.alloc_count == 3);
        assert_eq!(children.filter(|child| child.exited && child.outstanding_count == 2).count(), 2000);
    }
    victim.finish();
}
