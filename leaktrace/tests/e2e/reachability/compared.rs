//! The same programs under Valgrind's memcheck and under LeakSanitizer: bytes and blocks of each kind must be equal.
//!
//! A program names each block of which another tool's answer differs, by `valgrind=KIND` or `lsan=KIND` in what it prints and a
//! reason: memcheck counts only defined words and general registers, LeakSanitizer calls every member of a cycle indirect and
//! takes every pointer into a block. Such a block must get exactly that answer, and is left out of the sums.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use tempfile::TempDir;

use super::{KILLED_WITH_VECTORS, LEVELS, found, is_in, launch};
use crate::harness::tracer::path_str;
use crate::harness::{build, locks};

/// The answers to blocks of each size.
type Answers = BTreeMap<u64, Vec<String>>;

/// Bytes and blocks.
type Sums = BTreeMap<String, (u64, u64)>;

/// Another tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Memcheck,
    LeakSanitizer,
}

/// A block as the program speaks of it.
#[derive(Debug)]
struct Told {
    size: u64,
    /// What the verdict may be.
    kinds: Vec<String>,
    /// What the tool says where that differs.
    other: Option<Vec<String>>,
    has_reason: bool,
}

impl Told {
    /// Everything that a program says.
    fn read(output: &str, tool: Tool, source: &str) -> Vec<Self> {
        let told = output.lines().filter_map(|line| Self::parse(line, tool));
        told.filter(|told| !is_in(KILLED_WITH_VECTORS, source, told.size)).collect()
    }

    /// What the tool is to answer.
    fn right(&self) -> &[String] {
        self.other.as_ref().unwrap_or(&self.kinds)
    }

    /// The one answer that both are to give.
    fn common(&self) -> Option<(u64, &str)> {
        match (&self.other, self.kinds.as_slice()) {
            (None, [kind]) => Some((self.size, kind)),
            _ => None,
        }
    }

    fn parse(line: &str, tool: Tool) -> Option<Self> {
        let (told, reason) = line.split_once('#').unwrap_or((line, ""));
        let mut words = told.split_whitespace();
        let size = words.next()?.parse().ok()?;
        let kind = words.next().filter(|kind| kind.contains("_lost") || kind.contains("_reachable"))?;
        let fields: BTreeMap<_, _> = words.filter_map(|word| word.split_once('=')).collect();
        let kinds = |kinds: &str| kinds.split('/').map(str::to_owned).collect::<Vec<_>>();
        // Both tools are asked with all of Valgrind's heuristics, which LeakSanitizer does not know.
        let of_memcheck = || fields.get("valgrind_heuristics").or(fields.get("valgrind"));
        let other = match tool {
            Tool::Memcheck => of_memcheck().filter(|_| !fields.contains_key("heuristics")),
            Tool::LeakSanitizer => fields.get("lsan"),
        };
        Some(Self {
            size,
            kinds: kinds(fields.get("heuristics").unwrap_or(&kind)),
            other: other.map(|other| kinds(other)),
            has_reason: !reason.trim().is_empty(),
        })
    }
}

/// So many blocks of a program all tools judge alike, at least: LeakSanitizer differs on most of `mappings.c`.
const FEWEST: usize = 5;

/// One tool's run of the program: what the program said in it, and what the tool answers.
struct Run {
    told: Vec<Told>,
    answers: Answers,
}

/// Memcheck at the end of the program. Its own copies of the libraries keep the breakpoints of other tests' probes away, at
/// which a program under Valgrind would die.
fn memcheck(source: &str, level: u8) -> Run {
    let program = build::reachability_victim(source, level);
    let directory = tempfile::tempdir().unwrap();
    let linker = own_libraries(&program, &directory);
    let log = directory.path().join("log");
    let _machine = locks::no_system_wide_trace();
    let output = Command::new("valgrind")
        .args(["--leak-check=full", "--show-leak-kinds=all", "--leak-resolution=high", "--num-callers=40"])
        .args(["--leak-check-heuristics=all", "--fair-sched=yes", &format!("--log-file={}", path_str(&log))])
        .arg(linker)
        .args(["--library-path", path_str(directory.path()), path_str(&program), "run"])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run valgrind: {e}; install it by `cargo xtask setup`"));
    let text = fs::read_to_string(&log).unwrap();
    let status = output.status;
    assert!(status.success() && text.contains("ERROR SUMMARY"), "valgrind ended with {status}:\n{text}");
    let told = Told::read(&String::from_utf8_lossy(&output.stdout), Tool::Memcheck, source);
    let answers = read_memcheck(&text, &told);
    Run { told, answers }
}

/// Copies what the program is linked with; gives the dynamic linker's copy.
fn own_libraries(program: &Path, directory: &TempDir) -> PathBuf {
    let output = Command::new("ldd").arg(program).output().expect("ldd is part of the C library");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut linker = None;
    for path in text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
        let name = Path::new(path).file_name().unwrap();
        let copy = directory.path().join(name);
        fs::copy(path, &copy).unwrap();
        if name.to_string_lossy().starts_with("ld-linux") {
            build::copied(Path::new(path), &copy);
            linker = Some(copy);
        }
    }
    linker.unwrap_or_else(|| panic!("no dynamic linker in {text}"))
}

