//! The readers that are fed, each in a file: what it is given, and what must hold of what it makes of that, besides that it
//! neither panics nor costs more than `limits` allows.

mod elf;
pub mod endings;
mod maps;
mod perf_maps;
mod site_selection;
mod snapshot_json;
mod unwind_tables;

use crate::mutate::Shape;

/// A reader.
pub struct Target {
    pub name: &'static str,
    /// Feeds it, and panics where something does not hold that must.
    pub run: fn(&[u8]),
    pub shape: Shape,
    /// The longest input, bytes.
    pub longest: usize,
    /// What it may allocate for one input, bytes.
    pub memory: usize,
}

pub static ALL: [Target; 7] = [
    Target {
        name: "elf",
        run: elf::run,
        shape: Shape::Elf,
        longest: 32 << 10,
        // What `.gnu_debugdata` may unpack to, and again while that grows.
        memory: 640 << 20,
    },
    Target { name: "unwind_tables", run: unwind_tables::run, shape: Shape::Elf, longest: 32 << 10, memory: 64 << 20 },
    Target { name: "site_selection", run: site_selection::run, shape: Shape::Code, longest: 1 << 10, memory: 64 << 20 },
    Target { name: "maps", run: maps::run, shape: Shape::Lines(maps::WORDS), longest: 4 << 10, memory: 64 << 20 },
    Target {
        name: "snapshot_json",
        run: snapshot_json::run,
        shape: Shape::Json(snapshot_json::WORDS),
        longest: 16 << 10,
        memory: 64 << 20,
    },
    Target {
        name: "perf_maps",
        run: perf_maps::run,
        shape: Shape::Lines(perf_maps::WORDS),
        longest: 4 << 10,
        memory: 64 << 20,
    },
    // Without seeds, so that only the tests name it.
    Target { name: endings::NAME, run: endings::run, shape: Shape::Lines(&["fine"]), longest: 64, memory: 64 << 20 },
];

/// The target of that name.
pub fn find(name: &str) -> Result<&'static Target, String> {
    let names = ALL.each_ref().map(|target| target.name).join(", ");
    ALL.iter().find(|target| target.name == name).ok_or(format!("the targets are {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    /// Every seed of a target, among which are the inputs that once broke it.
    fn replay(name: &str) {
        let target = find(name).unwrap();
        let seeds = corpus::read(&corpus::seeds(name)).unwrap();
        assert!(!seeds.is_empty(), "no seeds");
        for seed in &seeds {
            (target.run)(seed);
        }
    }

    #[test]
    fn seeds_of_elf() {
        replay("elf");
    }

    #[test]
    fn seeds_of_unwind_tables() {
        replay("unwind_tables");
    }

    #[test]
    fn seeds_of_site_selection() {
        replay("site_selection");
    }

    #[test]
    fn seeds_of_maps() {
        replay("maps");
    }

    #[test]
    fn seeds_of_snapshot_json() {
        replay("snapshot_json");
    }

    #[test]
    fn seeds_of_perf_maps() {
        replay("perf_maps");
    }
}
