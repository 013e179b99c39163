//! Other allocators than the C library's: linked, preloaded, static, several at once. Found without a word from the user,
//! and exact to the byte.

use std::process::Command;

use crate::harness::build::{self, Recipe};
use crate::harness::{Accounts, Snapshot, Tracer, Victim};

/// Starts a victim by this command, traces it while it works and to its end, and compares everything; the names of its
/// functions are found after it is gone.
pub fn assert_exact(what: &str, command: &mut Command) -> (Snapshot, Accounts) {
    let mut victim = Victim::spawn(what, command.arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    victim.finish();
    let snapshot = tracer.wait().lossless();
    assert_whole(&snapshot, &accounts);
    (snapshot, accounts)
}

/// The numbers are the victim's own, each of its sites has its whole stack, and it has ended.
pub fn assert_whole(snapshot: &Snapshot, accounts: &Accounts) {
    snapshot.assert_equals(accounts);
    for account in &accounts.sites {
        let sites = snapshot.sites_through(account.pid, &account.site);
        assert!(sites.iter().all(|site| site.passes("main")), "{}", snapshot.digest());
        assert!(snapshot.process(account.pid).exited);
    }
}

/// As [`assert_exact`], for a victim that is built by a recipe.
fn assert_built_exact(recipe: &Recipe) -> (Snapshot, Accounts) {
    assert_exact(recipe.name, &mut Command::new(recipe.built()))
}

const fn linked(name: &'static str, source: &'static str, libraries: &'static [&'static str]) -> Recipe {
    Recipe { libraries, ..Recipe::new(name, source, &[]) }
}

