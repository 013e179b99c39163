//! Stripped programs: what is said of them, and `--debuginfod`, which fetches what they lack.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::build::Recipe;
use crate::harness::debuginfod::{Files, Server, Split};
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, leaktrace};

const VICTIM: Recipe = Recipe::new("outstanding-with-id", "outstanding.c", &["-Wl,--build-id=sha1"]);
const OTHER: Recipe = Recipe::new("twins-with-id", "twins.c", &["-Wl,--build-id=sha1"]);

/// A stripped victim and a cache of its own.
struct Scene {
    split: Split,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { split: Split::of(VICTIM, directory.path()), directory }
    }

    fn server(&self) -> Server {
        Server::with(Files::from([(self.split.path(), self.split.debug.clone())]))
    }

    fn cached(&self) -> std::path::PathBuf {
        self.directory.path().join("cache").join(&self.split.build_id).join("debuginfo")
    }

    /// leaktrace with these options, which asks that server.
    fn command(&self, options: &[&str], urls: &str) -> (Command, TempDir) {
        let json = tempfile::tempdir().unwrap();
        let mut command = leaktrace(["--json", path_str(&json.path().join("snapshot.json"))]);
        command
            .args(options)
            .env("DEBUGINFOD_URLS", urls)
            .env("DEBUGINFOD_CACHE_PATH", self.directory.path().join("cache"));
        for variable in
            ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "DEBUGINFOD_TIMEOUT", "DEBUGINFOD_MAXTIME"]
        {
            command.env_remove(variable);
        }
        (command, json)
    }

    /// Traces the victim from its beginning to its end.
    fn trace(&self, options: &[&str], urls: &str, variables: &[(&str, &str)]) -> (Snapshot, Finished, Accounts) {
        let (mut command, json) = self.command(options, urls);
        command.envs(variables.iter().copied()).args(["--", path_str(&self.split.program), "run", "100"]);
        let finished = Tracer::spawn(&mut command, json).wait();
        let accounts = Accounts::parse(&finished.stdout);
        assert_eq!(accounts.sites.len(), 1, "{}", finished.stdout);
        (finished.exact(), finished, accounts)
    }
}

/// Names, the file and the line of the call, and all bytes under them.
fn assert_named(snapshot: &Snapshot, accounts: &Accounts) {
    snapshot.assert_equals(accounts);
    let sites = snapshot.sites_through(accounts.sites[0].pid, "leak_block");
    let frame = &sites[0].stack[0];
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims/outstanding.c")).unwrap();
    let line = (1..).zip(source.lines()).find(|(_, text)| text.contains("malloc(size)")).unwrap().0;
    assert_eq!((frame.function.as_deref(), frame.line), (Some("leak_block"), Some(line)));
    assert!(frame.file.as_deref().is_some_and(|file| file.ends_with("outstanding.c")), "{:?}", frame.file);
}

fn assert_nameless(snapshot: &Snapshot, accounts: &Accounts) {
    let site = &accounts.sites[0];
    assert_eq!(snapshot.sites_through(site.pid, "leak_block").len(), 0);
    assert!(snapshot.all(site.pid).outstanding_bytes >= site.bytes, "the report comes all the same");
}

/// The notes on what is missing.
fn gaps(snapshot: &Snapshot) -> Vec<&String> {
    snapshot.notes.iter().filter(|note| note.contains("for want of debug information of")).collect()
}

#[test]
fn functions_files_and_lines_come_from_a_server_and_then_from_the_cache() {
    let scene = Scene::new();
    let server = scene.server();
    let (snapshot, _, accounts) = scene.trace(&["--debuginfod"], &server.url(), &[]);
    assert_named(&snapshot, &accounts);
    assert_eq!(gaps(&snapshot).len(), 0, "{:?}", snapshot.notes);
    assert_eq!(server.asked().iter().filter(|path| **path == scene.split.path()).count(), 1);
    assert_eq!(fs::read(scene.cached()).unwrap(), scene.split.debug);

    // A server that is asked nothing, since the file is there.
    let empty = Server::with(Files::new());
    let (snapshot, _, accounts) = scene.trace(&["--debuginfod"], &empty.url(), &[]);
    assert_named(&snapshot, &accounts);
    assert!(!empty.asked().contains(&scene.split.path()), "{:?}", empty.asked());
}

#[test]
fn a_second_server_is_asked_where_the_first_has_nothing() {
    let scene = Scene::new();
    let (empty, server) = (Server::with(Files::new()), scene.server());
    let (snapshot, _, accounts) = scene.trace(&["--debuginfod"], &format!("{} {}/", empty.url(), server.url()), &[]);
    assert_named(&snapshot, &accounts);
    assert!(empty.asked().contains(&scene.split.path()), "{:?}", empty.asked());
}

#[test]
fn the_file_of_another_build_is_refused() {
    let scene = Scene::new();
    let other = tempfile::tempdir().unwrap();
    let other = Split::of(OTHER, other.path());
    assert_ne!(other.build_id, scene.split.build_id);
    for content in [other.debug, b"no file of debug information".to_vec(), Vec::new()] {
        let server = Server::with(Files::from([(scene.split.path(), content)]));
        let (snapshot, finished, accounts) = scene.trace(&["--debuginfod"], &server.url(), &[]);
        assert!(server.asked().contains(&scene.split.path()), "{:?}", server.asked());
        assert_nameless(&snapshot, &accounts);
        let refused = format!("gave what is no debug information of build id {}", scene.split.build_id);
        assert!(snapshot.notes.iter().any(|note| note.contains(&refused)), "{:?}", snapshot.notes);
        assert!(finished.stdout.contains(&refused), "{}", finished.stdout);
        assert!(!scene.cached().exists(), "it must not be kept");
    }
}

