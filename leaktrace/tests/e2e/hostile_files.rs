//! Files of traced processes that change while they are read: the tracer lives, and what it reports is exact.

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, locks};

/// Enough for the reader to be met in the middle of some file: before files were copied, one of the first twenty did.
const ROUNDS: &str = "200";

fn shortens(options: impl Fn(u32) -> Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = Victim::start("shortening.c", &[path_str(directory.path()), ROUNDS]);
    let options = options(victim.pid());
    let tracer = Tracer::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    finished.snapshot().assert_equals(&accounts);
    victim.finish();
}

#[test]
fn files_that_are_shortened_while_a_process_is_traced_end_no_tracer() {
    shortens(|pid| ["-p", &pid.to_string(), "--no-follow", "--show-allocs"].map(str::to_owned).to_vec());
}

#[test]
fn files_that_are_shortened_anywhere_on_the_machine_end_no_tracer() {
    let _machine = locks::whole_machine();
    // Only the victim's own sizes: every round's first, 100 to 290 bytes, are others' too, but only its sites are compared.
    shortens(|_| crate::system_wide::ROOM.map(str::to_owned).to_vec());
}
