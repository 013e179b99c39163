//! Files of traced processes that change while they are read: the tracer lives, and what it reports is exact.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::build::Recipe;
use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build, leaktrace, locks, memory};
use crate::lifecycle::eventually;

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

/// A process that maps files of a file system that does not answer, or with errors alone: see the script.
fn stalling(options: &[&str]) -> Victim {
    stalling_by(&[], options)
}

/// The same, started by these words.
fn stalling_by(starter: &[&str], options: &[&str]) -> Victim {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims/stalling.py");
    let words = [starter, &["/usr/bin/python3", path_str(&script)], options].concat();
    let victim = Victim::spawn("stalling.py", std::process::Command::new(words[0]).args(&words[1..]));
    victim.wait_until_ready();
    victim
}

/// Its file system falls silent, and it allocates.
fn work_in_silence(victim: &mut Victim) {
    victim.tell_last("work");
    victim.wait_for_line("\"done\"", |line| line == "done");
}

const NO_ANSWER: &str = "its file system does not answer";

#[test]
fn an_overlay_that_cannot_be_read_is_named_and_all_else_is_traced() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = ["layer", "overlay", "empty"].map(|name| scratch.path().join(name));
    for directory in &directories {
        std::fs::create_dir(directory).unwrap();
    }
    let [layer, overlay, empty] = directories.each_ref().map(|directory| path_str(directory));
    let mut victim = stalling(&["--overlay", overlay, empty, layer]);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-d", "1"]);
    let finished = tracer.wait();
    finished.assert_success();
    let told = format!("{overlay}/code is not probed: ");
    let told = |line: &str| line.contains(&told) && line.contains("Input/output error");
    assert!(finished.stderr.lines().any(told), "{}", finished.stderr);
    assert!(victim.lives());
    victim.finish();
}

/// root's included.
#[test]
fn a_file_that_lets_nobody_but_its_user_in_is_named_in_the_report() {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = stalling(&["--silent", "never", "--user", "65534", path_str(directory.path())]);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-d", "1"]);
    let finished = tracer.wait();
    finished.assert_success();
    let warnings = finished.snapshot().warnings;
    let told = format!("{}/code cannot be opened (Permission denied", directory.path().display());
    let pid = victim.pid().to_string();
    assert!(warnings.iter().any(|it| it.starts_with(&told) && it.contains(&pid)), "{warnings:?}");
    assert!(victim.lives());
    victim.finish();
}

#[test]
fn a_file_system_that_does_not_answer_holds_up_no_tracer() {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = stalling(&[path_str(directory.path())]);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-d", "1"]);
    let finished = tracer.wait();
    finished.assert_success();
    assert!(finished.stderr.contains(&format!("code: {NO_ANSWER}")), "{}", finished.stderr);
    assert!(victim.lives());
    victim.finish();
}

/// A library whose function `plug_run` leaks 100 bytes by way of `leak_stalled`.
const PLUG: Recipe = Recipe::new("plug-stalled.so", "plug.c", &["-shared", "-fPIC", "-DPLUG=stalled", "-DSIZE=100"]);

/// All of these.
pub const RECIPES: [Recipe; 1] = [PLUG];

#[test]
fn files_that_fall_silent_while_their_tables_are_built_hold_up_no_other_table() {
    // Its openings would be counted, too.
    let _machine = locks::no_system_wide_trace();
    let directory = tempfile::tempdir().unwrap();
    let content = PLUG.built();
    // By each of two names it is opened by the victim and to be held; then it is to be read.
    let options = ["--content", path_str(&content), "--silent", "opened-5", path_str(directory.path())];
    let mut victim = stalling(&options);
    let mut command = leaktrace(["-p", &victim.pid().to_string(), "--no-follow", "-vv", "-d", "1"]);
    // The trace begins when all tables are there or given up; there are as many such files as threads that build.
    command.env("LEAKTRACE_READ_WITHIN", "1000");
    let finished = Tracer::spawn(&mut command, tempfile::tempdir().unwrap()).wait();
    finished.assert_success();
    for name in ["code", "more"] {
        let told = format!("{name} is unwound by frame pointers: {NO_ANSWER}");
        assert!(finished.stderr.contains(&told), "{told}\n{}", finished.stderr);
    }
    let built = |line: &str| line.contains("unwind table of ") && line.contains("libc.so.6: ");
    assert!(finished.stderr.lines().any(built), "{}", finished.stderr);
    assert!(victim.lives());
    victim.finish();
}

#[test]
fn an_allocator_is_probed_without_opening_its_file_again() {
    assert_probed_unopened(&[]);
}

/// While a file of a silent server is opened there, no process of the machine can fork.
#[test]
fn an_allocator_in_a_container_is_probed_without_opening_its_file_again() {
    assert_probed_unopened(&["/usr/bin/unshare", "--mount"]);
}

fn assert_probed_unopened(starter: &[&str]) {
    // Its openings would be counted, too.
    let _machine = locks::no_system_wide_trace();
    let directory = tempfile::tempdir().unwrap();
    let mut ours = Victim::start_with_own_libc("family.c", &[]);
    let libc = ours.own_libc().join("libc.so.6");
    // By each of two names it is opened by the victim, to be held, to be planned, and for its table; silent once opened again.
    let options = ["--content", path_str(&libc), "--silent", "opened-9", path_str(directory.path())];
    let mut victim = stalling_by(starter, &options);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-vv", "-d", "1"]);
    let finished = tracer.wait();
    finished.assert_success();
    let probed = |line: &str| line.contains("/code: ") && line.contains("malloc");
    assert!(finished.stderr.lines().any(probed), "{}", finished.stderr);
    assert!(!finished.stderr.contains(NO_ANSWER), "{}", finished.stderr);
    assert!(victim.lives());
    victim.finish();
    ours.work();
    ours.finish();
}

