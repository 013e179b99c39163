//! docs/BENCHMARKS.md: what was measured, as people read it.
//!
//! In: the [`Results`], and what they were measured on and with. Out: Markdown. Every figure in it was measured in this run.

use super::catalog::{Variant, WORKLOADS, Workload};
use super::machine::{Fact, Load};
use super::results::{Clock, Results};
use super::scale::{self, Figure};
use super::stats::Summary;
use super::table::{Table, number, times};
use std::fmt::{self, Write as _};

/// All that the document says.
pub struct Report<'a> {
    /// What was measured.
    pub results: &'a Results,
    /// What leaktrace takes and uses itself.
    pub scale: &'a [Figure],
    /// On and with what.
    pub facts: &'a [Fact],
    /// How busy the machine was.
    pub load: &'a Load,
    /// The command that measures again.
    pub command: &'a str,
    /// What was not measured and why, and what went wrong.
    pub remarks: &'a [String],
}

/// What leaktrace is to reach.
struct Goal {
    variant: Variant,
    to: Variant,
    bound: Bound,
    /// Where: loops whose stacks have up to 10 frames, with frame pointers.
    workloads: &'static [&'static str],
}

/// Which side of a ratio is good.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// Goal: a tracker whose probe on `free` is single-stepped costs this many times as much as leaktrace.
const STEPPED_GOAL: f64 = 8.0;

const PAIRS: &[&str] = &["flat", "deep", "mixed", "threads"];
const LOOPS: &[&str] = &["flat", "deep", "mixed", "realloc", "threads"];

/// The flat loop under [`FRAMES`] more frames, which only unwind tables can walk.
const BY_TABLES: &str = "deep-no-fp";
const FRAMES: f64 = 10.0;
/// The most that one of these frames may take, ns: less than with frame pointers, so that these are never the faster choice.
const FRAME_GOAL: f64 = 25.0;

const GOALS: [Goal; 5] = [
    Goal { variant: Variant::Full, to: Variant::Floor, bound: Bound::AtMost(1.4), workloads: LOOPS },
    Goal { variant: Variant::Full, to: Variant::Floor, bound: Bound::AtMost(1.5), workloads: &[BY_TABLES] },
    Goal { variant: Variant::Filtered, to: Variant::Floor, bound: Bound::AtMost(1.1), workloads: LOOPS },
    Goal { variant: Variant::Sampled, to: Variant::Floor, bound: Bound::AtMost(1.15), workloads: LOOPS },
    Goal { variant: Variant::Stepped, to: Variant::Full, bound: Bound::AtLeast(STEPPED_GOAL), workloads: PAIRS },
];

/// What a table of medians shows.
#[derive(Clone, Copy)]
struct Measure {
    heading: &'static str,
    clock: Clock,
    of: fn(f64) -> f64,
}

const CPU_TIME: Measure = Measure { heading: "ns of CPU time", clock: Clock::Cpu, of: |ns| ns };
const PER_SECOND: Measure = Measure { heading: "a second", clock: Clock::Wall, of: |ns| 1e9 / ns };

/// Columns of the ratios.
const RATIOS: [(Variant, Variant); 6] = [
    (Variant::Floor, Variant::Bare),
    (Variant::Full, Variant::Bare),
    (Variant::Full, Variant::Floor),
    (Variant::Filtered, Variant::Floor),
    (Variant::Sampled, Variant::Floor),
    (Variant::Stepped, Variant::Full),
];

/// Columns of the table of attach types.
const ATTACHED: [Variant; 5] =
    [Variant::Floor, Variant::FloorNoReturns, Variant::Full, Variant::Multi, Variant::PerfEvents];

/// Stands where nothing was measured.
const ABSENT: &str = "-";

