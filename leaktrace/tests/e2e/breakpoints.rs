//! Others who change a program's text: a debugger's breakpoint where a probe goes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use leaktrace::probes::plan::{PlanOptions, PlannedProbe, plan};

use crate::harness::{Tracer, Victim, locks};
use crate::lifecycle::eventually;

/// What debuggers write: `int3`.
const BREAKPOINT: u8 = 0xcc;

/// Where in the process the C library's code at this offset of its file is, and the file.
fn mapped(pid: u32) -> (impl Fn(u64) -> u64, Vec<u8>) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with("/libc.so.6")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (start, offset) = (number(fields[0].split('-').next().unwrap()), number(fields[2]));
    (move |place| start + place - offset, fs::read(fields[5]).unwrap())
}

/// Where in the file the probes of a function go.
fn places(probe: &PlannedProbe) -> Vec<u64> {
    let points = probe.at_once.as_ref().map(|points| points.iter().map(|point| point.offset).collect());
    points.unwrap_or_else(|_| vec![probe.offset])
}

fn byte_at(memory: &File, address: u64) -> u8 {
    let mut byte = [0];
    memory.read_exact_at(&mut byte, address).unwrap();
    byte[0]
}

#[test]
fn a_breakpoint_at_the_place_of_a_probe_neither_kills_the_program_nor_hides_a_call() {
    let _machine = locks::no_system_wide_trace();
    // Its own: whoever else put probes there or took them away would have a hand in what is found there.
    let mut victim = Victim::start_with_own_libc("portable.c", &[]);
    let (address, libc) = mapped(victim.pid());
    let plan = plan(&libc, &PlanOptions { at_once: true, ..PlanOptions::default() }).unwrap();
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", victim.pid())).unwrap();
    let places: Vec<u64> = ["malloc", "free"]
        .iter()
        .map(|name| plan.probes.iter().find(|probe| probe.names.iter().any(|known| known == name)).unwrap())
        .flat_map(places)
        .collect();
    // In this process alone: its page becomes a copy.
    for place in &places {
        memory.write_all_at(&[BREAKPOINT], address(*place)).unwrap();
    }
    let tracer = Tracer::attach(&victim, &["--no-follow"]);
    let accounts = victim.work();
    tracer.stop().lossless().assert_equals(&accounts);
    // The debugger takes its breakpoints away, if they are still there.
    for place in &places {
        let original = libc[usize::try_from(*place).unwrap()];
        memory.write_all_at(&[original], address(*place)).unwrap();
        assert_eq!(byte_at(&memory, address(*place)), original);
    }
    victim.finish();
}

#[test]
fn a_program_finds_its_own_text_as_it_was_when_the_trace_is_over() {
    let _machine = locks::no_system_wide_trace();
    // Its own: nobody else's trace puts probes there.
    let mut victim = Victim::start_with_own_libc("portable.c", &[]);
    let (address, libc) = mapped(victim.pid());
    let plan = plan(&libc, &PlanOptions { at_once: true, ..PlanOptions::default() }).unwrap();
    let tracer = Tracer::attach(&victim, &["--no-follow"]);
    let accounts = victim.work();
    tracer.stop().lossless().assert_equals(&accounts);
    let memory = File::open(format!("/proc/{}/mem", victim.pid())).unwrap();
    // The kernel may take probes away after the program that has put them there is gone.
    for (probe, place) in
        plan.probes.iter().flat_map(|probe| places(probe).into_iter().map(move |place| (probe, place)))
    {
        let original = libc[usize::try_from(place).unwrap()];
        eventually(&format!("{:?} is as it was", probe.names), || byte_at(&memory, address(place)) == original);
    }
    victim.finish();
}
