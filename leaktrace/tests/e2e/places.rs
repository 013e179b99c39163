//! Where programs and their allocators lie: static ones, other C libraries, other roots and mount namespaces, layered file
//! systems, files that are gone. Found without a word from the user, and exact to the byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::build::{self, Recipe};
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Snapshot, Tracer, Victim, locks, memory};
use crate::hostile_files::mapping;
use crate::lifecycle::eventually;
use crate::linked_allocators::{assert_exact, assert_whole};

/// Attached, and launched: then from before its first allocation. musl comes without unwind tables: what lies outside of
/// `main` is not seen then, and that is counted.
fn assert_exact_both_ways(program: &Path) {
    let mut victim = Victim::spawn(path_str(program), Command::new(program).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    victim.finish();
    assert_whole(&tracer.wait().exact(), &accounts);

    let finished = Tracer::start_unready(&["--show-allocs", "--", path_str(program), "run"]).wait();
    let mut accounts = Accounts::parse(&finished.stdout);
    // Of its whole life: static glibc allocates before main.
    accounts.totals.clear();
    assert_whole(&finished.exact(), &accounts);
}

const STATIC: Recipe = Recipe::new("portable-static", "portable.c", &["-static"]);
const STATIC_PIE: Recipe = Recipe::new("portable-static-pie", "portable.c", &["-static-pie"]);
const MUSL: Recipe = Recipe { compiler: Some("musl-gcc"), ..Recipe::new("portable-musl", "portable.c", &[]) };
const MUSL_STATIC: Recipe =
    Recipe { compiler: Some("musl-gcc"), ..Recipe::new("portable-musl-static", "portable.c", &["-static"]) };

#[test]
fn a_static_program() {
    assert_exact_both_ways(&STATIC.built());
}

#[test]
fn a_static_program_that_is_loaded_anywhere() {
    assert_exact_both_ways(&STATIC_PIE.built());
}

#[test]
fn a_program_of_another_c_library() {
    assert_exact_both_ways(&MUSL.built());
}

#[test]
fn a_static_program_of_another_c_library() {
    assert_exact_both_ways(&MUSL_STATIC.built());
}

/// A root directory with the victim and what it links to, and nothing else.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn new(victim: &Path) -> Self {
        let tree = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        fs::set_permissions(tree.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        build::copied(victim, &tree.path("victim"));
        // What the dynamic linker says it would load: "NAME => PATH (ADDRESS)", and its own path alone.
        let listed = Command::new("ldd").arg(victim).output().unwrap();
        for line in String::from_utf8(listed.stdout).unwrap().lines() {
            if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
                let copy = tree.path(path.trim_start_matches('/'));
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                // The dynamic linker is executed, too.
                build::copied(Path::new(path), &copy);
            }
        }
        tree
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }
}

/// Runs the victim of a tree that has this root.
pub fn chroot(root: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.args([root, Path::new("/victim")]);
    command
}

#[test]
fn a_program_in_another_root() {
    let tree = Tree::new(&build::victim("portable.c"));
    assert_exact("chroot", &mut chroot(tree.0.path()));
}

#[test]
fn a_program_with_a_c_library_of_its_own_in_a_mount_namespace() {
    let victim = build::victim("portable.c");
    let tree = Tree::new(&victim);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc =
        maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|it| it.ends_with("/libc.so.6")));
    let libc = libc.expect("the tests are linked with the C library that victims use");
    let copy = tree.0.path().join("libc.so.6");
    fs::copy(libc, &copy).unwrap();
    let script = r#"mount --bind "$0" "$1" && exec "$2" "$3""#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).args([copy.as_path(), Path::new(libc), &victim]);
    let (snapshot, accounts) = assert_exact("unshare", &mut command);
    // Names of the C library's functions come from the file that is there only in that namespace.
    let sites = snapshot.sites_through(accounts.sites[0].pid, "main");
    assert!(sites.iter().all(|site| site.passes("__libc_start_main_impl") || site.passes("__libc_start_main")));
}

#[test]
fn a_program_whose_files_are_gone() {
    let tree = Tree::new(&build::victim("portable.c"));
    let mut victim = Victim::spawn("chroot", chroot(tree.0.path()).arg("wait"));
    victim.wait_until_ready();
    drop(tree);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    victim.finish();
    assert_whole(&tracer.wait().lossless(), &accounts);
}