/// C++ with an allocator that brings operators of its own, which throw: exceptions get past our probes.
fn assert_cxx_exact(name: &'static str, libraries: &'static [&'static str]) {
    let (snapshot, accounts) = assert_built_exact(&linked(name, "cxx.cc", libraries));
    assert_throws(&snapshot, &accounts);
}

/// What the same frame allocates after an operator has thrown is booked, and the calls that threw are known.
fn assert_throws(snapshot: &Snapshot, accounts: &Accounts) {
    let thrown = accounts.site("leak_around_throw");
    assert_eq!(snapshot.through(thrown.pid, "leak_around_throw").outstanding(), (thrown.bytes, thrown.count));
    assert_eq!(snapshot.process(thrown.pid).abandoned_calls, accounts.fact("thrown"));
}

/// Victims in C, and in C++ if that can throw, preloaded with the first of these that is installed.
fn assert_preloaded_exact(libraries: &[&str], throws: bool) {
    let directory = "/usr/lib/x86_64-linux-gnu";
    let library =
        libraries.iter().map(|name| format!("{directory}/{name}")).find(|path| std::fs::exists(path).unwrap());
    let library = library.unwrap_or_else(|| panic!("{libraries:?}: install it by `cargo xtask setup`"));
    let mut command = Command::new(build::victim("portable.c"));
    let (snapshot, accounts) = assert_exact("portable.c", command.env("LD_PRELOAD", &library));
    // Nothing of it reached the C library's functions, which are probed as well, twice.
    assert_eq!(snapshot.process(accounts.sites[0].pid).untracked_frees, 0);
    if throws {
        let mut command = Command::new(build::victim("cxx.cc"));
        let (snapshot, accounts) = assert_exact("cxx.cc", command.env("LD_PRELOAD", &library));
        assert_throws(&snapshot, &accounts);
    }
}

#[test]
fn tcmalloc_linked() {
    assert_built_exact(&linked("portable-tcmalloc", "portable.c", &["-ltcmalloc_minimal"]));
    assert_cxx_exact("cxx-tcmalloc", &["-ltcmalloc_minimal"]);
}

#[test]
fn tcmalloc_preloaded() {
    assert_preloaded_exact(&["libtcmalloc_minimal.so.4"], true);
}

#[test]
fn tcmalloc_with_its_profilers_linked() {
    assert_cxx_exact("cxx-tcmalloc-full", &["-ltcmalloc"]);
}

#[test]
fn tcmalloc_linked_statically() {
    assert_cxx_exact("cxx-tcmalloc-static", &["-l:libtcmalloc_minimal.a"]);
    assert_built_exact(&linked(
        "portable-tcmalloc-static",
        "portable.c",
        &["-l:libtcmalloc_minimal.a", "-lstdc++", "-lm"],
    ));
}

#[test]
fn jemalloc_linked() {
    assert_built_exact(&linked("portable-jemalloc", "portable.c", &["-ljemalloc"]));
    assert_cxx_exact("cxx-jemalloc", &["-ljemalloc"]);
}

#[test]
fn jemalloc_preloaded() {
    assert_preloaded_exact(&["libjemalloc.so.2"], true);
}

/// Each of the probes on a library that two processes map runs for both, and only one of them is whom it is for. An
/// exception still gets past the probes that are the other's.
#[test]
fn an_exception_gets_past_probes_that_are_for_another_process() {
    let recipe = linked("cxx-jemalloc", "cxx.cc", &["-ljemalloc"]);
    let mut victims = [(); 2].map(|()| Victim::spawn(recipe.name, Command::new(recipe.built()).arg("wait")));
    victims.iter().for_each(Victim::wait_until_ready);
    let pids = victims.iter().map(|victim| victim.pid().to_string()).collect::<Vec<_>>();
    let tracer = Tracer::start(&["-p", &pids.join(","), "--no-follow", "--show-allocs"]);
    // And those of another leaktrace.
    let other = Tracer::attach(&victims[1], &["--no-follow"]);
    let accounts = victims.each_mut().map(Victim::work);
    victims.into_iter().for_each(Victim::finish);
    let (both, second) = (tracer.wait().lossless(), other.wait().lossless());
    for accounts in &accounts {
        assert_whole(&both, accounts);
        assert_throws(&both, accounts);
    }
    assert_whole(&second, &accounts[1]);
}

#[test]
fn jemalloc_linked_statically() {
    let libraries = &["-l:libjemalloc.a", "-lstdc++", "-ldl", "-lm"];
    assert_built_exact(&linked("portable-jemalloc-static", "portable.c", libraries));
}

#[test]
fn jemallocs_own_interface() {
    let (_, accounts) = assert_built_exact(&linked("jemalloc", "jemalloc.c", &["-ljemalloc"]));
    // Blocks that were resized where they lie belong to whoever resized them.
    assert!(accounts.site("leak_xallocx").count > 0 && accounts.site("leak_not_resized").count > 0);
}

#[test]
fn mimalloc_linked() {
    assert_built_exact(&linked("portable-mimalloc", "portable.c", &["-lmimalloc"]));
    // Compiled as C, it aborts where it should throw.
    let recipe = Recipe { libraries: &["-lmimalloc"], ..Recipe::new("cxx-mimalloc", "cxx.cc", &["-DNO_THROW"]) };
    assert_built_exact(&recipe);
}

#[test]
fn mimalloc_preloaded() {
    assert_preloaded_exact(&["libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so.2.0"], false);
}

#[test]
fn mimallocs_own_interface_and_its_copies_of_strings() {
    assert_built_exact(&linked("mimalloc", "mimalloc.c", &["-lmimalloc"]));
}

#[test]
fn sizes_of_strings_are_filtered_when_they_are_known() {
    let recipe = linked("mimalloc", "mimalloc.c", &["-lmimalloc"]);
    let mut victim = Victim::spawn(recipe.name, Command::new(recipe.built()).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["-z", "5001", "-Z", "5001"]);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let pid = accounts.sites[0].pid;
    // One string is of that size, and its block goes again.
    let found = finished.snapshot().through(pid, "leak_mi_strdup");
    assert_eq!((found.alloc_count, found.alloc_bytes, found.free_bytes), (1, 5001, 5001));
    assert_eq!(finished.snapshot().through(pid, "leak_mi_strndup").alloc_count, 0);
}

#[test]
fn several_allocators_in_one_process() {
    assert_built_exact(&linked("several", "several.c", &["-ljemalloc", "-lmimalloc"]));
}

#[test]
fn a_call_that_passes_through_several_allocators_counts_once() {
    let flags = &["-shared", "-fPIC"];
    let wrapper = Recipe { libraries: &["-ldl"], ..Recipe::new("libwrapper.so", "wrapper.c", flags) };
    let mut command = Command::new(build::victim("portable.c"));
    assert_exact("portable.c", command.env("LD_PRELOAD", wrapper.built()));
    // The wrapper passes on to jemalloc, and that is not the C library.
    let jemalloc = linked("portable-jemalloc", "portable.c", &["-ljemalloc"]);
    assert_exact("portable.c", Command::new(jemalloc.built()).env("LD_PRELOAD", wrapper.built()));
}

#[test]
fn rust_with_jemalloc() {
    assert_exact("rust_jemalloc", &mut Command::new(build::rust_victim("rust_jemalloc")));
}

#[test]
fn an_allocator_that_cannot_be_found_is_said_in_the_report() {
    let directory = tempfile::tempdir().unwrap();
    for (name, allocator) in [("rust_jemalloc", "jemalloc"), ("rust_mimalloc", "mimalloc")] {
        let program = build::stripped(&build::rust_victim(name), directory.path());
        let mut victim = Victim::spawn(name, Command::new(&program).arg("wait"));
        victim.wait_until_ready();
        let tracer = Tracer::attach(&victim, &[]);
        victim.work();
        let finished = tracer.stop();
        finished.assert_success();
        let snapshot = finished.snapshot();
        let said = |text: &str| text.contains(allocator) && text.contains(name) && text.contains("not seen");
        assert!(snapshot.warnings.iter().any(|warning| said(warning)), "{:?}", snapshot.warnings);
        assert!(said(&finished.stdout), "{}", finished.stdout);
        victim.finish();
    }
}

#[test]
fn rust_with_mimalloc() {
    assert_exact("rust_mimalloc", &mut Command::new(build::rust_victim("rust_mimalloc")));
}
