//! `--lsan` beside LeakSanitizer itself: one parser reads what both say of the same programs, and must find the same.

use std::process::Command;

use regex::Regex;

use crate::harness::build::Recipe;
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, require_privileges};

const C: Recipe = Recipe::new("leaking", "leaking.c", &[]);
const CXX: Recipe = Recipe::new("leaking_cxx", "leaking_cxx.cc", &[]);
const C_SANITIZED: Recipe = Recipe::new("leaking-lsan", "leaking.c", &["-fsanitize=leak"]);
const CXX_SANITIZED: Recipe = Recipe::new("leaking_cxx-lsan", "leaking_cxx.cc", &["-fsanitize=leak"]);

/// One leak as it stands in a report. Sorts as LeakSanitizer does: direct ones first, and then the largest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Leak {
    is_indirect: bool,
    bytes: u64,
    objects: u64,
    /// Of each frame the function and the place.
    frames: Vec<(String, String)>,
}

/// What one process was said to leak.
#[derive(Debug)]
struct Report {
    pid: u32,
    leaks: Vec<Leak>,
}

/// The lines of a report, each of which must be one of these.
struct Forms {
    header: Regex,
    leak: Regex,
    frame: Regex,
    summary: Regex,
}

impl Forms {
    fn new() -> Self {
        let form = |pattern: &str| Regex::new(&format!("^{pattern}$")).unwrap();
        Self {
            header: form(r"==(\d+)==ERROR: LeakSanitizer: detected memory leaks"),
            leak: form(r"(Direct|Indirect) leak of (\d+) byte\(s\) in (\d+) object\(s\) allocated from:"),
            frame: form(
                r"    #(\d+) 0x[0-9a-f]{12} (?:in (.+?) (\(<unknown module>\)|\(/\S+\+0x[0-9a-f]+\)|\S+:\d+)|() ?(\(/\S+\+0x[0-9a-f]+\)))",
            ),
            summary: form(r"SUMMARY: LeakSanitizer: (\d+) byte\(s\) leaked in (\d+) allocation\(s\)\."),
        }
    }

    /// Reads a whole text: nothing may stand in it that is no part of a report.
    fn read(&self, text: &str) -> Vec<Report> {
        let mut lines = text.lines();
        let mut next = || lines.next().map(str::to_owned);
        let mut reports = Vec::new();
        while let Some(first) = next() {
            assert_eq!((first.as_str(), next()), ("", Some("=".repeat(65))), "before a report:\n{text}");
            let header = next().unwrap();
            let header = self.header.captures(&header).unwrap_or_else(|| panic!("no header: {header}"));
            assert_eq!(next().as_deref(), Some(""), "after the header:\n{text}");
            let mut report = Report { pid: header[1].parse().unwrap(), leaks: Vec::new() };
            let summary = loop {
                let line = next().unwrap_or_else(|| panic!("a report without end:\n{text}"));
                match self.leak.captures(&line) {
                    Some(leak) => report.leaks.push(Leak {
                        is_indirect: &leak[1] == "Indirect",
                        bytes: leak[2].parse().unwrap(),
                        objects: leak[3].parse().unwrap(),
                        frames: self.frames(&mut next),
                    }),
                    None => break line,
                }
            };
            let summary = self.summary.captures(&summary).unwrap_or_else(|| panic!("neither leak nor end: {summary}"));
            let sum = |of: fn(&Leak) -> u64| report.leaks.iter().map(of).sum::<u64>().to_string();
            assert_eq!(
                (&summary[1], &summary[2]),
                (sum(|leak| leak.bytes).as_str(), sum(|leak| leak.objects).as_str()),
                "the sum:\n{text}"
            );
            let order: Vec<_> = report.leaks.iter().map(|leak| (leak.is_indirect, u64::MAX - leak.bytes)).collect();
            assert!(order.is_sorted(), "the order:\n{text}");
            reports.push(report);
        }
        reports
    }