#[test]
fn a_program_that_is_replaced_while_it_runs() {
    let tree = Tree::new(&build::victim("portable.c"));
    let mut victim = Victim::spawn("chroot", chroot(tree.0.path()).arg("wait"));
    victim.wait_until_ready();
    for line in ["victim", "lib/x86_64-linux-gnu/libc.so.6"] {
        fs::copy("/bin/true", tree.path("other")).unwrap();
        fs::rename(tree.path("other"), tree.path(line)).unwrap();
    }
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    victim.finish();
    assert_whole(&tracer.wait().lossless(), &accounts);
}

/// A layered file system over a tree, as containers have it.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn over(tree: &Tree) -> Self {
        let overlay = Self(tempfile::tempdir().unwrap());
        let at = |name: &str| overlay.0.path().join(name);
        fs::create_dir(at("upper-and-work")).unwrap();
        fs::create_dir(at("merged")).unwrap();
        // In memory: not every file system can be an upper layer.
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at("upper-and-work")));
        for name in ["upper-and-work/upper", "upper-and-work/work"] {
            fs::create_dir(at(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path_str(tree.0.path()),
            path_str(&at("upper-and-work/upper")),
            path_str(&at("upper-and-work/work"))
        );
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at("merged")));
        overlay
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Lazily: a victim of a test that failed may still be there.
        for name in ["merged", "upper-and-work"] {
            let _ = Command::new("umount").arg("-l").arg(self.0.path().join(name)).status();
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn a_program_on_a_layered_file_system() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&build::victim("portable.c"));
    let overlay = Overlay::over(&tree);
    assert_exact("chroot", &mut chroot(&overlay.root()));
}

/// Nothing was seen twice: neither a free that found nothing any more, nor a call that another seemed to cut short.
fn assert_seen_once(snapshot: &Snapshot, accounts: &Accounts) {
    assert_whole(snapshot, accounts);
    let process = snapshot.process(accounts.sites[0].pid);
    assert_eq!((process.untracked_frees, process.abandoned_calls), (0, 0));
}

#[test]
fn one_file_that_is_mapped_from_its_layer_and_from_the_whole_is_probed_once() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&build::victim("portable.c"));
    let overlay = Overlay::over(&tree);
    for roots in [[tree.0.path(), &overlay.root()], [&overlay.root(), tree.0.path()]] {
        let mut victims = roots.map(|root| Victim::spawn("chroot", chroot(root).arg("wait")));
        victims.iter().for_each(Victim::wait_until_ready);
        let pids = format!("{},{}", victims[0].pid(), victims[1].pid());
        let tracer = Tracer::start(&["-p", &pids, "--show-allocs"]);
        let accounts = victims.each_mut().map(Victim::work);
        victims.into_iter().for_each(Victim::finish);
        let snapshot = tracer.wait().lossless();
        for accounts in &accounts {
            assert_seen_once(&snapshot, accounts);
        }
    }
}

/// A shell that runs programs one after the other; they are followed as its children.
fn shell() -> Victim {
    Victim::spawn("sh", Command::new("sh").args(["-c", "while read line; do $line; echo ok; done"]))
}

/// The program's account of its whole life, but for what static glibc allocates before main.
fn run_by(shell: &mut Victim, program: &Path) -> Accounts {
    let mut accounts = Accounts::parse(&shell.tell(&format!("{} run", path_str(program))).join("\n"));
    accounts.totals.clear();
    accounts
}

fn waiting(program: &Path) -> Victim {
    let victim = Victim::spawn(path_str(program), Command::new(program).arg("wait"));
    victim.wait_until_ready();
    victim
}

/// Whether a process is among those that were not traced, or only in part.
fn is_listed(snapshot: &Snapshot, pid: u32) -> bool {
    snapshot.untraced.iter().any(|untraced| untraced.pid == pid)
}

/// Traced from its first instruction, and once.
fn assert_run(snapshot: &Snapshot, accounts: &Accounts) {
    snapshot.assert_equals(accounts);
    let pid = accounts.sites[0].pid;
    // Before, the same process was a child of the shell's.
    let mut lives = snapshot.processes.iter().filter(|process| process.pid == pid && process.comm == "victim");
    let life = lives.next().unwrap();
    assert_eq!((life.untracked_frees, life.abandoned_calls), (0, 0));
    assert!(!is_listed(snapshot, pid), "{:?}", snapshot.untraced);
}