#[test]
fn a_file_beyond_the_users_limit_is_not_fetched() {
    let scene = Scene::new();
    let server = scene.server();
    let (snapshot, _, accounts) = scene.trace(&["--debuginfod"], &server.url(), &[("DEBUGINFOD_MAXSIZE", "1000")]);
    assert!(scene.split.debug.len() > 1000 && server.asked().contains(&scene.split.path()), "{:?}", server.asked());
    assert_nameless(&snapshot, &accounts);
    let refused = |note: &String| note.contains("its file is larger than 1000 bytes");
    assert_eq!(snapshot.notes.iter().filter(|note| refused(note)).count(), 1, "{:?}", snapshot.notes);
    assert!(!scene.cached().exists());
}

#[test]
fn a_server_that_says_nothing_costs_its_time_once_and_the_report_comes() {
    let scene = Scene::new();
    let server = Server::silent();
    let begun = Instant::now();
    let (snapshot, ..) = {
        let traced = scene.trace(&["--debuginfod"], &server.url(), &[("DEBUGINFOD_TIMEOUT", "1")]);
        assert_nameless(&traced.0, &traced.2);
        traced
    };
    // The limit without the variable is 90 s.
    assert!(begun.elapsed() < Duration::from_secs(85), "{:?}", begun.elapsed());
    assert!((1..=4).contains(&server.connections()), "one for each thread at most");
    let failed = |note: &String| note.starts_with("debuginfod: ") && note.contains("did not answer within 1s");
    assert_eq!(snapshot.notes.iter().filter(|note| failed(note)).count(), 1, "{:?}", snapshot.notes);
    let [gap] = gaps(&snapshot)[..] else { panic!("{:?}", snapshot.notes) };
    assert!(gap.ends_with("--debuginfod did not bring it"), "{gap}");
}

#[test]
fn a_user_who_does_not_want_to_wait_for_a_server_gets_the_report() {
    let scene = Scene::new();
    let server = Server::silent();
    let mut victim = Victim::spawn("outstanding", Command::new(&scene.split.program).args(["wait", "100"]));
    victim.wait_until_ready();
    let pid = victim.pid().to_string();
    let (mut command, json) = scene.command(&["--debuginfod", "-p", &pid], &server.url());
    let tracer = Tracer::spawn(&mut command, json);
    tracer.wait_until_tracing();
    let accounts = victim.work();
    tracer.signal(Signal::SIGINT);
    server.wait_for_connection();
    tracer.signal(Signal::SIGINT);
    let finished = tracer.wait();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_nameless(&snapshot, &accounts);
    assert!(snapshot.notes.iter().any(|note| note.contains(" left out")), "{:?}", snapshot.notes);
}

#[test]
fn reports_on_the_way_have_the_names_that_have_come_by_then() {
    let scene = Scene::new();
    let server = scene.server();
    let mut victim = Victim::spawn("outstanding", Command::new(&scene.split.program).args(["wait", "100"]));
    victim.wait_until_ready();
    let pid = victim.pid().to_string();
    let (mut command, json) = scene.command(&["--debuginfod", "-p", &pid, "-i", "200ms"], &server.url());
    let tracer = Tracer::spawn(&mut command, json);
    tracer.wait_until_tracing();
    victim.work();
    tracer.wait_for_output("a report with a source line", |line| line.contains("outstanding.c:"));
    tracer.stop().assert_success();
}

#[test]
fn what_a_stripped_program_lacks_is_said_in_one_note() {
    let scene = Scene::new();
    let (snapshot, finished, accounts) = scene.trace(&[], "http://127.0.0.1:9", &[]);
    assert_nameless(&snapshot, &accounts);
    let [gap] = gaps(&snapshot)[..] else { panic!("{:?}", snapshot.notes) };
    assert!(gap.contains(&format!("{} (build id {})", scene.split.program.display(), scene.split.build_id)), "{gap}");
    assert!(gap.ends_with("--debuginfod fetches it from the servers in DEBUGINFOD_URLS"), "{gap}");
    assert!(finished.stdout.contains(&format!("note: {gap}")), "{}", finished.stdout);
    assert!(!scene.directory.path().join("cache").exists(), "nothing is fetched unasked");

    let (snapshot, ..) = scene.trace(&[], "", &[]);
    assert!(gaps(&snapshot)[0].ends_with("with DEBUGINFOD_URLS set to a server that has it, --debuginfod fetches it"));
}

#[test]
fn a_program_with_its_names_has_no_such_note() {
    let scene = Scene::new();
    let split = Split { program: VICTIM.built(), ..scene.split };
    let scene = Scene { split, directory: scene.directory };
    let (snapshot, _, accounts) = scene.trace(&[], "http://127.0.0.1:9", &[]);
    assert_named(&snapshot, &accounts);
    assert_eq!(gaps(&snapshot).len(), 0, "{:?}", snapshot.notes);
}