fn read_memcheck(text: &str, told: &[Told]) -> Answers {
    let record = Regex::new(
        r"([\d,]+) (?:\(([\d,]+) direct, [\d,]+ indirect\) )?bytes in ([\d,]+) blocks are (definitely lost|indirectly lost|possibly lost|still reachable)",
    );
    let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
    let (mut answers, mut several) = (Answers::new(), Vec::new());
    for record in record.unwrap().captures_iter(text) {
        let bytes = number(record.get(2).unwrap_or_else(|| record.get(1).unwrap()).as_str());
        let (blocks, kind) = (number(&record[3]), record[4].replace(' ', "_"));
        match blocks {
            1 => answers.entry(bytes).or_default().push(kind),
            _ => several.push((bytes, blocks, kind)),
        }
    }
    // Blocks with one stack are one record. It is that of the blocks not found so far of which the program expects this kind,
    // if bytes and number agree.
    for (bytes, blocks, kind) in several {
        let is_one = |told: &&Told| !answers.contains_key(&told.size) && told.right().contains(&kind);
        let sizes: Vec<u64> = told.iter().filter(is_one).map(|told| told.size).collect();
        if (sizes.iter().sum::<u64>(), sizes.len() as u64) == (bytes, blocks) {
            for size in sizes {
                answers.entry(size).or_default().push(kind.clone());
            }
        } else if bytes % blocks == 0 {
            let all = answers.entry(bytes / blocks).or_default();
            all.extend((0..blocks).map(|_| kind.clone()));
        }
    }
    answers
}

/// LeakSanitizer before the program ends. What it does not mention is reachable.
fn leak_sanitizer(source: &str, level: u8) -> Run {
    let program = build::reachability_victim_with_leak_sanitizer(source, level);
    let output = Command::new(program)
        .arg("run")
        .env("LSAN_OPTIONS", "report_objects=1:print_suppressions=0:exitcode=0:color=never")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{source} -O{level} ended with {}:\n{text}", output.status);
    assert!(!text.contains("encountered a fatal error"), "{text}");
    // The program asks for a check where everything is in its place; there is another one at its end.
    let report = text.split("SUMMARY:").next().unwrap();
    let object = Regex::new(r"^0x[0-9a-f]+ \((\d+) bytes\)$").unwrap();
    let (mut answers, mut kind) = (Answers::new(), "");
    for line in report.lines() {
        if line.starts_with("Direct leak of") {
            kind = "definitely_lost";
        } else if line.starts_with("Indirect leak of") {
            kind = "indirectly_lost";
        } else if let Some(object) = object.captures(line) {
            answers.entry(object[1].parse().unwrap()).or_default().push(kind.to_owned());
        }
    }
    let told = Told::read(&String::from_utf8_lossy(&output.stdout), Tool::LeakSanitizer, source);
    let mut expected: BTreeMap<u64, usize> = BTreeMap::new();
    for told in &told {
        *expected.entry(told.size).or_default() += 1;
    }
    for (size, count) in expected {
        // Its blocks have at least one byte.
        let of_size = answers.remove(&size.max(1)).unwrap_or_default();
        let rest = count.saturating_sub(of_size.len());
        let all = of_size.into_iter().chain((0..rest).map(|_| "still_reachable".to_owned()));
        answers.insert(size, all.collect());
    }
    Run { told, answers }
}

/// Takes one of these answers to a block of this size.
fn take(answers: &mut Answers, size: u64, right: Option<&[String]>) -> Option<String> {
    let of_size = answers.get_mut(&size)?;
    let place = match right {
        Some(right) => of_size.iter().position(|kind| right.contains(kind))?,
        None => of_size.len().checked_sub(1)?,
    };
    Some(of_size.remove(place))
}

