//! Programs that people run say and do the same with the sampler in them, detached and with somebody listening.

use crate::support::library;
use crate::tracer::{Tracer, copy};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

fn both(program: &str, arguments: &[&str]) {
    sampled(program, arguments, "1k");
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// `interval`: small enough for the program to be sampled.
fn sampled(program: &str, arguments: &[&str], interval: &str) {
    let run = |preload: Option<&Path>, interval: &str| -> Output {
        let mut command = Command::new(program);
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload).env("LEAKTRACE_SAMPLER_INTERVAL", interval);
            command.env("LEAKTRACE_SAMPLER_RATE", "0");
        }
        command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
    };
    let without = run(None, "");
    assert!(without.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&without.stderr));
    let same = |with: &Output| {
        assert_eq!(with.status, without.status, "{program} {arguments:?}: {}", String::from_utf8_lossy(&with.stderr));
        assert_eq!(String::from_utf8_lossy(&with.stdout), String::from_utf8_lossy(&without.stdout), "{program}");
        assert_eq!(String::from_utf8_lossy(&with.stderr), String::from_utf8_lossy(&without.stderr), "{program}");
    };
    for interval in ["512k", "1"] {
        same(&run(Some(library()), interval));
    }
    let listened = copy(&format!("listened{}.so", NUMBER.fetch_add(1, Relaxed)));
    let tracer = Tracer::attach(&listened);
    same(&run(Some(&listened), interval));
    assert!(!tracer.events().is_empty(), "{program} {arguments:?} was not sampled");
    drop(tracer);
    std::fs::remove_file(listened).unwrap();
}

#[test]
fn small_programs() {
    sampled("/usr/bin/true", &["--version"], "1");
    both("/bin/sh", &["-c", "echo $((6 * 7)); ls / | sort | head -3; (exit 3) || echo no"]);
    both("/bin/bash", &["-c", "for i in $(seq 200); do x+=$i; done; echo ${#x}; echo a | cat | cat"]);
}

#[test]
fn git_and_perl_and_sqlite() {
    both("git", &["--no-pager", "diff", "--no-index", "--stat", "Cargo.toml", "Cargo.toml"]);
    both("git", &["hash-object", "Cargo.toml", "build.rs"]);
    both(
        "perl",
        &["-e", "my %h; $h{$_ % 97} .= $_ for 1..20000; print join(',', map { length $h{$_} } sort keys %h), \"\\n\""],
    );
    let query = "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) \
                 insert into t select i, hex(i * 7919 % 1000) from n; select count(*), sum(a), max(b) from t group by b limit 3;";
    both("sqlite3", &[":memory:", query]);
}

#[test]
fn python_with_threads_and_children() {
    let script = "import json, threading, subprocess, ctypes\n\
                  data = [json.dumps({str(i): [i] * 20}) for i in range(2000)]\n\
                  threads = [threading.Thread(target=lambda: [json.loads(d) for d in data]) for _ in range(4)]\n\
                  [t.start() for t in threads]; [t.join() for t in threads]\n\
                  print(subprocess.check_output(['echo', 'child']), len(data))\n\
                  print(ctypes.CDLL(None).malloc is not None)";
    for allocator in ["pymalloc", "malloc"] {
        let setting = format!("PYTHONMALLOC={allocator}");
        both("env", &[&setting, "/usr/bin/python3", "-c", script]);
    }
}

#[test]
fn node() {
    both(
        "node",
        &[
            "-e",
            "let a = []; for (let i = 0; i < 1e5; i++) a.push({i, s: 'x' + i}); console.log(JSON.stringify(a).length)",
        ],
    );
}

#[test]
fn a_compiler_with_its_children() {
    let object = std::env::temp_dir().join(format!("leaktrace-sampler-{}.o", std::process::id()));
    let object = object.to_str().unwrap();
    both("c++", &["-O1", "-std=c++17", "-c", "-o", object, "tests/victims/operators.cpp"]);
    both("cksum", &[object]);
    std::fs::remove_file(object).unwrap();
}

#[test]
fn a_java_machine_if_there_is_one() {
    // The JDK is not among what the tests set up.
    if Path::new("/usr/bin/java").exists() {
        both("java", &["-Xshare:auto", "-version"]);
    }
}
