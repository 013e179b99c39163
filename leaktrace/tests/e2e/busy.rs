//! A busy machine: more stacks come by than the tables hold, and none is lost; what the end of a trace is spent on is said.

use std::cell::Cell;

use crate::harness::{Tracer, Victim, trace_command};

/// Lives taken out of the tables, as `-vvv` tells.
fn taken_out(line: &str) -> u64 {
    let number = line.split_once(" lives taken out of the tables").and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn with_default_limits_no_stack_of_many_lives_is_lost() {
    /// Each life has 2^8 paths with two sites each: a round is 10,240 stacks, and all rounds are more than there is room for.
    const ROUNDS: u64 = 3;
    const LIVES: u64 = 20;
    let mut victim = Victim::start("rounds.c", &["8"]);
    let pid = victim.pid().to_string();
    let tracer = Tracer::start(&["-p", &pid, "-z", "1009", "-Z", "1009", "-vvv", "--top", "1"]);
    victim.go();
    for _ in 0..ROUNDS {
        victim.tell(&format!("l {LIVES}"));
        // However busy the machine is: the next round begins when the room of this one has been given back.
        let taken = Cell::new(0);
        tracer.wait_for_message("the word that the lives of this round are out of the tables", |line| {
            taken.set(taken.get() + taken_out(line));
            taken.get() >= LIVES
        });
    }
    let accounts = victim.report();
    let finished = tracer.stop();
    let snapshot = finished.exact();
    let stacks = accounts.fact("stacks");
    assert_eq!(accounts.fact("lives"), ROUNDS * LIVES);
    let held = snapshot.options["max_stacks"].as_u64().unwrap();
    assert!(stacks > held, "the tables hold {held} stacks: these {stacks} would fit in any case");
    let sum = |number: fn(&crate::harness::snapshot::Site) -> u64| snapshot.sites.iter().map(number).sum::<u64>();
    assert_eq!(sum(|site| site.alloc_count), accounts.fact("allocs"), "{}", snapshot.digest());
    assert_eq!(sum(|site| site.alloc_bytes), accounts.fact("alloc_bytes"));
    assert_eq!((sum(|site| site.outstanding_bytes), sum(|site| site.outstanding_count)), accounts.outstanding());
    victim.tell_last("q");
    assert!(victim.wait().0.success());
}

#[test]
fn the_phases_of_the_end_are_named_with_their_times() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (folded, graph) = (file("folded"), file("graph.svg"));
    let (finished, _) = trace_command(&["-v", "--folded", &folded, "--flamegraph", &graph], "stacks.c", &["3"]);
    finished.assert_success();
    let mut lines = finished.stderr.lines();
    for phase in [
        "last report: stopping the programs took ",
        "last report: waiting for files that are being read took ",
        "last report: reading the tables took ",
        "last report: taking the probes away took ",
        "last report: the command's end took ",
        "last report: naming the code took ",
        "last report: putting the sites together took ",
        "last report: looking for debug information took ",
        "writing text took ",
        "writing --flamegraph took ",
        "writing --folded took ",
        "writing --json took ",
        "last report: writing took ",
        "last report: all took ",
    ] {
        let line = lines.find_map(|line| line.strip_prefix("leaktrace: ")?.strip_prefix(phase));
        let time = line.unwrap_or_else(|| panic!("{phase:?} is not named, or not in its place:\n{}", finished.stderr));
        let number = time.split_once(" ms").and_then(|(number, _)| number.parse::<f64>().ok());
        assert!(number.is_some_and(|number| number >= 0.0), "{phase}{time}");
    }
}