impl Report<'_> {
    /// The document.
    pub fn render(&self) -> String {
        let mut text = String::from("# Benchmarks\n\n");
        let _ = writeln!(text, "Written by `{}`, which measures all of it again.\n", self.command);
        for (name, fact) in self.facts {
            let _ = writeln!(text, "- {name}: {fact}");
        }
        let _ = writeln!(text, "- load: {}", self.load.describe());
        if let Some(warning) = self.load.warning() {
            let _ = writeln!(text, "\n**Warning:** {warning}.");
        }
        self.goals(&mut text);
        let compared: Vec<Variant> =
            self.variants().filter(|variant| !ATTACHED[1..].contains(variant) || *variant == Variant::Full).collect();
        let (loops, programs): (Vec<_>, Vec<_>) = self.workloads().partition(|workload| workload.is_loop());
        self.section(&mut text, "Loops", &loops, &compared, CPU_TIME);
        self.section(&mut text, "Programs", &programs, &compared, CPU_TIME);
        let all: Vec<_> = self.workloads().collect();
        self.section(&mut text, "Throughput", &all, &compared, PER_SECOND);
        if !all.is_empty() {
            self.ratios(&mut text);
        }
        if self.results.has_variant(Variant::Multi) {
            self.section(&mut text, "Ways to attach", &loops, &ATTACHED, CPU_TIME);
        }
        if !self.scale.is_empty() {
            text.push_str(&scale::render(self.scale));
        }
        if !all.is_empty() {
            self.spread(&mut text);
            self.meanings(&mut text);
        }
        text
    }

    fn goals(&self, text: &mut String) {
        let mut table = Table::new(["figure", "goal", "measured", "reached"]);
        for goal in &GOALS {
            let ratio = |name: &&'static str| {
                let ratio = self.results.ratio(name, goal.variant, goal.to)?;
                Some((*name, ratio.median))
            };
            let measured: Vec<(&str, f64)> = goal.workloads.iter().filter_map(ratio).collect();
            if measured.is_empty() {
                continue;
            }
            let reached = measured.iter().filter(|(_, ratio)| goal.bound.holds(*ratio)).count();
            let cells: Vec<String> = measured.iter().map(|(name, ratio)| format!("{name} {}", times(*ratio))).collect();
            let verdict = match reached {
                all if all == measured.len() => "yes".to_owned(),
                0 => "no".to_owned(),
                some => format!("{some} of {}", measured.len()),
            };
            let what = format!("{} ÷ {}", goal.variant.title(), goal.to.title());
            table.row([what, goal.bound.to_string(), cells.join(", "), verdict]);
        }
        if let Some(frame) = self.frame() {
            let (what, verdict) = ("a further frame by tables, ns", if frame <= FRAME_GOAL { "yes" } else { "no" });
            table.row([what.to_owned(), format!("≤ {FRAME_GOAL}"), number(frame), verdict.to_owned()]);
        }
        if !table.is_empty() {
            let _ = write!(text, "\n## Figures to reach\n\n{}", table.render());
            text.push_str(&self.step().unwrap_or_default());
        }
    }

    /// What each frame adds that tables lead through, ns.
    fn frame(&self) -> Option<f64> {
        let time = |workload| self.results.time(Clock::Cpu, workload, Variant::Full).map(|time| time.median);
        Some((time(BY_TABLES)? - time("flat")?) / FRAMES)
    }

    /// What the last goal depends on: the cost of a single step on this machine.
    fn step(&self) -> Option<String> {
        let time = |variant| self.results.time(Clock::Cpu, "flat", variant).map(|time| time.median);
        let (stepped, floor, full) = (time(Variant::Stepped)?, time(Variant::Floor)?, time(Variant::Full)?);
        let work = full - floor;
        Some(format!(
            "\n\"{}\" are empty programs. Of the flat loop: a step costs {} ns on this machine ({} less the {} of the floor); \
             a tracker that does leaktrace's work, {} ns, with a step at each `free` takes {} times what leaktrace takes. For \
             {} times, a step would have to cost {} ns.\n",
            Variant::Stepped.title(),
            number(stepped - floor),
            number(stepped),
            number(floor),
            number(work),
            times((stepped + work) / full),
            STEPPED_GOAL,
            number(STEPPED_GOAL * full - full),
        ))
    }

    /// A table of medians: a row for each workload, a column for each variant.
    fn section(&self, text: &mut String, title: &str, workloads: &[&Workload], variants: &[Variant], measure: Measure) {
        if workloads.is_empty() {
            return;
        }
        let titles = variants.iter().map(|variant| variant.title());
        let mut table = Table::new([measure.heading].into_iter().chain(titles));
        for workload in workloads {
            let cells = variants.iter().map(|variant| {
                let time = self.results.time(measure.clock, workload.name, *variant);
                time.map_or_else(|| ABSENT.to_owned(), |time| number((measure.of)(time.median)))
            });
            table.row([format!("{}, {}", workload.name, workload.unit)].into_iter().chain(cells));
        }
        let _ = write!(text, "\n## {title}\n\n{}", table.render());
    }

    fn ratios(&self, text: &mut String) {
        let is_there = |(of, to): &(Variant, Variant)| self.results.has_variant(*of) && self.results.has_variant(*to);
        let columns: Vec<_> = RATIOS.into_iter().filter(is_there).collect();
        let headings = columns.iter().map(|(of, to)| format!("{} ÷ {}", of.title(), to.title()));
        let mut table = Table::new(["times".to_owned()].into_iter().chain(headings));
        for workload in self.workloads() {
            let cells = columns.iter().map(|(of, to)| {
                let ratio = self.results.ratio(workload.name, *of, *to);
                ratio.map_or_else(|| ABSENT.to_owned(), |ratio| between(ratio, times))
            });
            table.row([workload.name.to_owned()].into_iter().chain(cells));
        }
        let about = "Of CPU time, each taken within a round: median (smallest–largest).";
        let _ = write!(text, "\n## Ratios\n\n{about}\n\n{}", table.render());
    }

    fn spread(&self, text: &mut String) {
        let mut table = Table::new(["ns of CPU time", "rounds", "median (smallest–largest)"]);
        for workload in self.workloads() {
            for variant in self.variants() {
                if let Some(time) = self.results.time(Clock::Cpu, workload.name, variant) {
                    let what = format!("{}, {}", workload.name, variant.title());
                    table.row([what, time.count.to_string(), between(time, number)]);
                }
            }
        }
        let _ = write!(text, "\n## Spread\n\n{}", table.render());
    }

    fn meanings(&self, text: &mut String) {
        text.push_str("\n## What was measured\n\n");
        for workload in self.workloads() {
            let _ = writeln!(text, "- {}, each {}: {}", workload.name, workload.unit, workload.about);
        }
        text.push_str("\nUnder:\n\n");
        for variant in self.variants() {
            let _ = writeln!(text, "- {}: {}", variant.title(), variant.about());
        }
        text.push_str(
            "\nTracers are attached one after another to the same running program, in another order each round. CPU time is \
             that of the program's own threads: it contains what probes cost them, and nothing that others do. Throughput \
             is by the wall clock.\n",
        );
        if !self.remarks.is_empty() {
            text.push_str("\nRemarks:\n\n");
            for remark in self.remarks {
                let _ = writeln!(text, "- {remark}");
            }
        }
    }

    fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        WORKLOADS.iter().filter(|workload| self.results.has_workload(workload.name))
    }

    fn variants(&self) -> impl Iterator<Item = Variant> {
        Variant::ALL.into_iter().filter(|variant| self.results.has_variant(*variant))
    }
}