/// What differs: the sums of each kind over the blocks that both are to judge alike, and the others one by one. Which block of a
/// cycle leads depends on addresses, so that the program does not say the same in each run.
fn compare(tool: Tool, mut ours: Run, mut theirs: Run) -> Vec<String> {
    let mut in_common: Vec<(u64, &str)> = Vec::new();
    let mut rest: Vec<_> = ours.told.iter().filter_map(Told::common).collect();
    for block in theirs.told.iter().filter_map(Told::common) {
        if let Some(place) = rest.iter().position(|other| *other == block) {
            in_common.push(rest.remove(place));
        }
    }
    let mut wrong = Vec::new();
    if in_common.len() < FEWEST {
        wrong.push(format!("only {} of {} blocks are judged alike", in_common.len(), ours.told.len()));
    }
    // First the others: blocks of the same size must not take their answers.
    let mut check_others = |who: &str, told: &[Told], answers: &mut Answers, by_tool: bool| {
        let mut in_common = in_common.clone();
        for block in told {
            if let Some(place) = block.common().and_then(|it| in_common.iter().position(|other| *other == it)) {
                in_common.swap_remove(place);
                continue;
            }
            let right = if by_tool { block.right() } else { &block.kinds };
            if block.other.is_some() && !block.has_reason {
                wrong.push(format!("the program gives no reason for {block:?}"));
            }
            if take(answers, block.size, Some(right)).is_none() {
                wrong.push(format!("{}: {who} to say {right:?} and says {:?}", block.size, answers.get(&block.size)));
            }
        }
    };
    check_others("leaktrace was", &ours.told, &mut ours.answers, false);
    check_others(&format!("{tool:?} was"), &theirs.told, &mut theirs.answers, true);
    let sums = |answers: &mut Answers| {
        let mut sums = Sums::new();
        for (size, kind) in &in_common {
            let right = [(*kind).to_owned()];
            let answer = take(answers, *size, Some(&right)).or_else(|| take(answers, *size, None));
            // To LeakSanitizer, blocks that are possibly lost are reachable.
            let answer = match answer.as_deref() {
                None => "not mentioned",
                Some("possibly_lost") if tool == Tool::LeakSanitizer => "still_reachable",
                Some(kind) => kind,
            };
            let sum = sums.entry(answer.to_owned()).or_default();
            *sum = (sum.0 + size, sum.1 + 1);
        }
        sums
    };
    let (ours, theirs) = (sums(&mut ours.answers), sums(&mut theirs.answers));
    if ours != theirs {
        wrong.push(format!("bytes and blocks: {ours:?}, by {tool:?} {theirs:?}"));
    }
    wrong
}

/// Traces the program once at each level, to its end, compares with what it says itself, and has the tools judge it too.
fn compared(source: &str) {
    let mut wrong = Vec::new();
    for level in LEVELS {
        let (finished, snapshot, differences) = launch(source, &[], level);
        wrong.extend(differences);
        let owned = |kinds: Vec<&str>| kinds.into_iter().map(str::to_owned).collect();
        let answers: Answers =
            found(&snapshot, snapshot.target.pids[0]).into_iter().map(|(size, kinds)| (size, owned(kinds))).collect();
        for tool in [Tool::Memcheck, Tool::LeakSanitizer] {
            let theirs = match tool {
                Tool::Memcheck => memcheck(source, level),
                Tool::LeakSanitizer => leak_sanitizer(source, level),
            };
            let ours = Run { told: Told::read(&finished.stdout, tool, source), answers: answers.clone() };
            wrong.extend(compare(tool, ours, theirs).into_iter().map(|found| format!("-O{level}: {found}")));
        }
    }
    assert!(wrong.is_empty(), "{source}: {wrong:#?}");
}

#[test]
fn graphs_of_blocks() {
    compared("graph.c");
}

#[test]
fn pointers_into_blocks() {
    compared("heuristics.cc");
}

#[test]
fn pointers_in_disguise() {
    compared("encodings.c");
}

#[test]
fn the_allocators_own_memory() {
    compared("heap.c");
}

#[test]
fn variables() {
    compared("data.c");
}

#[test]
fn stacks() {
    compared("on_stacks.c");
}

#[test]
fn coroutines() {
    compared("coroutines.c");
}

#[test]
fn mapped_memory() {
    compared("mappings.c");
}

#[test]
fn what_the_kernel_holds() {
    compared("kernel.c");
}

#[test]
fn what_the_program_calls_no_leak() {
    compared("annotated.c");
}

#[test]
fn thread_local_storage() {
    compared("tls.c");
}

#[test]
fn objects_of_cxx() {
    compared("cxx.cc");
}

#[test]
fn a_difference_that_the_program_does_not_name_is_found() {
    let line = "1020 definitely_lost lsan=indirectly_lost # it calls every member of a cycle indirect";
    let told = Told::parse(line, Tool::LeakSanitizer).unwrap();
    assert_eq!((told.common(), told.right()), (None, &["indirectly_lost".to_owned()][..]));
    let told = Told::parse(line, Tool::Memcheck).unwrap();
    assert_eq!(told.common(), Some((1020, "definitely_lost")));

    let told = || (0..FEWEST as u64).filter_map(|size| Told::parse(&format!("{size} still_reachable"), Tool::Memcheck));
    let run = |of_the_last: &str| {
        let answer = |size| if size == FEWEST as u64 - 1 { of_the_last } else { "still_reachable" };
        let answers = told().map(|Told { size, .. }| (size, vec![answer(size).to_owned()])).collect();
        Run { told: told().collect(), answers }
    };
    let compared = |theirs| compare(Tool::Memcheck, run("still_reachable"), run(theirs));
    assert_eq!(compared("still_reachable"), Vec::<String>::new());
    assert_eq!(compared("definitely_lost").len(), 1);
}
