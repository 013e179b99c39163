//! The probes as a tracer uses them.

use crate::support::{Victim, compile};
use crate::tracer::{Tracer, copy};
use std::collections::HashMap;
use std::process::Command;

#[test]
fn a_tracer_gets_each_sample_with_its_weight_and_each_end() {
    let library = copy("traced.so");
    let family = compile("cc", "family-traced", &["family.c", "-pthread"]);
    let interval = 4096;
    let mut command = Command::new(family);
    command.args(["2", "3000"]).env("LD_PRELOAD", &library).env("LEAKTRACE_SAMPLER_RATE", "0");
    let mut victim = Victim::of(&mut command, &interval.to_string());
    victim.gate();
    let tracer = Tracer::attach(&library);
    victim.go();
    victim.gate();
    let books = victim.books_in(&library);
    let events = tracer.events();
    let mut outstanding = HashMap::new();
    let (mut samples, mut frees, mut total) = (0, 0, 0);
    for (is_alloc, fields) in &events {
        if *is_alloc {
            let [address, size, weight] = fields[..] else { panic!("{fields:?}") };
            assert_eq!(outstanding.insert(address, size), None, "{address:#x} is sampled twice");
            let exact = size as f64 / -(-(size as f64) / f64::from(interval)).exp_m1();
            assert!((weight as f64 - exact).abs() <= 0.51 + 1e-5 * exact, "{size}: {weight} {exact}");
            samples += 1;
            total += weight;
        } else {
            assert!(outstanding.remove(&fields[0]).is_some(), "{:#x} is no sample", fields[0]);
            frees += 1;
        }
    }
    assert_eq!((books.samples, books.frees, books.full, books.missed_frees), (samples, frees, 0, 0));
    // What a round asks for, bytes in the mean: 11,000 samples, whose sum is known to 1 %. The first block is put back by a realloc
    // that fails, which is a hit again.
    let rounds = 2 * 3000;
    let each = 1500.5 * 2.0 + 5049.5 + 10.0 + 1200.0 + 100.0 + 120.0 + 100.0 + 512.0 + 33.0 + 200.0 + 1.0 + 26.0 + 2.4;
    let truth = f64::from(rounds) * each;
    println!("{samples} samples: {total} of {truth}");
    assert!((total as f64 / truth - 1.0).abs() < 0.05, "{total} of {truth}");
    drop(tracer);
    // The kernel has lowered the semaphores: what is sampled by now is nothing.
    victim.end();
}

#[test]
fn no_more_samples_are_taken_than_the_rate_permits() {
    let library = copy("paced.so");
    let family = compile("cc", "family-paced", &["family.c", "-pthread"]);
    let mut command = Command::new(family);
    let mut victim = Victim::of(command.args(["2", "300000"]).env("LD_PRELOAD", &library), "4k");
    victim.gate();
    victim.listen_in(&library, true);
    let begin = std::time::Instant::now();
    victim.go();
    victim.gate();
    let (books, seconds) = (victim.books_in(&library), begin.elapsed().as_secs_f64());
    println!("{seconds:.2} s: {books:?}");
    assert!(books.interval > books.floor && (books.interval / books.floor).is_power_of_two());
    assert!((books.samples as f64) < 200.0 * seconds + 150.0, "{books:?} in {seconds} s");
    assert!(books.samples > 50);
    victim.end();
}
