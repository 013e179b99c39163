//! A service of C++ under load, whose shared pointers form cycles: its own books say what is lost.

use std::collections::BTreeMap;

use super::check;
use crate::harness::{Snapshot, Tracer, Victim};

/// Of each function and kind the lost bytes and blocks.
type Lost = BTreeMap<(String, String), (u64, u64)>;

/// What the service's books say.
fn booked(output: &str) -> Lost {
    let mut lost = Lost::new();
    for line in output.lines() {
        let [size, function, kind] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let sum = lost.entry((function.to_owned(), kind.to_owned())).or_default();
        *sum = (sum.0 + size.parse::<u64>().unwrap(), sum.1 + 1);
    }
    lost
}

/// What was found, by the service's function nearest to the allocation.
fn found(snapshot: &Snapshot) -> Lost {
    let mut lost = Lost::new();
    for site in &snapshot.sites {
        let mut functions = site.stack.iter().filter_map(|frame| frame.function.as_deref());
        let of_service = functions.find_map(|name| name.strip_prefix("(anonymous namespace)::new_"));
        let function = of_service.map(|name| format!("new_{}", name.split('(').next().unwrap()));
        for kind in ["definitely_lost", "indirectly_lost"] {
            let tally = site.verdict.as_ref().and_then(|kinds| kinds.get(kind)).filter(|tally| tally.count > 0);
            let Some(tally) = tally else { continue };
            let function = function.clone().unwrap_or_else(|| site.path());
            let sum = lost.entry((function, kind.to_owned())).or_default();
            *sum = (sum.0 + tally.bytes, sum.1 + tally.count);
        }
    }
    lost
}

#[test]
fn cycles_of_shared_pointers_in_a_service_under_load_are_lost_to_the_byte() {
    const SESSIONS: u64 = 100;
    let mut victim = Victim::start("service.cc", &[&SESSIONS.to_string(), "3"]);
    let tracer = Tracer::attach(&victim, &["--max-pause", "1h"]);
    victim.go();
    let output = victim.collect_until_done();
    let snapshot = check(&tracer.stop(), 1);
    victim.finish();
    let (booked, found) = (booked(&output), found(&snapshot));
    let definitely = booked.iter().filter(|((_, kind), _)| kind == "definitely_lost").map(|(_, (_, count))| count);
    assert_eq!(definitely.sum::<u64>(), SESSIONS, "each cycle has one leader");
    assert_eq!(found, booked, "nothing else of the service is lost, and no byte of it less");
    let load = snapshot.sites.iter().filter(|site| site.path().contains("load")).map(|site| site.alloc_count);
    assert!(load.sum::<u64>() > 3000, "the load went on");
}
