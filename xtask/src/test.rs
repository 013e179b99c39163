//! `cargo xtask test`: everything that must hold before a change lands, on a machine where nothing has been set up.
//!
//! In: the working tree. Out: success, or the first check that fails. The checks that take seconds come first and the tests
//! last, so that the tests' verdict is on the screen at the end.

use crate::{build_ebpf, root, second_run, setup, shell, tidy, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

/// Sets this machine up, then runs every check and every test, those that need root included
#[derive(clap::Args)]
pub struct Args {
    /// The BPF object to test: the committed one, one built afresh, or a file
    #[arg(long, default_value = "committed", value_name = "committed|fresh|FILE", value_parser = parse_object)]
    object: Object,
    /// Fail where a test case fails, even if it would pass when it is run again, alone
    #[arg(long)]
    strict: bool,
    /// Run the end-to-end cases about exact numbers and processes' health N times, and nothing else, to find what shows up
    /// rarely; names behind -- choose others
    #[arg(long, value_name = "N", conflicts_with = "strict")]
    repeat: Option<u32>,
    /// Passed on to `cargo test`: names of tests, and after another `--` options of the test programs
    #[arg(last = true, value_name = "ARGS")]
    passed_on: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self { object: Object::Committed, strict: false, repeat: None, passed_on: Vec::new() }
    }
}

/// Which BPF object the tests load.
#[derive(Clone)]
pub enum Object {
    /// The one that is embedded in the program.
    Committed,
    /// One that is built now from the sources.
    Fresh,
    /// This one.
    File(PathBuf),
}

#[expect(clippy::unnecessary_wraps, reason = "clap's value parsers return a Result")]
fn parse_object(text: &str) -> Result<Object, std::convert::Infallible> {
    Ok(match text {
        "committed" => Object::Committed,
        "fresh" => Object::Fresh,
        file => Object::File(file.into()),
    })
}

const BPF_CRATE: &str = "leaktrace-ebpf/Cargo.toml";
/// A separate workspace, for the reason that its own manifest gives.
const RUST_VICTIMS: &str = "leaktrace/tests/victims/allocators/Cargo.toml";

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Tier::Test)?;
    if let Some(times) = args.repeat {
        return repeat(args, times);
    }
    shell::step("formatting");
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    // A workspace of its own.
    shell::run(shell::cargo().args(["fmt", "--check", "--manifest-path", BPF_CRATE]))?;
    shell::step("tidy");
    tidy::run(&tidy::Args {})?;
    shell::step("clippy");
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    shell::step("documentation");
    let mut doc = shell::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    shell::step("tests");
    // Fetches the dependencies of the only victims that need more than a compiler. The tests themselves need no network.
    shell::run(shell::cargo().args(["fetch", "--quiet", "--locked", "--manifest-path", RUST_VICTIMS]))?;
    // Cargo builds no library that a test cannot link, and tests that run as root must not build it.
    shell::run(shell::cargo().args(["build", "--quiet", "--locked", "--package", "leaktrace-sampler"]))?;
    let mut tests = tests(&args.object)?;
    tests.arg("--workspace");
    // A user who chooses cases wants to see how they fail.
    if args.strict || !args.passed_on.is_empty() {
        return shell::run(tests.args(&args.passed_on));
    }
    second_run::run(&mut tests)
}

/// Runs end-to-end cases again and again, until one fails.
fn repeat(args: &Args, times: u32) -> Result<()> {
    let strict = second_run::STRICT.map(|group| format!("{group}::"));
    let chosen: &[String] = if args.passed_on.is_empty() { &strict } else { &args.passed_on };
    for time in 1..=times {
        shell::step(&format!("{time} of {times}"));
        let mut test = tests(&args.object)?;
        shell::run(test.args(["--package", "leaktrace", "--test", "e2e", "--test", "launch", "--"]).args(chosen))
            .with_context(|| format!("in repetition {time} of {times}"))?;
    }
    Ok(())
}

/// The end-to-end tests alone, on a BPF object that is built now.
pub fn end_to_end_on_fresh_object() -> Result<()> {
    let mut test = tests(&Object::Fresh)?;
    shell::step("end-to-end tests on the BPF object just built");
    second_run::run(test.args(["--package", "leaktrace", "--test", "*"]))
}

/// `cargo test` that builds as the user and runs the test programs as root.
fn tests(object: &Object) -> Result<Command> {
    // A shell without job control makes its background jobs ignore some signals. The tests send these signals to leaktrace,
    // which would ignore them as well.
    let mut test = Command::new("env");
    test.current_dir(workspace::root()).arg("--default-signal=HUP,INT,QUIT,TERM");
    test.arg(shell::cargo().get_program()).args(["test", "--locked", "--no-fail-fast"]);
    match object {
        Object::Committed => {}
        Object::Fresh => {
            test.env("LEAKTRACE_BPF_OBJECT", build_ebpf::fresh()?);
        }
        Object::File(file) => {
            let file = file.canonicalize().with_context(|| format!("the BPF object {}", file.display()))?;
            test.env("LEAKTRACE_BPF_OBJECT", file);
        }
    }
    // Most end-to-end cases wait half of their time: for a process, for a kernel that removes probes, for a moment to come.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    test.env("RUST_TEST_THREADS", (processors + processors.div_ceil(2)).to_string());
    let runner = root::runner("trace processes in the tests")?;
    if !runner.is_empty() {
        let architecture = std::env::consts::ARCH.to_uppercase();
        test.env(format!("CARGO_TARGET_{architecture}_UNKNOWN_LINUX_GNU_RUNNER"), runner.join(" "));
    }
    Ok(test)
}