#[test]
fn a_library_whose_file_system_has_fallen_silent_is_shown_by_offset() {
    let directory = tempfile::tempdir().unwrap();
    let content = PLUG.built();
    let content = path_str(&content);
    let options = ["--use", "library", "--content", content, "--silent", "told", path_str(directory.path())];
    let mut victim = stalling(&options);
    let tracer = Tracer::attach(&victim, &["--no-follow", "-v"]);
    work_in_silence(&mut victim);
    let finished = tracer.stop();
    finished.assert_success();
    let told = |line: &str| line.contains("code") && line.contains(NO_ANSWER);
    assert!(finished.stderr.lines().any(told), "{}", finished.stderr);
    let snapshot = finished.snapshot();
    let code = directory.path().join("code");
    let mut frames = snapshot.sites.iter().flat_map(|site| &site.stack);
    assert!(frames.any(|frame| frame.module.as_deref() == code.to_str()), "{}", snapshot.digest());
    assert!(victim.lives());
    victim.finish();
}

#[test]
fn a_map_of_names_that_is_not_even_found_holds_up_no_tracer() {
    traces_without_names(&["--use", "names", "/tmp"]);
}

#[test]
fn names_that_cannot_be_read_any_more_hold_up_no_report() {
    traces_without_names(&["--use", "names", "--silent", "told", "/tmp"]);
}

/// The file system of this victim's map of names does not answer: that is said once.
fn traces_without_names(options: &[&str]) {
    let mut victim = stalling(options);
    let tracer = Tracer::attach(&victim, &["--no-follow"]);
    work_in_silence(&mut victim);
    let finished = tracer.stop();
    finished.assert_success();
    let told = format!("perf map of process {}: {NO_ANSWER}", victim.pid());
    assert_eq!(finished.stderr.matches(&told).count(), 1, "{}", finished.stderr);
    assert!(victim.lives());
    victim.finish();
}

#[test]
fn what_is_no_file_in_a_librarys_place_holds_up_no_tracer() {
    let directory = tempfile::tempdir().unwrap();
    let (pipe, socket) = (directory.path().join("libpipe.so"), directory.path().join("libsocket.so"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let sparse = directory.path().join("libsparse.so");
    std::fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    let victim = build::victim("family.c");
    let files =
        [path_str(&pipe), path_str(&socket), "/dev/zero", "/dev/null", path_str(directory.path()), path_str(&sparse)];
    for file in files {
        let finished = Tracer::start_unready(&["--object", file, "--", path_str(&victim), "run"]).wait();
        finished.assert_refused(1, &["--object", file]);
    }
}

#[test]
fn a_library_that_was_replaced_after_it_was_mapped_is_traced_as_it_was() {
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let new = victim.own_libc().join("new");
    std::fs::write(&new, "nothing that can be probed").unwrap();
    std::fs::rename(&new, victim.own_libc().join("libc.so.6")).unwrap();
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    tracer.stop().exact().assert_equals(&accounts);
    victim.finish();
}

#[test]
fn a_library_that_grows_while_it_is_read_is_traced_or_refused() {
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let path = victim.own_libc().join("libc.so.6");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut library = std::fs::File::options().append(true).open(&path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut library, &[0x90; 4096]).unwrap();
            }
        });
        let tracer = Tracer::start_unready(&["-p", &victim.pid().to_string(), "--show-allocs", "-d", "1"]);
        let finished = tracer.wait();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        finished
    });
    if finished.status.success() {
        finished.snapshot();
    } else {
        finished.assert_failed_with_line(1, &[&victim.pid().to_string()]);
    }
    assert!(victim.lives());
    victim.work();
    victim.finish();
}

/// With allocation functions, and long in reading.
const BULKY: Recipe = Recipe::new("bulky.so", "bulky.c", &["-shared", "-fPIC"]);

/// A process that maps the file as code, anew each time that it is told to.
pub fn mapping(file: &Path) -> Victim {
    const SCRIPT: &str = "import mmap, sys
print('ready', flush=True)
while sys.stdin.readline().strip():
    with open(sys.argv[1], 'rb') as file:
        code = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    print('ok', flush=True)";
    let victim = Victim::spawn("python3", Command::new("/usr/bin/python3").args(["-c", SCRIPT]).arg(file));
    victim.wait_until_ready();
    victim
}

#[test]
fn a_file_that_is_touched_while_it_is_read_is_probed_in_each_process_that_maps_it() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bulky.so");
    build::copied(&BULKY.built(), &file);
    let path = path_str(&file);
    let mut victims = [mapping(&file), mapping(&file)];
    let pids = format!("{},{}", victims[0].pid(), victims[1].pid());
    let tracer = Tracer::start(&["--no-follow", "-vv", "-p", &pids]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            }
        });
        for victim in &mut victims {
            victim.tell("map");
        }
        // Before it is read a fifth time it has a second of rest; where nobody came to touch it, it is probed at once.
        tracer.wait_for_message("what becomes of it", |line| {
            line.contains(&format!("{path} is opened for writing")) || line.contains(&format!("{path}: probed "))
        });
        over.store(true, Ordering::Relaxed);
    });
    for victim in &victims {
        eventually("each has its probes", || memory::is_probed(victim.pid(), &file));
    }
    tracer.stop().assert_success();
    victims.into_iter().for_each(Victim::finish);
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
