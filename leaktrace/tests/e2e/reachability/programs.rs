//! Programs as the distribution ships them, with leaks of ours: in a module of redis, in an extension of Python, and in a library
//! that is loaded into nginx.
//!
//! Nothing that is kept is ever called lost. Of what is lost almost everything is found: words that such a program has left behind
//! in memory that it does not use now still point to, or into, a block or two, and no other word than a kinder one is right then.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::harness::build::{self, Recipe};
use crate::harness::snapshot::Site;
use crate::harness::tracer::path_str;
use crate::harness::{Finished, Snapshot, Tracer, Victim};
use crate::real_programs::{Nginx, require};

/// How often each block is lost and kept.
const TIMES: u64 = 50;

const MODULE: Recipe = Recipe::new("leaky-module.so", "leaky_module.c", &["-shared", "-fPIC"]);
const EXTENSION: Recipe = Recipe::new("leaky-extension.so", "leaky_extension.c", &["-shared", "-fPIC"]);
const ACCEPT: Recipe = Recipe::new("leaky-accept.so", "leaky_accept.c", &["-shared", "-fPIC"]);

/// Of the blocks that a function made, how many are of which kind; they are all of these sizes.
fn kinds(snapshot: &Snapshot, function: &str, sizes: &[u64]) -> BTreeMap<String, u64> {
    let is_of = |site: &&Site| site.stack.iter().any(|frame| frame.function.as_deref() == Some(function));
    let (mut bytes, mut kinds) = (0, BTreeMap::new());
    for site in snapshot.sites.iter().filter(is_of).filter(|site| site.outstanding_count > 0) {
        bytes += site.outstanding_bytes;
        for (kind, tally) in site.verdict.as_ref().unwrap_or_else(|| panic!("no verdict on {}", site.path())) {
            *kinds.entry(kind.clone()).or_default() += tally.count;
        }
    }
    kinds.retain(|_, count| *count > 0);
    let counted: u64 = kinds.values().sum();
    let expected = (sizes.iter().sum::<u64>() * TIMES, sizes.len() as u64 * TIMES);
    assert_eq!((bytes, counted), expected, "{function}\n{}", snapshot.digest());
    kinds
}

/// Checks what was found of blocks of these sizes that were lost: nine of ten, by one of these words.
fn assert_lost(snapshot: &Snapshot, words: &[&str], sizes: &[u64]) {
    let kinds = kinds(snapshot, "lose", sizes);
    let found: u64 = words.iter().filter_map(|kind| kinds.get(*kind)).sum();
    assert!(found * 10 >= sizes.len() as u64 * TIMES * 9, "{kinds:?}");
}

/// Checks that none of those that were kept is lost.
fn assert_kept(snapshot: &Snapshot, sizes: &[u64]) {
    let kinds = kinds(snapshot, "keep", sizes);
    assert!(kinds.keys().all(|kind| kind == "still_reachable"), "{kinds:?}");
}

fn judged(finished: &Finished, mode: &str) -> Snapshot {
    finished.assert_success();
    let snapshot = finished.snapshot();
    let checks: Vec<_> = snapshot.processes.iter().filter_map(|process| process.leak_check.as_ref()).collect();
    assert!(checks.iter().any(|check| check.mode == mode), "{:?}\n{}", snapshot.warnings, finished.stderr);
    snapshot
}

/// A server with the module, and a connection to it.
struct Redis {
    server: Victim,
    socket: String,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        require("redis-server");
        require("redis-benchmark");
        let directory = tempfile::tempdir().unwrap();
        let socket = path_str(&directory.path().join("socket")).to_owned();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket", &socket]);
        command.args(["--loadmodule", path_str(&MODULE.built())]).current_dir(directory.path());
        let server = Victim::spawn("redis-server", &mut command);
        server.wait_for_line("the server's word", |line| line.contains("eady to accept connections"));
        Self { server, socket, _directory: directory }
    }

    /// Sets keys as fast as it can.
    fn load(&self, requests: &str) -> Child {
        Command::new("redis-benchmark")
            .args(["-s", &self.socket, "-t", "set", "-n", requests, "-r", "5000", "-d", "100", "-c", "4", "-q"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn leak(&self) {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).unwrap());
        for number in 1..=TIMES {
            stream.get_mut().write_all(b"LEAKY\r\n").unwrap();
            let mut answer = String::new();
            stream.read_line(&mut answer).unwrap();
            assert_eq!(answer, format!(":{number}\r\n"));
        }
    }
}

/// All of the module's blocks come from jemalloc: the server's `malloc` is that of whatever it loads.
#[test]
fn a_module_of_redis_under_load_loses_what_it_does_not_keep() {
    let redis = Redis::start();
    let tracer = Tracer::attach(&redis.server, &["--leak-check-mode=exact", "--max-pause=1h"]);
    let mut load = redis.load("20000");
    redis.leak();
    assert!(load.wait().unwrap().success());
    let snapshot = judged(&tracer.stop(), "exact");
    assert_lost(&snapshot, &["definitely_lost"], &[3001, 3005]);
    assert_kept(&snapshot, &[3003, 3007]);
}

/// The same while the server serves.
#[test]
fn a_module_of_redis_is_judged_while_the_server_serves() {
    let redis = Redis::start();
    let tracer = Tracer::attach(&redis.server, &["--leak-check-mode=live", "--max-pause=1h"]);
    let mut load = redis.load("2000000");
    redis.leak();
    let snapshot = judged(&tracer.stop(), "live");
    assert!(load.try_wait().unwrap().is_none(), "the load went on all the time");
    load.kill().unwrap();
    load.wait().unwrap();
    // jemalloc's own words, which change meanwhile, make a difference here: what they point to is undecided.
    assert_lost(&snapshot, &["definitely_lost", "probably_lost", "undecided"], &[3001, 3005]);
    assert_kept(&snapshot, &[3003, 3007]);
    let kinds = kinds(&snapshot, "lose", &[3001, 3005]);
    let found = ["definitely_lost", "probably_lost"].map(|kind| kinds.get(kind).copied().unwrap_or(0));
    assert!(found.iter().sum::<u64>() >= TIMES / 2, "a quarter of them at least: {kinds:?}");
}

#[test]
fn an_extension_of_python_loses_what_it_does_not_keep() {
    require("/usr/bin/python3");
    let directory = tempfile::tempdir().unwrap();
    build::copied(&EXTENSION.built(), &directory.path().join("leaky.so"));
    let program = format!("import leaky; [leaky.leaky() for _ in range({TIMES})]");
    let module_path = format!("PYTHONPATH={}", path_str(directory.path()));
    let finished = Tracer::start_unready(&["--", "env", &module_path, "/usr/bin/python3", "-c", &program]).wait();
    let snapshot = judged(&finished, "exact");
    assert_lost(&snapshot, &["definitely_lost"], &[3001, 3005]);
    assert_kept(&snapshot, &[3003, 3007]);
}

#[test]
fn a_library_in_nginx_loses_what_it_does_not_keep() {
    let nginx = Nginx::configured();
    let preload = format!("LD_PRELOAD={}", path_str(&ACCEPT.built()));
    let tracer = Tracer::start_unready(&["--", "env", &preload, "nginx", "-c", path_str(&nginx.configuration)]);
    tracer.wait_until_tracing();
    nginx.serve(TIMES);
    tracer.signal(nix::sys::signal::Signal::SIGTERM);
    let snapshot = judged(&tracer.wait(), "exact");
    assert_lost(&snapshot, &["definitely_lost"], &[3001]);
    assert_kept(&snapshot, &[3003]);
}
