//! What is measured, under what: the programs, their workloads, and the tracers beside them.
//!
//! Data only; how a program is started is for [`super::victim`] to know, how a tracer is for [`super::tracer`].

/// A program that is measured. It is started once and kept, so that tracers come and go between two measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `loops.c`, one thread.
    Loops,
    /// `loops.c`, several threads, so that the C library's locks are taken.
    Threads,
    /// `python.py`, small objects from Python's own arenas.
    Python,
    /// `python.py`, every object from `malloc`.
    PythonMalloc,
    /// `redis-server`, asked by `redis-benchmark`.
    Redis,
}

impl Program {
    /// All of them, in the order of measurement.
    pub const ALL: [Self; 5] = [Self::Loops, Self::Threads, Self::Python, Self::PythonMalloc, Self::Redis];
}

/// Something that a program does over and over.
#[derive(Debug, PartialEq, Eq)]
pub struct Workload {
    /// For `--only`, and in the tables.
    pub name: &'static str,
    /// Who does it.
    pub program: Program,
    /// What the program calls it.
    pub mode: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// What happens in one unit.
    pub about: &'static str,
}

impl Workload {
    /// Whether it is a loop over the allocator and nothing else, so that a unit is a few calls of it.
    pub fn is_loop(&self) -> bool {
        matches!(self.program, Program::Loops | Program::Threads)
    }
}

const fn workload(
    name: &'static str,
    program: Program,
    mode: &'static str,
    unit: &'static str,
    about: &'static str,
) -> Workload {
    Workload { name, program, mode, unit, about }
}

/// All workloads.
pub const WORKLOADS: [Workload; 11] = [
    workload("flat", Program::Loops, "flat", "pair", "`malloc(64)` and `free`, three frames deep"),
    workload("deep", Program::Loops, "deep", "pair", "the same under 8 more frames, with frame pointers"),
    workload(
        "deep-no-fp",
        Program::Loops,
        "deep-no-fp",
        "pair",
        "the same under 10 more frames, without frame pointers",
    ),
    workload("mixed", Program::Loops, "mixed", "pair", "16 B to 32 KiB, freed 256 allocations later"),
    workload("realloc", Program::Loops, "realloc", "call", "`realloc` of one block, to and fro between 64 B and 96 B"),
    workload("threads", Program::Threads, "threads", "pair", "the flat loop in 4 threads at once; CPU time of all"),
    workload("json", Program::Python, "json", "document", "Python writes and reads a JSON document of 20 records"),
    workload("json-malloc", Program::PythonMalloc, "json", "document", "the same with PYTHONMALLOC=malloc"),
    workload("sqlite", Program::Python, "sqlite", "row", "inserts into an indexed SQLite table in memory, from Python"),
    workload("redis-set", Program::Redis, "set", "request", "SET of 64 B under 100,000 random keys (jemalloc)"),
    workload("redis-get", Program::Redis, "get", "request", "GET of the same"),
];

/// Beside what a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Bare,
    /// Empty BPF programs at leaktrace's sites.
    Floor,
    /// The same, every call of an allocation function seen at its entry and its return.
    FloorTwoTraps,
    /// The same, their returns never asked for.
    FloorNoReturns,
    /// Empty BPF programs, those of free functions on the first instruction.
    Stepped,
    /// leaktrace as users run it.
    Full,
    /// leaktrace, all blocks too small to be recorded.
    Filtered,
    /// leaktrace, sampling.
    Sampled,
    /// leaktrace's sampler in the program, and nobody listens.
    SamplerAlone,
    /// The same, and leaktrace takes in what it tells.
    Sampler,
    /// leaktrace, attached by multi links.
    Multi,
    /// leaktrace, attached by perf events.
    PerfEvents,
    /// BCC's.
    Memleak,
    /// Preloaded.
    Heaptrack,
    /// Memcheck.
    Valgrind,
}

impl Variant {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 15] = [
        Self::Bare,
        Self::Floor,
        Self::FloorTwoTraps,
        Self::FloorNoReturns,
        Self::Full,
        Self::Filtered,
        Self::Sampled,
        Self::SamplerAlone,
        Self::Sampler,
        Self::Multi,
        Self::PerfEvents,
        Self::Stepped,
        Self::Memleak,
        Self::Heaptrack,
        Self::Valgrind,
    ];

    /// The heading of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Floor => "floor",
            Self::FloorTwoTraps => "floor, two traps",
            Self::FloorNoReturns => "floor, returns skipped",
            Self::Stepped => "free stepped",
            Self::Full => "leaktrace",
            Self::Filtered => "all filtered",
            Self::Sampled => "sampled",
            Self::SamplerAlone => "sampler alone",
            Self::Sampler => "sampler",
            Self::Multi => "by multi links",
            Self::PerfEvents => "by perf events",
            Self::Memleak => "memleak",
            Self::Heaptrack => "heaptrack",
            Self::Valgrind => "memcheck",
        }
    }

    /// What the heading means.
    pub fn about(self) -> &'static str {
        match self {
            Self::Bare => "nothing attached",
            Self::Floor => {
                "empty BPF programs at the sites that leaktrace chooses, attached as leaktrace attaches its own: what \
                 probes cost before any program does anything"
            }
            Self::FloorTwoTraps => {
                "the same at entries and returns alone, also where leaktrace sees a call by one trap in the middle of the function"
            }
            Self::FloorNoReturns => {
                "the same, with every entry telling the kernel that its return is not wanted: what is left where \
                 everything is filtered"
            }
            Self::Stepped => {
                "empty BPF programs again, those of free functions on the first instruction, where most tracers put \
                 theirs: the kernel single-steps it in glibc and jemalloc"
            }
            Self::Full => "`leaktrace -p PID`: every block with its stack",
            Self::Filtered => "`leaktrace -p PID --min-size 1M`: no block is large enough to be recorded",
            Self::Sampled => "`leaktrace -p PID --sample-bytes 512K`",
            Self::SamplerAlone => "the program launched with leaktrace's sampler in it, and no leaktrace attached",
            Self::Sampler => "the same, and `leaktrace -p PID` attached",
            Self::Multi => {
                "leaktrace as on Linux 6.10 to 6.12, which have no uprobe sessions (`LEAKTRACE_ATTACH=multi`)"
            }
            Self::PerfEvents => "leaktrace as on kernels before 6.10 (`LEAKTRACE_ATTACH=perf`)",
            Self::Memleak => "BCC's `memleak -p PID`",
            Self::Heaptrack => {
                "the program launched under heaptrack; the CPU time of the process that it sends its records to is not in it"
            }
            Self::Valgrind => "the program launched under Valgrind's memcheck",
        }
    }

    /// Whether it is measured on this program.
    pub fn applies_to(self, program: Program) -> bool {
        match self {
            Self::FloorTwoTraps | Self::FloorNoReturns | Self::Multi | Self::PerfEvents => program == Program::Loops,
            _ => true,
        }
    }

    /// Whether the program has to be started anew under it, instead of being attached to.
    pub fn launches(self) -> bool {
        matches!(self, Self::SamplerAlone | Self::Sampler | Self::Heaptrack | Self::Valgrind)
    }

    /// Whether what runs under it runs so slowly that it is given less to do.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::Stepped | Self::Memleak | Self::Valgrind)
    }
}

#[cfg(test)]
mod tests {
    use super::{Variant, WORKLOADS};

    #[test]
    fn names_and_titles_tell_apart() {
        let mut names: Vec<_> = WORKLOADS.iter().map(|it| it.name).chain(Variant::ALL.map(Variant::title)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
