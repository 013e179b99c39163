//! Programs as the distribution ships them, installed by `cargo xtask setup`: traced without loss, seen to allocate.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::tracer::path_str;
use crate::harness::{DEADLINE, Snapshot, Tracer, Victim};

/// Whether a program can be started; what `cargo xtask setup` installs must be there.
pub fn require(program: &str) {
    let found = Command::new(program)
        .arg(if program == "nginx" { "-v" } else { "--version" })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
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
    let runtime = snapshot.notes.iter().filter(|note| note.contains("PYTHONMALLOC=malloc"));
    assert_eq!(runtime.count(), 1, "{:?}", snapshot.notes);
    assert!(allocations(&snapshot) > 100, "{}", allocations(&snapshot));
}

/// The kernel calls a script by the script's own name.
#[test]
fn a_script_that_has_ended_was_seen_with_the_systems_allocator() {
    require("/usr/bin/python3");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/usr/bin/python3\nx = [object() for i in range(1000)]\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    for (environment, notes) in [("PYTHONMALLOC=malloc", 0), ("PYTHONMALLOC=pymalloc", 1)] {
        let line = format!("{environment} {}; true", path_str(&script));
        let found = traced(&["sh", "-c", &line]).notes;
        assert_eq!(found.iter().filter(|note| note.contains("PYTHONMALLOC")).count(), notes, "{line}: {found:?}");
    }
}

#[test]
fn a_runtime_with_its_own_heap_is_noted_in_the_text() {
    let start = |environment: &[(&str, &str)]| {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", "import sys; print('ready', flush=True); sys.stdin.read()"]).env_remove("PYTHONMALLOC");
        let python = Victim::spawn("python3", python.envs(environment.iter().copied()));
        python.wait_until_ready();
        python
    };
    let python = start(&[]);
    let finished = Tracer::attach(&python, &[]).stop();
    let note = finished.stdout.lines().find(|line| line.starts_with("note: ")).unwrap_or_default();
    assert!(note.contains("CPython") && note.contains(&python.pid().to_string()), "{}", finished.stdout);
    let switched = start(&[("PYTHONMALLOC", "malloc")]);
    let notes = Tracer::attach(&switched, &[]).stop().snapshot().notes;
    assert!(!notes.iter().any(|note| note.contains("PYTHONMALLOC")), "{notes:?}");
    // That nothing was seen remains a warning.
    let seen: u64 = finished.snapshot().processes.iter().map(|process| process.alloc_count).sum();
    assert!(seen > 0 || finished.stdout.contains("warning: "), "{}", finished.stdout);
}

/// Set up to serve a page to connections to a socket, as one process of this test's own user, with everything in one directory.
pub struct Nginx {
    pub configuration: PathBuf,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Nginx {
    pub fn configured() -> Self {
        require("nginx");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("page.html"), "x".repeat(3000)).unwrap();
        let text = format!(
            "user root; daemon off; master_process off; error_log stderr; pid {0}/pid; events {{}}\n\
             http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
             uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; server {{ listen unix:{0}/socket; root {0}; }} }}",
            path_str(directory.path())
        );
        let configuration = directory.path().join("nginx.conf");
        std::fs::write(&configuration, text).unwrap();
        Self { configuration, socket: directory.path().join("socket"), _directory: directory }
    }

    fn connect(&self) -> UnixStream {
        let end = Instant::now() + DEADLINE;
        loop {
            // It listens as soon as it has read its configuration.
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "nginx does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has it serve its page so often, to a connection each.
    pub fn serve(&self, times: u64) {
        for _ in 0..times {
            let mut stream = self.connect();
            stream.write_all(b"GET /page.html HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("xxx"), "{answer:.200}");
        }
    }
}

#[test]
fn nginx_serving_files() {
    let nginx = Nginx::configured();
    let tracer = Tracer::start_unready(&["--", "nginx", "-c", path_str(&nginx.configuration)]);
    tracer.wait_until_tracing();
    nginx.serve(200);
    tracer.signal(Signal::SIGTERM);
    let snapshot = tracer.wait().snapshot();
    snapshot.assert_lossless_but(&["stacks_truncated", "unwind_failed", "unwind_failures"]);
    // Each connection has a pool and each request one of its own, which go with them.
    let server = snapshot.process(snapshot.target.pids[0]);
    assert!(server.alloc_count > 400 && server.free_count > 400, "{server:?}");
    assert!(server.outstanding_count < server.alloc_count / 2, "{server:?}");
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
    // Stock redis has no frame pointers; its stacks are whole all the same.
    let stacks = snapshot.stacks.expect("they are counted");
    assert!(
        stacks.recorded > 0 && stacks.complete * 1000 >= stacks.recorded * 995,
        "{stacks:?}\n{}",
        snapshot.digest()
    );
    // 20,000 SETs of random keys out of 5,000: nearly every key is there at the end, each with its value of 100 bytes.
    let process = snapshot.process(server.pid());
    assert!(process.alloc_count > 40_000, "{}", process.alloc_count);
    assert!(process.outstanding_bytes > 4_500 * 100, "{}", process.outstanding_bytes);
    assert!(process.outstanding_bytes < 5_000 * 1_000, "{}", process.outstanding_bytes);
}
