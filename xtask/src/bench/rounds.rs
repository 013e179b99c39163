//! The order of measurements: rounds in which everything has its turn.
//!
//! In: workloads and tracers. Out: [`Results`]. In each round every program is measured under every tracer once, so that
//! slow changes of the machine affect all of them alike; the order of tracers differs between rounds.

use super::catalog::{Program, Variant, Workload};
use super::results::{Results, Sample};
use super::sites::Sites;
use super::tracer::{Tracer, Tracers};
use super::victim::{self, Amount, Setting, Victim};
use crate::shell;
use anyhow::{Result, bail, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    rounds: u32,
    /// Of those tools that have to launch the program.
    launches: u32,
    amount: Amount,
}

impl Effort {
    /// For the record.
    pub const FULL: Self = Self { rounds: 9, launches: 3, amount: Amount { milliseconds: 300, requests: 100_000 } };
    /// For a look.
    pub const QUICK: Self = Self { rounds: 3, launches: 1, amount: Amount { milliseconds: 60, requests: 20_000 } };
}

/// Slow tools are given this much less to do.
const SLOW: u32 = 5;

/// How many times a measurement is retried, a second apart, while others have probes in the measured program.
const PATIENCE: u32 = 180;

/// What came out.
pub struct Outcome {
    /// The measurements.
    pub results: Results,
    /// What was left out and why, and what was lost.
    pub remarks: Vec<String>,
}

/// Measures the workloads.
pub fn measure(
    workloads: &[&'static Workload],
    setting: &Setting,
    tracers: &Tracers,
    effort: Effort,
) -> Result<Outcome> {
    let mut session =
        Session { workloads, setting, tracers, effort, results: Results::default(), remarks: Vec::new(), disturbed: 0 };
    let variants = session.variants();
    let mut victims = Vec::new();
    for program in Program::ALL {
        if !workloads.iter().any(|workload| workload.program == program) {
            continue;
        }
        if let Some(why) = victim::missing(program) {
            session.remarks.push(format!("{program:?} was not measured: {why}"));
            continue;
        }
        let victim = Victim::start(program, Variant::Bare, setting)?;
        let sites = tracers.sites(victim.pid())?;
        victims.push(Subject { program, victim, sites });
    }
    for round in 0..effort.rounds {
        shell::step(&format!("round {} of {}", round + 1, effort.rounds));
        for subject in &mut victims {
            let begun = Instant::now();
            let applies = |variant: &Variant| variant.applies_to(subject.program);
            let mut turns: Vec<Variant> = variants.iter().copied().filter(applies).collect();
            let turn = round as usize % turns.len();
            turns.rotate_left(turn);
            for variant in turns {
                if !variant.launches() {
                    session.attached(subject, variant, round)?;
                } else if round < effort.launches {
                    session.launched(subject.program, variant, round)?;
                }
            }
            println!("   {:?}: {:.1} s", subject.program, begun.elapsed().as_secs_f64());
        }
    }
    if session.disturbed > 0 {
        let times = session.disturbed;
        session.remarks.push(format!("measured again, since another tracer had probed the program: {times} times"));
    }
    Ok(Outcome { results: session.results, remarks: session.remarks })
}

/// A program that is kept.
struct Subject {
    program: Program,
    victim: Victim,
    sites: Sites,
}

/// What is measured, and what has been.
struct Session<'a> {
    workloads: &'a [&'static Workload],
    setting: &'a Setting,
    tracers: &'a Tracers,
    effort: Effort,
    results: Results,
    remarks: Vec<String>,
    /// Measurements thrown away.
    disturbed: u32,
}

impl Session<'_> {
    /// What can be measured here.
    fn variants(&mut self) -> Vec<Variant> {
        let mut variants = Vec::new();
        for variant in Variant::ALL {
            match self.tracers.missing(variant) {
                Some(why) => self.remarks.push(format!("no column \"{}\": {why}", variant.title())),
                None => variants.push(variant),
            }
        }
        variants
    }

    /// Measures under a tracer, and again if probes of somebody else were seen in the program before or after.
    fn attached(&mut self, subject: &mut Subject, variant: Variant, round: u32) -> Result<()> {
        let pid = subject.victim.pid();
        for _ in 0..PATIENCE {
            if subject.sites.are_untouched(pid)? {
                let samples = self.traced(subject, variant)?;
                if subject.sites.are_untouched(pid)? {
                    for (workload, sample) in samples {
                        self.results.add(workload, variant, round, sample);
                    }
                    return Ok(());
                }
            }
            self.disturbed += 1;
            thread::sleep(Duration::from_secs(1));
        }
        bail!("another tracer's probes stay in the programs to be measured; end it first (bpftool link shows some)");
    }

    fn traced(&mut self, subject: &mut Subject, variant: Variant) -> Result<Vec<(&'static str, Sample)>> {
        let program = subject.program;
        let tracer = self.tracers.attach(variant, subject.victim.pid())?;
        let samples = self.work(program, variant, &mut subject.victim)?;
        let Some(seen) = tracer.map(Tracer::end).transpose()?.flatten() else { return Ok(samples) };
        let losses = seen.losses();
        if !losses.is_empty() {
            self.remarks.push(format!("leaktrace has lost some of {program:?}'s events: {}", losses.join(", ")));
        }
        let units: u64 = samples.iter().map(|(_, sample)| sample.units).sum();
        let records_all = matches!(variant, Variant::Full | Variant::Multi | Variant::PerfEvents);
        ensure!(
            !records_all || !matches!(program, Program::Loops | Program::Threads) || seen.allocations() >= units,
            "{} recorded {} allocations where there were {units}",
            variant.title(),
            seen.allocations()
        );
        Ok(samples)
    }

    fn launched(&mut self, program: Program, variant: Variant, round: u32) -> Result<()> {
        let mut victim = Victim::start(program, variant, self.setting)?;
        let tracer = self.tracers.attach(variant, victim.pid())?;
        let samples = self.work(program, variant, &mut victim)?;
        tracer.map(Tracer::end).transpose()?;
        for (workload, sample) in samples {
            self.results.add(workload, variant, round, sample);
        }
        Ok(())
    }

    /// Measures all workloads of a program.
    fn work(&self, program: Program, variant: Variant, victim: &mut Victim) -> Result<Vec<(&'static str, Sample)>> {
        let mut amount = self.effort.amount;
        if variant.is_slow() {
            amount.requests /= SLOW;
        }
        let workloads = self.workloads.iter().filter(|workload| workload.program == program);
        workloads.map(|workload| Ok((workload.name, victim.measure(workload, amount)?))).collect()
    }
}
