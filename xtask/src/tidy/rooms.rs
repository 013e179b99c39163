//! The rule about imports inside leaktrace: which room may name which, and no cycle between files.
//!
//! In: the words of each file of `leaktrace/src`. Out: a breach for each import that the table of rooms does not permit, and
//! one for each cycle. Tests may import anything.

use super::Breach;
use super::rust::{Kind, Word};
use std::collections::{BTreeMap, BTreeSet};

/// Rooms from the top layer to the bottom, each with the lower rooms that it may name. Every room may name those in
/// [`GROUND`].
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["run"]),
    (
        "run",
        &["analysis", "cli", "config", "doctor", "holder", "host", "logging", "outcome", "report", "show", "trace"],
    ),
    ("cli", &["probes"]),
    ("config", &["analysis", "cli", "host", "probes", "report", "symbolize"]),
    ("config_tests", &["cli"]),
    ("logging", &["config", "workers"]),
    ("doctor", &["host"]),
    ("outcome", &["config", "process"]),
    (
        "trace",
        &[
            "analysis",
            "config",
            "holder",
            "host",
            "kernel",
            "lives",
            "outcome",
            "packages",
            "probes",
            "process",
            "sources",
            "symbolize",
            "workers",
        ],
    ),
    ("sources", &["elf", "host", "kernel", "probes", "process", "workers"]),
    ("lives", &["elf", "host", "kernel", "process", "unwind_tables", "workers"]),
    ("analysis", &["process"]),
    ("symbolize", &["elf", "process", "workers"]),
    ("packages", &[]),
    ("kernel", &["config", "holder", "host", "probes", "workers"]),
    ("holder", &["host"]),
    ("process", &["elf", "host"]),
    ("host", &[]),
    ("probes", &["elf"]),
    ("unwind_tables", &["elf"]),
    ("elf", &[]),
    ("workers", &[]),
    ("show", &["report"]),
    ("report", &[]),
    ("model", &[]),
    ("clean", &[]),
    ("ranges", &[]),
];
/// The rooms that every room may name.
const GROUND: [&str; 3] = ["model", "clean", "ranges"];
/// Where the rooms are.
const HOUSE: &str = "leaktrace/src/";

/// The files of all rooms, by module path, with the paths that each names.
#[derive(Default)]
pub struct House {
    modules: BTreeMap<Path, Module>,
}

type Path = Vec<String>;

struct Module {
    file: String,
    named: Vec<(usize, Path)>,
    /// Names that the module re-exports, and where they come from.
    passed_on: BTreeMap<String, Path>,
}

impl House {
    /// Adds a file, if it belongs to a room.
    pub fn add(&mut self, file: &str, words: &[Word]) {
        let Some(path) = module_of(file) else { return };
        let mut module = Module { file: file.to_owned(), named: Vec::new(), passed_on: BTreeMap::new() };
        for word in words.iter().filter(|word| !word.in_test && word.kind != Kind::String) {
            let segments: Path =
                word.text.split("::").filter(|segment| *segment != "self").map(str::to_owned).collect();
            if word.passed_on
                && let Some(name) = segments.last()
            {
                module.passed_on.insert(name.clone(), segments);
            } else if word.text.contains("::") {
                module.named.push((word.line, segments));
            }
        }
        self.modules.insert(path, module);
    }

    /// Every breach, with the file it is in.
    pub fn breaches(&self) -> Vec<(String, Breach)> {
        let mut breaches = Vec::new();
        let mut arrows = BTreeMap::<&Path, BTreeSet<&Path>>::new();
        for (path, module) in &self.modules {
            for (line, named) in &module.named {
                let Some(reached) = self.resolve(path, named, 0).filter(|reached| *reached != path) else { continue };
                // A file and those in its own directory count as one: the latter may add to the type that the former
                // defines.
                if !path.starts_with(reached) {
                    arrows.entry(path).or_default().insert(reached);
                }
                if let Some(what) = against_arrows(path, reached) {
                    breaches.push((module.file.clone(), Breach { line: *line, what }));
                }
            }
        }
        breaches.dedup_by(|a, b| a == b);
        for cycle in cycles(&arrows) {
            let names: Vec<_> = cycle.iter().map(|path| path.join("::")).collect();
            let file = self.modules.get(cycle[0]).map(|module| module.file.clone()).unwrap_or_default();
            let what = format!("files import each other in a cycle: {}; give what they share a file", names.join(", "));
            breaches.push((file, Breach { line: 0, what }));
        }
        breaches
    }

