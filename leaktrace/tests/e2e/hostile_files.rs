//! Files of traced processes that change while they are read: the tracer lives, and what it reports is exact.

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, locks};

/// Enough for the reader to be met in the middle of some file: before files were copied, one of the first twenty did.
const ROUNDS: &str = "200";

fn shortens(options: impl Fn(u32) -> Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = Victim::start("shortening.c", &[path_str(directory.path()), ROUNDS]);
    let options = options(victim.pid());
    let tracer = Tracer::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    finished.snapshot().assert_equals(&accounts);
    victim.finish();
}

#[test]
fn files_that_are_shortened_while_a_process_is_traced_end_no_tracer() {
    shortens(|pid| ["-p", &pid.to_string(), "--no-follow", "--show-allocs"].map(str::to_owned).to_vec());
}

#[test]
fn files_that_are_shortened_anywhere_on_the_machine_end_no_tracer() {
    let _machine = locks::whole_machine();
    // Only the victim's own sizes: every round's first, 100 to 290 bytes, are others' too, but only its sites are compared.
    shortens(|_| crate::system_wide::ROOM.map(str::to_owned).to_vec());
}

/// Moves a terminal's cursor, ends a line, turns the direction of writing round.
const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;x\u{7}b\nc\u{202e}d\u{2066}e\u{85}";

#[test]
fn no_name_from_outside_acts_on_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let hostile = directory.path().join(HOSTILE);
    std::fs::create_dir(&hostile).unwrap();
    let program = hostile.join(HOSTILE);
    build::copied(&build::victim("family.c"), &program);
    let (svg, folded) = (directory.path().join("x.svg"), directory.path().join("x.folded"));
    let outputs = ["--flamegraph", path_str(&svg), "--folded", path_str(&folded), "-vv"];
    let finished = Tracer::start_unready(&[&outputs[..], &["--", path_str(&program), "run"]].concat()).wait();
    finished.assert_success();
    // What the victim itself says on the same standard output comes before the report.
    let json = finished.read("snapshot.json");
    let texts = [&finished.stdout, &finished.stderr, &json, &std::fs::read_to_string(svg).unwrap()];
    for text in texts.into_iter().chain([&std::fs::read_to_string(folded).unwrap()]) {
        let bad = text.lines().find(|line| line.contains(|c| c != '\t' && leaktrace::clean::is_unsafe(c)));
        assert_eq!(bad, None);
    }
    assert!(finished.stderr.contains("a?[2J?]0;x?b?c?d?e?"), "{}", finished.stderr);
    // In JSON they are data.
    assert!(finished.snapshot().processes.iter().any(|process| process.exe.as_deref() == Some(path_str(&program))));
}
