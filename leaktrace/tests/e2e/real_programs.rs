//! Programs as the distribution ships them, installed by `cargo xtask setup`: traced without loss, seen to allocate.

use std::process::{Command, Stdio};

use crate::harness::tracer::path_str;
use crate::harness::{Snapshot, Tracer, Victim};

/// Whether a program can be started; what `cargo xtask setup` installs must be there.
fn require(program: &str) {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok_and(|status| status.success()), "{program} is missing: run `cargo xtask setup`");
}

/// Traces a command to its end and checks what holds for any program.
fn traced(command: &[&str]) -> Snapshot {
    let finished = Tracer::start_unready(&[&["--"], command].concat()).wait();
    finished.assert_success();
    let snapshot = finished.snapshot();
    // Stock programs have no frame pointers: stacks may fall short, numbers may not.
    snapshot.assert_lossless_but(&["stacks_truncated", "unwind_failed", "unwind_failures"]);
    snapshot
}

fn allocations(snapshot: &Snapshot) -> u64 {
    snapshot.processes.iter().map(|process| process.alloc_count).sum()
}

#[test]
fn python_with_the_systems_allocator() {
    require("/usr/bin/python3");
    let program = "keep = [bytes(5000) for _ in range(10000)]; import os; os._exit(0)";
    let snapshot = traced(&["env", "PYTHONMALLOC=malloc", "/usr/bin/python3", "-c", program]);
    assert!(allocations(&snapshot) > 20_000, "{}", allocations(&snapshot));
    // 10,000 objects of 5,000 bytes and 33 of header each were alive at the end.
    let big = snapshot.sites.iter().map(|site| site.outstanding_bytes).max().unwrap();
    assert_eq!(big / 5033, 10_000, "the largest site holds {big} bytes");
}

#[test]
fn python_with_its_own_allocator() {
    require("/usr/bin/python3");
    let program = "import json; json.loads(json.dumps(list(range(100000))))";
    let snapshot = traced(&["/usr/bin/python3", "-c", program]);
    assert!(allocations(&snapshot) > 100, "{}", allocations(&snapshot));
}

#[test]
fn sqlite_inserting_rows() {
    require("sqlite3");
    let sql = "create table t(a, b); with recursive n(i) as (select 1 union all select i+1 from n where i<20000) \
               insert into t select i, hex(i) from n; select count(*) from t;";
    let snapshot = traced(&["sqlite3", ":memory:", sql]);
    assert!(allocations(&snapshot) > 20_000, "{}", allocations(&snapshot));
}

#[test]
fn redis_under_load() {
    require("redis-server");
    require("redis-benchmark");
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--unixsocket", path_str(&socket)]).current_dir(directory.path());
    let server = Victim::spawn("redis-server", &mut server);
    server.wait_for_line("the server's word", |line| line.contains("eady to accept connections"));

    let tracer = Tracer::attach(&server, &[]);
    let load = Command::new("redis-benchmark")
        .args(["-s", path_str(&socket), "-t", "set", "-n", "20000", "-r", "5000", "-d", "100", "-c", "4", "-q"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(load.success());
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["stacks_truncated", "unwind_failed", "unwind_failures"]);
    // 20,000 SETs of random keys out of 5,000: nearly every key is there at the end, each with its value of 100 bytes.
    let process = snapshot.process(server.pid());
    assert!(process.alloc_count > 40_000, "{}", process.alloc_count);
    assert!(process.outstanding_bytes > 4_500 * 100, "{}", process.outstanding_bytes);
    assert!(process.outstanding_bytes < 5_000 * 1_000, "{}", process.outstanding_bytes);
}