    /// Frames up to an empty line.
    fn frames(&self, next: &mut impl FnMut() -> Option<String>) -> Vec<(String, String)> {
        let mut frames = Vec::new();
        while let Some(line) = next().filter(|line| !line.is_empty()) {
            let frame = self.frame.captures(&line).unwrap_or_else(|| panic!("no frame: {line:?}"));
            assert_eq!(frame[1].parse::<usize>().unwrap(), frames.len(), "the number of {line}");
            let part = |one, other| frame.get(one).or(frame.get(other)).unwrap().as_str().to_owned();
            frames.push((part(2, 4), part(3, 5)));
        }
        frames
    }
}

/// The leaks by what both tools know: of the stack the frames of the program's own source, with the functions' names without
/// their arguments, which LeakSanitizer leaves out of static functions. It ends its stacks before the first library without frame
/// pointers and at `main`, so that theirs are shorter.
fn sites(report: &Report, source: &str) -> Vec<Leak> {
    let of_source = |(function, place): &(String, String)| {
        let line = place.rsplit('/').next().filter(|name| name.starts_with(source))?;
        Some((function.split('(').next().unwrap_or_default().to_owned(), line.to_owned()))
    };
    let mut leaks: Vec<_> = report.leaks.clone();
    for leak in &mut leaks {
        let allocator = &leak.frames[0].0;
        let is_allocator = ["malloc", "alloc", "realloc", "operator new"].iter().any(|name| allocator.contains(name));
        assert!(is_allocator, "frame #0 is {allocator}");
        leak.frames = leak.frames.iter().filter_map(of_source).collect();
    }
    leaks.sort();
    leaks
}

fn assert_equal(plain: Recipe, sanitized: Recipe, argument: &str, count: usize) {
    require_privileges();
    let mut original = Command::new(sanitized.built());
    // Without colours, and one report at the end. What else it would obey is set by nobody.
    original.args(["run", argument]).env("LSAN_OPTIONS", "color=never:print_suppressions=0");
    let output = original.output().unwrap();
    assert_eq!(output.status.code(), Some(23), "LeakSanitizer finds leaks");
    let original = String::from_utf8(output.stderr).unwrap();

    let program = plain.built();
    let finished =
        Tracer::start_unready(&["--lsan", "--no-default-suppressions", "--", path_str(&program), "run", argument])
            .wait();
    finished.assert_success();
    let forms = Forms::new();
    let (ours, theirs) = (forms.read(&finished.stdout), forms.read(&original));
    assert_eq!((ours.len(), theirs.len()), (1, 1));
    assert_eq!(ours[0].pid, finished.snapshot().target.pids[0]);
    let (ours, theirs) = (sites(&ours[0], plain.source), sites(&theirs[0], plain.source));
    assert_eq!(ours, theirs, "{argument}:\n{}\nLeakSanitizer:\n{original}", finished.stdout);
    assert_eq!(ours.len(), count, "{ours:#?}");
}

#[test]
fn blocks_that_nothing_points_to_read_alike() {
    assert_equal(C, C_SANITIZED, "direct", 6);
}

#[test]
fn lists_read_alike() {
    assert_equal(C, C_SANITIZED, "indirect", 4);
}

#[test]
fn arrays_and_objects_of_cxx_read_alike() {
    assert_equal(CXX, CXX_SANITIZED, "arrays", 7);
}

#[test]
fn leaks_of_threads_read_alike() {
    assert_equal(CXX, CXX_SANITIZED, "threads", 2);
}

#[test]
fn without_a_leak_check_a_line_says_so() {
    let program = C.built();
    let arguments = ["--lsan", "--leak-check", "no", "--", path_str(&program), "run", "direct"];
    let finished = Tracer::start_unready(&arguments).wait();
    finished.assert_success();
    let expected = "WARNING: leaktrace: no verdict on 3.7 KiB in 12 allocations: no leak check ran; ";
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
}
