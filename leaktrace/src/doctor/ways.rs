//! The ways to look at a process, and what each costs it: which fits a service that must not be slowed down.

use std::fmt;

use super::facts::Facts;

/// A way to look at a process.
struct Way {
    name: &'static str,
    command: &'static str,
    /// Processor time of a SET of redis-server, and of a pair of malloc and free, as many times as without leaktrace or in nanoseconds
    /// (docs/BENCHMARKS.md, `cargo xtask bench`).
    cost: &'static str,
    shows: &'static str,
}

const WAYS: [Way; 4] = [
    Way {
        name: "every call",
        command: "-p PID",
        cost: "2.8 times, 1.5 µs a pair",
        shows: "exact numbers, which blocks are lost, who holds the others: for minutes",
    },
    Way {
        name: "a sample of the calls",
        command: "-p PID --sample-bytes 512k",
        cost: "2.2 times, 1.3 µs a pair",
        shows: "estimates with their interval; no verdicts, no growth",
    },
    Way {
        name: "the sampler in the program",
        command: "sampler --print-path, then -p PID",
        cost: "1.0 times, 1 to 2 ns a pair",
        shows: "estimates with their interval, growth; has to be preloaded when the program starts",
    },
    Way {
        name: "windows",
        command: "-p PID --burst 1s/100s",
        cost: "as every call in a window, nothing in between",
        shows: "net flow by size, and stacks of sizes that grow; no verdicts",
    },
];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, command, cost, shows } = self;
        write!(f, "{name:<26}  {command:<33}  {cost:<48}  {shows}")
    }
}

/// The ways that this kernel has, a line each, with a heading.
pub fn lines(facts: &Facts) -> impl Iterator<Item = String> {
    let heading = Way {
        name: "to look at",
        command: "leaktrace",
        cost: "costs redis-server, and malloc with free",
        shows: "and shows",
    };
    // Windows need probes that are set at once.
    let has = |way: &&Way| facts.multi || way.name != "windows";
    let ways: Vec<String> = WAYS.iter().filter(has).map(ToString::to_string).collect();
    std::iter::once(heading.to_string()).chain(ways)
}
