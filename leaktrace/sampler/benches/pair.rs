//! `cargo bench -p leaktrace-sampler`: what a malloc and a free cost more with the sampler, nanoseconds.
//!
//! In: `pair.c`, which calls the C library and the sampler by turns in one process. Out: a table of medians of nine runs each, on
//! standard output: with one, two and four threads, without the sampler (which says how exact the rest is), with nobody
//! listening, and with somebody.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step ends the measurement")]

use object::{Object as _, ObjectSection as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const RUNS: usize = 9;

fn main() {
    let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let library = build(&target);
    let semaphores = semaphores(&library);
    let program = target.join("sampler-pair");
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(package.join("benches/pair.c")));
    println!("{:>7} {:>7} {:>7} {:>9} {:>9} {:>9}", "bytes", "threads", "bare", "without", "detached", "attached");
    for size in [64, 1024] {
        for threads in [1, 2, 4] {
            let mut rows = [const { Vec::new() }; 3];
            let mut bare = Vec::new();
            for _ in 0..RUNS {
                for (way, row) in rows.iter_mut().enumerate() {
                    let mut command = Command::new(&program);
                    command.args([threads.to_string(), size.to_string()]);
                    if way > 0 {
                        command.env("LD_PRELOAD", &library);
                    }
                    if way > 1 {
                        command.arg(format!("{semaphores:x}"));
                    }
                    let numbers: Vec<f64> = run(&mut command).split_whitespace().map(|n| n.parse().unwrap()).collect();
                    let [alone, more] = numbers[..] else { panic!("{numbers:?}") };
                    bare.push(alone);
                    row.push(more);
                }
            }
            let [without, detached, attached] = rows.map(median);
            let bare = median(bare);
            println!("{size:>7} {threads:>7} {bare:>7.2} {without:>+9.2} {detached:>+9.2} {attached:>+9.2}");
        }
    }
}

fn build(target: &Path) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--release", "--package", env!("CARGO_PKG_NAME")]);
    run(cargo.arg("--target-dir").arg(target.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR")));
    target.join("libleaktrace_sampler.so")
}

/// Where both semaphores are, one behind the other.
fn semaphores(library: &Path) -> u64 {
    let bytes = std::fs::read(library).unwrap();
    object::File::parse(&*bytes).unwrap().section_by_name(".probes").unwrap().address()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