    /// The file that a path leads to, as named in the module `from`; `pub use` is followed to the file that defines the
    /// name.
    fn resolve(&self, from: &Path, named: &[String], depth: u32) -> Option<&Path> {
        let (mut at, rest) = match named.first()?.as_str() {
            "crate" => (Path::new(), &named[1..]),
            "super" => {
                let ups = named.iter().take_while(|segment| *segment == "super").count();
                (from.get(..from.len().checked_sub(ups)?)?.to_vec(), &named[ups..])
            }
            child => {
                let mut at = from.clone();
                at.push(child.to_owned());
                self.modules.get(&at)?;
                (from.clone(), named)
            }
        };
        let mut rest = rest.iter().peekable();
        while let Some(segment) = rest.peek() {
            at.push((*segment).clone());
            if !self.modules.contains_key(&at) {
                at.pop();
                break;
            }
            rest.next();
        }
        let (home, module) = self.modules.get_key_value(&at)?;
        let passed_on = rest.next().and_then(|name| module.passed_on.get(name)).filter(|_| depth < 8);
        passed_on.and_then(|origin| self.resolve(home, origin, depth + 1)).or(Some(home))
    }
}

/// `leaktrace/src/a/b.rs` is `a::b`; the root of the library is the empty path.
fn module_of(file: &str) -> Option<Path> {
    let name = file.strip_prefix(HOUSE)?.strip_suffix(".rs")?;
    let name = name.strip_suffix("/mod").unwrap_or(name);
    Some(if name == "lib" { Path::new() } else { name.split('/').map(str::to_owned).collect() })
}

fn against_arrows(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (from.first()?, to.first()?);
    if from == to || GROUND.contains(&to.as_str()) {
        return None;
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| room == from) else {
        return Some(format!("the room {from} is not in the list of rooms; say there which rooms it may name"));
    };
    (!allowed.contains(&to.as_str())).then(|| format!("{from} names {to}, which turns an arrow between rooms round"))
}

/// Sets of files each of which reaches every other (Tarjan's strongly connected components, by plain reachability).
fn cycles<'a>(arrows: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> Vec<Vec<&'a Path>> {
    let reached_from = |start: &'a Path| {
        let mut reached = BTreeSet::new();
        let mut ahead = vec![start];
        while let Some(at) = ahead.pop() {
            for next in arrows.get(at).into_iter().flatten() {
                if reached.insert(*next) {
                    ahead.push(next);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|path| (*path, reached_from(path))).collect();
    let mut cycles = BTreeSet::new();
    for (path, others) in reached.iter().filter(|(path, others)| others.contains(*path)) {
        let cycle = others.iter().filter(|other| reached.get(*other).is_some_and(|back| back.contains(path)));
        cycles.insert(cycle.copied().collect::<Vec<_>>());
    }
    cycles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::rust::words;
    use super::House;

    fn breaches(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let mut house = House::default();
        for (name, text) in files {
            house.add(&format!("leaktrace/src/{name}"), &words(text).unwrap());
        }
        house.breaches().into_iter().map(|(file, breach)| (file.replace("leaktrace/src/", ""), breach.line)).collect()
    }

    #[test]
    fn rooms_name_those_below_them_only() {
        let model = ("model/mod.rs", "pub struct Pid;");
        let host = ("host/mod.rs", "use crate::model::Pid;\nuse crate::kernel::Kernel;");
        let kernel = ("kernel/mod.rs", "use crate::host::version;\nuse crate::model::Pid;");
        assert_eq!(breaches(&[model, host, kernel]), [("host/mod.rs".to_owned(), 2), ("host/mod.rs".to_owned(), 0)]);
        assert!(
            breaches(&[model, kernel, ("host/mod.rs", "#[cfg(test)]\nmod tests { use crate::kernel::Kernel; }")])
                .is_empty()
        );
    }

    #[test]
    fn a_name_that_is_passed_on_is_its_own_file() {
        let facade = ("model/mod.rs", "mod types;\nmod sums;\npub use types::{Pid, Address};\npub use sums::Sum;");
        let types = ("model/types.rs", "pub struct Pid;");
        assert!(breaches(&[facade, types, ("model/sums.rs", "use super::Pid;")]).is_empty());
        let turned = ("model/types.rs", "use super::Sum;");
        let cycle = breaches(&[facade, turned, ("model/sums.rs", "use super::{Address, Pid};")]);
        assert_eq!(cycle, [("model/sums.rs".to_owned(), 0)]);
    }

    #[test]
    fn a_file_and_its_directory_are_one_subject_but_files_in_it_are_not() {
        let parent = ("trace/mod.rs", "mod setup;\nmod intake;\nuse setup::run;\npub struct Trace;");
        let (setup, intake) =
            (("trace/setup.rs", "use super::Trace;"), ("trace/intake.rs", "use super::setup::Setup;"));
        assert!(breaches(&[parent, setup, intake]).is_empty());
        let cycle = ("trace/setup.rs", "use super::intake::Intake;");
        assert_eq!(breaches(&[parent, cycle, intake]), [("trace/intake.rs".to_owned(), 0)]);
    }

    #[test]
    fn a_room_that_nobody_listed_is_found() {
        let files = [("attic.rs", "use crate::model::Pid;\nuse crate::host::version;"), ("host/mod.rs", "")];
        assert_eq!(breaches(&files), [("attic.rs".to_owned(), 2)]);
    }
}