#[test]
fn a_program_that_a_change_of_mode_copies_up_is_probed_in_both_layers() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&STATIC.built());
    let overlay = Overlay::over(&tree);
    let program = overlay.root().join("victim");
    let (mut before, mut shell) = (waiting(&program), shell());
    let pids = format!("{},{}", before.pid(), shell.pid());
    let tracer = Tracer::start(&["-vv", "-p", &pids, "--show-allocs"]);
    let change_mode = |mode| fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
    // Longer than a tick of files' times: it was not copied before the trace began.
    std::thread::sleep(Duration::from_millis(20));
    change_mode(0o700);
    // The first to map the copy: it may be over before that is probed.
    let first = run_by(&mut shell, &program);
    let probed = format!("{}: probed ", path_str(&program));
    tracer.wait_for_message("probes in the copy", |line| line.contains(&probed));
    let second = run_by(&mut shell, &program);
    // What is in the upper layer is not copied once more.
    change_mode(0o755);
    let third = run_by(&mut shell, &program);
    let fourth = run_by(&mut shell, &program);
    let accounts = before.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    let pid = first.sites[0].pid;
    assert!(is_listed(&snapshot, pid), "{pid} is not in {:?}", snapshot.untraced);
    for accounts in [second, third, fourth] {
        assert_run(&snapshot, &accounts);
    }
    // It maps the file of the lower layer.
    snapshot.assert_equals(&accounts);
    assert!(!is_listed(&snapshot, before.pid()), "{:?}", snapshot.untraced);
    assert!(!finished.stdout.contains("open for writing"), "{}", finished.stdout);
    before.finish();
    shell.finish();
}

#[test]
fn a_file_that_was_copied_up_is_probed_in_each_of_the_processes_that_are_traced_alone() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&STATIC.built());
    let overlay = Overlay::over(&tree);
    let program = overlay.root().join("victim");
    let mut victims = [mapping(&program), mapping(&program)];
    let pids = format!("{},{}", victims[0].pid(), victims[1].pid());
    let tracer = Tracer::start(&["--no-follow", "-vv", "-p", &pids]);
    for mode in [0o700, 0o755] {
        for victim in &mut victims {
            // What it had mapped before is gone.
            victim.tell("map");
            eventually("it has its probes", || memory::is_probed(victim.pid(), &program));
        }
        fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
    }
    tracer.stop().assert_success();
    victims.into_iter().for_each(Victim::finish);
}

#[test]
fn a_program_of_two_containers_that_loses_its_probes_in_one_is_probed_again_in_both() {
    // Breakpoints of a system-wide trace would be taken for this one's.
    let _machine = locks::no_system_wide_trace();
    let tree = Tree::new(&STATIC.built());
    let (ours, theirs) = (Overlay::over(&tree), Overlay::over(&tree));
    let programs = [&ours, &theirs].map(|overlay| overlay.root().join("victim"));
    let (mut first, mut second, mut shell) = (waiting(&programs[0]), waiting(&programs[1]), shell());
    // The file of the lower layer is probed by way of the first.
    let pids = format!("{},{},{}", first.pid(), second.pid(), shell.pid());
    let tracer = Tracer::start(&["-vv", "-p", &pids, "--show-allocs"]);
    let before = run_by(&mut shell, &programs[1]);
    let accounts = first.work();
    // Nobody may write to what is being executed.
    first.finish();
    run(Command::new("sh").args(["-c", ": >> \"$0\""]).arg(&programs[0]));
    let again = format!("{}: probed again", path_str(&programs[1]));
    tracer.wait_for_message("probes in the second again", |line| line.contains(&again));
    let after = run_by(&mut shell, &programs[1]);
    let later = second.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_run(&snapshot, &before);
    assert_run(&snapshot, &after);
    snapshot.assert_equals(&accounts);
    snapshot.assert_equals(&later);
    assert!(is_listed(&snapshot, second.pid()), "{} is not in {:?}", second.pid(), snapshot.untraced);
    let said = finished.stdout.lines().find(|line| line.contains("while somebody had them open for writing"));
    assert!(said.is_some_and(|line| programs.iter().all(|program| line.contains(path_str(program)))), "{said:?}");
    second.finish();
    shell.finish();
}