/// Median and range.
fn between(summary: Summary, show: fn(f64) -> String) -> String {
    if summary.count == 1 {
        return show(summary.median);
    }
    format!("{} ({}–{})", show(summary.median), show(summary.min), show(summary.max))
}

#[cfg(test)]
mod tests {
    use super::super::results::Sample;
    use super::{Report, Results, Variant};
    use crate::bench::machine::Watch;

    fn rendered(full_ns: f64) -> String {
        let mut results = Results::default();
        for (variant, cpu_ns) in [(Variant::Bare, 5.0), (Variant::Floor, 1000.0), (Variant::Full, full_ns)] {
            for round in 0..3 {
                results.add("flat", variant, round, Sample { cpu_ns, wall_ns: 2.0 * cpu_ns, units: 100 });
            }
        }
        render(&results)
    }

    fn render(results: &Results) -> String {
        let load = Watch::start().and_then(|watch| watch.end()).unwrap();
        let facts = [("kernel", "Linux 6.18".to_owned())];
        let remarks = ["no column \"memleak\": there is no memleak on PATH".to_owned()];
        Report { results, scale: &[], facts: &facts, load: &load, command: "cargo xtask bench", remarks: &remarks }
            .render()
    }

    #[test]
    fn a_goal_is_reached_or_not() {
        let goal = "| leaktrace ÷ floor | ≤ 1.4 |";
        assert!(rendered(1300.0).contains(&format!("{goal} flat 1.30 |     yes |")), "{}", rendered(1300.0));
        assert!(rendered(1500.0).contains(&format!("{goal} flat 1.50 |      no |")), "{}", rendered(1500.0));
    }

    #[test]
    fn the_cost_of_a_step_is_what_stepping_adds_to_the_floor() {
        let mut results = Results::default();
        for (variant, cpu_ns) in [(Variant::Floor, 1000.0), (Variant::Full, 1400.0), (Variant::Stepped, 9500.0)] {
            results.add("flat", variant, 0, Sample { cpu_ns, wall_ns: cpu_ns, units: 100 });
        }
        let text = render(&results);
        // 9,500 - 1,000; (9,500 + 400) / 1,400; 8 * 1,400 = 1,400 + 9,800.
        assert!(text.contains("a step costs 8,500 ns on this machine (9,500 less the 1,000 of the floor)"), "{text}");
        assert!(
            text.contains("takes 7.07 times what leaktrace takes. For 8 times, a step would have to cost 9,800 ns.")
        );
    }

    #[test]
    fn every_figure_shows_with_its_unit_and_what_is_missing_is_said() {
        let text = rendered(1300.0);
        for line in [
            "| ns of CPU time | bare | floor | leaktrace |",
            "| flat, pair     |  5.0 | 1,000 |     1,300 |",
            "| a second   |        bare |   floor | leaktrace |",
            "| flat, pair | 100,000,000 | 500,000 |   384,615 |",
            "- kernel: Linux 6.18",
            "- no column \"memleak\": there is no memleak on PATH",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("heaptrack"), "{text}");
    }
}
