//! Where programs and their allocators lie: static ones, other C libraries, other roots and mount namespaces, layered file
//! systems, files that are gone. Found without a word from the user, and exact to the byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::build::{self, Recipe};
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Snapshot, Tracer, Victim};
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
