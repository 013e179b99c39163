//! Whatever an input does to the reader is noticed, and the input is kept.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise, its helpers too")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs the target that ends as its input says, with this input among its seeds; where it keeps what failed, and what it said.
fn run(input: &str) -> (PathBuf, Output) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("endings-{input}"));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("corpus")).unwrap();
    std::fs::write(dir.join("corpus/seed"), input).unwrap();
    let mut fuzz = Command::new(env!("CARGO_BIN_EXE_leaktrace-fuzz"));
    fuzz.args(["endings", "--for", "0", "--seed", "7", "--corpus"]).arg(dir.join("corpus"));
    let output = fuzz.arg("--failures").arg(dir.join("failures")).output().unwrap();
    (dir.join("failures"), output)
}

#[test]
fn every_bad_ending_fails_and_keeps_its_input() {
    for (input, said) in [
        ("panic", "as asked for"),
        ("caught", "as asked for"),
        ("overflow", "attempt to add with overflow"),
        ("stack", "overflowed its stack"),
        ("memory", "memory allocation of 68157440 bytes failed"),
        ("time", "more than 5 s"),
    ] {
        let (failures, output) = run(input);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{input} passed");
        assert!(errors.contains(said) && errors.contains("--seed 7"), "{input}: {errors}");
        let kept: Vec<_> = std::fs::read_dir(failures).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(kept.len(), 1, "{input}: {kept:?}");
        assert_eq!(std::fs::read(&kept[0]).unwrap(), input.as_bytes());
    }
}

#[test]
fn an_input_that_does_nothing_passes_and_leaves_nothing() {
    let (failures, output) = run("fine");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("endings: 1 inputs"));
    assert_eq!(std::fs::read_dir(failures).unwrap().count(), 0);
}
